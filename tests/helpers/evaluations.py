"""Small evaluations of models that answer by a rule, for the tests of evaluation/."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from clair_apo.evaluation import EvaluateConfig
from clair_apo.llm import ChatModel, ChatRequest, Completion, ModelReply
from tests.helpers.clair_runs import write_rows

SERVER = "http://127.0.0.1:9/v1"
RULES = """\
checks:
  - {name: next_step, ends_with: "Next step: ask."}
  - {name: short, max_words: 12}
"""


class Ruled(ChatModel):
    """Answers a prompt by its number; counts what it is asked.

    Args:
        answers: text by the number at the prompt's end, modulo their count; a text that ends with
            `...` ran into the limit, and None is no answer.
        breaks_after: answers after which the person at the terminal presses Ctrl+C.
    """

    def __init__(self, answers: Sequence[str | None], breaks_after: int | None = None) -> None:
        self.answers, self.breaks_after = answers, breaks_after
        self.requests: list[ChatRequest] = []

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[list[ModelReply]]:
        for request in requests:
            if len(self.requests) == self.breaks_after:
                raise KeyboardInterrupt
            self.requests.append(request)
            last = request.messages[-1].content.split()[-1]
            number = int(last) if last.isdecimal() else 0
            text = self.answers[number % len(self.answers)]
            if text is None:
                yield [ModelReply(request, None, "the server rejects it")]
                continue
            done = Completion(
                text=text.removesuffix("..."),
                finish_reason="length" if text.endswith("...") else "stop",
                prompt_tokens=5,
                completion_tokens=max(1, len(text.split())),  # the end is a token too
            )
            yield [ModelReply(request, done.to_response(request.model))]


def prompt_file(folder: Path, count: int = 6) -> Path:
    rows = [{"prompt": f"Please answer question number {n}"} for n in range(count)]
    return write_rows(folder / "held_out.jsonl", rows)


def rules_file(folder: Path, text: str = RULES, name: str = "rules.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def evaluation_config(folder: Path, **changes: object) -> EvaluateConfig:
    """An evaluation of `trained` and `base`, both behind a server that nobody must ask."""
    values: dict[str, object] = {
        "run_dir": folder / "run" / "evaluation",
        "models": {name: {"model": name, "base_url": SERVER} for name in ("trained", "base")},
        "prompts": {"path": str(prompt_file(folder))},
        "suites": [
            {"suite": "health"},
            {"suite": "checks", "checks": str(rules_file(folder))},
        ],
    }
    return EvaluateConfig(**(values | changes))


def rows_of(folder: Path, *names: str) -> list[dict]:
    path = folder.joinpath("run", "evaluation", *names)
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def results_of(folder: Path) -> dict:
    return json.loads((folder / "run" / "evaluation" / "evaluation.json").read_text("utf-8"))
