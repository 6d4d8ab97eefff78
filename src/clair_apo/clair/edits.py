"""Exact-match replacements: what no edit names is copied by construction."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """Put `replace` where `find` stands; `find` must stand in the answer exactly once."""

    find: str
    replace: str


class EditError(ValueError):
    """Edits that cannot be applied: they match nothing, more than once, or each other.

    Attributes:
        faults: a sentence for each such edit; the message holds them all.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True)
class _Placed:
    """What is to stand in the answer from `start` to `end`, and the edit that says so."""

    start: int
    end: int
    replace: str
    edit: Edit


def apply_edits(answer: str, edits: Sequence[Edit]) -> str:
    """Apply all edits to `answer` at once; their order does not matter.

    A `find` is looked for as it is. Where it stands nowhere, it is looked for once more with
    differences that models make in copying set aside: white space and line ends, typographic and
    plain quotes, dashes and ellipses, HTML escapes. That match counts only if there is exactly one
    in the answer, and the passage is then replaced as it stands there. Letters and case must
    always agree.

    Args:
        answer: the text that every `find` was copied from.
        edits: replacements that do not overlap.

    Raises:
        EditError: names each edit that is wrong, and what is wrong with it. Nothing is applied
            then.
    """
    faults, placed = [], []
    for edit in edits:
        try:
            placed.append(_placed(answer, edit))
        except EditError as error:
            faults.append(str(error))
    placed.sort(key=lambda place: (place.start, place.end))
    pieces, end = [], 0
    for place in placed:
        if place.start < end:
            faults.append(f"an edit overlaps another one: {_short(place.edit.find)}")
        pieces += [answer[end : place.start], place.replace]
        end = max(end, place.end)
    if faults:
        raise EditError(faults)
    return "".join([*pieces, answer[end:]])


def _placed(answer: str, edit: Edit) -> _Placed:
    if not edit.find:
        raise EditError(["an edit names no passage of the answer"])
    start = answer.find(edit.find)
    if start < 0:
        return _placed_loosely(answer, edit)
    if answer.find(edit.find, start + 1) >= 0:
        raise EditError([f"an edit names text that stands there twice: {_short(edit.find)}"])
    return _Placed(start, start + len(edit.find), edit.replace, edit)


def _placed_loosely(answer: str, edit: Edit) -> _Placed:
    """The one passage that differs from `find` only in how it is set; its frame is left alone."""
    for read in (str, html.unescape):
        found = _loose_matches(answer, read(edit.find))
        if len(found) > 1:
            raise EditError([f"an edit names text that stands there twice: {_short(edit.find)}"])
        if found:
            replace = read(edit.replace)
            # the blanks around `find` are not replaced, so those around `replace` do not go in
            if edit.find[:1].isspace():
                replace = replace.lstrip()
            if edit.find[-1:].isspace():
                replace = replace.rstrip()
            return _Placed(*found[0].span(), replace, edit)
    raise EditError([f"an edit names text that is not in the answer: {_short(edit.find)}"])


_ALIKE = {
    character: "(?:" + "|".join(map(re.escape, alike)) + ")"
    for alike in (
        ("'", "\u2018", "\u2019", "\u201a", "\u201b", "\u2032", "`"),
        ('"', "\u201c", "\u201d", "\u201e", "\u201f", "\u2033", "\u00ab", "\u00bb"),
        ("-", "\u2010", "\u2011", "\u2012", "\u2013", "\u2014", "\u2212"),
        ("...", "\u2026"),
    )
    for character in alike
}
_TOKEN = re.compile(r"\.\.\.|\S")


def _loose_matches(answer: str, find: str) -> list[re.Match[str]]:
    words = (
        "".join(_ALIKE.get(token) or re.escape(token) for token in _TOKEN.findall(word))
        for word in find.split()
    )
    pattern = re.compile(r"\s+".join(words))
    first = pattern.search(answer) if find.strip() else None
    if first is None:
        return []
    second = pattern.search(answer, first.start() + 1)
    return [first, second] if second else [first]


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
