"""The watched answers of a training, side by side over its steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clair_apo.errors import DataError, RunError
from clair_apo.files import read_json_rows

ANSWERS = "watched_answers.jsonl"
"""The file in a training folder, one line an answer."""
MAX_COLUMNS = 6
"""Steps that are shown of each prompt: the first, the last, and some evenly spaced in between."""
_FIELDS = ("step", "id", "prompt", "chosen", "answer", "ended", "tokens", "rep_3", "checks")


class ShownAnswer(NamedTuple):
    """One answer as the page shows it."""

    step: int
    text: str
    how: str
    """How it came to an end, and whether it repeats itself, in words."""
    breaks: str
    """The checks that it does not keep to, by name; empty where there are none."""


class AnsweredPrompt(NamedTuple):
    """A held-out prompt with the answers over the steps."""

    prompt: str
    chosen: str
    answers: tuple[ShownAnswer, ...]


class WatchedAnswers(NamedTuple):
    """All prompts of a training that were watched."""

    prompts: tuple[AnsweredPrompt, ...]
    shown: int
    """Steps that are shown."""
    steps: int
    """Steps at which the policy answered."""


def read_answers(folder: Path) -> WatchedAnswers:
    """Read the watched answers of a training folder; none where it has no such file.

    Raises:
        RunError: names the line that is no watched answer.
    """
    path = folder / ANSWERS
    if not path.is_file():
        return WatchedAnswers((), 0, 0)
    try:
        rows = [_checked(path, number, row) for number, row in read_json_rows(path)]
    except DataError as error:
        raise RunError(f"{error}; delete the file to draw the page without it") from None
    steps = sorted({int(row["step"]) for row in rows})
    shown = _columns(steps)
    prompts = dict.fromkeys((row["id"], row["prompt"], row["chosen"]) for row in rows)
    return WatchedAnswers(
        tuple(_prompt(rows, key, shown) for key in prompts), len(shown), len(steps)
    )


def _checked(path: Path, number: int, row: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        _shown(row)
        return {name: row[name] for name in _FIELDS}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{path}:{number}: not a watched answer") from None


def _columns(steps: Sequence[int]) -> set[int]:
    if len(steps) <= MAX_COLUMNS:
        return set(steps)
    last = len(steps) - 1
    return {steps[round(place * last / (MAX_COLUMNS - 1))] for place in range(MAX_COLUMNS)}


def _prompt(
    rows: Sequence[Mapping[str, Any]], key: tuple[str, str, str], steps: set[int]
) -> AnsweredPrompt:
    mine = (row for row in rows if (row["id"], row["prompt"], row["chosen"]) == key)
    answers = (_shown(row) for row in mine if row["step"] in steps)
    return AnsweredPrompt(key[1], key[2], tuple(sorted(answers)))


def _shown(row: Mapping[str, Any]) -> ShownAnswer:
    tokens, repeats = int(row["tokens"]), float(row["rep_3"])
    end = f"ends after {tokens} tokens" if row["ended"] else f"does not end: cut at {tokens} tokens"
    return ShownAnswer(
        step=int(row["step"]),
        text=str(row["answer"]),
        how=f"{end}, rep-3 {repeats:.2f}",
        breaks=", ".join(name for name, kept in row["checks"].items() if not kept),
    )
