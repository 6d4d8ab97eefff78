"""The answers of an evaluation as pages show them: models side by side, prompt by prompt."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clair_apo.errors import RunError
from clair_apo.files import read_json_rows
from clair_apo.report.html import cut_text

RESULTS, ANSWERS = "evaluation.json", "answers"
MOST_CHARACTERS = 20_000
"""Of one text on the page."""
_ENDINGS = {
    "stop": "",
    "length": "ran into the token limit",
    "content_filter": "broken off by a filter",
}

Turns = tuple[tuple[str, str], ...]
"""Role and text of each turn of a prompt."""


class ShownAnswer(NamedTuple):
    """One model's answer as it is on the page."""

    model: str
    text: str
    ending: str
    """In words: what ended it, or why there is none."""
    failed: tuple[str, ...]
    """Checks that it does not keep to."""


class ShownPrompt(NamedTuple):
    """A prompt with the answers of the models."""

    id: str
    turns: Turns
    answers: tuple[ShownAnswer, ...]


Answers = Mapping[str, tuple[Turns, ShownAnswer]]
"""What one model says, by the prompt's id."""


def read_results(folder: Path) -> dict[str, Any]:
    """The content of `evaluation.json`.

    Raises:
        RunError: there is no evaluation in the folder.
    """
    path = folder / RESULTS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); run clair-apo evaluate first") from None
    if not isinstance(content, dict) or "suites" not in content:
        raise RunError(f"{path}: is no evaluation of clair-apo evaluate")
    return content


def read_answers_of(
    folder: Path, content: Mapping[str, Any], model: str, label: str = ""
) -> Answers:
    """What a model answered; nothing where it answered no prompts.

    Args:
        folder: of the evaluation.
        content: of its `evaluation.json`.
        model: its name in the evaluation.
        label: its name on the page; by default the same.
    """
    path = folder / ANSWERS / f"{model}.jsonl"
    if not path.exists():
        return {}
    failed = _failed(folder, content, model)
    return {
        row["id"]: (
            tuple(
                (turn["role"], cut_text(turn["content"], MOST_CHARACTERS)) for turn in row["prompt"]
            ),
            _shown(label or model, row, failed.get(row["id"], ())),
        )
        for _, row in read_json_rows(path)
    }


def side_by_side(models: Sequence[Answers], ids: Sequence[str]) -> list[ShownPrompt]:
    """Prompts with the answers of those models that have one."""
    found = []
    for id in ids:
        have = [answers[id] for answers in models if id in answers]
        if have:
            found.append(ShownPrompt(id, have[0][0], tuple(answer for _, answer in have)))
    return found


def _failed(folder: Path, content: Mapping[str, Any], model: str) -> dict[str, tuple[str, ...]]:
    """The checks that each answer of a model does not keep to, by the prompt's id."""
    found: dict[str, tuple[str, ...]] = {}
    for suite in content["suites"]:
        path = folder / suite / f"{model}.jsonl"
        for _, row in read_json_rows(path) if path.exists() else ():
            checks = row.get("checks")
            if isinstance(checks, dict):
                broken = tuple(name for name, holds in checks.items() if not holds)
                found[row["id"]] = found.get(row["id"], ()) + broken
    return found


def _shown(model: str, row: Mapping[str, Any], failed: tuple[str, ...]) -> ShownAnswer:
    if row["answer"] is None:
        return ShownAnswer(model, "", f"no answer: {row['failure']}", ())
    answer = cut_text(row["answer"], MOST_CHARACTERS)
    return ShownAnswer(model, answer, _ENDINGS.get(row["finish_reason"], ""), failed)
