"""Pairs in which a lint finds nothing, to put one fault in."""

import random
from pathlib import Path
from typing import Any

from clair_apo.lint import Finding, LintReport, lint
from tests.helpers.clair_runs import write_rows

_BEGINNINGS, _ENDS = (
    ("am", "bas", "cor", "del", "em", "fal"),
    ("ber", "in", "no", "ta", "rid", "lo"),
)
_WORDS = [beginning + end for beginning in _BEGINNINGS for end in _ENDS]


def sound_pairs(count: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of plain text: prompts apart from each other, sides of like length and form."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        prompt, chosen, rejected = (
            " ".join(rng.choices(_WORDS, k=length))
            for length in (12, rng.randint(20, 40), rng.randint(20, 40))
        )
        rows.append(
            {
                "prompt": f"Tell me about {prompt} {number}?",
                "chosen": f"The {chosen}.",
                "rejected": f"A {rejected}.",
            }
        )
    return rows


def as_messages(row: dict[str, Any]) -> dict[str, Any]:
    """A row of plain text as one of conversations."""
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return {key: [{"role": roles[key], "content": text}] for key, text in row.items()}


def linted(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> LintReport:
    """What a lint finds in rows."""
    return lint(str(write_rows(folder / "pairs.jsonl", rows)), **settings)


def finding(report: LintReport, name: str) -> Finding | None:
    """The finding of a rule; None where it found nothing."""
    return next((one for one in report.findings if one.name == name), None)
