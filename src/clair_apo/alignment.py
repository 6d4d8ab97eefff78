"""Aligns two texts token by token, and measures their edit distance, in bounded time."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from rapidfuzz.distance import Indel, Levenshtein

# whitespace is a token of its own, so that nothing of either text is lost
TOKEN = re.compile(r"\s+|\w+|[^\w\s]")

ALIGNED_CELLS = 2**28
"""The largest table of tokens by tokens that is filled: 0.05 s and 32 MB for 16,384 of each."""
EXACT_CELLS = 2**33
"""The largest table of characters by characters that is filled: 0.5 s for 92,000 of each."""
TOKENISED_CHARACTERS = 4_000_000
"""Of both texts together: a token takes 80 bytes."""


class Block(NamedTuple):
    """A stretch of two texts: either both share it, or `new` replaces `old`."""

    same: bool
    old: str
    new: str


def blocks(old: str, new: str, cells: int = ALIGNED_CELLS) -> list[Block]:
    """Align two texts so that they share as many tokens as they can, in their order.

    The blocks' sides, joined, are the texts, and no two blocks of a kind follow each other. Where
    there are too many tokens, lines are compared in their place, and then the tokens of what
    differs as far as `cells` goes; where there are too many lines, all between a common beginning
    and a common end is one block.

    Args:
        old: one text.
        new: the other.
        cells: how many tokens are compared with how many, as a product; time and memory grow
            with it.
    """
    return list(_joined(_blocks(old, new, cells)))


def _joined(found: Iterable[Block]) -> Iterator[Block]:
    """Blocks of a kind that follow each other as one; none that is empty."""
    for same, group in groupby((one for one in found if one.old or one.new), lambda one: one.same):
        _, old, new = zip(*group, strict=True)
        yield Block(same, "".join(old), "".join(new))


def _blocks(old: str, new: str, cells: int) -> Iterator[Block]:
    lines = _Sides(old.splitlines(keepends=True), new.splitlines(keepends=True))
    words = _words(old, new)
    if words and words.cells <= cells:
        yield from words.aligned()
        return
    left = cells
    for block in _joined(lines.aligned() if lines.cells <= cells else lines.ends()):
        words = None if block.same else _words(block.old, block.new)
        if words is None:
            yield block
        elif words.cells <= left:
            left -= words.cells
            yield from words.aligned()
        else:
            yield from words.ends()


def _words(old: str, new: str) -> "_Sides | None":
    if len(old) + len(new) > TOKENISED_CHARACTERS:
        return None
    return _Sides(TOKEN.findall(old), TOKEN.findall(new))


class _Sides:
    """Two texts in tokens, and how many of them they begin and end with alike."""

    def __init__(self, old: Sequence[str], new: Sequence[str]) -> None:
        self.old, self.new = old, new
        self.head = _alike(old, new)
        self.tail = _alike(old[self.head :][::-1], new[self.head :][::-1])

    @property
    def cells(self) -> int:
        """How large the table of what is between the ends is."""
        ends = self.head + self.tail
        return (len(self.old) - ends) * (len(self.new) - ends)

    def ends(self) -> Iterator[Block]:
        """The common beginning, all that is between, and the common end."""
        old, new = len(self.old) - self.tail, len(self.new) - self.tail
        yield self._block(True, 0, self.head, 0, self.head)
        yield self._block(False, self.head, old, self.head, new)
        yield self._block(True, old, len(self.old), new, len(self.new))

    def aligned(self) -> Iterator[Block]:
        """All blocks, by the longest common subsequence of the tokens."""
        numbers: dict[str, int] = {}
        old, new = (
            [numbers.setdefault(token, len(numbers)) for token in side]
            for side in (self.old, self.new)
        )
        for step in Indel.opcodes(old, new):
            same = step.tag == "equal"
            yield self._block(same, step.src_start, step.src_end, step.dest_start, step.dest_end)

    def _block(self, same: bool, i1: int, i2: int, j1: int, j2: int) -> Block:
        return Block(same, "".join(self.old[i1:i2]), "".join(self.new[j1:j2]))


def _alike(old: Sequence[str], new: Sequence[str]) -> int:
    """How many tokens both begin with."""
    shorter = min(len(old), len(new))
    pairs = enumerate(zip(old, new, strict=False))
    return next((number for number, (one, other) in pairs if one != other), shorter)


def edit_distance(old: str, new: str) -> int:
    """The Levenshtein distance in characters.

    It is exact for texts of up to 92,000 characters (their product, `EXACT_CELLS`, decides), and
    for longer ones that are near each other: within 8,589 edits for a million characters. For all
    others it is the length of an edit script that leads from one to the other, so never too small:
    the sum over `blocks`, whose sides count in full where they are too long, and the longer text
    at most.
    """
    longer = max(len(old), len(new))
    if len(old) * len(new) <= EXACT_CELLS:
        return Levenshtein.distance(old, new)
    limit = EXACT_CELLS // longer
    near = Levenshtein.distance(old, new, score_cutoff=limit)
    return near if near <= limit else min(_script_length(old, new), longer)


def _script_length(old: str, new: str) -> int:
    left, length = EXACT_CELLS, 0
    for block in blocks(old, new):
        cells = len(block.old) * len(block.new)
        if block.same:
            continue
        if cells <= left:
            left -= cells
            length += Levenshtein.distance(block.old, block.new)
        else:
            length += max(len(block.old), len(block.new))
    return length
