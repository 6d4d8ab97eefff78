"""Applies exact-match replacements; text that no edit names is copied unchanged."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Indel

from clair_apo.clair.revision.placed import EditError


@dataclass(frozen=True)
class Edit:
    """Replace `find`, which must occur in the answer exactly once, by `replace`."""

    find: str
    replace: str


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
    plain quotes, dashes and ellipses. That match counts only if there is exactly one in the
    answer. What `find` and `replace` have in common then stays as it stands in the answer, and an
    edit is refused where that does not decide the line breaks or the indentation. Letters and
    case must always agree.

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


def stands_in(answer: str, find: str) -> bool:
    """Whether a passage stands in the answer, exactly or as a loosely copied one."""
    return find in answer or bool(_loose_matches(answer, find))


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
    found = _loose_matches(answer, edit.find)
    if len(found) > 1:
        raise EditError([f"an edit names text that stands there twice: {_short(edit.find)}"])
    if not found:
        raise EditError([f"an edit names text that is not in the answer: {_short(edit.find)}"])
    start, end = found[0].span()
    replace = edit.replace
    # the blanks around `find` are not replaced, so those around `replace` do not go in
    if edit.find[:1].isspace():
        replace = replace.lstrip()
    if edit.find[-1:].isspace():
        replace = replace.rstrip()
    passage = _Passage(answer, start, edit.find)
    written = passage.with_changes(replace)
    # what only changes white space that was not copied cannot be placed
    if written is None or (written == answer[start:end] and edit.find != edit.replace):
        raise EditError(
            [
                "an edit names text whose line breaks or blanks are not those of the answer: "
                f"{_short(edit.find)}"
            ]
        )
    return _Placed(start, end, written, edit)


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
_TOKEN = re.compile(r"\.\.\.|\s+|\w+|[^\w\s]")


def _loose_matches(answer: str, find: str) -> list[re.Match[str]]:
    tokens = _TOKEN.findall(find.strip())
    if not tokens:
        return []
    pattern = re.compile("".join(map(_loosely, tokens)))
    first = pattern.search(answer)
    second = pattern.search(answer, first.start() + 1) if first else None
    return [match for match in (first, second) if match]


def _loosely(token: str) -> str:
    return r"\s+" if token.isspace() else _ALIKE.get(token) or re.escape(token)


class _Passage:
    """A passage of the answer, beside the loose copy of it that a `find` is.

    Args:
        answer: the whole of it.
        start: where the passage begins.
        find: the copy; the blanks around it are no part of the passage.
    """

    def __init__(self, answer: str, start: int, find: str) -> None:
        self._copied = _TOKEN.findall(find.strip())
        self._stands = list(_pieces(answer, start, self._copied))
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
        pieces = []
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


def _pieces(answer: str, start: int, tokens: Sequence[str]) -> Iterator[str]:
    """What stands in the answer for each token of a loose copy."""
    for token in tokens:
        end = start + len(token)
        if token.isspace():
            end = start
            while answer[end : end + 1].isspace():
                end += 1
        elif token in _ALIKE:
            match = re.compile(_ALIKE[token]).match(answer, start)
            assert match is not None  # the whole was matched before
            end = match.end()
        yield answer[start:end]
        start = end


def _layout(gap: str) -> tuple[int, str]:
    """How often a gap between words breaks the line, and how it indents the next one."""
    lines = gap.replace("\r\n", "\n").split("\n")
    return len(lines), lines[-1] if len(lines) > 1 else ""


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
