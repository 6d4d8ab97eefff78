"""Measures a model on a few pairs: log-probs of every answer token, and gradients of a few weights.

One forward and, where the model is trained, one backward of a small loss.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from clair_apo.apo.forward.batching import take_pairs, uncut_reason
from clair_apo.apo.forward.logps import model_inputs
from clair_apo.apo.forward.noise import random_numbers_kept
from clair_apo.apo.forward.tree import tree_sizes
from clair_apo.apo.trl_compat import is_in_pieces

PAIRS_CONSIDERED = 16
"""Of so many first pairs, those that are compared are chosen."""
MOST_TOKENS = 1024
"""Tokens of the pairs compared, both answers with their prompts; the shortest pair may have more.
"""
MOST_WEIGHTS = 12
"""Weights whose gradients are compared: the first and the last that are trained, and some between.
"""
SMALLEST_SHARE = 0.01
"""A gradient that is smaller than this share of the largest is rounding for the most part: its
difference is then taken by that."""

Batches = Callable[[int], Mapping[str, Any]]
"""Makes a padded batch of so many first pairs of the data, on the model's device."""
Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


class Measured(NamedTuple):
    """What one forward and backward gave."""

    logps: Tensor
    """(N,): of every answer token, chosen answers first."""
    gradients: dict[str, Tensor]


def few_pairs(batches: Batches) -> Mapping[str, Any]:
    """A batch of one or two pairs: the longest of the first that fit, else the shortest."""
    batch = batches(PAIRS_CONSIDERED)
    if uncut_reason(batch):
        return batches(1)
    sizes = (2 * torch.maximum(*batch["attention_mask"].bool().sum(1).chunk(2))).tolist()
    trees = tree_sizes(batch)
    order = sorted(range(len(sizes)), key=lambda pair: (-trees[pair], pair))
    fitting = [pair for pair in order if sizes[pair] <= MOST_TOKENS // 2]
    return take_pairs(batch, sorted(fitting[:2] or order[-1:]))


def every_token_scored(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A padded batch whose every token counts as one of an answer, but the first of a sequence.

    What leaks over the start of a sequence reaches a convolution's few next tokens: prompts count.
    """
    seen = batch["attention_mask"]
    after_one = F.pad(seen, (1, 0))[:, :-1]
    return {**batch, "completion_mask": seen * after_one}


def leak(model: Any, batch: Mapping[str, Any], forward: Callable[[], Tensor]) -> float:
    """How much a row's last sequence hangs on those before it: 0, where layers heed its start.

    It is a gradient and not a difference of log-probs: exactly 0 in every dtype, so that no
    tolerance hides the few tokens that a convolution, or a state that decays, reaches.

    Args:
        model: whose input embeddings are looked at, not wrapped.
        batch: of `every_token_scored`.
        forward: gives log-probs of every scored token, the last sequence's last.

    Returns:
        The largest gradient of the last sequence's log-probs to an embedding of another sequence,
        by the largest to one of its own.
    """
    embedded: list[Tensor] = []

    def watch(module: Any, given: Any, states: Tensor) -> Tensor:
        embedded.append(states.detach().requires_grad_())
        return embedded[-1]

    hook = model.get_input_embeddings().register_forward_hook(watch)
    try:
        with torch.enable_grad():
            logps = forward()
            own = int(batch["completion_mask"][-1, 1:].sum())
            (grad,) = torch.autograd.grad(logps[len(logps) - own :].sum(), embedded[-1])
    finally:
        hook.remove()
    sizes = grad[0].abs().amax(-1)
    return (sizes[:-own].max() / sizes[-own:].max()).item()


def own_logps(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Log-probs of every answer token from a model's own logits, chosen answers first.

    Args:
        model: wrapped or not.
        batch: a padded batch.
    """
    logits = model(**model_inputs(batch), use_cache=False).logits
    mask = batch["completion_mask"][:, 1:].bool()
    scored = logits[:, -mask.shape[1] - 1 : -1][mask]
    scored = scored.to(torch.promote_types(scored.dtype, torch.float32))
    return -F.cross_entropy(scored, batch["input_ids"][:, 1:][mask].long(), reduction="none")


class Measure:
    """Runs a forward, and a backward to a few weights; random numbers are the same each time."""

    def __init__(
        self,
        pairs: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        device: torch.device,
        autocast: Autocast,
    ) -> None:
        chosen, rejected = pairs["completion_mask"][:, 1:].bool().chunk(2)
        self._sides = int(chosen.sum()), int(rejected.sum())
        self._weights = dict(weights)
        self._device = device
        self._autocast = autocast

    def __call__(self, forward: Callable[[], Tensor]) -> Measured:
        """Run it.

        Args:
            forward: gives log-probs of every answer token, (N,), chosen answers first.
        """
        with random_numbers_kept(self._device), torch.set_grad_enabled(bool(self._weights)):
            with self._autocast():
                logps = forward()
            return Measured(logps.detach(), self._gradients(logps) if self._weights else {})

    def _gradients(self, logps: Tensor) -> dict[str, Tensor]:
        # chosen and rejected by unlike weights: what both begin with must not cancel
        chosen, rejected = logps.split(self._sides)
        loss = chosen.sum() / max(len(chosen), 1) - rejected.sum() / max(2 * len(rejected), 1)
        weights = list(self._weights.values())
        if any(map(is_in_pieces, weights)):  # FSDP2 gathers and spreads in a whole backward only
            loss.backward()
            found = [weight.grad for weight in weights]
            for weight in weights:
                weight.grad = None
        else:
            found = list(torch.autograd.grad(loss, weights, allow_unused=True))
        return {
            name: _own_part(torch.zeros_like(weight) if grad is None else grad).detach()
            for (name, weight), grad in zip(self._weights.items(), found, strict=True)
        }


def _own_part(grad: Any) -> Tensor:
    own: Tensor = grad.to_local() if is_in_pieces(grad) else grad
    return own


def few_weights(model: Any) -> dict[str, Tensor]:
    """Trained weights from the first to the last, evenly far apart."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    in_engine = any(hasattr(weight, "ds_id") for _, weight in named)
    if in_engine or isinstance(model, FullyShardedDataParallel):
        return {}
    count = min(MOST_WEIGHTS, len(named))
    return dict(named[round(i * (len(named) - 1) / max(count - 1, 1))] for i in range(count))


class Miss(NamedTuple):
    """How far gradients are from those of the model's own forward, by their size."""

    largest: float
    """Of the weight that differs most."""
    root_mean_square: float
    """Over all weights."""
    furthest: str
    """The weight that differs most."""


def gradient_miss(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Miss:
    """Compare gradients of the same weights, at least one."""
    sizes = torch.stack([_norm(grad) for grad in own.values()])
    apart = torch.stack([_norm(found[name] - grad) for name, grad in own.items()])
    least = torch.finfo(sizes.dtype).tiny
    misses = apart / sizes.clamp(min=max(SMALLEST_SHARE * sizes.max().item(), least))
    worst = int(misses.argmax())
    return Miss(misses[worst].item(), misses.square().mean().sqrt().item(), list(own)[worst])


def _norm(grad: Tensor) -> Tensor:
    kind = torch.promote_types(grad.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(grad, dtype=kind)
    return norm
