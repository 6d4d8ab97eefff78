"""FlexAttention's mask of a row of trees, made from the lengths of its parts alone.

Shapes: N tokens, in blocks of `BLOCK` queries by `BLOCK` keys; P pieces of queries.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from clair_apo.apo.forward.tree_mask import TreeMask

BLOCK = 128
"""Queries and keys of a block, FlexAttention's default."""

_Ints = NDArray[np.int64]
_Grid = NDArray[np.bool_]


class _Pieces(NamedTuple):
    """Stretches of queries that lie in one part of one pair and in one block, each (P,)."""

    first: _Ints
    end: _Ints
    own: _Ints
    """Where the stretch of keys begins that ends at the query itself."""
    trunk: _Ints
    """Where a trunk begins that lies apart from it."""
    trunk_end: _Ints
    """Where that trunk ends; where there is none, where it begins."""


def tree_block_mask(mask: TreeMask, device: torch.device) -> BlockMask:
    """The mask of `flex_attention` for a row of trees.

    Args:
        mask: parts of the trees, and the window.
        device: where queries and keys are; nothing waits for it.
    """
    sizes = np.array(mask.parts, np.int64).reshape(-1)
    some, every = _blocks(sizes, mask.window)
    part_of = some & ~every
    total = int(sizes.sum())
    # not from_kv_blocks, which turns the blocks over through arrays of eight times their size
    return BlockMask(
        (total, total),
        *_ordered(part_of, device),
        *_ordered(every, device),
        *_ordered(part_of.T, device),
        *_ordered(every.T, device),
        BLOCK_SIZE=(BLOCK, BLOCK),
        mask_mod=_sees(sizes, mask.window, device),
    )


def _sees(sizes: _Ints, window: int | None, device: torch.device) -> Any:
    """Whether a query sees a key, by their places in the row, as FlexAttention asks it."""
    number = np.arange(len(sizes))
    trunk = number - number % 3
    starts = np.cumsum(sizes) - sizes
    offsets = np.where(number == trunk, 0, sizes[trunk]) - starts  # from place to position
    part = np.repeat(number, sizes)
    pair, kind, position = (
        torch.from_numpy(x.astype(np.int32)).to(device, non_blocking=True)
        for x in (part // 3, part % 3, np.arange(len(part)) + offsets[part])
    )

    def in_branch(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (
            (query >= key)
            & (pair[query] == pair[key])
            & ((kind[key] == 0) | (kind[key] == kind[query]))
        )

    def in_window(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = position[query] - position[key] < widest
        return in_branch(batch, head, query, key) & near

    if window is None:
        return in_branch
    widest = window
    return in_window


def _ordered(grid: _Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many cells of each row are set, (1, 1, rows), and which: those first, then the rest."""
    indices = np.empty(grid.shape, np.int32)
    for row, cells in enumerate(grid):  # all at once would take twelve times the memory
        indices[row] = np.argsort(~cells, kind="stable")
    counts = torch.from_numpy(grid.sum(1, dtype=np.int32))
    found = counts[None, None], torch.from_numpy(indices)[None, None]
    return found[0].to(device, non_blocking=True), found[1].to(device, non_blocking=True)


def _blocks(sizes: _Ints, window: int | None) -> tuple[_Grid, _Grid]:
    """Which blocks of queries (rows) see anything, and all, of which blocks of keys (columns)."""
    total = int(sizes.sum())
    rows = -(-total // BLOCK)
    pieces = _pieces(sizes, total)
    row = pieces.first // BLOCK
    widest, narrowest = (_seen(pieces, query, window) for query in (pieces.first, pieces.end - 1))
    some = _covered(
        rows,
        row,
        (widest.own // BLOCK, (pieces.end - 1) // BLOCK + 1),
        (widest.trunk // BLOCK, _ceil(widest.trunk_end) * (widest.trunk_end > widest.trunk)),
    )
    every = _covered(
        rows,
        row,
        (_ceil(narrowest.own), (pieces.first + 1) // BLOCK),
        (_ceil(narrowest.trunk), narrowest.trunk_end // BLOCK),
    )
    wanted = np.bincount(row, minlength=rows)
    wanted[-1] += total % BLOCK > 0  # queries that fill the last block up see nothing
    return some > 0, every == wanted[:, None]


def _ceil(places: _Ints) -> _Ints:
    """The first block that begins at a place or after it."""
    return -(-places // BLOCK)


def _seen(pieces: _Pieces, query: _Ints, window: int | None) -> _Pieces:
    """The keys that one query of each piece sees: its window cut from the beginning."""
    if window is None:
        return pieces
    beyond = query - pieces.own + 1 - window  # keys of its own stretch that it has lost
    has_trunk = pieces.trunk_end > pieces.trunk
    # a trunk that lies apart comes before its own stretch, and is lost first
    lost = np.maximum(beyond + pieces.trunk_end - pieces.trunk, 0)
    return pieces._replace(
        own=pieces.own + np.maximum(beyond, 0),
        trunk=np.where(has_trunk, np.minimum(pieces.trunk + lost, pieces.trunk_end), pieces.trunk),
    )


def _covered(rows: int, row: _Ints, *ranges: tuple[_Ints, _Ints]) -> NDArray[np.int16]:
    """How many ranges of columns, each in its row, cover each cell of a square grid."""
    edges = np.zeros((rows, rows + 1), np.int16)
    for first, end in ranges:
        there = first < end
        np.add.at(edges, (row[there], first[there]), 1)
        np.add.at(edges, (row[there], end[there]), -1)
    return np.cumsum(edges, axis=1, dtype=np.int16, out=edges)[:, :-1]


def _pieces(sizes: _Ints, total: int) -> _Pieces:
    ends = np.cumsum(sizes)
    starts = ends - sizes
    edges = np.unique(np.concatenate([starts, np.arange(0, total, BLOCK), [total]]))
    first, end = edges[:-1], edges[1:]
    part = np.searchsorted(ends, first, side="right")
    trunk, chosen = part - part % 3, part - part % 3 + 1
    # a rejected branch goes on from its trunk where the chosen one is empty
    apart = (part % 3 == 2) & (sizes[chosen] > 0)
    return _Pieces(
        first=first,
        end=end,
        own=np.where(apart, starts[part], starts[trunk]),
        trunk=starts[trunk],
        trunk_end=np.where(apart, ends[trunk], starts[trunk]),
    )
