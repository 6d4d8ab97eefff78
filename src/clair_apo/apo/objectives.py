"""The objectives: what a pair of log-ratios costs, one number per pair and no reduction.

A log-ratio is log pi(y|x) - log pi_ref(y|x), summed over the tokens of an answer; the reward is
r = beta * log-ratio. Below, w is the winner (chosen), l the loser (rejected), D = r_w - r_l,
s the logistic function and d(x) = s(x) * (1 - s(x)), which is at most 1/4.

Source: D'Oosterlinck et al., "Anchored Preference Optimization and Contrastive Revisions",
https://arxiv.org/abs/2408.06266. The paper writes APO-zero and APO-down without the constant 1.

Shapes: B pairs (or B answers in the unpaired form); every function maps (B,) to (B,).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


def apo_zero_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float) -> Tensor:
    """APO-zero: raise the winner, lower the loser, each measured against the reference alone.

    Use it where the winners are better than the model's own answers (CLAIR revisions).

    Formula: (1 - s(r_w)) + s(r_l), between 0 and 2; 1 where both log-ratios are 0.
    Gradient: dL/dr_w = -d(r_w), dL/dr_l = +d(r_l); -1/4 and +1/4 at 0. No cross term.
    Paper: equation 7.

    Args:
        chosen_logratios: log-ratios of the winners, (B,).
        rejected_logratios: log-ratios of the losers, (B,).
        beta: above 0, usually 0.05 to 0.5; how hard the policy is held to the reference.

    Returns:
        The loss of each pair, (B,), in the dtype of the log-ratios.
    """
    # s(-r) is 1 - s(r) without the cancellation where r is large
    return torch.sigmoid(-beta * chosen_logratios) + torch.sigmoid(beta * rejected_logratios)


def apo_down_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float) -> Tensor:
    """APO-down: lower both answers, the loser further.

    Use it where the model's own answers are better than the winners. There is no floor: both
    likelihoods can fall without bound, so watch the absolute log-probabilities.

    Formula: s(r_w) + (1 - s(D)), between 0 and 2; 1 where both log-ratios are 0.
    Gradient: dL/dr_w = d(r_w) - d(D), dL/dr_l = +d(D); exactly 0 and +1/4 at 0.
    Paper: equation 8.

    Args:
        chosen_logratios: log-ratios of the winners, (B,).
        rejected_logratios: log-ratios of the losers, (B,).
        beta: above 0, usually 0.05 to 0.5; how hard the policy is held to the reference.

    Returns:
        The loss of each pair, (B,), in the dtype of the log-ratios.
    """
    margins = chosen_logratios - rejected_logratios
    # s(-D) is 1 - s(D) without the cancellation where D is large
    return torch.sigmoid(beta * chosen_logratios) + torch.sigmoid(-beta * margins)


def dpo_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float) -> Tensor:
    """DPO: widen the margin, whichever way the two answers move.

    Use it as the baseline: it leaves the direction of winner and loser unspecified, and near
    identical pairs may both fall.

    Formula: -log s(D), at least 0; ln 2 where both log-ratios are 0.
    Gradient: dL/dr_w = -s(-D), dL/dr_l = +s(-D); -1/2 and +1/2 at 0.
    Paper: Rafailov et al., https://arxiv.org/abs/2305.18290, equation 7.

    Args:
        chosen_logratios: log-ratios of the winners, (B,).
        rejected_logratios: log-ratios of the losers, (B,).
        beta: above 0, usually 0.05 to 0.5; how hard the policy is held to the reference.

    Returns:
        The loss of each pair, (B,), in the dtype of the log-ratios.
    """
    # logsigmoid stays finite where log(sigmoid(x)) underflows to -inf
    return -F.logsigmoid(beta * (chosen_logratios - rejected_logratios))


def apo_zero_unpaired_loss(logratios: Tensor, desirable: Tensor, *, beta: float) -> Tensor:
    """APO-zero for answers that are good or bad without a partner.

    Use it where answers carry a thumb up or down. A winner's loss and a loser's loss add up to
    `apo_zero_loss` of the pair.

    Formula: 1 - s(r) where desirable, s(r) where not, between 0 and 1; 1/2 at 0.
    Gradient: -d(r) where desirable, +d(r) where not; -1/4 and +1/4 at 0.
    Paper: equation 7, taken apart.

    Args:
        logratios: log-ratios of the answers, (B,).
        desirable: boolean, (B,): True where the answer is to become likelier.
        beta: above 0, usually 0.05 to 0.5; how hard the policy is held to the reference.

    Returns:
        The loss of each answer, (B,), in the dtype of the log-ratios.
    """
    rewards = beta * logratios
    # s(-r) is 1 - s(r) without the cancellation where r is large
    return torch.sigmoid(torch.where(desirable.bool(), -rewards, rewards))


class PairLoss(Protocol):
    """The form of every paired objective."""

    def __call__(
        self, chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float
    ) -> Tensor:
        """Map log-ratios (B,) and (B,) to losses (B,)."""
        ...


@dataclass(frozen=True)
class PairObjective:
    """A paired objective, and what the trainer knows about it before the first step."""

    loss: PairLoss
    at_zero: float
    """The loss of a pair whose log-ratios are 0: the first loss of every run."""


PAIR_OBJECTIVES: Mapping[str, PairObjective] = MappingProxyType(
    {
        "apo_zero": PairObjective(apo_zero_loss, at_zero=1.0),
        "apo_down": PairObjective(apo_down_loss, at_zero=1.0),
        "sigmoid": PairObjective(dpo_loss, at_zero=math.log(2)),
    }
)
"""The objectives that the trainer computes itself, under TRL's names for `loss_type`."""
