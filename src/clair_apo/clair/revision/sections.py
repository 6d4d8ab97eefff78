"""Finds the parts of a reply that are between tags: the reasoning and the revised answer."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A part of a reply.

    Attributes:
        start: where it begins in the reply, its opening tag or heading included.
        end: where it ends, its closing tag included.
        text: what is in it.
        begins_line: whether it begins a line, as it does unless it is only mentioned.
        escaped: whether its tags, and so what is between them, are escaped for HTML.
    """

    start: int
    end: int
    text: str
    begins_line: bool = True
    escaped: bool = False


class SectionError(ValueError):
    """A part of a reply that is not whole, or that can be read in two ways.

    Attributes:
        start: where it begins in the reply.
    """

    def __init__(self, message: str, start: int) -> None:
        super().__init__(message)
        self.start = start


@dataclass(frozen=True)
class _Delimiters:
    """How a tag is written: `<name>`, `[name]` or, escaped as a whole, `&lt;name&gt;`."""

    opening: str
    closing: str
    escaped: bool = False


@dataclass(frozen=True)
class _Tag:
    """An opening or a closing tag in a reply."""

    start: int
    end: int
    closes: bool
    mark: str
    escape: str
    begins_line: bool


# possessive quantifiers (*+, ?+): a reply of nothing but blanks must not take quadratic time
_ANGLE = _Delimiters(r"(?P<escape>\\?)<\s*+", r"\s*+\\?>")
_SQUARE = _Delimiters(r"(?P<escape>\\?)\[\s*+", r"\s*+\\?\]")
_ESCAPED = _Delimiters(r"(?P<escape>)&lt;\s*+", r"\s*+&gt;", escaped=True)
_MARKS = r"[*_`]{0,3}"
_STRUCTURE = re.compile(r"(?i)</\s*(?:reasoning|edits|edit|find|replace)\s*>")
_REASONING = re.compile(r"(?i)<\s*reasoning\b")
_FOLLOWED = re.compile(r"[ \t*_`]*+(?:\n|\Z|<)")


def without_reasoning(text: str, parts: Sequence[str] = ("revision", "edits")) -> str:
    """The reply with blanks in place of the reasoning that it has between tags.

    Every position stays what it was. What reasoning says of the form (`I could leave <edits/>
    empty`) is then not taken for the form. Reasoning tags inside of the revised answer, or of the
    edits, are no reasoning.

    Args:
        text: the reply.
        parts: names of the tags around its other parts.
    """
    names = ("reasoning", *parts)
    form_tag = re.compile(rf"(?i)<(?P<close>/?)\s*+(?P<name>{'|'.join(names)})(?:\s[^<>\n]*+)?+>")
    tags = list(form_tag.finditer(text))
    closing_after = {name: _Closings(text, tags, name) for name in names}
    pieces, done, position = [], 0, 0
    for tag in tags:
        if tag.start() < position or tag["close"] or not _begins_line(text, tag.start()):
            continue
        name = tag["name"].lower()
        closing = closing_after[name](tag.end())
        if closing is None:
            continue
        position = closing.end()
        if name == "reasoning":
            inside = re.sub(r"[^\n]", " ", text[tag.end() : closing.start()])
            pieces += [text[done : tag.end()], inside]
            done = closing.start()
    return "".join([*pieces, text[done:]])


class _Closings:
    """Where tags of one name are closed: before a line's end or a tag, else wherever they are."""

    def __init__(self, text: str, tags: Sequence[re.Match[str]], name: str) -> None:
        every = [tag for tag in tags if tag["close"] and tag["name"].lower() == name]
        proper = [tag for tag in every if _FOLLOWED.match(text, tag.end())]
        self._every, self._proper = _Ordered(every), _Ordered(proper)
        self._others = _Ordered(
            [
                tag
                for tag in tags
                if not tag["close"]
                and tag["name"].lower() not in (name, "reasoning")
                and _begins_line(text, tag.start())
            ]
        )

    def __call__(self, position: int) -> re.Match[str] | None:
        first, proper = self._every.after(position), self._proper.after(position)
        if first is None or proper is None:
            return first
        other = self._others.after(first.end())
        return first if other and other.start() < proper.start() else proper


class _Ordered:
    """Tags in the order of a reply."""

    def __init__(self, tags: Sequence[re.Match[str]]) -> None:
        self._tags, self._starts = tags, [tag.start() for tag in tags]

    def after(self, position: int) -> re.Match[str] | None:
        """The first one from a position on."""
        number = bisect_left(self._starts, position)
        return self._tags[number] if number < len(self._tags) else None


def tagged(
    text: str, name: str, *, answer: str = "", seen: str | None = None, counted: bool = True
) -> list[Section]:
    """The parts between `<name>` and `</name>`, in their order; `name` is a regular expression.

    Tags may be in any case, bold or in code marks, have attributes or blanks in them, and be
    written with square brackets or HTML escapes. Where tags are nested the outermost pair counts,
    and pairs that begin a line are preferred to those in the middle of a sentence. Where the
    student's answer itself holds such tags, the pair counts that has as many of them inside.

    Args:
        text: the reply.
        name: of the tag.
        answer: the text that was revised.
        seen: the reply as far as tags in it count; by default the whole of it.
        counted: whether as many tags as in the answer are expected inside; where not, everything
            from the first to the last tag counts then.

    Raises:
        SectionError: the last tag is not closed, or which tags are the reply's own cannot be
            told.
    """
    for how in (_ANGLE, _SQUARE, _ESCAPED):
        tags = _tags(text if seen is None else seen, name, how)
        if not any(tag.closes for tag in tags) and how is not _ANGLE:
            continue  # no tags: words in brackets
        own = len(_tags(answer, name, how))
        found = _blocks(text, tags, own, counted)
        if found:
            return [pair.section(text, how) for pair in found]
    return []


def unclosed(text: str, name: str) -> list[Section]:
    """The text after the last `<name>`, where none is closed."""
    opened = [tag for tag in _tags(text, name, _ANGLE) if tag.begins_line]
    # where another tag closes later, this one was only mentioned
    if not opened or _STRUCTURE.search(text, opened[-1].end):
        return []
    return [Section(opened[-1].start, len(text), text[opened[-1].end :])]


def _tags(text: str, name: str, how: _Delimiters) -> list[_Tag]:
    tag = re.compile(
        rf"(?i)(?P<mark>{_MARKS}){how.opening}(?P<close>/?)\s*+(?:{name})"
        rf"(?:\s[^<>\[\]\n&]*+)?+(?<!/){how.closing}(?P=mark)"
    )
    return [
        _Tag(
            start=match.start(),
            end=match.end(),
            closes=bool(match["close"]),
            mark=match["mark"],
            escape=match["escape"],
            begins_line=_begins_line(text, match.start()),
        )
        for match in tag.finditer(text)
    ]


@dataclass(frozen=True)
class _Pair:
    """An opening tag with the one that closes it."""

    opening: _Tag
    closing: _Tag
    depth: int

    def holds(self, tag: _Tag) -> bool:
        return self.opening.end <= tag.start and tag.end <= self.closing.start

    def section(self, text: str, how: _Delimiters) -> Section:
        opening, closing = self.opening, self.closing
        end = closing.start
        # marks and a backslash before the end are the text's own, unless the beginning has them
        if closing.mark != opening.mark:
            end += len(closing.mark)
        if closing.escape and not opening.escape:
            end += len(closing.escape)
        return Section(
            start=opening.start,
            end=closing.end,
            text=text[opening.end : end],
            begins_line=opening.begins_line,
            escaped=how.escaped,
        )


def _blocks(text: str, tags: Sequence[_Tag], own: int, counted: bool) -> list[_Pair]:
    opened: list[_Tag] = []
    pairs: list[_Pair] = []
    strays: list[_Tag] = []
    for tag in tags:
        if not tag.closes:
            opened.append(tag)
        elif opened:
            opening = opened.pop()
            pairs.append(_Pair(opening, tag, len(opened)))
        else:
            strays.append(tag)
    if own and pairs:
        return [_of_an_answer_with_tags(text, tags, pairs, own if counted else None)]
    outermost = [pair for pair in pairs if pair.depth == 0] or pairs
    at_lines = [pair for pair in outermost if pair.opening.begins_line] or outermost
    _refuse_what_is_not_whole(text, opened, strays, at_lines)
    return at_lines


def _of_an_answer_with_tags(
    text: str, tags: Sequence[_Tag], pairs: Sequence[_Pair], own: int | None
) -> _Pair:
    """The pair of tags that has as many of them inside as the student's answer has."""
    opening = next((t for t in tags if t.begins_line and not t.closes), pairs[0].opening)
    outer = _Pair(opening, next(t for t in reversed(tags) if t.closes), 0)
    if own is None or (len(tags) == 2 and not text[outer.closing.end :].strip()):
        return outer
    for pair in (outer, *reversed(pairs)):
        if sum(map(pair.holds, tags)) == own:
            return pair
    raise SectionError(
        "the answer itself holds the tags of the form, and which of those in the reply are its "
        "own cannot be told",
        tags[0].start,
    )


def _refuse_what_is_not_whole(
    text: str, opened: Sequence[_Tag], strays: Sequence[_Tag], pairs: Sequence[_Pair]
) -> None:
    end = pairs[-1].closing.end if pairs else 0
    left = next((tag for tag in reversed(opened) if tag.begins_line), None)
    # a reply that begins anew leaves a draft behind; else the second tag may be text
    anew = left and pairs and _REASONING.search(text, left.end, pairs[-1].opening.start)
    if left and not (anew and left.start < end):
        raise SectionError(
            f"the reply opens {_shown(text, left)} and does not close it", left.start
        )
    stray = next((tag for tag in strays if pairs and tag.start >= end), None)
    if stray and text[end : stray.start].strip():
        raise SectionError(f"the reply holds {_shown(text, stray)} twice", pairs[-1].opening.start)


def _shown(text: str, tag: _Tag) -> str:
    return text[tag.start : tag.end].strip("*_`\\ ")


def _begins_line(text: str, position: int) -> bool:
    """Whether nothing stands before a position on its line but marks, or a tag's end."""
    at = position - 1
    while at >= 0 and text[at] in " \t*_`":
        at -= 1
    if at >= 0 and text[at] == ">":
        return True
    while at >= 0 and text[at] in " \t>#*_`-":
        at -= 1
    return at < 0 or text[at] == "\n"
