"""Which words of two texts differ. Knows texts, and nothing of runs or pages."""

import re
from collections.abc import Iterable, Iterator
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


class _Step(NamedTuple):
    """A stretch of both texts, equal or not."""

    equal: bool
    old: str
    new: str


def word_diff(rejected: str, chosen: str) -> WordDiff:
    """Compare two texts word by word; every character of both stands in exactly one span."""
    steps = list(_merged(_without_islands(list(_steps(rejected, chosen)))))
    return WordDiff(
        rejected=tuple(_span(step.equal, step.old) for step in steps if step.old),
        chosen=tuple(_span(step.equal, step.new) for step in steps if step.new),
    )


def _span(equal: bool, text: str) -> Span:
    return Span(kind="same" if equal else "changed", text=text)


def _steps(rejected: str, chosen: str) -> Iterator[_Step]:
    old, new = TOKEN.findall(rejected), TOKEN.findall(chosen)
    # blanks as junk: they never start a match; no autojunk: it gives up on words like "the"
    matcher = SequenceMatcher(str.isspace, old, new, autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        yield _Step(tag == "equal", "".join(old[i1:i2]), "".join(new[j1:j2]))


def _without_islands(steps: list[_Step]) -> list[_Step]:
    """Count blanks between two changes as changed: one stroke reads better than two."""
    inner = range(1, len(steps) - 1)
    islands = {i for i in inner if steps[i].equal and steps[i].old.isspace()}
    return [step._replace(equal=False) if i in islands else step for i, step in enumerate(steps)]


def _merged(steps: Iterable[_Step]) -> Iterator[_Step]:
    """Join neighbours of the same kind."""
    last: _Step | None = None
    for step in steps:
        if last is not None and last.equal == step.equal:
            last = _Step(last.equal, last.old + step.old, last.new + step.new)
            continue
        if last is not None:
            yield last
        last = step
    if last is not None:
        yield last
