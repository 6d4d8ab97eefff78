"""Attention over packed trees: every branch sees its trunk and itself, and nothing else.

A row of trees (`tree.PackedRow`) goes through the model's own code, with the masks that the model
asks for (`tree_mask`). `tree_attention`, under the name `TREE_ATTENTION` in transformers'
`AttentionInterface`, attends by them:

- on CUDA in one call of `flex_attention`, with a `BlockMask` of these lengths;
- elsewhere, and on CUDA where FlexAttention cannot (dropout, very narrow heads), once for each
  branch: on a CPU by `cpu.causal_attention`, else by torch's `scaled_dot_product_attention`, or by
  its matrix products where scores are capped or a sink takes its share.

Both kernels have a name of their own in the interface, so that a layer that gradient checkpointing
runs again, on a thread of its own, attends as it did.

It computes what its arguments say and nothing else: a model that hands over more is refused. A
model attends in this way only inside `attends_to_trees`; at all other times it is untouched.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from clair_apo.apo.forward.block_mask import tree_block_mask
from clair_apo.apo.forward.cpu import Scoring, causal_attention
from clair_apo.apo.forward.tree_mask import TreeMask, make_mask, read_mask
from clair_apo.apo.trl_compat import (
    WeakIdKeyDictionary,
    attention_names,
    is_triton_available,
    repeat_kv,
)
from clair_apo.errors import TrainingError

TREE_ATTENTION = "clair_apo_tree"
"""The name of `tree_attention` and `make_mask` in transformers."""
FLEX_ATTENTION, PER_BRANCH = "flex_attention", "attention_per_branch"
"""The kernels of `tree_attention`: all trees in one call, or a call for each branch."""
SEQUENCES = "sequences"
"""A call for each branch, of trees without a trunk: for models with layers that share nothing."""
_NAMES = {
    FLEX_ATTENTION: TREE_ATTENTION,
    PER_BRANCH: f"{TREE_ATTENTION}_per_branch",
    SEQUENCES: f"{TREE_ATTENTION}_of_sequences",
}
NARROWEST_FLEX_HEAD = 16
"""FlexAttention's kernels take no narrower heads."""
_NO_PART_OF_THE_FUNCTION = frozenset(
    {
        "cache_position",
        "cu_seq_lens_k",
        "cu_seq_lens_q",
        "max_length_k",
        "max_length_q",
        "num_items_in_batch",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "seq_idx",
        "use_cache",
    }
)
"""What models hand over that attention has no use for: positions are in queries and keys by then,
where sequences begin is in the mask, the rest asks for outputs."""
_block_masks = WeakIdKeyDictionary()
"""The `BlockMask` of each mask that is alive: the layers of a model share it."""


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
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    sliding_window: int | None = None,
    kernel: str = FLEX_ATTENTION,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over one row of P trees, in the form that transformers calls.

    Args:
        module: the attention layer, for its name and whether it is causal.
        query: (1, heads, N, width).
        key: (1, key-value heads, N, width).
        value: (1, key-value heads, N, width of values).
        attention_mask: of `make_mask`, (1, 1, P, 4).
        dropout: as the layer says.
        scaling: of the scores; by default 1 / sqrt(width).
        softcap: bound of the scores, if any.
        s_aux: sinks, (heads,): a score of each head that takes its share and gives no value.
        sliding_window: what the layer takes for its window; the mask says it as well.
        kernel: `FLEX_ATTENTION`, taken where it can, `PER_BRANCH` or `SEQUENCES`.
        kwargs: whatever else a model passes; None is nothing.

    Returns:
        (1, N, heads, width of values), and no attention weights.

    Raises:
        UnknownKeywordError: a keyword that may change the function.
        UnknownMaskError: a mask that is none of `make_mask`.
    """
    _refuse_more(module, kwargs)
    mask = read_mask(attention_mask)
    if sliding_window is not None and sliding_window != mask.window:
        raise UnknownKeywordError(
            f"{type(module).__name__} has a window of {sliding_window}, and its mask has "
            f"{mask.window or 'none'}"
        )
    scoring = Scoring(scaling, mask.window, softcap, s_aux)
    flexes = kernel == FLEX_ATTENTION and _flexes(query.device)
    if flexes and not dropout and _flexible(query, value):
        return _flex_attention(query, key, value, attention_mask, scoring), None
    return _by_branch(query, key, value, mask, scoring, dropout), None


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


# --- once for each branch


def _by_branch(
    query: Tensor, key: Tensor, value: Tensor, mask: TreeMask, scoring: Scoring, dropout: float
) -> Tensor:
    # split and not sliced: its backward is one concatenation, where a slice's fills a row of zeros
    sizes = [size for trunk, chosen, rejected in mask.parts for size in (trunk + chosen, rejected)]
    states = [x.split(sizes, dim=2) for x in (query, key, value)]
    on_cpu = query.device.type == "cpu" and not dropout
    attend = causal_attention if on_cpu else functools.partial(_torch_attention, dropout=dropout)
    found = []
    with torch.autocast(query.device.type, enabled=False):
        for number, (trunk, chosen, rejected) in enumerate(mask.parts):
            q, k, v = (pieces[2 * number] for pieces in states)
            if trunk + chosen:
                found.append(attend(q, k, v, scoring))
            if rejected:
                q, *more = (pieces[2 * number + 1] for pieces in states)
                first = max(trunk + 1 - mask.window, 0) if mask.window else 0
                k, v = (
                    torch.cat([x[:, :, first:trunk], y], 2)
                    for x, y in zip((k, v), more, strict=True)
                )
                found.append(attend(q, k, v, scoring))
    return torch.cat(found, dim=1).to(value.dtype)


def _torch_attention(
    query: Tensor, key: Tensor, value: Tensor, scoring: Scoring, *, dropout: float
) -> Tensor:
    """As `causal_attention`, in the dtype of `value`: under autocast, rotary ones are wider."""
    sharing = query.shape[1] // key.shape[1]
    query = query.to(value.dtype)
    key, value = (repeat_kv(x.to(value.dtype), sharing) for x in (key, value))
    if scoring.softcap is not None or scoring.sinks is not None:
        return _products_attention(query, key, value, scoring, dropout)
    count, seen = query.shape[2], key.shape[2]
    plain = count == seen and (scoring.window is None or scoring.window >= seen)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if plain else _dense_mask(query, key, scoring.window),
        is_causal=plain,
        dropout_p=dropout,
        scale=scoring.scaling,
    ).transpose(1, 2)


def _dense_mask(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Which keys each query sees, (n, m)."""
    count, seen = query.shape[2], key.shape[2]
    mask = query.new_ones(count, seen, dtype=torch.bool).tril(seen - count)
    return mask if window is None else mask.triu(seen - count + 1 - window)


def _products_attention(
    query: Tensor, key: Tensor, value: Tensor, scoring: Scoring, dropout: float
) -> Tensor:
    scaling = query.shape[-1] ** -0.5 if scoring.scaling is None else scoring.scaling
    scores = (query @ key.transpose(2, 3)) * scaling
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if scoring.softcap is not None:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    scores = scores.masked_fill(~_dense_mask(query, key, scoring.window), -torch.inf)
    if scoring.sinks is not None:
        sinks = scoring.sinks.to(scores.dtype).view(1, -1, 1, 1)
        scores = torch.cat([scores, sinks.expand(*scores.shape[:3], 1)], -1)
    shares = scores.softmax(-1)[..., : key.shape[2]]
    shares = F.dropout(shares, dropout).to(value.dtype)
    return (shares @ value).transpose(1, 2)


# --- all branches at once


def _flexes(device: torch.device) -> bool:
    return device.type == "cuda" and is_triton_available()


def _flexible(query: Tensor, value: Tensor) -> bool:
    return min(query.shape[-1], value.shape[-1]) >= NARROWEST_FLEX_HEAD


@functools.cache
def _compiled_flex_attention() -> Any:
    return torch.compile(flex_attention)


def _block_mask(mask: Tensor, device: torch.device) -> BlockMask:
    found: BlockMask | None = _block_masks.get(mask)
    if found is None:
        found = _block_masks[mask] = tree_block_mask(read_mask(mask), device)
    return found


def _flex_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scoring: Scoring
) -> Tensor:
    """All trees in one call, in the dtype of `value`: under autocast, rotary ones are wider."""
    query, key = query.to(value.dtype), key.to(value.dtype)
    sharing = query.shape[1] // key.shape[1]
    if sharing & (sharing - 1):  # short rows take a kernel that shares by powers of two only
        key, value = repeat_kv(key, sharing), repeat_kv(value, sharing)
    found = _compiled_flex_attention()(
        query,
        key,
        value,
        score_mod=None if scoring.softcap is None else _cap(scoring.softcap),
        block_mask=_block_mask(mask, query.device),
        scale=scoring.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
        return_aux=None if scoring.sinks is None else AuxRequest(lse=True),
    )
    if scoring.sinks is not None:
        attended, aux = found
        kept = torch.sigmoid(aux.lse - scoring.sinks.to(aux.lse.dtype)[:, None])
        found = (attended * kept[..., None]).to(value.dtype)
    by_token: Tensor = found.transpose(1, 2)
    return by_token


def _cap(bound: float) -> Any:
    """Bounds each score, in the form that FlexAttention calls."""

    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return bound * torch.tanh(score / bound)

    return capped


# --- in a model


def tree_kernels(device: torch.device) -> tuple[str, ...]:
    """The kernels that trees have on a device, the fastest first."""
    return (FLEX_ATTENTION, PER_BRANCH) if _flexes(device) else (PER_BRANCH,)


@contextlib.contextmanager
def attends_to_trees(model: PreTrainedModel, kernel: str = FLEX_ATTENTION) -> Iterator[None]:
    """Give a model attention over trees, and its own back at the end.

    With gradient checkpointing the backward pass must be inside as well: it runs the layers again.

    Args:
        model: neither wrapped nor adapted (`shared_prefix.bare_model`).
        kernel: one of `tree_kernels`, or `SEQUENCES`.
    """
    own = attention_names(model.config)
    try:
        model.set_attn_implementation(_NAMES[kernel])
        yield
    finally:
        model.set_attn_implementation(own)


for _kernel, _name in _NAMES.items():
    AttentionInterface.register(_name, functools.partial(tree_attention, kernel=_kernel))
    AttentionMaskInterface.register(_name, make_mask)
