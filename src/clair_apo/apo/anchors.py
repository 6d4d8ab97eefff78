"""Where winner and loser stand against the reference: rewards apart, quadrants, saturation.

A margin can grow while both answers fall; these figures show which side moved. All of them are
computed from one table with a row for every pair, so no figure depends on how pairs were batched.
B is the number of pairs.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple, Self

import torch
from torch import Tensor

from clair_apo.records import Record
from clair_apo.stats import Interval, mean_interval

SATURATED_REWARD = math.log((1 + math.sqrt(0.9)) / (1 - math.sqrt(0.9)))
"""3.637: beyond it s(r) * (1 - s(r)), the factor of APO gradients, is under a tenth of its most."""


class PairOutcomes(NamedTuple):
    """What one forward says about B pairs; every field is (B,), without gradient."""

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor
    chosen_logps: Tensor
    rejected_logps: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    entropy_sums: Tensor
    """Entropy summed over the tokens of both answers."""
    top1_tokens: Tensor
    """Tokens of the winner that the policy holds for the likeliest."""

    def table(self) -> Tensor:
        """One row a pair, (B, 9), in the dtype of the losses."""
        return torch.stack([column.detach().to(self.losses.dtype) for column in self], dim=1)

    @classmethod
    def from_tables(cls, tables: Iterable[Tensor]) -> Self:
        """The outcomes of several tables, one below the other."""
        return cls(*torch.cat(list(tables)).unbind(1))


class RewardIntervals(Record):
    """Mean rewards over pairs, each with its n and 95 % interval."""

    winner: Interval
    loser: Interval
    margin: Interval


class PairRewards(Record):
    """The rewards of every pair of a data set, in its order."""

    chosen: tuple[float, ...]
    rejected: tuple[float, ...]

    @property
    def margins(self) -> tuple[float, ...]:
        """How far each winner is ahead of its loser."""
        return tuple(w - v for w, v in zip(self.chosen, self.rejected, strict=True))

    def intervals(self) -> RewardIntervals:
        """Means over pairs with their 95 % intervals.

        Raises:
            ValueError: there are no pairs.
        """
        return RewardIntervals(
            winner=mean_interval(self.chosen),
            loser=mean_interval(self.rejected),
            margin=mean_interval(self.margins),
        )


def quadrant_shares(chosen_rewards: Tensor, rejected_rewards: Tensor) -> dict[str, float]:
    """The share of pairs in each of the four directions; they sum to 1.

    A reward above 0 is up; one at 0, as at step 0, counts as down.

    Args:
        chosen_rewards: rewards of the winners, (B,).
        rejected_rewards: rewards of the losers, (B,).
    """
    winner_up, loser_up = chosen_rewards > 0, rejected_rewards > 0
    quadrants = {
        "winner_up_loser_down": winner_up & ~loser_up,
        "winner_up_loser_up": winner_up & loser_up,
        "winner_down_loser_down": ~winner_up & ~loser_up,
        "winner_down_loser_up": ~winner_up & loser_up,
    }
    return {name: _mean(members) for name, members in quadrants.items()}


def saturation_share(chosen_rewards: Tensor, rejected_rewards: Tensor) -> float:
    """The share of answers, of both sides, whose reward is beyond `SATURATED_REWARD` either way.

    Args:
        chosen_rewards: rewards of the winners, (B,).
        rejected_rewards: rewards of the losers, (B,).
    """
    return _mean(torch.cat([chosen_rewards, rejected_rewards]).abs() > SATURATED_REWARD)


def pair_metrics(outcomes: PairOutcomes) -> dict[str, float]:
    """Everything that is logged about pairs, under TRL's names where TRL has one."""
    chosen, rejected = outcomes.chosen_rewards, outcomes.rejected_rewards
    chosen_tokens = outcomes.chosen_tokens.sum()
    tokens = chosen_tokens + outcomes.rejected_tokens.sum()
    return {
        "rewards/chosen": _mean(chosen),
        "rewards/rejected": _mean(rejected),
        "rewards/margins": _mean(chosen - rejected),
        "rewards/accuracies": _mean(chosen > rejected),
        **{f"quadrants/{k}": v for k, v in quadrant_shares(chosen, rejected).items()},
        "saturation": saturation_share(chosen, rejected),
        "logps/chosen": _mean(outcomes.chosen_logps),
        "logps/rejected": _mean(outcomes.rejected_logps),
        "entropy": (outcomes.entropy_sums.sum() / tokens).item(),
        "mean_token_accuracy": (outcomes.top1_tokens.sum() / chosen_tokens).item(),
    }


def _mean(values: Tensor) -> float:
    return values.double().mean().item()
