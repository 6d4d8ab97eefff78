"""Render every request of the demo's recording anew and write its key down.

    python scripts/rekey_demo_recording.py

Needed after a change of the demo's prompts, templates, rubric or sampling settings. The recorded
texts stay: read them once more against what the reviser is now asked before you commit them.
"""

from clair_apo.demo import demo_config
from clair_apo.demo.recording import (
    RecordedAnswer,
    data_file,
    read_recording,
    recorded_prompts,
    rendered_requests,
)
from clair_apo.files import write_jsonl


def main() -> None:
    """Write `recording.jsonl` with the keys of today's requests."""
    config = demo_config()
    prompts = recorded_prompts(config)
    rows, changed = [], 0
    for row in read_recording():
        requests = rendered_requests(row, prompts[row.prompt_id], config.target, config.reviser)
        answers = {"response": row.response, **row.revisions}
        changed += sum(answers[name].key != request.key for name, request in requests.items())
        keyed = {
            name: RecordedAnswer(key=requests[name].key, completion=answer.completion)
            for name, answer in answers.items()
        }
        rows.append(row.model_copy(update={"response": keyed.pop("response"), "revisions": keyed}))
    write_jsonl(data_file("recording.jsonl"), rows)
    print(f"{len(rows)} prompts, {changed} keys changed")


if __name__ == "__main__":
    main()
