"""Log-probs of labels from hidden states, in tiles of the vocabulary, computed again backward.

Shapes: L labelled positions, H hidden width, V vocabulary, W columns of a tile. Logits exist as one
tile (L, W) at a time. A tile spans all labels and not all of the vocabulary, so that each weight is
read once in either direction and each weight's gradient is written once.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from clair_apo.apo.trl_compat import CHUNK, OPTIONAL_OUTPUTS, ChunkedLogProbFunction

TILE = 2**20
"""Logits that exist at a time, about: 4 MiB in float32, which stays in a cache between passes."""
NARROWEST = 512
"""Columns of a tile, at least, however many labels: narrower products waste the multipliers."""


class LabelScores(NamedTuple):
    """What a model says of L labels; every field is (L,)."""

    logps: Tensor
    """With gradient, in float32 or better."""
    entropies: Tensor
    """NaN where statistics were not asked for."""
    is_top1: Tensor
    """1 where no token is likelier than the label, else 0; NaN where not asked for."""


class LogitMap(NamedTuple):
    """What a model makes of the products x of its head: c tanh(a x / c), or a x without a cap."""

    scale: float = 1.0
    """a."""
    softcap: float | None = None
    """c."""

    def __call__(self, products: Tensor) -> Tensor:
        """The logits, in place of the products."""
        if self.scale != 1:
            products.mul_(self.scale)
        if self.softcap is not None:
            products.div_(self.softcap).tanh_().mul_(self.softcap)
        return products

    def slopes(self, logits: Tensor) -> Tensor | None:
        """By how much logits change with scaled products; None where they are the same."""
        return None if self.softcap is None else 1 - (logits / self.softcap).square_()


def score_labels(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    *,
    statistics: bool,
    logit_map: LogitMap = LogitMap(),  # noqa: B008 # never changed
) -> LabelScores:
    """Score labels without holding their logits.

    Args:
        hidden: (L, H). Products are taken in its dtype, or in that of autocast.
        weight: (V, H).
        bias: (V,), or None.
        labels: (L,), each from 0 to V - 1.
        statistics: whether entropies and likeliest tokens are wanted; they cost two more passes.
        logit_map: from products to logits.
    """
    kind = hidden.device.type
    autocasts = torch.is_autocast_enabled(kind)
    products = torch.get_autocast_dtype(kind) if autocasts else hidden.dtype
    with torch.autocast(kind, enabled=False):
        scores: Any = _ScoreLabels.apply(  # type: ignore[no-untyped-call] # torch leaves it so
            hidden, weight, bias, labels, products, logit_map, statistics
        )
    return LabelScores(*scores)


def score_labels_by_trl(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    *,
    statistics: bool,
    logit_map: LogitMap = LogitMap(),  # noqa: B008 # never changed
) -> LabelScores:
    """The same by the function of TRL's fused head, which has a kernel for GPUs; in float32."""
    outputs = OPTIONAL_OUTPUTS if statistics else ()
    logps, entropies, *_, is_top1 = ChunkedLogProbFunction.apply(
        hidden, weight, bias, labels, 1.0, CHUNK, logit_map.softcap, logit_map.scale, outputs
    )
    nothing = torch.full_like(logps, torch.nan)
    known = (nothing if x is None else x.detach().to(logps.dtype) for x in (entropies, is_top1))
    return LabelScores(logps, *known)


class _Tiles:
    """The logits (L, V), tile by tile, in buffers that every tile uses again."""

    def __init__(
        self,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        sums: torch.dtype,
        logit_map: LogitMap,
    ) -> None:
        rows = max(len(states), 1)
        self._states, self._weight, self._bias, self._map = states, weight, bias, logit_map
        self._width = min(max(TILE // rows, NARROWEST), len(weight))
        self._product = states.new_empty(rows * self._width)
        same = states.dtype == sums
        self.sums = self._product if same else self._product.to(sums)

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The first column of a tile, its weights (W, H), and the tile itself (L, W)."""
        for first in range(0, len(self._weight), self._width):
            weights = self._weight[first : first + self._width].to(self._states.dtype)
            shape = len(self._states), len(weights)
            size = shape[0] * shape[1]
            product = self._product[:size].view(shape)
            torch.mm(self._states, weights.t(), out=product)
            tile = self.sums[:size].view(shape)
            if tile.dtype != product.dtype:
                tile.copy_(product)
            if self._bias is not None:
                tile += self._bias[first : first + self._width]
            yield first, weights, self._map(tile)

    def as_product(self, tile: Tensor) -> Tensor:
        """The tile in the dtype of products."""
        if tile.dtype == self._product.dtype:
            return tile
        return self._product[: tile.numel()].view(tile.shape).copy_(tile)


class _ScoreLabels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        products: torch.dtype,
        logit_map: LogitMap,
        statistics: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        sums = torch.promote_types(hidden.dtype, torch.float32)
        tiles = _Tiles(hidden.to(products), weight, bias, sums, logit_map)
        spare = torch.empty_like(tiles.sums) if statistics else tiles.sums
        largest = hidden.new_full(labels.shape, -torch.inf, dtype=sums)
        total, weighted, picked = (torch.zeros_like(largest) for _ in range(3))
        for first, _, tile in tiles:
            within, local = _inside(labels, first, tile)
            picked += tile.gather(1, local)[:, 0] * within
            before, largest = largest, torch.maximum(largest, tile.amax(1))
            rise = (largest - before).clamp(max=torch.finfo(sums).max)  # from -inf: no 0 * inf
            tile -= largest[:, None]
            shares = spare[: tile.numel()].view(tile.shape)
            torch.exp(tile, out=shares)
            if statistics:
                weighted -= rise * total
                weighted.mul_(torch.exp(-rise)).add_(torch.linalg.vecdot(shares, tile))
            total.mul_(torch.exp(-rise)).add_(shares.sum(1))
        log_totals = largest + total.log()
        ctx.save_for_backward(hidden, weight, bias, labels, log_totals)
        ctx.products, ctx.logit_map = products, logit_map
        logps = picked - log_totals
        nothing = torch.full_like(logps, torch.nan)
        entropies = total.log() - weighted / total if statistics else nothing
        is_top1 = (picked >= largest).to(sums) if statistics else nothing.clone()
        ctx.mark_non_differentiable(entropies, is_top1)
        return logps, entropies, is_top1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grads: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, log_totals = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        sums = log_totals.dtype
        states = hidden.to(ctx.products)
        tiles = _Tiles(states, weight, bias, sums, ctx.logit_map)
        grads = grads * ctx.logit_map.scale
        # d logp / d logits is onehot - p: tiles hold p - onehot, so the sign goes with the gradient
        scaled = (hidden * -grads[:, None]).to(ctx.products)
        grad_hidden = torch.zeros_like(hidden, dtype=sums) if wants_hidden else None
        grad_weight = torch.empty_like(weight) if wants_weight else None
        grad_bias = torch.empty_like(bias) if wants_bias else None
        for first, weights, tile in tiles:
            within, local = _inside(labels, first, tile)
            slopes = ctx.logit_map.slopes(tile)
            tile.sub_(log_totals[:, None]).exp_()
            tile.scatter_add_(1, local, -within[:, None])
            if slopes is not None:
                tile.mul_(slopes)
            columns = slice(first, first + tile.shape[1])
            if grad_bias is not None:
                grad_bias[columns] = -grads @ tile
            tile = tiles.as_product(tile)
            if grad_hidden is not None:
                _add_product(grad_hidden, tile, weights)
            if grad_weight is not None and grad_weight.dtype == scaled.dtype:
                torch.mm(tile.t(), scaled, out=grad_weight[columns])
            elif grad_weight is not None:
                grad_weight[columns] = tile.t() @ scaled
        if grad_hidden is not None:
            grad_hidden = (grad_hidden * -grads[:, None]).to(hidden.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a matrix product in place, without a copy of it where the dtypes are equal."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _inside(labels: Tensor, first: int, tile: Tensor) -> tuple[Tensor, Tensor]:
    """1 for each label that the tile holds, else 0, (L,), and their columns in it, (L, 1)."""
    last = tile.shape[1] - 1
    local = labels - first
    within = (local >= 0) & (local <= last)
    return within.to(tile.dtype), local.clamp(0, last)[:, None]
