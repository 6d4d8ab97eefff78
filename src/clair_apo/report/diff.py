"""Which words of two texts differ. Knows texts, and nothing of runs or pages."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

from clair_apo.records import Record

# whitespace is a token of its own, so that a diff loses nothing of either text
TOKEN = re.compile(r"\s+|\w+|[^\w\s]")


class Span(Record):
    """A stretch of one text that is shared with the other text, or is not."""

    kind: Literal["same", "changed"]
    text: str


class WordDiff(NamedTuple):
    """Two texts as spans; the spans of a side, joined, are that side's text."""

    rejected: tuple[Span, ...]
    chosen: tuple[Span, ...]


def word_diff(rejected: str, chosen: str) -> WordDiff:
    """Compare two texts word by word; every character of both stands in exactly one span."""
    old, new = TOKEN.findall(rejected), TOKEN.findall(chosen)
    # blanks as junk: none of them alone parts two changes; no autojunk: it gives up on "the"
    matcher = SequenceMatcher(str.isspace, old, new, autojunk=False)
    steps = matcher.get_opcodes()
    return WordDiff(
        rejected=tuple(_span(tag, old[i1:i2]) for tag, i1, i2, _, _ in steps if i1 < i2),
        chosen=tuple(_span(tag, new[j1:j2]) for tag, _, _, j1, j2 in steps if j1 < j2),
    )


def _span(tag: str, tokens: Sequence[str]) -> Span:
    return Span(kind="same" if tag == "equal" else "changed", text="".join(tokens))
