"""The judge of a benchmark: how it is set where nothing is said, and how it is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator

from clair_apo.evaluation.suites.base import SuiteContext
from clair_apo.llm import Answer, ChatRequest, Dialogue, ModelSpec
from clair_apo.llm.thinking import after_thinking
from clair_apo.records import Conversation

_DEFAULTS = {"temperature": 0.0, "max_tokens": 999}


def _with_defaults(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _DEFAULTS | dict(value)
    if isinstance(value, ModelSpec):
        missing = {n: v for n, v in _DEFAULTS.items() if n not in value.model_fields_set}
        return value.model_copy(update=missing)
    return value


JudgeSpec = Annotated[ModelSpec, BeforeValidator(_with_defaults)]
"""A judge: as any model, but temperature 0 and 999 tokens unless the config says otherwise."""


@dataclass(frozen=True)
class Reply:
    """What a judge replied.

    Attributes:
        text: behind its thinking; empty where it gave none.
        failure: why there is none.
    """

    text: str
    failure: str = ""


def ask_judge(
    context: SuiteContext, spec: ModelSpec, questions: Sequence[Conversation], title: str
) -> list[Reply]:
    """The judge's replies to questions, in their order; equal questions are asked once.

    Args:
        context: of the evaluation.
        spec: the judge.
        questions: what it is asked.
        title: stands above the progress display.
    """
    client = context.client(spec)
    distinct = list(dict.fromkeys(questions))
    asked = [_ask(client.request(question)) for question in distinct]
    replies = dict(zip(distinct, context.converse(title, client, asked), strict=True))
    return [replies[question] for question in questions]


def described(spec: ModelSpec) -> str:
    """The judge and its settings in a sentence's part, for remarks."""
    place = f" at {spec.base_url}" if spec.base_url else " in this process"
    place = f" served by {spec.serve}" if spec.serve else place
    heat = "not sent" if spec.temperature is None else f"{spec.temperature:g}"
    return f"{spec.model}{place}, temperature {heat}, at most {spec.max_tokens} tokens"


def _ask(request: ChatRequest) -> Dialogue[Reply]:
    (answer,) = yield (request,)
    return _reply(answer)


def _reply(answer: Answer) -> Reply:
    done = answer.completion
    if done is None:
        return Reply("", answer.failure or "no answer")
    if done.refused:
        return Reply("", "refused")
    return Reply(after_thinking(done.text))
