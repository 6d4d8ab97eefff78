"""Metrics over pairs: rewards of both answers apart, quadrants, KL, lengths.

A margin can grow while both answers fall; these figures show which side moved. All of them are
computed from one table with a row for every pair, so no figure depends on how pairs were batched
or spread over processes. `OutcomeLog` keeps that table between two logs. Weights of the data enter
the loss alone: every other figure counts each pair once.

B is the number of pairs.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import model_validator
from torch import Tensor
from transformers import TrainerCallback

from clair_apo.apo.forward.batching import fills_a_stream, given_by_stream, weighted_mean
from clair_apo.apo.forward.logps import PairForward, ReferenceTokens, TokenLogps
from clair_apo.apo.objectives import Objective
from clair_apo.apo.trl_compat import active_loader
from clair_apo.apo.watch.speed import Work
from clair_apo.apo.watch.tokens import AnswerEnds, token_figures
from clair_apo.records import Record
from clair_apo.stats import Interval, mean_interval

MAX_K3_EXPONENT = 20.0
"""Nats at which the exponential of one token's k3 term is cut: one token that became impossible
would otherwise be the whole mean, or infinite."""

Mode = Literal["train", "eval"]


class PairOutcomes(NamedTuple):
    """What one forward says about B pairs; every field is (B,)."""

    rows: Tensor
    """The pair's place in the data set; -1 where the data is a stream."""
    losses: Tensor
    """The anchored objectives, without the sft term."""
    chosen_rewards: Tensor
    rejected_rewards: Tensor
    chosen_logps: Tensor
    """Summed over the tokens of the answer, as all log-probabilities here."""
    rejected_logps: Tensor
    ref_chosen_logps: Tensor
    ref_rejected_logps: Tensor
    chosen_k3_sums: Tensor
    """What `k3_sums` says of the chosen answer."""
    rejected_k3_sums: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    first_differences: Tensor
    """Tokens that both answers begin with alike."""
    entropy_sums: Tensor
    """Entropy of the policy, summed over the tokens of both answers."""
    top1_tokens: Tensor
    """Tokens of the chosen answer that the policy holds for the likeliest."""
    sequence_tokens: Tensor
    """Tokens of both sequences, prompts included and padding not."""
    positions: Tensor
    """What the model computed for them: more by padding, or fewer by sharing."""
    chosen_end_logps: Tensor
    """This and what follows as in `TokenFigures`; NaN where a pair has no such token."""
    rejected_end_logps: Tensor
    ref_chosen_end_logps: Tensor
    ref_rejected_end_logps: Tensor
    chosen_first_difference_logps: Tensor
    rejected_first_difference_logps: Tensor
    ref_chosen_first_difference_logps: Tensor
    ref_rejected_first_difference_logps: Tensor
    chosen_hardest_logps: Tensor
    followed_shares: Tensor
    weights: Tensor
    """Of each pair in the loss, as the data gives them; 1 where it gives none."""

    @property
    def work(self) -> Work:
        """What the pairs asked of the model."""
        answers = self.chosen_tokens + self.rejected_tokens
        return Work(self.sequence_tokens, self.positions, answers)

    def table(self) -> Tensor:
        """One row a pair, (B, fields), in the dtype of the losses, without gradient."""
        return torch.stack([column.detach().to(self.losses.dtype) for column in self], dim=1)

    @classmethod
    def from_tables(cls, tables: Iterable[Tensor]) -> Self:
        """The outcomes of several tables, one below the other."""
        return cls(*torch.cat(list(tables)).unbind(1))


def k3_sums(policy: TokenLogps, reference: TokenLogps) -> Tensor:
    """The k3 estimate of KL(policy || reference) on given tokens, summed over each answer.

    Formula: sum of exp(-x) - 1 + x, where x = log pi - log pi_ref of one token; never below 0.
    Source: http://joschu.net/blog/kl-approx.html. It is unbiased on the policy's own samples;
    on the tokens of a data set it says how far the policy moved on exactly these.

    Args:
        policy: of every token of A answers.
        reference: of the same tokens.

    Returns:
        One sum an answer, (A,).
    """
    log_ratios = policy.values - reference.values
    # expm1: exp(-x) - 1 loses every digit where x is near 0
    terms = torch.expm1((-log_ratios).clamp(max=MAX_K3_EXPONENT)) + log_ratios
    return TokenLogps(terms, policy.lengths).sums()


def pair_outcomes(
    forward: PairForward,
    reference: ReferenceTokens,
    objective: Objective,
    rows: Tensor,
    ends: AnswerEnds | None = None,
    weights: Tensor | None = None,
) -> PairOutcomes:
    """What one forward says about its pairs.

    Args:
        forward: of B pairs through the policy; its gradient reaches `losses`.
        reference: what the reference says of the same tokens.
        objective: gives rewards and losses.
        rows: each pair's place in the data set, (B,); -1 where it is not known.
        ends: of their answers; None where they are not known, as of truncated answers.
        weights: of each pair in the loss, (B,); None where the data gives none.
    """
    policy_logps = forward.logps
    ref_chosen_logps, ref_rejected_logps = reference.chosen.sums(), reference.rejected.sums()
    chosen_logratios = objective.log_ratios(
        policy_logps.chosen, ref_chosen_logps, forward.chosen_tokens
    )
    rejected_logratios = objective.log_ratios(
        policy_logps.rejected, ref_rejected_logps, forward.rejected_tokens
    )
    with torch.no_grad():
        chosen_k3_sums = k3_sums(forward.chosen, reference.chosen)
        rejected_k3_sums = k3_sums(forward.rejected, reference.rejected)
    unknown = torch.full_like(forward.first_differences, -1)
    figures = token_figures(forward, reference, ends or AnswerEnds(unknown, unknown))
    return PairOutcomes(
        rows=rows,
        losses=objective.anchored(chosen_logratios, rejected_logratios),
        chosen_rewards=objective.beta * chosen_logratios,
        rejected_rewards=objective.beta * rejected_logratios,
        chosen_logps=policy_logps.chosen,
        rejected_logps=policy_logps.rejected,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        chosen_k3_sums=chosen_k3_sums,
        rejected_k3_sums=rejected_k3_sums,
        chosen_tokens=forward.chosen_tokens,
        rejected_tokens=forward.rejected_tokens,
        first_differences=forward.first_differences,
        entropy_sums=forward.entropy_sums,
        top1_tokens=forward.top1_tokens,
        sequence_tokens=forward.sequence_tokens,
        positions=forward.positions,
        **figures._asdict(),
        weights=torch.ones_like(policy_logps.chosen) if weights is None else weights,
    )


class RewardIntervals(Record):
    """Mean rewards over pairs, each with its n and 95 % interval.

    Files of earlier versions call the two sides `winner` and `loser`; they are read as well.
    """

    chosen: Interval
    rejected: Interval
    margin: Interval

    @model_validator(mode="before")
    @classmethod
    def _rename_sides(cls, value: Any) -> Any:
        earlier = {"winner": "chosen", "loser": "rejected"}
        if isinstance(value, dict):
            return {earlier.get(name, name): found for name, found in value.items()}
        return value


class PairRewards(Record):
    """The rewards of every pair of a data set, in its order."""

    chosen: tuple[float, ...]
    rejected: tuple[float, ...]

    @property
    def margins(self) -> tuple[float, ...]:
        """Reward of each chosen answer minus that of the rejected one."""
        return tuple(w - v for w, v in zip(self.chosen, self.rejected, strict=True))

    def intervals(self) -> RewardIntervals:
        """Means over pairs with their 95 % intervals.

        Raises:
            ValueError: there are no pairs.
        """
        return RewardIntervals(
            chosen=mean_interval(self.chosen),
            rejected=mean_interval(self.rejected),
            margin=mean_interval(self.margins),
        )


def quadrant_shares(chosen_rewards: Tensor, rejected_rewards: Tensor) -> dict[str, float]:
    """The share of pairs in each of the four directions; they sum to 1.

    A reward above 0 is up; one at 0, as at step 0, counts as down.

    Args:
        chosen_rewards: rewards of the chosen answers, (B,).
        rejected_rewards: rewards of the rejected answers, (B,).
    """
    chosen_up, rejected_up = chosen_rewards > 0, rejected_rewards > 0
    quadrants = {
        "chosen_up_rejected_down": chosen_up & ~rejected_up,
        "chosen_up_rejected_up": chosen_up & rejected_up,
        "chosen_down_rejected_down": ~chosen_up & ~rejected_up,
        "chosen_down_rejected_up": ~chosen_up & rejected_up,
    }
    return {name: _mean(members) for name, members in quadrants.items()}


def pair_metrics(outcomes: PairOutcomes, objective: Objective) -> dict[str, float]:
    """Everything that is logged about pairs, under TRL's names where TRL has one.

    Means over pairs, except those named in `docs/metrics.md` as means over tokens.

    Args:
        outcomes: of at least one pair.
        objective: what the pairs were trained on; saturation depends on it.
    """
    chosen, rejected = outcomes.chosen_rewards, outcomes.rejected_rewards
    return {
        "rewards/chosen": _mean(chosen),
        "rewards/rejected": _mean(rejected),
        "rewards/margins": _mean(chosen - rejected),
        "rewards/accuracies": _mean(chosen > rejected),
        **{f"quadrants/{k}": v for k, v in quadrant_shares(chosen, rejected).items()},
        "saturation": objective.saturation(chosen, rejected),
        "logps/chosen": _mean(outcomes.chosen_logps),
        "logps/rejected": _mean(outcomes.rejected_logps),
        "ref_logps/chosen": _mean(outcomes.ref_chosen_logps),
        "ref_logps/rejected": _mean(outcomes.ref_rejected_logps),
        **_token_metrics(outcomes),
        "lengths/chosen": _mean(outcomes.chosen_tokens),
        "lengths/rejected": _mean(outcomes.rejected_tokens),
        "first_difference": _mean(outcomes.first_differences),
        **_single_token_metrics(outcomes),
    }


def _token_metrics(outcomes: PairOutcomes) -> dict[str, float]:
    chosen_tokens, rejected_tokens = outcomes.chosen_tokens, outcomes.rejected_tokens
    chosen_ratios = outcomes.chosen_logps - outcomes.ref_chosen_logps
    rejected_ratios = outcomes.rejected_logps - outcomes.ref_rejected_logps
    return {
        "logratios_per_token/chosen": _mean(chosen_ratios / chosen_tokens),
        "logratios_per_token/rejected": _mean(rejected_ratios / rejected_tokens),
        "kl/chosen_k1": _ratio(chosen_ratios, chosen_tokens),
        "kl/rejected_k1": _ratio(rejected_ratios, rejected_tokens),
        "kl/chosen_k3": _ratio(outcomes.chosen_k3_sums, chosen_tokens),
        "kl/rejected_k3": _ratio(outcomes.rejected_k3_sums, rejected_tokens),
        "entropy": _ratio(outcomes.entropy_sums, chosen_tokens + rejected_tokens),
        "mean_token_accuracy": _ratio(outcomes.top1_tokens, chosen_tokens),
    }


def _single_token_metrics(outcomes: PairOutcomes) -> dict[str, float]:
    """Means over the pairs that have such a token; a metric that no pair has is left out."""
    found: dict[str, Tensor] = {}
    for side in ("chosen", "rejected"):
        for token in ("end", "first_difference"):
            logps = getattr(outcomes, f"{side}_{token}_logps")
            ref_logps = getattr(outcomes, f"ref_{side}_{token}_logps")
            found[f"{token}_logps/{side}"] = logps
            found[f"{token}_logratios/{side}"] = logps - ref_logps
    shares = outcomes.followed_shares
    found["hardest_logps/chosen"] = outcomes.chosen_hardest_logps
    found["followed/share"] = shares
    found["followed/whole"] = (shares == 1).to(shares.dtype).masked_fill(shares.isnan(), torch.nan)
    there = {name: values[~values.isnan()] for name, values in found.items()}
    return {name: _mean(values) for name, values in there.items() if len(values)}


def source_metrics(outcomes: PairOutcomes, sources: Sequence[str]) -> dict[str, float]:
    """Number of pairs, rewards and accuracy of each data set of a mixture.

    Args:
        outcomes: of at least one pair.
        sources: the name of each pair's data set, as many.
    """
    found: dict[str, float] = {}
    for name in sorted(set(sources)):
        of_it = torch.tensor([source == name for source in sources])
        chosen, rejected = outcomes.chosen_rewards[of_it], outcomes.rejected_rewards[of_it]
        found |= {
            f"pairs/{name}": float(of_it.sum()),
            f"rewards/chosen/{name}": _mean(chosen),
            f"rewards/rejected/{name}": _mean(rejected),
            f"rewards/margins/{name}": _mean(chosen - rejected),
            f"rewards/accuracies/{name}": _mean(chosen > rejected),
        }
    return found


def mean_loss(outcomes: PairOutcomes, objective: Objective) -> float:
    """The loss over all pairs at once, by their weights, the sft term's normaliser included."""
    tokens, weights = outcomes.chosen_tokens.double(), outcomes.weights.double()
    per_chosen = weighted_mean(tokens, weights)
    sft = objective.sft(outcomes.chosen_logps.double(), tokens, per_chosen)
    return weighted_mean(outcomes.losses.double() + sft, weights).item()


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


def _ratio(sums: Tensor, tokens: Tensor) -> float:
    return (sums.double().sum() / tokens.double().sum()).item()


class OutcomeLog(TrainerCallback):
    """The outcomes of pairs since they were taken last, for training and evaluation apart.

    Args:
        accelerator: gathers them from all processes.
    """

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self._tables: dict[Mode, list[Tensor]] = {"train": [], "eval": []}
        self._fresh: list[Tensor] = []
        """Of training, by this process alone."""

    def on_train_begin(self, *event: Any, **more: Any) -> None:
        """Forget what a run that broke off left; `auto_find_batch_size` begins several times."""
        self._tables["train"].clear()
        self._fresh.clear()

    def keep(self, mode: Mode, outcomes: PairOutcomes, weights: Tensor | None) -> None:
        """Keep the outcomes of the pairs that count.

        Args:
            mode: in an evaluation the pairs that fill the last batch of several processes are left
                out here, and all processes must call it.
            outcomes: of one row of this process; in training they are seen once gathered.
            weights: of its pairs in training, (B,): those with 0 are left out; None keeps all.
        """
        table = outcomes.table()
        if mode == "eval":
            table = self._accelerator.gather_for_metrics(table)
            if fills_a_stream(active_loader(self._accelerator)):
                table = table[given_by_stream(PairOutcomes.from_tables([table]).rows)]
            self._tables["eval"].append(table)
        else:
            self._fresh.append(table if weights is None else table[weights > 0])

    def gather(self) -> None:
        """Share what was kept in training since; all processes must call, after the same batch."""
        if not self._fresh:
            return
        table = torch.cat(self._fresh)
        self._fresh.clear()
        # processes may have seen different numbers of pairs: fill up, leave out what fills
        table = self._accelerator.pad_across_processes(table, pad_index=torch.nan)
        table = self._accelerator.gather(table)
        self._tables["train"].append(table[~table.isnan().all(1)])

    def seen(self, mode: Mode) -> PairOutcomes | None:
        """All that was gathered since it was taken last; None if there is nothing."""
        tables = self._tables[mode]
        return PairOutcomes.from_tables([torch.cat(tables)]) if tables else None

    def take(self, mode: Mode) -> PairOutcomes | None:
        """Return all that was gathered since it was taken last, and forget it; None if nothing."""
        found = self.seen(mode)
        self._tables[mode].clear()
        return found
