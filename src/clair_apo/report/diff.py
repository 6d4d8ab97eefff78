"""Which words of two texts differ. Knows texts, and nothing of runs or pages."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from clair_apo.alignment import Block, blocks
from clair_apo.records import Record


class Span(Record):
    """A stretch of one text that is shared with the other text, or is not."""

    kind: Literal["same", "changed"]
    text: str


class WordDiff(NamedTuple):
    """Two texts as spans; the spans of a side, joined, are that side's text."""

    rejected: tuple[Span, ...]
    chosen: tuple[Span, ...]


def word_diff(rejected: str, chosen: str) -> WordDiff:
    """Compare two texts word by word; every character of both stands in exactly one span.

    Long texts are compared more coarsely, so that the time is bounded: see
    `clair_apo.alignment.blocks`.
    """
    found = list(_without_islands(blocks(rejected, chosen)))
    return WordDiff(
        rejected=tuple(_span(block.same, block.old) for block in found if block.old),
        chosen=tuple(_span(block.same, block.new) for block in found if block.new),
    )


def _without_islands(found: list[Block]) -> Iterator[Block]:
    """A blank between two changes is changed as well: alone it does not part them."""
    changed: Block | None = None
    for number, block in enumerate(found):
        inside = changed is not None and number + 1 < len(found)
        if block.same and not (inside and block.old.isspace()):
            if changed:
                yield changed
            changed = None
            yield block
        else:
            before = changed or Block(False, "", "")
            changed = Block(False, before.old + block.old, before.new + block.new)
    if changed:
        yield changed


def _span(same: bool, text: str) -> Span:
    return Span(kind="same" if same else "changed", text=text)
