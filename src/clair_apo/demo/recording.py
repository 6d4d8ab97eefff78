"""The recorded answers of the demo, and the request store that is built from them.

`data/recording.jsonl` holds, for each prompt, what the embedded model really answered and what the
maintainers wrote as a strong reviser would answer the rendered request. Each is stored under the
key of its request: rendered anew it must come out the same, or the recording no longer fits.
"""

from importlib import resources
from pathlib import Path

from clair_apo.clair import GenerateConfig, load_prompts, load_template
from clair_apo.files import read_jsonl
from clair_apo.llm import CachedChat, Completion, ModelSpec, RequestStore, StoredAnswer
from clair_apo.llm.types import ChatRequest
from clair_apo.records import Prompt, Record, RevisionFormat

REKEY = "python scripts/rekey_demo_recording.py"
"""Renders every recorded request anew and writes its key down."""


class RecordedAnswer(Record):
    """A recorded completion, with the key of the request that it answers."""

    key: str
    completion: Completion


class RecordedPrompt(Record):
    """The recorded answers to one prompt and its revisions."""

    prompt_id: str
    response: RecordedAnswer
    """What the embedded model answered."""
    revisions: dict[RevisionFormat, RecordedAnswer]
    """What the maintainers wrote in the reviser's place."""


def data_file(name: str) -> Path:
    """A file of the demo's data: `prompts.jsonl`, `recording.jsonl` or `rubric.md`."""
    with resources.as_file(resources.files(__package__) / "data" / name) as path:
        return path


def read_recording() -> list[RecordedPrompt]:
    """The recording, in the order of the prompts."""
    return list(read_jsonl(data_file("recording.jsonl"), RecordedPrompt))


def fill_store(store: RequestStore) -> int:
    """Put every recorded answer into a request store; returns how many there are."""
    count = 0
    for row in read_recording():
        for answer in (row.response, *row.revisions.values()):
            response = answer.completion.to_response("recorded")
            store.put_many([StoredAnswer(answer.key, "recorded", response)])
            count += 1
    return count


def rendered_requests(
    row: RecordedPrompt, prompt: Prompt, target: ModelSpec, reviser: ModelSpec
) -> dict[str, ChatRequest]:
    """The requests that a row answers, as the pipeline renders them now.

    Returns:
        `response`, and one for each format that the row has a revision in.
    """
    with RequestStore(":memory:") as store:
        requests = {"response": CachedChat(target, store).request(prompt.messages)}
        for format in row.revisions:
            template = load_template(format, rubric=data_file("rubric.md"))
            messages = template.render(prompt.messages, row.response.completion.text)
            requests[format] = CachedChat(reviser, store).request(messages)
    return requests


def recorded_prompts(config: GenerateConfig) -> dict[str, Prompt]:
    """The demo's prompts by id."""
    return {p.id: p for p in load_prompts(config.prompts) if isinstance(p, Prompt)}
