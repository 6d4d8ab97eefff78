import math

import pytest
import torch

from clair_apo.apo.objectives import (
    PAIR_OBJECTIVES,
    apo_down_loss,
    apo_zero_loss,
    apo_zero_unpaired_loss,
    dpo_loss,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
PAIR_LOSSES = [apo_zero_loss, apo_down_loss, dpo_loss]


def logratio_grid() -> tuple[torch.Tensor, torch.Tensor]:
    """Every combination of 9 winner and 9 loser log-ratios, in float64."""
    values = torch.linspace(-40, 40, 9, dtype=torch.float64)
    return torch.cartesian_prod(values, values).unbind(1)


def reward_gradients(loss, chosen, rejected, beta=0.1):
    """dL/dr_w and dL/dr_l, from dL/dlog-ratio = beta * dL/dr."""
    chosen, rejected = chosen.clone().requires_grad_(), rejected.clone().requires_grad_()
    loss(chosen, rejected, beta=beta).sum().backward()
    return chosen.grad / beta, rejected.grad / beta


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def d(x: float) -> float:
    return s(x) * (1 - s(x))


CLOSED_FORMS = {
    "apo_zero": lambda w, v: (1 - s(w)) + s(v),
    "apo_down": lambda w, v: s(w) + (1 - s(w - v)),
    "sigmoid": lambda w, v: -math.log(s(w - v)),
}
GRADIENT_TABLE = {
    "apo_zero": lambda w, v: (-d(w), d(v)),
    "apo_down": lambda w, v: (d(w) - d(w - v), d(w - v)),
    "sigmoid": lambda w, v: (-s(v - w), s(v - w)),
}
AT_STEP_0 = {
    "apo_zero": (1.0, -0.25, 0.25),
    "apo_down": (1.0, 0.0, 0.25),
    "sigmoid": (math.log(2), -0.5, 0.5),
}


@pytest.mark.parametrize("name", PAIR_OBJECTIVES)
def test_a_loss_equals_its_closed_form(name):
    chosen, rejected = logratio_grid()
    expected = [
        CLOSED_FORMS[name](0.1 * w, 0.1 * v)
        for w, v in zip(chosen.tolist(), rejected.tolist(), strict=True)
    ]
    losses = PAIR_OBJECTIVES[name].loss(chosen, rejected, beta=0.1)
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("name", PAIR_OBJECTIVES)
def test_a_gradient_equals_the_table_of_the_paper(name):
    chosen, rejected = logratio_grid()
    winner, loser = reward_gradients(PAIR_OBJECTIVES[name].loss, chosen, rejected)
    expected = [
        GRADIENT_TABLE[name](0.1 * w, 0.1 * v)
        for w, v in zip(chosen.tolist(), rejected.tolist(), strict=True)
    ]
    torch.testing.assert_close(torch.stack([winner, loser], 1), torch.tensor(expected).double())


@pytest.mark.parametrize("name", PAIR_OBJECTIVES)
def test_values_at_step_0_are_those_of_the_table_exactly(name):
    zero = torch.zeros(1, dtype=torch.float64)
    loss, winner_gradient, loser_gradient = AT_STEP_0[name]
    winner, loser = reward_gradients(PAIR_OBJECTIVES[name].loss, zero, zero, beta=1.0)
    assert PAIR_OBJECTIVES[name].loss(zero, zero, beta=1.0).item() == pytest.approx(loss, abs=1e-15)
    assert PAIR_OBJECTIVES[name].at_zero == pytest.approx(loss, abs=1e-15)
    assert (winner.item(), loser.item()) == (winner_gradient, loser_gradient)


@pytest.mark.parametrize("dtype", DTYPES)
def test_apo_down_leaves_the_winner_alone_at_step_0_in_every_dtype(dtype):
    winner, loser = reward_gradients(
        apo_down_loss, torch.zeros(1).to(dtype), torch.zeros(1).to(dtype)
    )
    assert winner.item() == 0.0
    assert loser.item() > 0


def test_signs_of_every_gradient():
    chosen, rejected = logratio_grid()
    winner, loser = reward_gradients(apo_zero_loss, chosen, rejected)
    assert (winner < 0).all(), "apo_zero raises every winner"
    assert (loser > 0).all(), "apo_zero lowers every loser"
    winner, loser = reward_gradients(dpo_loss, chosen, rejected)
    assert (winner < 0).all()
    assert (loser > 0).all()
    assert torch.equal(winner, -loser), "dpo knows nothing but the margin"
    winner, loser = reward_gradients(apo_down_loss, chosen, rejected)
    assert (loser > 0).all(), "apo_down lowers every loser"
    # d falls with |x|: the winner goes down where it is nearer to its anchor than the margin is
    falls = chosen.abs() < (chosen - rejected).abs()
    rises = chosen.abs() > (chosen - rejected).abs()
    assert (winner[falls] > 0).all()
    assert (winner[rises] < 0).all()


@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_gradients_agree_with_finite_differences(loss):
    chosen, rejected = (x.requires_grad_() for x in logratio_grid())
    assert torch.autograd.gradcheck(lambda w, v: loss(w, v, beta=0.1), (chosen, rejected))


def test_unpaired_gradients_agree_with_finite_differences_and_have_their_signs():
    logratios = torch.linspace(-30, 30, 7, dtype=torch.float64, requires_grad=True)
    desirable = torch.tensor([True, False, True, False, True, False, True])
    assert torch.autograd.gradcheck(
        lambda x: apo_zero_unpaired_loss(x, desirable, beta=0.1), (logratios,)
    )
    (gradient,) = torch.autograd.grad(
        apo_zero_unpaired_loss(logratios, desirable, beta=0.1).sum(), logratios
    )
    assert torch.equal(gradient < 0, desirable)
    expected = [0.1 * d(0.1 * x) for x in logratios.tolist()]
    torch.testing.assert_close(gradient.abs(), torch.tensor(expected).double())


def test_apo_zero_is_the_sum_of_its_two_unpaired_halves():
    chosen, rejected = logratio_grid()
    good, bad = torch.ones_like(chosen).bool(), torch.zeros_like(chosen).bool()
    halves = apo_zero_unpaired_loss(chosen, good, beta=0.3) + apo_zero_unpaired_loss(
        rejected, bad, beta=0.3
    )
    assert torch.equal(halves, apo_zero_loss(chosen, rejected, beta=0.3))
    half = apo_zero_unpaired_loss(torch.zeros(2), torch.tensor([True, False]), beta=0.3)
    assert half.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_a_loss_keeps_dtype_and_shape_and_has_no_nan_far_out(loss, dtype):
    values = torch.tensor([-1e4, 0.0, 1e4], dtype=dtype)
    chosen, rejected = (x.clone().requires_grad_() for x in torch.cartesian_prod(values, values).T)
    losses = loss(chosen, rejected, beta=0.1)
    losses.sum().backward()
    assert losses.shape == (9,)
    assert losses.dtype == chosen.grad.dtype == rejected.grad.dtype == dtype
    assert all(x.isfinite().all() for x in (losses, chosen.grad, rejected.grad))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_unpaired_loss_keeps_dtype_and_has_no_nan_far_out(dtype):
    logratios = torch.tensor([-1e4, 0.0, 1e4], dtype=dtype, requires_grad=True)
    losses = apo_zero_unpaired_loss(logratios, torch.tensor([True, True, False]), beta=0.1)
    losses.sum().backward()
    assert losses.tolist() == [1.0, 0.5, 1.0]
    assert losses.dtype == logratios.grad.dtype == dtype
    assert logratios.grad.isfinite().all()


def test_a_well_placed_winner_keeps_a_loss_above_zero_where_one_minus_sigmoid_loses_it():
    reward = torch.tensor([30.0])
    loss = apo_zero_loss(reward, torch.full((1,), -1e4), beta=1.0)
    assert loss.item() == pytest.approx(math.exp(-30), rel=1e-4)


@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_beta_scales_the_log_ratios_and_nothing_else(loss):
    chosen, rejected = logratio_grid()
    torch.testing.assert_close(
        loss(chosen, rejected, beta=0.5), loss(5 * chosen, 5 * rejected, beta=0.1)
    )
