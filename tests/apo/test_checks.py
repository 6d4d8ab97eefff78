import pytest
import torch
from accelerate.utils import ParallelismConfig

from clair_apo.apo.checks import (
    check_first_step,
    check_parallelism,
    check_resumed_reference,
    check_tokens,
)
from clair_apo.apo.metrics import PairOutcomes
from clair_apo.apo.objectives import Objective
from clair_apo.errors import TrainingError


def outcomes(reward=0.0, loss=1.0, tokens=100):
    columns = dict.fromkeys(PairOutcomes._fields, torch.zeros(3))
    columns |= {
        "losses": torch.tensor([1.0, loss, 1.0]),
        "chosen_rewards": torch.tensor([0.0, 0.0, reward]),
        "chosen_tokens": torch.full((3,), tokens),
        "rejected_tokens": torch.full((3,), tokens),
    }
    return PairOutcomes(**columns)


ZERO = Objective((("apo_zero", 1.0),), beta=0.1)


def check(found, tolerance=1e-3, objective=ZERO):
    check_first_step(found, objective, weight=1.0, tolerance=tolerance)


def test_a_reward_may_miss_zero_by_beta_times_the_root_of_its_tokens_times_the_tolerance():
    limit = 1e-3 * 0.1 * 10  # 100 tokens
    check(outcomes(reward=0.9 * limit))
    check(outcomes(reward=-0.9 * limit))
    for reward in (1.1 * limit, -1.1 * limit):
        with pytest.raises(TrainingError, match="step 0: a reward is"):
            check(outcomes(reward=reward))
    with pytest.raises(TrainingError):
        check(outcomes(reward=0.9 * limit, tokens=64))
    check(outcomes(reward=90 * limit), tolerance=0.1)


def test_a_length_normalised_reward_may_miss_zero_by_less():
    normalized = Objective((("apo_zero", 1.0),), beta=0.1, length_normalize=True)
    limit = 1e-3 * 0.1 * 10 / 100
    check(outcomes(reward=0.9 * limit), objective=normalized)
    with pytest.raises(TrainingError, match="step 0: a reward is"):
        check(outcomes(reward=1.1 * limit), objective=normalized)


def test_nan_is_refused():
    with pytest.raises(TrainingError, match="a reward is nan"):
        check(outcomes(reward=float("nan")))
    with pytest.raises(TrainingError, match="the loss is nan"):
        check(outcomes(loss=float("nan")))


def test_a_loss_that_is_not_the_objectives_own_value_is_refused():
    check(outcomes(loss=1.001))
    with pytest.raises(TrainingError, match=r"the loss is 1\.01 where the objective gives 1 "):
        check(outcomes(loss=1.01))


class Cut:
    def __init__(self, max_length, truncation_mode="keep_start"):
        self.max_length, self.truncation_mode = max_length, truncation_mode


def row(prompt=5, chosen=3, rejected=3):
    return {"prompt_ids": [1] * prompt, "chosen_ids": [2] * chosen, "rejected_ids": [3] * rejected}


def test_a_side_without_tokens_is_refused_by_name():
    with pytest.raises(TrainingError, match="train pair 4: 'rejected' has no tokens"):
        check_tokens(row(rejected=0), "train pair 4", left_out=None, args=Cut(None))


def test_the_prompt_must_leave_room_where_the_end_is_cut():
    check_tokens(row(), "a pair", left_out=None, args=Cut(6))
    check_tokens(row(), "a pair", left_out=None, args=Cut(5, "keep_end"))
    check_tokens(row(), "a pair", left_out=None, args=Cut(None))
    with pytest.raises(TrainingError, match=r"the prompt alone has 5 tokens .* max_length 5"):
        check_tokens(row(), "a pair", left_out=None, args=Cut(5))


def test_a_resumed_reference_may_differ_by_rounding_only():
    check_resumed_reference([-40.0, -50.0], [-40.001, -50.0], [16, 16], tolerance=1e-3)
    with pytest.raises(TrainingError, match="began with a reference"):
        check_resumed_reference([-40.0, -50.0], [-40.0, -50.01], [16, 16], tolerance=1e-3)


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"tp_size": 2, "dp_shard_size": 2}, r"tensor parallelism \(tp_size 2\)"),
        ({"cp_size": 2, "dp_shard_size": 2}, r"context parallelism \(cp_size 2\)"),
        ({"sp_size": 4}, r"sequence parallelism \(sp_size 4\)"),
        ({"dp_replicate_size": 2, "dp_shard_size": 2}, r"hybrid sharding \(dp_replicate_size 2\)"),
    ],
)
def test_ways_of_splitting_that_were_never_tried_are_refused_by_name(sizes, named):
    with pytest.raises(TrainingError, match=named):
        check_parallelism(ParallelismConfig(**sizes))


def test_plain_sharding_is_not_refused():
    for parallel in (None, ParallelismConfig(dp_shard_size=4)):
        assert check_parallelism(parallel) is None
