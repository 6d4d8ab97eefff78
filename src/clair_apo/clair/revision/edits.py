"""Finds and applies replacements of quoted passages; all other text is copied unchanged."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from unicodedata import combining, normalize

from rapidfuzz.distance import Indel

from clair_apo.clair.revision.placed import EditError, apply_placed
from clair_apo.records import PlacedEdit


@dataclass(frozen=True)
class Edit:
    """Replace `find`, which must occur in the answer exactly once, by `replace`."""

    find: str
    replace: str


class LocatedEdit(NamedTuple):
    """An edit with its place in the answer, and whether its passage was found as it is."""

    edit: Edit
    place: PlacedEdit
    folded: bool


def apply_edits(answer: str, edits: Sequence[Edit], *, fold: bool = True) -> str:
    """Apply all edits to `answer` at once; their order does not matter.

    Args:
        answer: the text that every `find` was copied from.
        edits: replacements that do not overlap.
        fold: as in `locate_edits`.

    Raises:
        EditError: as `locate_edits` does; nothing is applied then.
    """
    return apply_placed(answer, [each.place for each in locate_edits(answer, edits, fold=fold)])


def locate_edits(
    answer: str, edits: Sequence[Edit], *, fold: bool = True
) -> tuple[LocatedEdit, ...]:
    """Find where edits stand in the answer, in the order of the text.

    A `find` is looked for as it is. Where it stands nowhere, and `fold` is set, it is looked for
    once more with differences that models make in copying set aside: white space and line ends,
    typographic and plain quotes, dashes and ellipses, the case of the first letter, and how Unicode
    codes an accent. That match counts only if there is exactly one in the answer. What `find` and
    `replace` have in common then stays as it stands in the answer, and an edit is refused where
    that does not decide the line breaks, the indentation or the case of the first letter. Other
    letters must always agree.

    Args:
        answer: the text that every `find` was copied from.
        edits: replacements that do not overlap.
        fold: whether a passage is looked for a second time.

    Raises:
        EditError: names each edit that is wrong, and what is wrong with it.
    """
    faults, located = [], []
    for edit in edits:
        try:
            located.append(_located(answer, edit, fold))
        except EditError as error:
            faults.append(str(error))
    located.sort(key=lambda each: (each.place.start, each.place.end))
    end = 0
    for each in located:
        if each.place.start < end:
            faults.append(f"an edit overlaps another one: {_short(each.edit.find)}")
        end = max(end, each.place.end)
    if faults:
        raise EditError(faults)
    return tuple(located)


def stands_in(answer: str, find: str) -> bool:
    """Whether a passage stands in the answer, as it is or folded."""
    return find in answer or bool(_folded_places(answer, _composed(find)))


def _located(answer: str, edit: Edit, fold: bool) -> LocatedEdit:
    if not edit.find:
        raise EditError(["an edit names no passage of the answer"])
    start = answer.find(edit.find)
    if start < 0:
        return LocatedEdit(edit, _placed_folded(answer, edit, fold), folded=True)
    if answer.find(edit.find, start + 1) >= 0:
        raise EditError([f"an edit names text that stands there twice: {_short(edit.find)}"])
    place = PlacedEdit(start=start, end=start + len(edit.find), replace=edit.replace)
    return LocatedEdit(edit, place, folded=False)


def _placed_folded(answer: str, edit: Edit, fold: bool) -> PlacedEdit:
    """The one passage that differs from `find` only in how it is set; its frame is left alone."""
    find, replace = edit.find, edit.replace
    if _composed(find) != find:
        find, replace = _composed(find), _composed(replace)
    found = _folded_places(answer, find) if fold else []
    if len(found) > 1:
        raise EditError([f"an edit names text that stands there twice: {_short(edit.find)}"])
    if not found:
        raise EditError([f"an edit names text that is not in the answer: {_short(edit.find)}"])
    # the blanks around `find` are not replaced, so those around `replace` do not go in
    if find[:1].isspace():
        replace = replace.lstrip()
    if find[-1:].isspace():
        replace = replace.rstrip()
    start, end = found[0].start, found[0].end
    written = _Passage(answer, found[0], find).with_changes(replace)
    # what only changes white space that was not copied cannot be placed
    if written is None or (written == answer[start:end] and edit.find != edit.replace):
        raise EditError(
            [
                "an edit names text whose line breaks or blanks are not those of the answer: "
                f"{_short(edit.find)}"
            ]
        )
    written = _in_the_case_of(answer[start], find.lstrip()[0], written)
    if written is None:
        raise EditError(
            [
                "an edit names text whose first letter has another case in the answer: "
                f"{_short(edit.find)}"
            ]
        )
    return PlacedEdit(start=start, end=end, replace=written)


def _in_the_case_of(stands: str, copied: str, written: str) -> str | None:
    """New text with its first letter in the case that the passage has in the answer.

    Returns:
        None where the passage begins with a small letter, which a new first word may not take.
    """
    first = written[:1]
    if stands.isupper() == copied.isupper() or first.isupper() == stands.isupper():
        return written
    if stands.isupper():
        return first.upper() + written[1:]
    return None


_LOOKING_ALIKE = (
    ("'", "\u2018", "\u2019", "\u201a", "\u201b", "\u2032", "`"),
    ('"', "\u201c", "\u201d", "\u201e", "\u201f", "\u2033", "\u00ab", "\u00bb"),
    ("-", "\u2010", "\u2011", "\u2012", "\u2013", "\u2014", "\u2212"),
    ("...", "\u2026"),
)
_ALIKE = {
    one: "(?:" + "|".join(map(re.escape, alike)) + ")" for alike in _LOOKING_ALIKE for one in alike
}
_PLAIN = {one: alike[0] for alike in _LOOKING_ALIKE for one in alike}
_TOKEN = re.compile(r"\.\.\.|\s+|\w+|[^\w\s]")


def _composed(text: str) -> str:
    return normalize("NFC", text)


class _Place(NamedTuple):
    """Where a passage stands folded, and what stands there for each token of its copy."""

    start: int
    pieces: tuple[str, ...]

    @property
    def end(self) -> int:
        return self.start + sum(map(len, self.pieces))


def _folded_places(answer: str, find: str) -> list[_Place]:
    """The first two places where a passage stands folded.

    Places with the first letter in its own case; where there is none, in the other. Takes time in
    proportion to the answer: candidates are found by plain search.
    """
    tokens = _TOKEN.findall(find.strip())
    if not tokens:
        return []
    plain, positions = _plain(answer)
    for first in dict.fromkeys((tokens[0], tokens[0][0].swapcase() + tokens[0][1:])):
        spelled = [first, *tokens[1:]]
        found: dict[int, _Place] = {}
        for at in _occurrences(plain, _plain("".join(spelled))[0]):
            place = _place(answer, positions[at], spelled)
            if place:
                found[place.start] = place
            if len(found) > 1:
                break
        if found:
            return list(found.values())
    return []


def _place(answer: str, start: int, tokens: Sequence[str]) -> _Place | None:
    pieces, end = [], start
    for token in tokens:
        match = _loosely(token).match(answer, end)
        if match is None:
            return None
        pieces.append(match[0])
        end = match.end()
    # an accent that follows would make another letter of the last one
    if end < len(answer) and combining(answer[end]):
        return None
    return _Place(start, tuple(pieces))


def _occurrences(text: str, piece: str) -> Iterator[int]:
    start = text.find(piece)
    while start >= 0:
        yield start
        start = text.find(piece, start + 1)


def _plain(text: str) -> tuple[str, list[int]]:
    """The text with everything folded, and for each character where it stands in the text."""
    folded, positions = [], []
    for run in re.finditer(r"\s+|\S", text):
        piece = " " if run[0].isspace() else _PLAIN.get(run[0]) or normalize("NFD", run[0])
        folded.append(piece)
        positions += [run.start()] * len(piece)
    return "".join(folded), positions


@lru_cache(maxsize=4096)
def _loosely(token: str) -> re.Pattern[str]:
    if token.isspace():
        return re.compile(r"\s+")
    return re.compile(_ALIKE.get(token) or "".join(map(_in_both_forms, token)))


def _in_both_forms(letter: str) -> str:
    """A letter with its accent as one character or as two."""
    parts = normalize("NFD", letter)
    one = re.escape(letter)
    return one if parts == letter else f"(?:{one}|{re.escape(parts)})"


class _Passage:
    """A passage of the answer, beside the loose copy of it that a `find` is.

    Args:
        answer: the whole of it.
        place: where the passage stands.
        find: the copy; the blanks around it are no part of the passage.
    """

    def __init__(self, answer: str, place: _Place, find: str) -> None:
        start = place.start
        self._copied = _TOKEN.findall(find.strip())
        self._stands = place.pieces
        self._moved = [
            copied.isspace() and _layout(copied) != _layout(stands)
            for copied, stands in zip(self._copied, self._stands, strict=True)
        ]
        before = answer[answer.rfind("\n", 0, start) + 1 : start]
        around = find[: len(find) - len(find.lstrip())].rpartition("\n")[2]
        shifted = bool(around) and not before.strip() and around != before
        self._elsewhere = shifted or any(self._moved)

    def with_changes(self, replace: str) -> str | None:
        """`replace`, with what it has in common with the copy as it stands in the answer.

        Returns:
            None where that leaves open how its lines break or are indented.
        """
        wanted = _TOKEN.findall(replace)
        pieces: list[str] = []
        for change in Indel.opcodes(self._copied, wanted):
            old = slice(change.src_start, change.src_end)
            new = "".join(wanted[change.dest_start : change.dest_end])
            if change.tag == "equal":
                if any(self._moved[old]) and new.isspace():
                    return None  # nothing beside it says that it is the same break
                pieces += self._stands[old]
                continue
            if "\n" in new and self._elsewhere:
                return None
            if any(self._is_flattened(n) for n in range(old.start, old.stop)):
                return None
            pieces.append(new)
        return "".join(pieces)

    def _is_flattened(self, number: int) -> bool:
        """Whether the copy has other line breaks at a place than the answer."""
        copied, stands = self._copied[number], self._stands[number]
        return self._moved[number] and copied.count("\n") != stands.count("\n")


def _layout(gap: str) -> tuple[int, str]:
    """How often a gap between words breaks the line, and how it indents the next one."""
    lines = gap.replace("\r\n", "\n").split("\n")
    return len(lines), lines[-1] if len(lines) > 1 else ""


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
