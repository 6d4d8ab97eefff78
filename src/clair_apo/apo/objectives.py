"""The objectives: losses of a pair of log-ratios, one number per pair and no reduction.

A log-ratio is log pi(y|x) - log pi_ref(y|x), summed over the tokens of an answer, or their mean
where `length_normalize` holds; the reward is r = beta * log-ratio. Below, w is the chosen answer
and l the rejected one (the paper's winner and loser), D = r_w - r_l, s the logistic function and
d(x) = s(x) * (1 - s(x)), which is at most 1/4.

Source: D'Oosterlinck et al., "Anchored Preference Optimization and Contrastive Revisions",
https://arxiv.org/abs/2408.06266. The paper writes APO-zero and APO-down without the constant 1.

Shapes: B pairs (or B answers in the unpaired form); every loss maps (B,) to (B,). `Objective` is
the weighted sum of them that one run trains on.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


def apo_zero_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float) -> Tensor:
    """APO-zero: raise the chosen answer, lower the rejected one, each against the reference alone.

    Use it where the chosen answers are better than the model's own answers (CLAIR revisions).

    Formula: (1 - s(r_w)) + s(r_l), between 0 and 2; 1 where both log-ratios are 0.
    Gradient: dL/dr_w = -d(r_w), dL/dr_l = +d(r_l); -1/4 and +1/4 at 0. No cross term.
    Paper: equation 7.

    Args:
        chosen_logratios: log-ratios of the chosen answers, (B,).
        rejected_logratios: log-ratios of the rejected answers, (B,).
        beta: above 0, usually 0.05 to 0.5; how hard the policy is held to the reference.

    Returns:
        The loss of each pair, (B,), in the dtype of the log-ratios.
    """
    # s(-r) is 1 - s(r) without the cancellation where r is large
    return torch.sigmoid(-beta * chosen_logratios) + torch.sigmoid(beta * rejected_logratios)


def apo_down_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float) -> Tensor:
    """APO-down: lower both answers, the rejected one further.

    Use it where the model's own answers are better than the chosen answers. There is no floor: both
    likelihoods can fall without bound, so watch the absolute log-probabilities.

    Formula: s(r_w) + (1 - s(D)), between 0 and 2; 1 where both log-ratios are 0.
    Gradient: dL/dr_w = d(r_w) - d(D), dL/dr_l = +d(D); exactly 0 and +1/4 at 0.
    Paper: equation 8.

    Args:
        chosen_logratios: log-ratios of the chosen answers, (B,).
        rejected_logratios: log-ratios of the rejected answers, (B,).
        beta: above 0, usually 0.05 to 0.5; how hard the policy is held to the reference.

    Returns:
        The loss of each pair, (B,), in the dtype of the log-ratios.
    """
    margins = chosen_logratios - rejected_logratios
    # s(-D) is 1 - s(D) without the cancellation where D is large
    return torch.sigmoid(beta * chosen_logratios) + torch.sigmoid(-beta * margins)


def dpo_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float) -> Tensor:
    """DPO: widen the margin, whichever way the two answers move.

    Use it as the baseline: it leaves the direction of both answers unspecified, and near
    identical pairs may both fall.

    Formula: -log s(D), at least 0; ln 2 where both log-ratios are 0.
    Gradient: dL/dr_w = -s(-D), dL/dr_l = +s(-D); -1/2 and +1/2 at 0.
    Paper: Rafailov et al., https://arxiv.org/abs/2305.18290, equation 7.

    Args:
        chosen_logratios: log-ratios of the chosen answers, (B,).
        rejected_logratios: log-ratios of the rejected answers, (B,).
        beta: above 0, usually 0.05 to 0.5; how hard the policy is held to the reference.

    Returns:
        The loss of each pair, (B,), in the dtype of the log-ratios.
    """
    # logsigmoid stays finite where log(sigmoid(x)) underflows to -inf
    return -F.logsigmoid(beta * (chosen_logratios - rejected_logratios))


def apo_zero_unpaired_loss(logratios: Tensor, desirable: Tensor, *, beta: float) -> Tensor:
    """APO-zero for answers that are good or bad without a partner.

    Use it where answers carry a thumb up or down. The losses of a chosen and a rejected answer
    add up to `apo_zero_loss` of the pair.

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


def sft_loss(chosen_logps: Tensor, tokens: Tensor) -> Tensor:
    """SFT: the negative log-likelihood of the chosen answers, for each token.

    Use it beside another objective, with a weight below 1, to keep the chosen answers likely. It
    knows no reference.

    Formula: -log pi(y_w|x) / tokens.
    Gradient: -1 / tokens for each chosen answer's log-probability.

    Args:
        chosen_logps: log-probabilities of the chosen answers, summed over tokens, (B,).
        tokens: what they are divided by: each answer's own number of tokens, (B,), for a mean over
            answers; or the mean number over the chosen answers of the global batch, a scalar: then
            the mean loss of the global batch is that of its tokens, however the batch is split.

    Returns:
        The loss of each pair, (B,), in the dtype of the log-probabilities.
    """
    return -chosen_logps / tokens


SATURATED_REWARD = math.log((1 + math.sqrt(0.9)) / (1 - math.sqrt(0.9)))
"""3.637: beyond it d(r), the factor of APO gradients, is under a tenth of its most."""
SATURATED_MARGIN = math.log(9)
"""2.197: beyond it s(-D), the factor of DPO's gradient, is under a tenth of its most."""


class PairLoss(Protocol):
    """The form of every paired objective."""

    def __call__(
        self, chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float
    ) -> Tensor:
        """Map log-ratios (B,) and (B,) to losses (B,)."""
        ...


def _saturated_zero(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """The terms s(r_w) and s(r_l) with a gradient near zero."""
    return torch.stack([chosen_rewards.abs(), rejected_rewards.abs()]) > SATURATED_REWARD


def _saturated_down(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """The terms s(r_w) and s(D) with a gradient near zero."""
    margins = chosen_rewards - rejected_rewards
    return torch.stack([chosen_rewards.abs(), margins.abs()]) > SATURATED_REWARD


def _saturated_dpo(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """The term -log s(D): it saturates on one side only, badly ordered pairs pull hardest."""
    return (chosen_rewards - rejected_rewards)[None] > SATURATED_MARGIN


@dataclass(frozen=True)
class PairObjective:
    """A paired objective, and what is known about it before the first step."""

    loss: PairLoss
    at_zero: float
    """The loss of a pair whose log-ratios are 0: the first loss of every run."""
    saturated: Callable[[Tensor, Tensor], Tensor]
    """Maps rewards (B,) and (B,) to booleans (terms, B): where a term's gradient factor is under a
    tenth of its most."""


PAIR_OBJECTIVES: Mapping[str, PairObjective] = MappingProxyType(
    {
        "apo_zero": PairObjective(apo_zero_loss, 1.0, _saturated_zero),
        "apo_down": PairObjective(apo_down_loss, 1.0, _saturated_down),
        "sigmoid": PairObjective(dpo_loss, math.log(2), _saturated_dpo),
    }
)
"""The anchored objectives that the trainer computes itself, under TRL's names for `loss_type`."""

SFT = "sft"
"""TRL's `loss_type` for `sft_loss`, the one objective that is no function of log-ratios."""

OBJECTIVES = (*PAIR_OBJECTIVES, SFT)
"""Every `loss_type` that the trainer computes itself."""


@dataclass(frozen=True)
class Objective:
    """What a run minimises: objectives mixed by weight over the same log-ratios."""

    weights: tuple[tuple[str, float], ...]
    """Names out of `OBJECTIVES`, each with its weight."""
    beta: float
    length_normalize: bool = False
    """Divide each log-ratio, and each term of sft, by the tokens of its answer."""
    label_smoothing: float = 0.0
    """The chance that a pair's sides are swapped, from 0 to below 1/2: each paired loss L(w, l) is
    replaced by (1 - chance) * L(w, l) + chance * L(l, w). The sft term stays as it is."""

    @property
    def _paired(self) -> list[tuple[PairObjective, float]]:
        return [(PAIR_OBJECTIVES[name], weight) for name, weight in self.weights if name != SFT]

    @property
    def _sft_weight(self) -> float:
        return sum(weight for name, weight in self.weights if name == SFT)

    @property
    def has_sft(self) -> bool:
        """Whether `tokens_per_chosen` matters."""
        return self._sft_weight != 0 and not self.length_normalize

    @property
    def at_zero(self) -> float:
        """The anchored loss of a pair whose log-ratios are 0."""
        return sum(weight * objective.at_zero for objective, weight in self._paired)

    def log_ratios(self, logps: Tensor, reference_logps: Tensor, tokens: Tensor) -> Tensor:
        """What the objectives are functions of, and beta times which is the reward.

        Args:
            logps: the policy's, summed over each answer, (B,).
            reference_logps: the reference's, (B,).
            tokens: of each answer, (B,).
        """
        log_ratios = logps - reference_logps
        return log_ratios / tokens if self.length_normalize else log_ratios

    def anchored(self, chosen_logratios: Tensor, rejected_logratios: Tensor) -> Tensor:
        """The weighted sum of the paired objectives for every pair, (B,).

        Args:
            chosen_logratios: what `log_ratios` says of the chosen answers, (B,).
            rejected_logratios: the same of the rejected answers, (B,).
        """
        losses = torch.zeros_like(chosen_logratios)
        for share, chosen, rejected in self._labellings(chosen_logratios, rejected_logratios):
            for objective, weight in self._paired:
                losses = losses + share * weight * objective.loss(chosen, rejected, beta=self.beta)
        return losses

    def sft(self, chosen_logps: Tensor, chosen_tokens: Tensor, tokens_per_chosen: Tensor) -> Tensor:
        """The weighted sft term for every pair, (B,); 0 where the objective has none.

        Args:
            chosen_logps: log-probabilities of the chosen answers, summed over tokens, (B,).
            chosen_tokens: of each chosen answer, (B,).
            tokens_per_chosen: mean tokens of a chosen answer over the global batch, a scalar.
        """
        if not self._sft_weight:
            return torch.zeros_like(chosen_logps)
        tokens = chosen_tokens if self.length_normalize else tokens_per_chosen
        return self._sft_weight * sft_loss(chosen_logps, tokens.to(chosen_logps))

    def saturation(self, chosen_rewards: Tensor, rejected_rewards: Tensor) -> float:
        """The share of terms, over all pairs and objectives, with a gradient near zero.

        0 where there is nothing but the sft term, which never saturates. With label smoothing, the
        terms of both labellings count, each as much as its chance.

        Args:
            chosen_rewards: rewards of the chosen answers, (B,).
            rejected_rewards: rewards of the rejected answers, (B,).
        """
        share_saturated = 0.0
        for share, chosen, rejected in self._labellings(chosen_rewards, rejected_rewards):
            terms = [objective.saturated(chosen, rejected) for objective, _ in self._paired]
            share_saturated += share * torch.cat(terms).double().mean().item() if terms else 0.0
        return share_saturated

    def _labellings(
        self, chosen: Tensor, rejected: Tensor
    ) -> Iterator[tuple[float, Tensor, Tensor]]:
        """The sides as labelled and, with label smoothing, swapped; each with its chance."""
        yield 1 - self.label_smoothing, chosen, rejected
        if self.label_smoothing:
            yield self.label_smoothing, rejected, chosen
