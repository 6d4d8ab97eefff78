"""What the policy says of both answers of every pair, in TRL's padded layout.

A batch of B pairs has 2B rows of T tokens: the winners first, then the losers, padded on the
right. `completion_mask` marks the answers; log-probabilities are summed over it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

_NOT_FOR_THE_MODEL = {"completion_mask", "ref_chosen_logps", "ref_rejected_logps"}


class PairLogps(NamedTuple):
    """Log-probabilities of both answers, each summed over its tokens, (B,)."""

    chosen: Tensor
    rejected: Tensor


class PairForward(NamedTuple):
    """One forward over a batch of pairs; every field is (B,), or a pair of (B,)."""

    logps: PairLogps
    """With gradient, in float32 or better."""
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    entropy_sums: Tensor
    """Entropy of the policy, summed over the tokens of both answers."""
    top1_tokens: Tensor
    """Tokens of the winner that the policy holds for the likeliest."""


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a batch that the model itself takes."""
    return {key: value for key, value in batch.items() if key not in _NOT_FOR_THE_MODEL}


def padded_forward(model: Any, batch: Mapping[str, Tensor]) -> PairForward:
    """Run a model with TRL's fused head over a padded batch.

    Args:
        model: a causal model that `trl` gave a fused head, wrapped or not.
        batch: `input_ids`, `attention_mask` and `completion_mask`, each (2B, T).
    """
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    outputs = model(**model_inputs(batch), labels=labels, fused_lm_head=True, use_cache=False)
    mask = batch["completion_mask"][:, 1:]  # position t predicts token t + 1
    width = mask.shape[1]  # prompt-learning adapters prepend positions of their own
    chosen_tokens, rejected_tokens = mask.sum(1).chunk(2)
    chosen_entropy, rejected_entropy = (
        outputs.entropy[:, -width:].detach().mul(mask).sum(1).chunk(2)
    )
    top1_tokens, _ = outputs.is_top1[:, -width:].mul(mask).sum(1).chunk(2)
    return PairForward(
        logps=PairLogps(*_summed(outputs.log_probs[:, -width:]).chunk(2)),
        chosen_tokens=chosen_tokens,
        rejected_tokens=rejected_tokens,
        entropy_sums=chosen_entropy + rejected_entropy,
        top1_tokens=top1_tokens,
    )


def _summed(token_logps: Tensor) -> Tensor:
    """(2B, T) to (2B,), in float32 or better: a sum of 500 bfloat16 values is off by whole nats."""
    return token_logps.sum(1, dtype=torch.promote_types(token_logps.dtype, torch.float32))
