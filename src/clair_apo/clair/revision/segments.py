"""Cuts an answer into numbered segments, and puts new text in the place of some of them.

A segment is a sentence, a list item, a heading, a row of a table, a line of code or any other line.
It holds the white space that follows it, so all segments joined are the answer, whatever it is.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from clair_apo.clair.revision.placed import EditError, apply_placed
from clair_apo.records import PlacedEdit

LONG = 240
"""Characters of a line from which on a list item, too, is cut at the ends of its sentences."""

_LINE = re.compile(r"[^\r\n]*(?:\r\n|[\r\n])|[^\r\n]+")
_BREAK = re.compile(r"\r\n|[\r\n]")
_FENCE = re.compile(r"[ \t>]*(?P<marks>`{3,}|~{3,})(?P<info>[^`\r\n]*)(?=[\r\n]|\Z)")
# list items, headings and indented lines
_ITEM = re.compile(
    r"[ \t]*(?:[-*+\u2022\u2013]|\d{1,4}[.)]|[A-Za-z][.)])[ \t]|[ ]{0,3}\#{1,6}[ \t]|[ ]{4}|\t"
)
_ROW = re.compile(r"[ \t]*\||[^|\r\n]*[ ]\|[ ]")
_LETTER = re.compile(r"[^\W\d_]")
# possessive quantifiers (++, *+): a line of nothing but dots must not take quadratic time
_CLOSERS = r"[)\]}\"'\u201d\u2019\u00bb*_`\u300d\u300f\uff09\u3011\u300b]*+"
_SENTENCE_END = re.compile(
    rf"""(?x) (?<![.!?\u2026\u061f\u0964]) (?P<mark>[.!?\u2026\u061f\u0964]++) {_CLOSERS} \s++
    | [\u3002\uff01\uff1f\uff61]++ {_CLOSERS} \s*+"""
)
_OPENERS = re.compile("[(\"'\u201c\u2018\u00ab\u00bf\u00a1*_]*")
_LAST_WORD = re.compile("[^\\s(\"'\u201c\u2018]*\\Z")
_LETTERS_WITH_DOTS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_BEFORE_NAMES = re.compile("al|cf|dr|ft|gen|gov|hon|jr|lt|mr|mrs|ms|mt|prof|rep|rev|sen|sr|st|vs")
_BEFORE_NUMBERS = re.compile("approx|art|ca|ch|eqs?|figs?|nos?|nr|pp?|sec|vol")


@dataclass(frozen=True)
class Segment:
    """A piece of an answer: `before`, `text` and `after`, joined.

    Attributes:
        before: the blanks that indent the line that it begins; for the first segment also the
            blank lines before it.
        text: without white space around it.
        after: white space up to the next segment, blank lines included.
        begins_line: whether it is the first one on its line.
    """

    before: str
    text: str
    after: str
    begins_line: bool

    @property
    def indentation(self) -> str:
        """The blanks before the text on its own line."""
        return _BREAK.split(self.before)[-1]

    def __str__(self) -> str:
        return f"{self.before}{self.text}{self.after}"


@dataclass(frozen=True)
class SegmentChange:
    """What is to stand in the place of the segments from number `first` to number `last`.

    An empty `text` deletes them.
    """

    first: int
    last: int
    text: str


def segments_of(answer: str) -> tuple[Segment, ...]:
    """Cut a text into segments; joined they are the text, character by character.

    Every line break cuts. Lines of a code fence and rows of a table stay whole. Other lines are cut
    behind each sentence; list items, headings and lines indented by four blanks only from `LONG`
    characters on. A sentence ends with `.`, `!`, `?` or an ellipsis (with quotes and brackets that
    close behind it) before white space, or with the full stops of Chinese and Japanese. It goes on
    where the next word begins in lower case, after a single letter or letters with dots (`J.`,
    `e.g.`), after a title (`Dr.`), and after `No.`, `Fig.` and the like before a digit.
    """
    rows: list[tuple[list[str], bool]] = []
    has_text = False
    for piece, begins_line in _pieces(answer):
        blank = not piece.strip()
        if rows and (blank or not has_text):
            rows[-1][0].append(piece)
        else:
            rows.append(([piece], begins_line))
        has_text = has_text or not blank
    return tuple(_segment("".join(pieces), begins_line) for pieces, begins_line in rows)


def _segment(whole: str, begins_line: bool) -> Segment:
    text = whole.strip()
    start = whole.index(text) if text else len(whole)
    return Segment(whole[:start], text, whole[start + len(text) :], begins_line)


def numbered(answer: str) -> str:
    """The text with each segment between tags that bear its number, from 1.

    White space that indents a line stands inside of the tags; all other white space outside.
    """
    return "".join(
        f"{segment.before[: len(segment.before) - len(segment.indentation)]}"
        f'<segment n="{number}">{segment.indentation}{segment.text}</segment>{segment.after}'
        for number, segment in enumerate(segments_of(answer), 1)
    )


def apply_segments(answer: str, changes: Sequence[SegmentChange]) -> str:
    """Put new text in the place of segments; every other segment is copied as it is.

    Args:
        answer: the text that was cut into segments.
        changes: in any order; each segment is in one of them at most.

    Raises:
        EditError: as `place_segments` does.
    """
    return apply_placed(answer, place_segments(answer, changes))


def place_segments(answer: str, changes: Sequence[SegmentChange]) -> tuple[PlacedEdit, ...]:
    """Find the positions of changed segments, in the order of the text.

    A segment keeps its indentation, unless the new text brings its own, and the white space behind
    it. Changes that are numbered on behind the last segment, without a gap, are added to it. Where
    segments are deleted, the widest gap beside or between them stays: the one with the
    most line breaks.

    Args:
        answer: the text that was cut into segments.
        changes: in any order.

    Raises:
        EditError: names each change that is wrong: a number that there is not, a segment that is
            changed twice, several lines of which it is open how they are indented.
    """
    places = _Places(answer)
    ordered = places.with_added(sorted(changes, key=lambda change: (change.first, change.last)))
    faults = [fault for change in ordered for fault in places.faults_of(change)]
    last = 0
    for change in ordered:
        if 0 < change.first <= last:
            faults.append(f"segment {change.first} is changed twice: give its new text once")
        last = max(last, change.last)
    if faults:
        raise EditError(faults)
    written = [places.written(change) for change in ordered if change.text.strip()]
    deleted = [change for change in ordered if not change.text.strip()]
    edits = [*written, *(places.without(first, last) for first, last in _runs(deleted))]
    return tuple(sorted(edits, key=lambda edit: (edit.start, edit.end)))


class _Places:
    """Where the segments of an answer stand in it; numbers count from 1."""

    def __init__(self, answer: str) -> None:
        self._segments = segments_of(answer)
        self._starts = list(accumulate((len(str(each)) for each in self._segments), initial=0))

    def with_added(self, ordered: Sequence[SegmentChange]) -> list[SegmentChange]:
        """The changes with those numbered on behind the last segment as a part of it."""
        count = len(self._segments)
        kept = [change for change in ordered if change.first <= count]
        added = [change for change in ordered if change.first > count]
        if not added or [(c.first, c.last) for c in added] != [
            (count + number, count + number) for number in range(1, len(added) + 1)
        ]:
            return list(ordered)
        last = kept.pop() if kept and kept[-1].last == count else None
        begin = SegmentChange(count, count, self._segments[-1].text) if last is None else last
        gap = self._segments[-2].after if count > 1 else " "
        texts = [text for change in (begin, *added) if (text := change.text.strip())]
        return [*kept, SegmentChange(begin.first, count, (gap or " ").join(texts))]

    def faults_of(self, change: SegmentChange) -> Iterator[str]:
        count = len(self._segments)
        if not 1 <= change.first <= change.last <= count:
            named = f"segment {change.first}"
            if change.first != change.last:
                named = f"segments {change.first} to {change.last}"
            yield f"the reply names {named}, and the answer has segments 1 to {count}"
            return
        indentation = self._segments[change.first - 1].indentation
        text = _without_blank_lines(change.text)
        if _is_wide(indentation) and "\n" in text and not _is_wide(_blanks_before(text)):
            yield (
                f"segment {change.first} is indented, and the first of several lines in its place "
                "is not: write each line with its indentation"
            )

    def written(self, change: SegmentChange) -> PlacedEdit:
        first = self._segments[change.first - 1]
        text = _without_blank_lines(change.text)
        blanks = _blanks_before(text)
        indentation = first.indentation
        if first.begins_line and _is_wide(blanks):
            indentation = blanks
        start = self._starts[change.first - 1] + len(first.before) - len(first.indentation)
        end = self._end_of_text(change.last)
        return PlacedEdit(start=start, end=end, replace=indentation + text.strip())

    def without(self, first: int, last: int) -> PlacedEdit:
        """Delete segments, and all gaps around them but one."""
        before, gone = self._segments[: first - 1], self._segments[first - 1 : last]
        end = self._starts[last]
        indentation = ""
        if last < len(self._segments) and not self._segments[last].begins_line:
            # of the line whose beginning goes, for what is left of it
            begun = [each.indentation for each in gone if each.begins_line]
            indentation = begun[-1] if begun else ""
        if not before:
            return PlacedEdit(start=0, end=end, replace=indentation)
        gaps = [before[-1].after, *(each.after for each in gone)]
        gap = gaps[-1]
        if last < len(self._segments):
            gap = max(gaps, key=lambda gap: len(_BREAK.findall(gap)))
        start = self._end_of_text(first - 1)
        return PlacedEdit(start=start, end=end, replace=gap + indentation)

    def _end_of_text(self, number: int) -> int:
        return self._starts[number] - len(self._segments[number - 1].after)


def _runs(deleted: Sequence[SegmentChange]) -> Iterator[tuple[int, int]]:
    """The first and the last number of each run of deleted segments."""
    run: tuple[int, int] | None = None
    for change in deleted:
        if run and change.first == run[1] + 1:
            run = run[0], change.last
            continue
        if run:
            yield run
        run = change.first, change.last
    if run:
        yield run


def _pieces(answer: str) -> Iterator[tuple[str, bool]]:
    """Lines and sentences, white space included, and whether each begins a line."""
    fence = ""
    for line in _LINE.findall(answer):
        found = _FENCE.match(line)
        if fence:
            # as in Markdown: what closes a fence is as long, and nothing follows on its line
            if found and found["marks"].startswith(fence) and not found["info"].strip():
                fence = ""
            yield line, True
        elif found:
            fence = found["marks"]
            yield line, True
        elif _ROW.match(line) or (_ITEM.match(line) and len(line) <= LONG):
            yield line, True
        else:
            for number, sentence in enumerate(_sentences(line)):
                yield sentence, number == 0


def _sentences(line: str) -> Iterator[str]:
    start, letter = 0, _LETTER.search(line)
    for end in _SENTENCE_END.finditer(line):
        if letter is None:
            break
        # `1.` at the beginning of a line is no sentence
        if letter.start() < end.start() and _ends_a_sentence(line, start, end):
            yield line[start : end.end()]
            start = end.end()
            letter = _LETTER.search(line, start)
    if start < len(line):
        yield line[start:]


def _ends_a_sentence(line: str, start: int, end: re.Match[str]) -> bool:
    if end["mark"] is None:
        return True
    opened = _OPENERS.match(line, end.end())
    assert opened is not None  # it matches the empty text
    following = line[opened.end() : opened.end() + 1]
    if following.islower():
        return False
    if end["mark"] != ".":
        return True
    found = _LAST_WORD.search(line[max(start, end.start() - 24) : end.start()])
    assert found is not None
    word = found[0].lower()
    if _LETTERS_WITH_DOTS.fullmatch(word) or _BEFORE_NAMES.fullmatch(word):
        return False
    return not (_BEFORE_NUMBERS.fullmatch(word) and following.isdigit())


def _without_blank_lines(text: str) -> str:
    """A text without the blank lines that it begins with, and the white space that it ends with."""
    text = text.rstrip()
    return text[text.rfind("\n", 0, len(text) - len(text.lstrip())) + 1 :]


def _blanks_before(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _is_wide(blanks: str) -> bool:
    """Whether blanks indent a line; tokenizers leave a single one before a text."""
    return len(blanks) > 1 or "\t" in blanks
