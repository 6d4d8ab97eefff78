"""Attention over packed trees: every branch sees its trunk and itself, and nothing else.

A row of trees (`layout.PackedRow`) goes through the model's own code. Its mask, with four
dimensions as transformers passes masks of one's own through untouched, says how long the parts of
each pair are:

- everywhere, `tree_attention` attends once for each branch, under the name `TREE_ATTENTION` in
  transformers' `AttentionInterface`: on a CPU by `cpu_attention.causal_attention`, elsewhere by
  torch's `scaled_dot_product_attention`;
- on CUDA the mask becomes a `BlockMask`, which transformers' own `flex_attention` takes.

A model attends in this way only inside `attends_to_trees`; at all other times it is untouched.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.utils.import_utils import is_triton_available

from clair_apo.apo.cpu_attention import causal_attention

TREE_ATTENTION = "clair_apo_tree"
"""The name of `tree_attention` in transformers. It has no mask function there on purpose: without
one, transformers makes no mask where none is passed."""


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over one row of P trees, in the form that transformers calls.

    Args:
        module: the attention layer; unused.
        query: (1, heads, N, width).
        key: (1, key-value heads, N, width).
        value: (1, key-value heads, N, width).
        attention_mask: `PackedRow.lengths`, (1, 1, P, 3).
        dropout: as the layer says.
        scaling: of the scores; by default 1 / sqrt(width).
        kwargs: whatever else a model passes; unused.

    Returns:
        (1, N, heads, width), and no attention weights.
    """
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


def tree_mask(lengths: Tensor) -> Tensor | BlockMask:
    """What a model inside `attends_to_trees` takes for `attention_mask`.

    Args:
        lengths: `PackedRow.lengths`, (1, 1, P, 3), on the model's device.
    """
    return tree_block_mask(lengths) if _flexes(lengths.device) else lengths


def _flexes(device: torch.device) -> bool:
    return device.type == "cuda" and is_triton_available()


def tree_block_mask(lengths: Tensor) -> BlockMask:
    """The mask of `flex_attention` for a row of trees.

    Args:
        lengths: `PackedRow.lengths`, (1, 1, P, 3).
    """
    sizes = lengths.flatten()
    total = int(sizes.sum())
    part = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
    pair, kind = part // 3, part % 3

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (
            (query >= key)
            & (pair[query] == pair[key])
            & ((kind[key] == 0) | (kind[key] == kind[query]))
        )

    return create_block_mask(sees, None, None, total, total, device=sizes.device)


@contextlib.contextmanager
def attends_to_trees(model: PreTrainedModel) -> Iterator[None]:
    """Give a model attention over trees, and its own back at the end.

    With gradient checkpointing the backward pass must be inside as well: it runs the layers again.

    Args:
        model: neither wrapped nor adapted (`shared_prefix.bare_model`).
    """
    own = model.config._attn_implementation
    name = "flex_attention" if _flexes(model.device) else TREE_ATTENTION
    try:
        model.set_attn_implementation(name)
        yield
    finally:
        model.set_attn_implementation(own)


AttentionInterface.register(TREE_ATTENTION, tree_attention)
