import math
import re
from pathlib import Path

import pytest
import torch

from clair_apo.apo.forward.logps import PairForward, ReferenceTokens, TokenLogps
from clair_apo.apo.metrics import (
    MAX_K3_EXPONENT,
    PairOutcomes,
    PairRewards,
    RewardIntervals,
    k3_sums,
    mean_loss,
    pair_metrics,
    pair_outcomes,
    quadrant_shares,
)
from clair_apo.apo.objectives import Objective

ZERO = Objective((("apo_zero", 1.0),), beta=0.1)


def test_quadrants_name_the_direction_of_each_side_and_sum_to_one():
    chosen = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0])
    rejected = torch.tensor([-1.0, 1.0, -1.0, 1.0, -2.0])
    shares = quadrant_shares(chosen, rejected)
    assert shares == {
        "chosen_up_rejected_down": pytest.approx(0.4),
        "chosen_up_rejected_up": pytest.approx(0.2),
        "chosen_down_rejected_down": pytest.approx(0.2),
        "chosen_down_rejected_up": pytest.approx(0.2),
    }
    assert sum(shares.values()) == pytest.approx(1)


def test_a_reward_of_zero_counts_as_down():
    shares = quadrant_shares(torch.zeros(2), torch.zeros(2))
    assert shares["chosen_down_rejected_down"] == 1


def outcomes() -> PairOutcomes:
    return PairOutcomes(
        rows=torch.tensor([0, 1, 2]),
        losses=torch.tensor([1.0, 0.5, 0.0]),
        chosen_rewards=torch.tensor([1.0, -1.0, 3.0]),
        rejected_rewards=torch.tensor([0.0, 1.0, -4.0]),
        chosen_logps=torch.tensor([-10.0, -20.0, -30.0]),
        rejected_logps=torch.tensor([-1.0, -2.0, -3.0]),
        ref_chosen_logps=torch.tensor([-11.0, -18.0, -33.0]),
        ref_rejected_logps=torch.tensor([-5.0, -7.0, -9.0]),
        chosen_k3_sums=torch.tensor([0.1, 0.2, 0.3]),
        rejected_k3_sums=torch.tensor([1.5, 1.5, 3.0]),
        chosen_tokens=torch.tensor([1, 2, 3]),
        rejected_tokens=torch.tensor([4, 5, 6]),
        first_differences=torch.tensor([0, 2, 1]),
        entropy_sums=torch.tensor([2.1, 4.2, 6.3]),
        top1_tokens=torch.tensor([1, 0, 2]),
        sequence_tokens=torch.tensor([10, 20, 30]),
        positions=torch.tensor([32, 32, 32]),
        chosen_end_logps=torch.tensor([-1.0, torch.nan, -2.0]),
        rejected_end_logps=torch.tensor([torch.nan, -3.0, torch.nan]),
        ref_chosen_end_logps=torch.tensor([-0.5, torch.nan, -0.1]),
        ref_rejected_end_logps=torch.tensor([torch.nan, -1.0, torch.nan]),
        chosen_first_difference_logps=torch.tensor([-9.0, -4.0, torch.nan]),
        rejected_first_difference_logps=torch.tensor([-1.0, -2.0, -6.0]),
        ref_chosen_first_difference_logps=torch.tensor([-8.0, -8.0, torch.nan]),
        ref_rejected_first_difference_logps=torch.tensor([-1.0, -1.0, -1.0]),
        chosen_hardest_logps=torch.tensor([-9.0, -5.0, torch.nan]),
        followed_shares=torch.tensor([1.0, 0.5, torch.nan]),
        weights=torch.tensor([1.0, 3.0, 0.0]),
    )


def test_metrics_are_means_over_pairs():
    metrics = pair_metrics(outcomes(), ZERO)
    expected = {
        "rewards/chosen": (1 - 1 + 3) / 3,
        "rewards/rejected": (0 + 1 - 4) / 3,
        "rewards/margins": (1 - 2 + 7) / 3,
        "rewards/accuracies": 2 / 3,
        "saturation": 1 / 6,
        "logps/chosen": -(10 + 20 + 30) / 3,
        "logps/rejected": -(1 + 2 + 3) / 3,
        "ref_logps/chosen": -(11 + 18 + 33) / 3,
        "ref_logps/rejected": -(5 + 7 + 9) / 3,
        "logratios_per_token/chosen": (1 / 1 - 2 / 2 + 3 / 3) / 3,
        "logratios_per_token/rejected": (4 / 4 + 5 / 5 + 6 / 6) / 3,
        "lengths/chosen": 2,
        "lengths/rejected": 5,
        "first_difference": 1,
        "end_logps/chosen": -(1 + 2) / 2,
        "end_logps/rejected": -3,
        "end_logratios/chosen": -(0.5 + 1.9) / 2,
        "end_logratios/rejected": -2,
        "first_difference_logps/chosen": -(9 + 4) / 2,
        "first_difference_logps/rejected": -(1 + 2 + 6) / 3,
        "first_difference_logratios/chosen": (-1 + 4) / 2,
        "first_difference_logratios/rejected": -(0 + 1 + 5) / 3,
        "hardest_logps/chosen": -(9 + 5) / 2,
        "followed/share": 0.75,
        "followed/whole": 0.5,
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value), name


def test_kl_entropy_and_token_accuracy_are_means_over_tokens():
    metrics = pair_metrics(outcomes(), ZERO)
    expected = {
        "kl/chosen_k1": (1 - 2 + 3) / (1 + 2 + 3),
        "kl/rejected_k1": (4 + 5 + 6) / (4 + 5 + 6),
        "kl/chosen_k3": (0.1 + 0.2 + 0.3) / 6,
        "kl/rejected_k3": (1.5 + 1.5 + 3) / 15,
        "entropy": (2.1 + 4.2 + 6.3) / 21,
        "mean_token_accuracy": 3 / 6,
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value), name


def test_every_metric_has_a_sentence_in_the_docs_and_none_is_named_there_in_vain():
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    table = text.split("## Metrics")[1].split("\n## ")[0]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in row.split(", ")}
    assert named == {f"`{name}`" for name in pair_metrics(outcomes(), ZERO)}


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1), (1, 1, 1)], ids=str)
def test_splitting_the_pairs_into_batches_changes_no_metric(sizes):
    whole = outcomes()
    again = PairOutcomes.from_tables(whole.table().split(sizes))
    assert pair_metrics(again, ZERO) == pair_metrics(whole, ZERO)


def test_a_table_brings_every_column_back():
    again = PairOutcomes.from_tables([outcomes().table()])
    for name, column, before in zip(PairOutcomes._fields, again, outcomes(), strict=True):
        torch.testing.assert_close(column, before.to(column.dtype), equal_nan=True, msg=name)


def test_a_metric_that_no_pair_has_is_not_logged():
    truncated = outcomes()._replace(rejected_end_logps=torch.full((3,), torch.nan))
    metrics = pair_metrics(truncated, ZERO)
    assert "end_logps/rejected" not in metrics
    assert all(math.isfinite(value) for value in metrics.values())


def k3(policy, reference, *lengths):
    lengths = torch.tensor(lengths)
    return k3_sums(TokenLogps(policy, lengths), TokenLogps(reference, lengths))


def test_k3_is_its_formula_over_the_tokens_of_each_answer_and_never_below_zero():
    policy = torch.tensor([-1.0, -2.0, -3.0, -0.5, -4.0], dtype=torch.float64)
    reference = torch.tensor([-1.5, -1.0, -3.0, -0.1, -9.0], dtype=torch.float64)
    terms = [math.exp(-x) - 1 + x for x in (policy - reference).tolist()]
    found = k3(policy, reference, 3, 2)
    assert found.tolist() == pytest.approx([sum(terms[:3]), sum(terms[3:])])
    assert min(terms) == 0


def test_k3_near_zero_keeps_its_digits_and_far_out_stays_finite():
    x = 1e-3
    near = k3(torch.tensor([x]), torch.tensor([0.0]), 1)
    assert near.item() == pytest.approx(x * x / 2, rel=0.01), "the second order of its formula"
    far = k3(torch.tensor([-1e3]), torch.tensor([0.0]), 1)
    assert far.item() == pytest.approx(math.exp(MAX_K3_EXPONENT), rel=1e-4)


def test_k3_is_unbiased_on_the_policys_own_samples():
    policy = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    reference = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    terms = k3(policy.log(), reference.log(), 1, 1, 1)
    exact = (policy * (policy / reference).log()).sum()
    torch.testing.assert_close((policy * terms).sum(), exact)


def tokens_of(generator, lengths):
    count = int(sum(lengths))
    values = -3 * torch.rand(count, generator=generator, dtype=torch.float64)
    return TokenLogps(values, torch.tensor(lengths))


@pytest.mark.parametrize("length_normalize", [False, True])
def test_outcomes_are_those_of_each_answers_own_tokens(length_normalize):
    generator = torch.Generator().manual_seed(0)
    lengths = [2, 5], [4, 1]
    policy, reference = ([tokens_of(generator, n) for n in lengths] for _ in range(2))
    forward = PairForward(
        *policy,
        first_differences=torch.tensor([1, 0]),
        entropy_sums=torch.tensor([3.0, 4.0]),
        chosen_top1=torch.tensor([1, 0, 1, 1, 0, 1, 0]),
        sequence_tokens=torch.tensor([12, 13]),
        positions=torch.tensor([20, 20]),
    )
    objective = Objective((("apo_zero", 2.0),), beta=0.3, length_normalize=length_normalize)
    found = pair_outcomes(forward, ReferenceTokens(*reference), objective, torch.tensor([7, 2]))
    for side, mine, other in zip(("chosen", "rejected"), policy, reference, strict=True):
        for pair in range(2):
            ours, theirs = mine.split()[pair], other.split()[pair]
            share = len(ours) if length_normalize else 1
            reward = 0.3 * (ours - theirs).sum() / share
            of_side = {name: getattr(found, name)[pair] for name in PairOutcomes._fields}
            torch.testing.assert_close(of_side[f"{side}_rewards"], reward)
            torch.testing.assert_close(of_side[f"{side}_logps"], ours.sum())
            torch.testing.assert_close(of_side[f"ref_{side}_logps"], theirs.sum())
            terms = (theirs - ours).exp() - 1 - (theirs - ours)
            torch.testing.assert_close(of_side[f"{side}_k3_sums"], terms.sum())
            assert of_side[f"{side}_tokens"] == len(ours)
    expected = 2 * (torch.sigmoid(-found.chosen_rewards) + torch.sigmoid(found.rejected_rewards))
    torch.testing.assert_close(found.losses, expected)
    assert found.rows.tolist() == [7, 2]
    assert found.first_differences.tolist() == [1, 0]
    assert found.top1_tokens.tolist() == [1, 3]
    assert found.followed_shares.tolist() == pytest.approx([0, 2 / 5])


def test_the_mean_loss_adds_the_sft_term_over_all_tokens_by_the_weights_of_their_pairs():
    objective = Objective((("apo_zero", 1.0), ("sft", 0.5)), beta=0.1)
    alike = outcomes()._replace(weights=torch.ones(3))
    expected = (1.0 + 0.5 + 0.0) / 3 + 0.5 * (10 + 20 + 30) / (1 + 2 + 3)
    assert mean_loss(alike, objective) == pytest.approx(expected)
    weighted = (1.0 + 3 * 0.5) / 4 + 0.5 * (10 + 3 * 20) / (1 + 3 * 2)
    assert mean_loss(outcomes(), objective) == pytest.approx(weighted)
    assert pair_metrics(alike, objective) == pair_metrics(outcomes(), objective)


def test_intervals_carry_their_n_and_the_margin_is_paired():
    rewards = PairRewards(chosen=(1.0, 2.0, 3.0), rejected=(0.0, 1.0, 2.0))
    found = rewards.intervals()
    assert rewards.margins == (1.0, 1.0, 1.0)
    assert found.chosen.n == found.rejected.n == found.margin.n == 3
    assert found.chosen.mean == pytest.approx(2)
    assert found.margin.low == found.margin.high == pytest.approx(1)
    assert found.chosen.low < 2 < found.chosen.high


def test_intervals_of_an_earlier_version_are_read():
    found = PairRewards(chosen=(1.0, 3.0), rejected=(0.0, -1.0)).intervals()
    written = found.model_dump()
    earlier = {"winner": written["chosen"], "loser": written["rejected"]}
    assert RewardIntervals.model_validate(earlier | {"margin": written["margin"]}) == found
