"""What makes training faster on a CPU: attention and memory.

- `causal_attention`: exact in float32, forward and backward. torch's own kernel for CPUs multiplies
  small tiles at a third of the rate of its matrix products, and deals out whole heads over cores in
  the backward pass. Here a block of queries of all heads is one batched product with every key it
  sees, and the softmax stays within one buffer.
- `memory_held`: glibc returns large blocks to the system and zeroes them again at every step.

Shapes: K key-value heads, each asked by G heads; n queries, m keys, D width of a head, V width of
its values; b queries of a block.
"""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from clair_apo.apo.trl_compat import softmax_backward_

BLOCK = 128
"""Queries at a time; half or twice as many took as long or longer, forward and backward."""

# parameters of mallopt, numbered in malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = -1
_HELD = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER}
_RETURNED = {_MMAP_MAX: 2**16, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}
"""What glibc itself comes to once 32 MiB are freed in one block; once set, it adapts no more.
"""


class Scoring(NamedTuple):
    """How a layer turns the products of queries and keys into shares of values."""

    scaling: float | None = None
    """Times each product; by default 1 / sqrt(D)."""
    window: int | None = None
    """Keys that a query sees, its own the last of them; None is all before it."""
    softcap: float | None = None
    """Bound c of the scaled scores s, which become c tanh(s / c)."""
    sinks: Tensor | None = None
    """(KG,): a score of each head that takes its share and gives no value."""


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
    """Attention in which the last query sees every key, the one before all but the last, and so on.

    Args:
        query: (1, KG, n, D).
        key: (1, K, m, D), of no fewer keys than queries.
        value: (1, K, m, V).
        scoring: of the layer.

    Returns:
        (1, n, KG, V), in float32, or float64 where the query is.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    queries, keys, values = (x[0].to(dtype).contiguous() for x in (query, key, value))
    scaled = queries * (query.shape[-1] ** -0.5 if scoring.scaling is None else scoring.scaling)
    grouped = scaled.unflatten(0, (len(keys), -1))
    sinks = scoring.sinks
    if sinks is not None:
        sinks = sinks.to(dtype).view(len(keys), -1)
    attended: Tensor = _CausalAttention.apply(  # type: ignore[no-untyped-call] # torch leaves it so
        grouped, keys, values, sinks, scoring.window, scoring.softcap
    )
    return attended.flatten(1, 2)[None]


class _Block(NamedTuple):
    """Queries of one block, first to last, which see keys from `start` to before `seen`."""

    first: int
    last: int
    start: int
    seen: int
    missing: int
    """Keys by which the window of the first query reaches beyond the first key."""


class _Scores:
    """A buffer for the scores of one block, (K, Gb, seen), that every block uses again."""

    def __init__(self, queries: Tensor, keys: Tensor) -> None:
        kv_heads, group, count, _ = queries.shape
        self._rows = kv_heads, group, min(count, BLOCK)
        self._buffer = queries.new_empty(kv_heads * group * self._rows[2] * keys.shape[1])
        square = self._rows[2], self._rows[2]
        self._unseen = queries.new_full(square, -torch.inf).triu(1)

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """(K, Gb, D) times (K, seen, D), over D; of gradients and values, over V."""
        shape = (*left.shape[:2], right.shape[1])
        scores = self._buffer[: shape[0] * shape[1] * shape[2]].view(shape)
        return torch.bmm(left, right.transpose(1, 2), out=scores)

    def capped(self, queries: Tensor, keys: Tensor, softcap: float | None) -> Tensor:
        """The scores of each query, (K, Gb, D), for each key, (K, seen, D), before any mask."""
        scores = self.product(queries, keys)
        return scores if softcap is None else scores.div_(softcap).tanh_().mul_(softcap)

    def shares(self, scores: Tensor, block: _Block, sinks: Tensor | None) -> Tensor:
        """How much each query attends to each key, in place of its scores."""
        own = scores.unflatten(1, (self._rows[1], -1))
        count, shift = own.shape[2], block.missing
        own[..., -count:].add_(self._unseen[:count, :count])
        if shift < count - 1:  # windows of later queries begin behind the first key
            left = count - shift
            own[..., shift:, :left].add_(self._unseen[:left, :left].t())
        if sinks is None:
            return torch.softmax(scores, -1, out=scores)
        largest = scores.amax(-1, keepdim=True)
        torch.softmax(scores, -1, out=scores)
        log_total = largest - scores.amax(-1, keepdim=True).log()
        sink = sinks[..., None].expand(-1, -1, count).reshape(log_total.shape)
        return scores.mul_(torch.sigmoid(log_total - sink))


class _CausalAttention(torch.autograd.Function):
    """Queries (K, G, n, D), keys (K, m, D), values (K, m, V), sinks (K, G), to (n, K, G, V)."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        sinks: Tensor | None,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        ctx.save_for_backward(queries, keys, values, sinks)
        ctx.window, ctx.softcap = window, softcap
        kv_heads, group, count, _ = queries.shape
        attended = queries.new_empty(count, kv_heads, group, values.shape[-1])
        buffer = _Scores(queries, keys)
        for block in _blocks(queries, keys, window):
            seen = slice(block.start, block.seen)
            scores = buffer.capped(_of_block(queries, block), keys[:, seen], softcap)
            shares = buffer.shares(scores, block, sinks)
            found = torch.bmm(shares, values[:, seen])
            attended[block.first : block.last] = found.unflatten(1, (group, -1)).permute(2, 0, 1, 3)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, sinks = ctx.saved_tensors
        group = queries.shape[1]
        grad_queries = torch.empty_like(queries)
        grad_keys, grad_values = (torch.zeros_like(x) for x in (keys, values))
        grad_sinks = None if sinks is None else torch.zeros_like(sinks)
        buffer, changes = _Scores(queries, keys), _Scores(queries, keys)
        for block in _blocks(queries, keys, ctx.window):
            asked = _of_block(queries, block)
            grad = _of_block(grads.permute(1, 2, 0, 3), block)
            seen = slice(block.start, block.seen)
            scores = buffer.capped(asked, keys[:, seen], ctx.softcap)
            slopes = _slopes(scores, ctx.softcap)
            shares = buffer.shares(scores, block, sinks)
            grad_values[:, seen].baddbmm_(shares.transpose(1, 2), grad)
            change = changes.product(grad, values[:, seen])
            softmax_backward_(change, shares)
            if grad_sinks is not None:  # what keys and sink together gain is nothing
                grad_sinks -= change.sum(-1).unflatten(1, (group, -1)).sum(-1)
            if slopes is not None:
                change.mul_(slopes)
            grad_keys[:, seen].baddbmm_(change.transpose(1, 2), asked)
            found = torch.bmm(change, keys[:, seen])
            grad_queries[:, :, block.first : block.last] = found.unflatten(1, (group, -1))
        return grad_queries, grad_keys, grad_values, grad_sinks, None, None


def _slopes(scores: Tensor, softcap: float | None) -> Tensor | None:
    """By how much capped scores change with uncapped ones; None where they are the same."""
    return None if softcap is None else 1 - (scores / softcap).square_()


def _blocks(queries: Tensor, keys: Tensor, window: int | None) -> Iterator[_Block]:
    count = queries.shape[2]
    before = keys.shape[1] - count
    for first in range(0, count, BLOCK):
        last = min(first + BLOCK, count)
        start = -last if window is None else before + first + 1 - window
        yield _Block(first, last, max(start, 0), before + last, max(-start, 0))


def _of_block(states: Tensor, block: _Block) -> Tensor:
    """The rows of a block, of every head of a group one after the other: (K, Gb, D)."""
    return states[:, :, block.first : block.last].flatten(1, 2)


@contextlib.contextmanager
def memory_held(device: torch.device) -> Iterator[None]:
    """Keep freed memory in the process; at the end the system gets what is free.

    Meanwhile the process stays as large as it once was. Where the environment tunes glibc's memory
    (`MALLOC_*`, `GLIBC_TUNABLES`), that is left as it is.

    Args:
        device: where tensors are; on any but a CPU nothing changes.
    """
    libc = _glibc() if device.type == "cpu" and not _is_tuned() else None
    if libc is None:
        yield
        return
    _set_malloc(libc, _HELD)
    try:
        yield
    finally:
        _set_malloc(libc, _RETURNED)
        libc.malloc_trim(0)


def _glibc() -> Any:
    """The C library of this process, or None where it is another's."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def _is_tuned() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return "glibc.malloc" in tunables or any(name.startswith("MALLOC_") for name in os.environ)


def _set_malloc(libc: Any, settings: dict[int, int]) -> None:
    for parameter, value in settings.items():
        libc.mallopt(parameter, value)
