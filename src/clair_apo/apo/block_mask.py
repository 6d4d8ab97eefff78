"""The mask of FlexAttention for a row of trees, from the lengths of their parts.

torch's `create_block_mask` looks at every pair of positions, N x N of them, to find which blocks
of 128 queries and 128 keys have anything to see. Here that follows from where the parts begin and
end: what a query sees is one or two stretches of keys, so memory grows with the number of blocks.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

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


def tree_block_mask(lengths: Tensor) -> BlockMask:
    """The mask of `flex_attention` for a row of trees.

    Args:
        lengths: `PackedRow.lengths`, (1, 1, P, 3).
    """
    sizes = lengths.flatten()
    part = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
    pair, kind = part // 3, part % 3

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (
            (query >= key)
            & (pair[query] == pair[key])
            & ((kind[key] == 0) | (kind[key] == kind[query]))
        )

    some, every = _blocks(sizes.cpu().numpy())
    part_of, device = some & ~every, sizes.device
    # not from_kv_blocks, which turns the blocks over through arrays of eight times their size
    return BlockMask(
        (len(part), len(part)),
        *_ordered(part_of, device),
        *_ordered(every, device),
        *_ordered(part_of.T, device),
        *_ordered(every.T, device),
        BLOCK_SIZE=(BLOCK, BLOCK),
        mask_mod=sees,
    )


def _ordered(grid: _Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many cells of each row are set, (1, 1, rows), and which: those first, then the rest."""
    indices = np.empty(grid.shape, np.int32)
    for row, cells in enumerate(grid):  # sorted all at once, they would take twelve times the room
        indices[row] = np.argsort(~cells, kind="stable")
    counts = torch.from_numpy(grid.sum(1, dtype=np.int32))
    return counts[None, None].to(device), torch.from_numpy(indices)[None, None].to(device)


def _blocks(sizes: _Ints) -> tuple[_Grid, _Grid]:
    """Which blocks of queries (rows) see anything, and all, of which blocks of keys (columns)."""
    total = int(sizes.sum())
    rows = -(-total // BLOCK)
    pieces = _pieces(sizes, total)
    row = pieces.first // BLOCK
    beyond = 0 * row  # an empty range of blocks
    has_trunk = pieces.trunk_end > pieces.trunk
    some = _covered(
        rows,
        row,
        (pieces.own // BLOCK, (pieces.end - 1) // BLOCK + 1),
        (pieces.trunk // BLOCK, np.where(has_trunk, (pieces.trunk_end - 1) // BLOCK + 1, beyond)),
    )
    every = _covered(
        rows,
        row,
        (-(-pieces.own // BLOCK), (pieces.first + 1) // BLOCK),
        (-(-pieces.trunk // BLOCK), np.where(has_trunk, pieces.trunk_end // BLOCK, beyond)),
    )
    wanted = np.bincount(row, minlength=rows)
    wanted[-1] += total % BLOCK > 0  # queries that fill the last block up see nothing
    return some > 0, every == wanted[:, None]


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
    # a loser's branch goes on from its trunk where the winner's is empty
    apart = (part % 3 == 2) & (sizes[chosen] > 0)
    return _Pieces(
        first=first,
        end=end,
        own=np.where(apart, starts[part], starts[trunk]),
        trunk=starts[trunk],
        trunk_end=np.where(apart, ends[trunk], starts[trunk]),
    )
