"""Attention over packed trees: every branch sees its trunk and itself, and nothing else.

A row of trees (`layout.PackedRow`) goes through the model's own code. Its mask, with four
dimensions as transformers passes masks of one's own through untouched, says how long the parts of
each pair are, and `tree_attention`, under the name `TREE_ATTENTION` in transformers'
`AttentionInterface`, attends by it:

- on CUDA in one call of `flex_attention`, with the `BlockMask` of these lengths;
- elsewhere, and on CUDA where FlexAttention cannot (dropout, very narrow heads), once for each
  branch: on a CPU by `cpu_attention.causal_attention`, else by torch's
  `scaled_dot_product_attention`.

It computes what its arguments say and nothing else: a model that hands over more, such as sinks or
a soft cap, is refused. A model attends in this way only inside `attends_to_trees`; at all other
times it is untouched.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.utils.import_utils import is_triton_available

from clair_apo.apo.block_mask import tree_block_mask
from clair_apo.apo.forward.cpu import causal_attention
from clair_apo.errors import TrainingError

TREE_ATTENTION = "clair_apo_tree"
"""The name of `tree_attention` in transformers. It has no mask function there on purpose: without
one, transformers makes no mask where none is passed."""

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
        kwargs: whatever else a model passes; None is nothing.

    Returns:
        (1, N, heads, width of values), and no attention weights.

    Raises:
        UnknownKeywordError: a keyword that may change the function.
    """
    _refuse_more(module, kwargs)
    if _flexes(query.device) and not dropout and _flexible(query, value):
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


@contextlib.contextmanager
def attends_to_trees(model: PreTrainedModel) -> Iterator[None]:
    """Give a model attention over trees, and its own back at the end.

    With gradient checkpointing the backward pass must be inside as well: it runs the layers again.

    Args:
        model: neither wrapped nor adapted (`shared_prefix.bare_model`).
    """
    own = model.config._attn_implementation
    try:
        model.set_attn_implementation(TREE_ATTENTION)
        yield
    finally:
        model.set_attn_implementation(own)


AttentionInterface.register(TREE_ATTENTION, tree_attention)
