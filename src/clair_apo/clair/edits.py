"""Exact-match replacements: what no edit names is copied by construction."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """Put `replace` where `find` stands; `find` must stand in the answer exactly once."""

    find: str
    replace: str


class EditError(ValueError):
    """An edit that cannot be applied: it matches nothing, more than once, or another edit."""


def apply_edits(answer: str, edits: Sequence[Edit]) -> str:
    """Apply all edits to `answer` at once; their order does not matter.

    Args:
        answer: the text that every `find` was copied from.
        edits: replacements that do not overlap.

    Raises:
        EditError: names the edit and what is wrong with it. Nothing is applied then.
    """
    spans = sorted(((_locate(answer, edit), edit) for edit in edits), key=lambda span: span[0])
    pieces, end = [], 0
    for start, edit in spans:
        if start < end:
            raise EditError(f"an edit overlaps another one: {_short(edit.find)}")
        pieces += [answer[end:start], edit.replace]
        end = start + len(edit.find)
    return "".join([*pieces, answer[end:]])


def _locate(answer: str, edit: Edit) -> int:
    if not edit.find:
        raise EditError("an edit names no passage of the answer")
    start = answer.find(edit.find)
    if start < 0:
        raise EditError(f"an edit names text that is not in the answer: {_short(edit.find)}")
    if answer.find(edit.find, start + 1) >= 0:
        raise EditError(f"an edit names text that stands there twice: {_short(edit.find)}")
    return start


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
