"""Where in a reply the reasoning and the revised answer stand: between tags or under headings."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

REASONING = r"teacher(?:'s|s)?[\\_\ -]*reasoning"
"""The published recipe's identifier of the reasoning, in the ways that models spell it."""
SOLUTION = r"corrected[\\_\ -]*student(?:'s|s)?[\\_\ -]*(?:solution|answer|response)"
"""The published recipe's identifier of the revised answer."""


@dataclass(frozen=True)
class Section:
    """A part of a reply.

    Attributes:
        start: where it begins in the reply, its opening tag or heading included.
        text: what is in it.
    """

    start: int
    text: str


@dataclass(frozen=True)
class _Delimiters:
    """How a tag is written: `<name>`, `[name]` or, escaped as a whole, `&lt;name&gt;`."""

    opening: str
    closing: str
    escaped: bool = False


# possessive quantifiers (*+, ?+): a reply of nothing but blanks must not take quadratic time
_ANGLE = _Delimiters(r"(?P<escape>\\?)<\s*+", r"\s*+\\?>")
_OTHERS = (
    _Delimiters(r"(?P<escape>\\?)\[\s*+", r"\s*+\\?\]"),
    _Delimiters(r"(?P<escape>)&lt;\s*+", r"\s*+&gt;", escaped=True),
)
_MARKS = r"[*_`]{0,3}"
_STRUCTURE = re.compile(r"(?i)</\s*(?:reasoning|edits|edit|find|replace)\s*>")


def tagged(text: str, name: str) -> list[Section]:
    """The parts between `<name>` and `</name>`, in their order; `name` is a regular expression.

    Tags may be in any case, bold or in code marks, have attributes or blanks in them, and be
    written with square brackets or HTML escapes. Where tags are nested the outermost pair counts:
    an answer may itself speak of such tags. Pairs that begin a line are preferred to those in the
    middle of a sentence. A last tag that is never closed reaches to the end of the reply, for a
    reply that the token limit cut is refused before it is parsed.
    """
    for delimiters in (_ANGLE, *_OTHERS):
        found = _pairs(text, name, delimiters)
        if found:
            return found
    return _unclosed(text, name)


def _pairs(text: str, name: str, how: _Delimiters) -> list[Section]:
    tag = re.compile(
        rf"(?i)(?P<mark>{_MARKS}){how.opening}(?P<close>/?)\s*+(?:{name})"
        rf"(?:\s[^<>\[\]\n&]*+)?+{how.closing}(?P=mark)"
    )
    opened: list[re.Match[str]] = []
    pairs: list[tuple[int, re.Match[str], str]] = []  # depth, opening tag, content
    for match in tag.finditer(text):
        if not match["close"]:
            opened.append(match)
        elif opened:
            opening = opened.pop()
            # a backslash before the end is the text's own, unless the beginning has one as well
            own = match["escape"] and not opening["escape"]
            content = text[opening.end() : match.end("escape") if own else match.start()]
            pairs.append((len(opened), opening, html.unescape(content) if how.escaped else content))
    outermost = [pair for pair in pairs if pair[0] == 0] or pairs
    at_lines = [p for p in outermost if _begins_line(text, p[1].start())] or outermost
    return [Section(opening.start(), content) for _, opening, content in at_lines]


def _unclosed(text: str, name: str) -> list[Section]:
    tag = re.compile(rf"(?i)(?P<mark>{_MARKS})<\s*+(?:{name})(?:\s[^<>\n]*+)?+\s*+>(?P=mark)")
    opened = list(tag.finditer(text))
    if len(opened) > 1 and not text[opened[-1].end() :].strip():
        before, last = opened[-2:]  # <name> ... <name>: closed without its slash
        return [Section(before.start(), text[before.end() : last.start()])]
    at_lines = [m for m in opened if _begins_line(text, m.start())]
    # where another tag closes later, this one was only mentioned
    if not at_lines or _STRUCTURE.search(text, at_lines[-1].end()):
        return []
    return [Section(at_lines[-1].start(), text[at_lines[-1].end() :])]


def _begins_line(text: str, position: int) -> bool:
    """Whether nothing stands before a position on its line but marks, or a tag's end."""
    before = text[text.rfind("\n", 0, position) + 1 : position]
    return not before.strip(" \t>#*_`-") or before.rstrip(" \t*_`").endswith(">")


def headed(
    text: str, words: str, others: Sequence[str] = (), *, bare: bool = True
) -> list[Section]:
    """The parts under a heading, each up to the next heading of `words` or of `others`.

    A heading stands at the beginning of a line: `{words}` in braces, in square or angle brackets,
    with a brace too many or too few, with underscores escaped; without braces (where `bare`) only
    if a colon or the line's end follows. It may be bold, in code marks, quoted, a list item or a
    Markdown heading. Where a heading is closed (`{/words}`) the part ends there.
    """
    found = sorted(
        (
            (match, wanted)
            for wanted, pattern in [(True, words), *((False, other) for other in others)]
            for match in _heading(pattern, bare).finditer(text)
        ),
        key=lambda heading: heading[0].start(),
    )
    ends = [*(match.start() for match, _ in found[1:]), len(text)]
    return [
        Section(match.start(), text[match.end() : end])
        for (match, wanted), end in zip(found, ends, strict=False)
        if wanted and not match["close"]
    ]


def _heading(words: str, bare: bool) -> re.Pattern[str]:
    alone = r"(?= [ \t*_`\"]* (?:[:\uff1a]|$))"
    without = f"| (?:{words}) {alone}" if bare else ""
    return re.compile(
        rf"""(?imx) ^[ \t>\#]*+ (?:(?:\d+[.)]|[-*+\u2022])[ \t]++)? (?P<mark>[*_`\"]*+) [ \t]*+
        (?: (?:\\?[\{{\[<])+ [ \t]*+ (?P<close>/?) [ \t]*+ (?:{words})
            (?: [ \t]* (?:\\?[\}}\]>])+ | {alone} )
          | (?:{words}) [ \t]* (?:\\?[\}}\]])+ {without} )
        (?: [ \t]* (?P=mark) [ \t]* [:\uff1a]? | [ \t]* [:\uff1a] [ \t]* (?P=mark) ) [ \t]*"""
    )
