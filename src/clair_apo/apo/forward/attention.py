"""Attention over packed trees: every branch sees its trunk and itself, and nothing else.

A row of trees (`tree.PackedRow`) goes through the model's own code. Its mask, with four
dimensions as transformers passes masks of one's own through untouched, says how long the parts of
each pair are, and `tree_attention`, under the name `TREE_ATTENTION` in transformers'
`AttentionInterface`, attends by it:

- on CUDA in one call of `flex_attention`, with the `BlockMask` of these lengths;
- elsewhere, and on CUDA where FlexAttention cannot (dropout, very narrow heads), once for each
  branch: on a CPU by `cpu.causal_attention`, else by torch's
  `scaled_dot_product_attention`.

Both kernels have a name of their own in the interface, so that a layer that gradient checkpointing
runs again, on a thread of its own, attends as it did.

It computes what its arguments say and nothing else: a model that hands over more, such as sinks or
a soft cap, is refused. A model attends in this way only inside `attends_to_trees`; at all other
times it is untouched.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, PreTrainedModel

from clair_apo.apo.forward.cpu import causal_attention
from clair_apo.apo.trl_compat import (
    WeakIdKeyDictionary,
    attention_name,
    flex_attention_forward,
    is_triton_available,
    repeat_kv,
)
from clair_apo.errors import TrainingError

BLOCK = 128
"""Queries and keys of a block, FlexAttention's default."""

_Ints = NDArray[np.int64]
_Grid = NDArray[np.bool_]

TREE_ATTENTION = "clair_apo_tree"
"""The name of `tree_attention` in transformers. It has no mask function there on purpose: without
one, transformers makes no mask where none is passed."""
FLEX_ATTENTION, PER_BRANCH = "flex_attention", "attention_per_branch"
"""The kernels of `tree_attention`: all trees in one call, or a call for each branch."""
_NAMES = {FLEX_ATTENTION: TREE_ATTENTION, PER_BRANCH: f"{TREE_ATTENTION}_per_branch"}
NARROWEST_FLEX_HEAD = 16
"""FlexAttention's kernels take no narrower heads."""
_NO_PART_OF_THE_FUNCTION = frozenset(
    {
        "cache_position",
        "num_items_in_batch",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)
"""What models hand over that attention has no use for: positions are in queries and keys by then,
the rest asks for outputs."""
_block_masks = WeakIdKeyDictionary()
"""The `BlockMask` of each mask that is alive: the layers of a model share one."""


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
    for row, cells in enumerate(grid):  # all at once would take twelve times the memory
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
    # a rejected branch goes on from its trunk where the chosen one is empty
    apart = (part % 3 == 2) & (sizes[chosen] > 0)
    return _Pieces(
        first=first,
        end=end,
        own=np.where(apart, starts[part], starts[trunk]),
        trunk=starts[trunk],
        trunk_end=np.where(apart, ends[trunk], starts[trunk]),
    )


class UnknownKeywordError(TrainingError):
    """A model hands its attention something that attention over trees does not compute."""


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    kernel: str = FLEX_ATTENTION,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over one row of P trees, in the form that transformers calls.

    Args:
        module: the attention layer, for its name and whether it is causal.
        query: (1, heads, N, width).
        key: (1, key-value heads, N, width).
        value: (1, key-value heads, N, width of values).
        attention_mask: `PackedRow.lengths`, (1, 1, P, 3).
        dropout: as the layer says.
        scaling: of the scores; by default 1 / sqrt(width).
        kernel: `FLEX_ATTENTION`, taken where it can, or `PER_BRANCH`.
        kwargs: whatever else a model passes; None is nothing.

    Returns:
        (1, N, heads, width of values), and no attention weights.

    Raises:
        UnknownKeywordError: a keyword that may change the function.
    """
    _refuse_more(module, kwargs)
    flexes = kernel == FLEX_ATTENTION and _flexes(query.device)
    if flexes and not dropout and _flexible(query, value):
        return _flex_attention(module, query, key, value, attention_mask, scaling), None
    lengths: list[list[int]] = attention_mask[0, 0].tolist()
    # split and not sliced: its backward is one concatenation, where a slice's fills a row of zeros
    sizes = [size for trunk, chosen, rejected in lengths for size in (trunk + chosen, rejected)]
    states = [x.split(sizes, dim=2) for x in (query, key, value)]
    on_cpu = query.device.type == "cpu" and not dropout
    attend = causal_attention if on_cpu else functools.partial(_torch_attention, dropout=dropout)
    found = []
    with torch.autocast(query.device.type, enabled=False):
        for number, (trunk, chosen, rejected) in enumerate(lengths):
            q, k, v = (pieces[2 * number] for pieces in states)
            if trunk + chosen:
                found.append(attend(q, k, v, scaling))
            if rejected:
                q, *more = (pieces[2 * number + 1] for pieces in states)
                k, v = (
                    torch.cat([x[:, :, :trunk], y], 2) for x, y in zip((k, v), more, strict=True)
                )
                found.append(attend(q, k, v, scaling))
    return torch.cat(found, dim=1).to(value.dtype), None


def _refuse_more(module: nn.Module, more: dict[str, Any]) -> None:
    if getattr(module, "is_causal", True) is False or more.get("is_causal") is False:
        raise UnknownKeywordError(f"attention in {type(module).__name__} is not causal")
    for name, value in more.items():
        neutral = value is None or (name == "is_causal" and value is True)
        if not neutral and name not in _NO_PART_OF_THE_FUNCTION:
            raise UnknownKeywordError(
                f"{type(module).__name__} hands {name} to its attention, which attention over "
                "shared beginnings does not compute; set pair_layout to padded"
            )


def _flexible(query: Tensor, value: Tensor) -> bool:
    return min(query.shape[-1], value.shape[-1]) >= NARROWEST_FLEX_HEAD


def _flex_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor,
    scaling: float | None,
) -> Tensor:
    """All trees in one call, in the dtype of `value`: under autocast, rotary ones are wider."""
    mask = _block_masks.get(lengths)
    if mask is None:
        mask = _block_masks[lengths] = tree_block_mask(lengths)
    query, key = query.to(value.dtype), key.to(value.dtype)
    return flex_attention_forward(module, query, key, value, mask, scaling)[0]


def _torch_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, *, dropout: float
) -> Tensor:
    """As `causal_attention`, in the dtype of `value`: under autocast, rotary ones are wider."""
    sharing = query.shape[1] // key.shape[1]
    keys, values = (repeat_kv(x.to(value.dtype), sharing) for x in (key, value))
    count, seen = query.shape[2], keys.shape[2]
    mask = None
    if count < seen:
        mask = query.new_ones(count, seen, dtype=torch.bool).tril(seen - count)
    return F.scaled_dot_product_attention(
        query.to(value.dtype),
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None,
        dropout_p=dropout,
        scale=scaling,
    ).transpose(1, 2)


def _flexes(device: torch.device) -> bool:
    return device.type == "cuda" and is_triton_available()


def tree_kernels(device: torch.device) -> tuple[str, ...]:
    """The kernels that trees have on a device, the fastest first."""
    return (FLEX_ATTENTION, PER_BRANCH) if _flexes(device) else (PER_BRANCH,)


@contextlib.contextmanager
def attends_to_trees(model: PreTrainedModel, kernel: str = FLEX_ATTENTION) -> Iterator[None]:
    """Give a model attention over trees, and its own back at the end.

    With gradient checkpointing the backward pass must be inside as well: it runs the layers again.

    Args:
        model: neither wrapped nor adapted (`shared_prefix.bare_model`).
        kernel: one of `tree_kernels`.
    """
    own = attention_name(model.config)
    try:
        model.set_attn_implementation(_NAMES[kernel])
        yield
    finally:
        model.set_attn_implementation(own)


for _kernel, _name in _NAMES.items():
    AttentionInterface.register(_name, functools.partial(tree_attention, kernel=_kernel))
