"""FlexAttention's mask of trees, from lengths: torch's own, without its N x N."""

import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from clair_apo.apo.forward.block_mask import BLOCK, tree_block_mask
from clair_apo.apo.forward.tree_mask import TreeMask

CPU = torch.device("cpu")

FIELDS = (
    "kv_num_blocks",
    "kv_indices",
    "full_kv_num_blocks",
    "full_kv_indices",
    "q_num_blocks",
    "q_indices",
    "full_q_num_blocks",
    "full_q_indices",
)
SIZES = st.one_of(st.integers(0, 5), st.integers(0, 3 * BLOCK), st.just(BLOCK), st.just(2 * BLOCK))
TREES = st.lists(st.tuples(SIZES, SIZES, SIZES), min_size=1, max_size=5)
WINDOWS = st.one_of(st.none(), st.integers(1, 6), st.integers(1, 4 * BLOCK))


def sees(trees, window=None):
    """The dense mask (N, N), pair by pair: a token sees its trunk and its branch up to itself.

    Of these, the last so many that a window has.
    """
    total = sum(map(sum, trees))
    mask = torch.zeros(total, total, dtype=torch.bool)
    start = 0
    for trunk, chosen, rejected in trees:
        first, second = start + trunk, start + trunk + chosen
        end = second + rejected
        for query in range(start, end):
            mask[query, start : min(first, query + 1)] = True
            mask[query, (second if query >= second else first) : query + 1] = True
        start = end
    if window is not None:
        seen_after = mask.flip(1).cumsum(1, dtype=torch.int16).flip(1)
        mask &= seen_after <= window
    return mask


def by_blocks(mask):
    """Which blocks of 128 x 128 hold anything, and which hold nothing but ones; filled with 0."""
    rest = -len(mask) % BLOCK
    filled = torch.nn.functional.pad(mask, (0, rest, 0, rest))
    counts = filled.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).sum((1, 3))
    return counts > 0, counts == BLOCK * BLOCK


def as_grid(counts, indices):
    grid = torch.zeros(indices.shape[-2:], dtype=torch.bool)
    for row, (count, columns) in enumerate(zip(counts[0, 0], indices[0, 0], strict=True)):
        grid[row, columns[:count].long()] = True
    return grid


@given(TREES.filter(lambda trees: sum(map(sum, trees)) > 0), WINDOWS)
@settings(max_examples=30, deadline=None)
def test_blocks_are_those_of_the_dense_mask_and_in_torchs_own_order(trees, window):
    mask = tree_block_mask(TreeMask(tuple(trees), window), CPU)
    dense = sees(trees, window)
    some, every = by_blocks(dense)
    partial = as_grid(mask.kv_num_blocks, mask.kv_indices)
    full = as_grid(mask.full_kv_num_blocks, mask.full_kv_indices)
    assert torch.equal(full, every)
    assert torch.equal(partial, some & ~every)
    total = len(dense)
    torchs = create_block_mask(mask.mask_mod, None, None, total, total, device="cpu")
    for name in FIELDS:
        assert torch.equal(getattr(mask, name), getattr(torchs, name)), name
    assert mask.shape == torchs.shape
    assert mask.seq_lengths == torchs.seq_lengths
    places = torch.arange(total)
    inside = mask.mask_mod(None, None, places[:, None], places[None])
    assert torch.equal(inside, dense)


@pytest.mark.parametrize("total", [131_072, 131_000])
def test_a_row_of_131072_tokens_takes_less_than_50_mb(total):
    """Its dense mask alone would have 17 GB. numpy tells tracemalloc of its memory, torch does not.

    Kept are four lists of blocks, 1,024 x 1,024 each, and for each token the part it is in.
    """
    parts = total // 2, total // 4, total - total // 2 - total // 4
    tracemalloc.start()
    try:
        mask = tree_block_mask(TreeMask((parts,), None), CPU)
        numpys = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    kept = sum(getattr(mask, name).nbytes for name in FIELDS) + 5 * 8 * total
    assert numpys + kept < 50e6
    # half a block row is trunk: from the diagonal down, each block of queries sees it whole
    assert mask.full_kv_num_blocks[0, 0, 512] == 512 - total % BLOCK // BLOCK
