"""Reads the list of changed segments in a reply: elements, numbered lines, or JSON."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from textwrap import dedent
from typing import Any

from clair_apo.clair.revision.edit_list import EditListError
from clair_apo.clair.revision.escapes import refuse_doubtful_escapes, refuse_spelled_breaks
from clair_apo.clair.revision.reply_text import whole_fence
from clair_apo.clair.revision.segments import Segment, SegmentChange, segments_of

# possessive quantifiers (*+, ++): a reply of nothing but blanks must not take quadratic time
_NAMED_TAG = re.compile(
    r"(?i)\\?[<\[]\s*+(?P<close>/?)\s*+segment(?!s\b)(?P<number>[^<>\[\]\n]*+)[>\]]"
)
_LIST_BEGINS = re.compile(r"(?i)<\s*+segments\s*+>")
_LIST_ENDS = re.compile(r"(?i)<\s*+/\s*+segments\s*+>")
_NUMBER_BEHIND = re.compile(r"(?i)<segment>\s*+n=(?P<number>[\"']?\d{1,9}[\"']?)\s*+>")
"""A tag that was closed before its number: `<segment>n="2">`."""
_BARE_TAG = re.compile(r"<\s*+(?P<close>/?)\s*+(?P<number>\#?\d{1,9})\s*+>")
_OPENED = re.compile(r"(?im)^[ \t>*_`-]*\\?[<\[]\s*+segment(?!s\b)")
_CLOSED = re.compile(r"(?i)[<\[]\s*+/\s*+segment(?!s\b)[^<>\[\]\n]*+[>\]]")
_NUMBERS = re.compile(
    r"""(?ix) [\s_:\#-]*+ (?: (?:n|no|nr|num|number|id|index|name)\b \.? \s*[=:]?\s* )?
    ["'\u201c]? \s* (?:segments?\s*)? \#?
    (?P<numbers> \d{1,9} (?: \s*(?:-|\u2013|\u2014|to|\.\.+|,|and|&)\s* \#?\d{1,9} )*+ )
    \s* ["'\u201d]? (?P<rest>\s.*)?"""
)
_JOINED = re.compile(r"(?i),|and|&")
_JSON = re.compile(r"\{|\[\s*[{\]]")
_JSON_NUMBERS = ("n", "number", "id", "segment", "index")
_JSON_TEXTS = ("text", "content", "replace", "replacement")
# what models put between segments: comments, fences, list markers, labels such as "Segment 2:"
_BETWEEN = re.compile(
    r"""(?imsx) <!--(?:(?!<!--).)*?--> | ^[ \t]*(?:```+|~~~+)\w*[ \t]*$
    | ^[ \t]*(?:[-*+]|\d+[.)])[ \t]*(?=$|<)
    | ^[ \t>\#*_-]*+(?:segment|change)[ \t]*+\#?\d*+[ \t]*+[.:)]*+[*_]*+[ \t]*+$
    | ^[ \t]*[-,;][ \t]*$"""
)
_NONE = re.compile(
    r"""(?ix) \W* (?: none | nil | null | empty | n/a
    | (?:there\ are\ )? no \s+ (?:segments?|changes?)
      (?:\s+(?:are\s+)?(?:needed|required|necessary))?
    | nothing (?:\s+(?:has\s+)?to\s+(?:be\s+)?changed?)? ) \W*"""
)
# words in place of a text, which only say what to do
_REMARK = re.compile(
    r"(?i)\s*(?:\.\.\.|\u2026|[\[(<*]+\s*(?:deleted?|removed?|empty|unchanged|no\s+changes?)"
    r"\s*[\])>*]+)\s*"
)
_LABEL = re.compile(r"(?i)\s*(?:new[ _])?(?:text|content|replace(?:ment)?)\s*[:=]")
_CDATA = re.compile(r"(?s)\A\s*<!\[CDATA\[(.*)\]\]>\s*\Z")
_LIST_NUMBER = re.compile(r"\s*\d+[.)]\s")
# lines that begin with a segment's number, in the order of trying
_BEGINS = r"(?im)^[ \t]*+(?:[-*+][ \t]++)?(?:\*\*)?"
_LINE_STYLES = tuple(
    re.compile(_BEGINS + number + r"(?:\*\*)?[ \t]*+")
    for number in (
        r"\[(?:segment[ \t]*+)?\#?(?P<number>\d{1,9})\]:?",
        r"segment[ \t]*+\#?(?P<number>\d{1,9})(?:\*\*)?[ \t]*+[:.)-]",
        r"(?:n|number|id)[ \t]*+[=:][ \t]*+[\"']?(?P<number>\d{1,9})[\"']?[ \t]*+[:,;]?",
        r"\#?(?P<number>\d{1,9})[.):]",
    )
)
_OF_LISTS = _LINE_STYLES[-1]
"""The style that Markdown's numbered lists have as well."""


def is_empty_list(block: str) -> bool:
    """Whether the content of `<segments>` says that nothing has to change."""
    bare = _BETWEEN.sub("", block).strip()
    if bare.lower().startswith("<segment>"):  # around a word such as `none`, without a number
        bare = bare[len("<segment>") :].lower().removesuffix("</segment>").strip()
    return not bare or bare in ("[]", "{}") or bool(_NONE.fullmatch(bare))


def with_end(text: str) -> str:
    """A reply that closes its last `<segments>` by one more `</segment>`, with the right tag.

    Weak models write so. A change that is not closed itself leaves the reply as it is, and so does
    a list that nothing closes.

    Args:
        text: the reply.
    """
    begun = [found.end() for found in _LIST_BEGINS.finditer(text)]
    if not begun or _LIST_ENDS.search(text, begun[-1]):
        return text
    text = text[: begun[-1]] + _NUMBER_BEHIND.sub(r"<segment n=\g<number>>", text[begun[-1] :])
    depth = 0
    for tag in _NAMED_TAG.finditer(text, begun[-1]):
        if tag["close"] and depth == 0:
            return f"{text[: tag.start()]}</segments>{text[tag.end() :]}"
        if not tag["number"].rstrip().endswith("/"):
            depth += -1 if tag["close"] else 1
    return text


def read_segments(block: str, answer: str) -> tuple[SegmentChange, ...]:
    """Read the content of `<segments>`: the changes in their order, one that is repeated only once.

    Args:
        block: the content.
        answer: the text that was shown in segments. It tells what of a text is numbering.

    Raises:
        EditListError: quotes what is no changed segment, is not closed, or can be read in two ways.
        EscapeError: it is in doubt whether a text is escaped.
    """
    if is_empty_list(block):
        return ()
    bare = whole_fence(block) or block.strip()
    if _JSON.match(bare):
        return _from_json(bare, answer)
    tag = next((tag for tag in (_NAMED_TAG, _BARE_TAG) if tag.search(block)), None)
    found = _elements(block, tag, answer) if tag else _numbered_lines(bare, answer)
    return _as_meant(found, answer)


def loose_segments(text: str) -> tuple[int, int] | None:
    """Where the segments of a reply that names no `<segments>` begin, and where they end."""
    opened, closed = _OPENED.search(text), list(_CLOSED.finditer(text))
    if opened is None or not closed:
        return None
    # an opening tag behind the last end is not closed: reading tells so
    later = [tag.end() for tag in _NAMED_TAG.finditer(text, closed[-1].end())]
    return opened.start(), max([closed[-1].end(), *later])


def segments_of_json(value: Any, answer: str) -> tuple[SegmentChange, ...]:
    """Changed segments from decoded JSON: objects with `n` and `text`, or one of texts by number.

    Raises:
        EditListError: quotes what is no changed segment.
        EscapeError: it is in doubt whether a text is escaped.
    """
    if isinstance(value, dict) and not any(key in value for key in _JSON_NUMBERS):
        value = [{"n": number, "text": text} for number, text in value.items()]
    rows = [value] if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise EditListError(f"not a list of segments: {str(value)[:80]!r}")
    return _as_meant([_change_of_json(row) for row in rows], answer)


def _change_of_json(row: Any) -> SegmentChange:
    fields = row if isinstance(row, dict) else {}
    number = next((fields[key] for key in _JSON_NUMBERS if key in fields), None)
    text = next((fields[key] for key in _JSON_TEXTS if key in fields), None)
    if not isinstance(number, int | str) or not isinstance(text, str):
        raise EditListError(f"not a changed segment: {str(row)[:80]!r}")
    return SegmentChange(*_numbers(str(number)), text)


def _from_json(text: str, answer: str) -> tuple[SegmentChange, ...]:
    try:
        value = json.loads(text, strict=False)  # models break lines inside strings
    except (ValueError, RecursionError):
        raise EditListError(f"not a changed segment: {text[:80]!r}") from None
    return segments_of_json(value, answer)


def _elements(block: str, tag: re.Pattern[str], answer: str) -> Iterator[SegmentChange]:
    """What stands between tags that bear a number; tags inside of others are text."""
    segments, depth, done = segments_of(answer), 0, 0
    opening: re.Match[str] | None = None
    for found in tag.finditer(block):
        alone = found["number"].rstrip().endswith("/")
        if depth == 0:
            _refuse_rest(block[done : found.start()])
            if found["close"]:
                raise EditListError(f"a segment ends that was not begun: {found[0]!r}")
            opening, done = found, found.end()
        if alone:
            if depth == 0:
                yield SegmentChange(*_numbers_alone(found["number"]), "")
            continue
        depth += -1 if found["close"] else 1
        if depth == 0 and opening:
            numbers = _numbers(opening["number"])
            content = block[opening.end() : found.start()]
            text = _without_tags(content.removesuffix("\\"), tag, numbers, answer)
            margin = block[block.rfind("\n", 0, opening.start()) + 1 : opening.start()]
            yield SegmentChange(*numbers, _without_margin(text, margin, numbers, segments))
            done = found.end()
    if depth and opening:
        raise EditListError(f"a segment is not closed: {block[opening.start() :][:80]!r}")
    _refuse_rest(block[done:])


def _numbers_alone(attributes: str) -> tuple[int, int]:
    """The numbers of a tag that has no content, such as `<segment n="2"/>`: it deletes."""
    named = _NUMBERS.fullmatch(attributes.rstrip().removesuffix("/").rstrip())
    if named and named["rest"]:
        raise EditListError(f"the text of a segment stands between its tags: {attributes[:80]!r}")
    return _numbers(attributes.rstrip().removesuffix("/"))


def _numbers(spelled: str) -> tuple[int, int]:
    """The first and the last of the segments that a number, a range or a list of them names."""
    found = _NUMBERS.fullmatch(spelled.rstrip().removesuffix("\\").rstrip())
    if not found:
        raise EditListError(f"not the number of a segment: {spelled.strip()[:80]!r}")
    ends = [re.findall(r"\d+", part) for part in _JOINED.split(found["numbers"])]
    ranges = [(int(part[0]), int(part[-1])) for part in ends]
    for (_, last), (first, _) in pairwise(ranges):
        if first != last + 1:
            raise EditListError(
                f"one text for segments that do not follow each other: {found['numbers']!r}"
            )
    return ranges[0][0], ranges[-1][1]


def _without_tags(content: str, tag: re.Pattern[str], numbers: tuple[int, int], answer: str) -> str:
    """A text without the echo of its own tag; other tags are in it only where the answer has them.

    Raises:
        EditListError: quotes a tag that the answer does not hold.
    """
    inside = list(tag.finditer(content))
    whole = content.strip()
    if len(inside) == 2 and whole.startswith(inside[0][0]) and whole.endswith(inside[1][0]):
        opened, closed = inside
        if not opened["close"] and closed["close"] and _numbers(opened["number"]) == numbers:
            return content[opened.end() : closed.start()]
    for found in inside:
        if found[0].lower() not in answer.lower():
            raise EditListError(f"the text of a segment holds {found[0]!r}, a tag of the form")
    return content


def _without_margin(
    text: str, margin: str, numbers: tuple[int, int], segments: Sequence[Segment]
) -> str:
    """A text on lines of its own without the blanks that indent the reply's form as a whole.

    Raises:
        EditListError: it cannot be told whether these blanks are the text's own.
    """
    number = numbers[0]
    if margin.strip() or not margin or not re.match(r"[ \t]*\n", text):
        return text
    lines = [line for line in text.split("\n") if line.strip()]
    own = segments[number - 1].indentation if 1 <= number <= len(segments) else ""
    if not lines or lines[0].startswith((own or "\n") + lines[0].lstrip()):
        return text
    blanks = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    if not blanks:
        return text
    if own or len(blanks) < len(margin):
        raise EditListError(
            f"it cannot be told how the text of segment {number} is indented: begin it right "
            "behind the tag"
        )
    return dedent("\n".join(lines)) if len(lines) == text.strip().count("\n") + 1 else dedent(text)


def _numbered_lines(block: str, answer: str) -> Iterator[SegmentChange]:
    """Texts on lines that begin with a segment's number, as in `[2] text`."""
    style = next((style for style in _LINE_STYLES if style.match(block)), None)
    if style is None:
        raise EditListError(f"not a changed segment: {block.strip()[:80]!r}")
    found = list(style.finditer(block))
    numbers = [int(each["number"]) for each in found]
    texts = [
        block[each.end() : later]
        for each, later in zip(found, [*(e.start() for e in found[1:]), len(block)], strict=True)
    ]
    in_lists = style is _OF_LISTS and any("\n" in text.strip() for text in texts)
    if style.search(answer) or in_lists or numbers != sorted(set(numbers)):
        raise EditListError(
            f"it cannot be told whether numbers such as {found[0][0].strip()!r} are those of "
            'segments: write each text between <segment n="..."> and </segment>'
        )
    for number, text in zip(numbers, texts, strict=True):
        if _LABEL.match(text):
            raise EditListError(f"not the text of a segment alone: {text.strip()[:80]!r}")
        yield SegmentChange(number, number, text)


def _as_meant(changes: Iterable[SegmentChange], answer: str) -> tuple[SegmentChange, ...]:
    """The changes without what frames and numbers their texts, the same one only once."""
    segments = segments_of(answer)
    meant, raw = [], []
    for change in changes:
        known = 1 <= change.first <= len(segments)
        shown = segments[change.first - 1].text if known else ""
        data = None if "<![CDATA[" in answer else _CDATA.match(change.text)
        text = data[1] if data else change.text
        if _REMARK.fullmatch(text) and not _REMARK.fullmatch(shown):
            raise EditListError(
                f"not the text of a segment: {text.strip()!r}; write the text itself, and nothing "
                "to delete the segment"
            )
        if not data:
            raw.append(text)
        refuse_spelled_breaks(text, answer)
        text = _without_echo(text, change, shown)
        meant.append(SegmentChange(change.first, change.last, text))
    refuse_doubtful_escapes(raw, answer)
    # models that loop repeat a change word by word; twice the same is meant once
    return tuple({(c.first, c.last, c.text.strip()): c for c in reversed(meant)}.values())[::-1]


def _without_echo(text: str, change: SegmentChange, shown: str) -> str:
    """A text without the number of its segment at its beginning.

    Raises:
        EditListError: it cannot be told whether the number is part of the text.
    """
    number = change.first
    sure = re.compile(rf"(?i)\s*(?:\[\#?{number}\]|<\#?{number}>|\**segment\s+\#?{number}\**:\**)")
    echo = sure.match(text)
    if echo and not sure.match(shown):
        if change.first != change.last:
            raise EditListError(f"the text of several segments is numbered: {text.strip()[:80]!r}")
        return text[echo.end() :].lstrip(" \t")
    in_doubt = re.compile(rf"\s*\(?\#?{number}[.):]\s+")
    echo = in_doubt.match(text)
    if not echo or in_doubt.match(shown):
        return text
    rest, marked = text[echo.end() :], _LIST_NUMBER.match(shown)
    if marked and rest.startswith(marked[0].strip()):
        return rest
    if re.search(rf"(?m)^\s*\(?{number + 1}[.)]\s", rest):
        return text  # a list
    raise EditListError(
        f"it cannot be told whether {echo[0].strip()!r} is part of the text of segment {number}: "
        "write the text without the number of the segment"
    )


def _refuse_rest(text: str) -> None:
    rest = _BETWEEN.sub("", text).strip()
    if rest:
        raise EditListError(f"not a changed segment: {rest[:80]!r}")
