import math

import pytest
import torch

from clair_apo.apo.anchors import (
    SATURATED_REWARD,
    PairOutcomes,
    PairRewards,
    pair_metrics,
    quadrant_shares,
    saturation_share,
)


def test_the_saturated_reward_is_where_the_gradient_factor_is_a_tenth_of_its_most():
    s = 1 / (1 + math.exp(-SATURATED_REWARD))
    assert s * (1 - s) == pytest.approx(0.25 / 10)
    assert pytest.approx(3.637, abs=5e-4) == SATURATED_REWARD


def test_quadrants_name_the_direction_of_each_side_and_sum_to_one():
    chosen = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0])
    rejected = torch.tensor([-1.0, 1.0, -1.0, 1.0, -2.0])
    shares = quadrant_shares(chosen, rejected)
    assert shares == {
        "winner_up_loser_down": pytest.approx(0.4),
        "winner_up_loser_up": pytest.approx(0.2),
        "winner_down_loser_down": pytest.approx(0.2),
        "winner_down_loser_up": pytest.approx(0.2),
    }
    assert sum(shares.values()) == pytest.approx(1)


def test_a_reward_of_zero_counts_as_down():
    shares = quadrant_shares(torch.zeros(2), torch.zeros(2))
    assert shares["winner_down_loser_down"] == 1


def test_saturation_counts_answers_of_both_sides_in_both_directions():
    chosen, rejected = torch.tensor([3.7, 0.0]), torch.tensor([-3.7, 3.6])
    assert saturation_share(chosen, rejected) == 0.5


def outcomes() -> PairOutcomes:
    return PairOutcomes(
        losses=torch.tensor([1.0, 0.5, 0.0]),
        chosen_rewards=torch.tensor([1.0, -1.0, 3.0]),
        rejected_rewards=torch.tensor([0.0, 1.0, -1.0]),
        chosen_logps=torch.tensor([-10.0, -20.0, -30.0]),
        rejected_logps=torch.tensor([-1.0, -2.0, -3.0]),
        chosen_tokens=torch.tensor([1, 2, 3]),
        rejected_tokens=torch.tensor([4, 5, 6]),
        entropy_sums=torch.tensor([2.1, 4.2, 6.3]),
        top1_tokens=torch.tensor([1, 0, 2]),
    )


def test_metrics_are_means_over_pairs_and_ratios_over_tokens():
    metrics = pair_metrics(outcomes())
    assert metrics["rewards/chosen"] == pytest.approx(1)
    assert metrics["rewards/rejected"] == pytest.approx(0)
    assert metrics["rewards/margins"] == pytest.approx(1)
    assert metrics["rewards/accuracies"] == pytest.approx(2 / 3)
    assert metrics["logps/chosen"] == pytest.approx(-20)
    assert metrics["logps/rejected"] == pytest.approx(-2)
    assert metrics["entropy"] == pytest.approx(12.6 / 21)
    assert metrics["mean_token_accuracy"] == pytest.approx(3 / 6)


def test_splitting_the_pairs_into_batches_changes_no_metric():
    whole = outcomes()
    split = [whole.table()[:1], whole.table()[1:]]
    assert pair_metrics(PairOutcomes.from_tables(split)) == pair_metrics(whole)


def test_a_table_brings_every_column_back():
    again = PairOutcomes.from_tables([outcomes().table()])
    assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(again, outcomes(), strict=True))


def test_intervals_carry_their_n_and_the_margin_is_paired():
    rewards = PairRewards(chosen=(1.0, 2.0, 3.0), rejected=(0.0, 1.0, 2.0))
    found = rewards.intervals()
    assert rewards.margins == (1.0, 1.0, 1.0)
    assert found.winner.n == found.loser.n == found.margin.n == 3
    assert found.winner.mean == pytest.approx(2)
    assert found.margin.low == found.margin.high == pytest.approx(1)
    assert found.winner.low < 2 < found.winner.high
