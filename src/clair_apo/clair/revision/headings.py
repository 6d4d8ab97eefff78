"""Finds the parts of a reply that follow headings, which have no closing tag."""

import re
from collections.abc import Mapping, Sequence

from clair_apo.clair.revision.sections import Section, SectionError

REASONING = r"teacher(?:'s|s)?[\\_\ -]*reasoning"
"""The published recipe's identifier of the reasoning, in the ways that models spell it."""
SOLUTION = r"corrected[\\_\ -]*student(?:'s|s)?[\\_\ -]*(?:solution|answer|response)"
"""The published recipe's identifier of the revised answer."""


def headed(
    text: str,
    words: str,
    others: Sequence[str] = (),
    *,
    answer: str = "",
    seen: str | None = None,
    bare: bool = True,
    brackets: str = "{[<",
) -> list[Section]:
    """The parts under a heading, each up to the next heading of `words` or of `others`.

    A heading stands at the beginning of a line: `{words}` in braces, in square or angle brackets,
    with a brace too many or too few, with underscores escaped; without braces (where `bare`) only
    if a colon or the line's end follows. It may be bold, in code marks, quoted, a list item or a
    Markdown heading. Where a heading is closed (`{/words}`) the part ends there.

    Where the student's answer itself has such headings, there is one part: that with as many of
    them in it.

    Args:
        text: the reply.
        words: of the heading, as a regular expression.
        others: the headings that end a part, likewise.
        answer: the text that was revised.
        seen: the reply as far as headings in it count; by default the whole of it.
        bare: whether a heading may stand without any brackets.
        brackets: which it may stand in.

    Raises:
        SectionError: which headings are the reply's own cannot be told.
    """
    patterns = {pattern: _heading(pattern, bare, brackets) for pattern in (words, *others)}
    found = _headings(text if seen is None else seen, patterns)
    own = len(_headings(answer, patterns))
    wanted = [n for n, (pattern, heading) in enumerate(found) if _is(words, pattern, heading)]
    if own and wanted:
        first = len(found) - own - 1
        if first not in wanted and len(wanted) > 1:
            raise SectionError(
                "the answer itself has the headings of the form, and which of those in the reply "
                "are its own cannot be told",
                found[0][1].start(),
            )
        heading = found[first if first in wanted else wanted[0]][1]
        return [Section(heading.start(), len(text), text[heading.end() :])]
    ends = [*(heading.start() for _, heading in found[1:]), len(text)]
    return [
        Section(found[n][1].start(), ends[n], text[found[n][1].end() : ends[n]]) for n in wanted
    ]


def _is(words: str, pattern: str, heading: re.Match[str]) -> bool:
    return pattern == words and not heading["close"]


def _headings(
    text: str, patterns: Mapping[str, re.Pattern[str]]
) -> list[tuple[str, re.Match[str]]]:
    """Every heading in its order, with the words that it is made of."""
    found = ((words, match) for words, how in patterns.items() for match in how.finditer(text))
    return sorted(found, key=lambda heading: heading[1].start())


def _heading(words: str, bare: bool, brackets: str) -> re.Pattern[str]:
    opening, closing = (
        "".join(map(re.escape, some))
        for some in (brackets, brackets.translate(str.maketrans("{[<", "}]>")))
    )
    alone = r"(?= [ \t*_`\"]* (?:[:\uff1a]|$))"
    without = f"| (?:{words}) {alone}" if bare else ""
    return re.compile(
        rf"""(?imx) ^[ \t>\#]*+ (?:(?:\d+[.)]|[-*+\u2022])[ \t]++)? (?P<mark>[*_`\"]*+) [ \t]*+
        (?: (?:\\?[{opening}])+ [ \t]*+ (?P<close>/?) [ \t]*+ (?:{words})
            (?: [ \t]* (?:\\?[{closing}])+ | {alone} )
          | (?:{words}) [ \t]* (?:\\?[{closing}])+ {without} )
        (?: [ \t]* (?P=mark) [ \t]* [:\uff1a]? | [ \t]* [:\uff1a] [ \t]* (?P=mark) ) [ \t]*"""
    )
