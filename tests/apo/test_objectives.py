import math

import pytest
import torch

from clair_apo.apo.objectives import (
    OBJECTIVES,
    PAIR_OBJECTIVES,
    SATURATED_MARGIN,
    SATURATED_REWARD,
    Objective,
    apo_down_loss,
    apo_zero_loss,
    apo_zero_unpaired_loss,
    dpo_loss,
    sft_loss,
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


def test_sft_is_the_negative_log_likelihood_of_each_token_with_its_gradient():
    logps = torch.tensor([-6.0, -20.0], dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([3.0, 5.0], dtype=torch.float64)
    losses = sft_loss(logps, tokens)
    assert losses.tolist() == [6 / 3, 20 / 5]
    (gradient,) = torch.autograd.grad(losses.sum(), logps)
    assert gradient.tolist() == [-1 / 3, -1 / 5], "it raises every winner"
    assert torch.autograd.gradcheck(lambda x: sft_loss(x, tokens), (logps,))


def test_sft_with_the_mean_length_of_the_batch_is_the_mean_over_its_tokens_however_it_is_split():
    generator = torch.Generator().manual_seed(0)
    logps = -10 * torch.rand(6, generator=generator, dtype=torch.float64)
    tokens = torch.tensor([1.0, 9.0, 2.0, 2.0, 30.0, 4.0], dtype=torch.float64)
    over_tokens = -logps.sum() / tokens.sum()
    for sizes in ([6], [1, 5], [2, 2, 2]):
        parts = [sft_loss(part, tokens.mean()) for part in logps.split(sizes)]
        torch.testing.assert_close(torch.cat(parts).mean(), over_tokens)
    by_batches = torch.stack([-part.sum() / n.sum() for part, n in _halves(logps, tokens)]).mean()
    assert abs(by_batches - over_tokens) > 0.01, "a mean of means is something else"


def _halves(*columns):
    return zip(*(column.split(3) for column in columns), strict=True)


def mixed(*weights, beta=0.1, **options) -> Objective:
    return Objective(weights, beta=beta, **options)


def losses_of(objective, chosen, rejected, tokens):
    """Anchored part and sft term of pairs whose reference gives every answer -3."""
    ratios = [objective.log_ratios(x, torch.full_like(x, -3), tokens) for x in (chosen, rejected)]
    return objective.anchored(*ratios), objective.sft(chosen, tokens, tokens.mean())


def test_a_mix_is_the_weighted_sum_of_its_objectives():
    chosen, rejected = logratio_grid()
    tokens = torch.arange(1, 1 + len(chosen)).double()
    alone = {n: sum(losses_of(mixed((n, 1.0)), chosen, rejected, tokens)) for n in OBJECTIVES}
    weights = {"apo_zero": 0.7, "apo_down": -0.2, "sigmoid": 0.4, "sft": 0.3}
    anchored, sft = losses_of(mixed(*weights.items()), chosen, rejected, tokens)
    torch.testing.assert_close(anchored + sft, sum(w * alone[n] for n, w in weights.items()))
    torch.testing.assert_close(sft, 0.3 * alone["sft"])
    at_zero = 0.7 * 1 - 0.2 * 1 + 0.4 * math.log(2)
    assert mixed(*weights.items()).at_zero == pytest.approx(at_zero)
    assert mixed(("sft", 1.0)).at_zero == 0


@pytest.mark.parametrize("name", PAIR_OBJECTIVES)
def test_length_normalisation_divides_each_log_ratio_by_its_tokens(name):
    logps, tokens = torch.tensor([-8.0, -43.0]).double(), torch.tensor([5.0, 10.0]).double()
    normalized = mixed((name, 1.0), beta=5.0, length_normalize=True)
    assert normalized.log_ratios(logps, logps - 20, tokens).tolist() == [4.0, 2.0]
    found, _ = losses_of(normalized, logps, logps.flip(0), tokens)
    expected = [
        CLOSED_FORMS[name](5.0 * (w + 3) / n, 5.0 * (v + 3) / n)
        for w, v, n in zip(logps.tolist(), logps.flip(0).tolist(), tokens.tolist(), strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(expected).double())


def test_length_normalised_sft_is_a_mean_over_answers_not_over_tokens():
    logps, tokens = torch.tensor([-2.0, -90.0]).double(), torch.tensor([1.0, 9.0]).double()
    _, by_answer = losses_of(mixed(("sft", 1.0), length_normalize=True), logps, logps, tokens)
    _, by_token = losses_of(mixed(("sft", 1.0)), logps, logps, tokens)
    assert by_answer.mean().item() == pytest.approx((2 / 1 + 90 / 9) / 2)
    assert by_token.mean().item() == pytest.approx((2 + 90) / (1 + 9))


def test_a_term_is_saturated_where_its_gradient_factor_is_under_a_tenth_of_its_most():
    assert d(SATURATED_REWARD) == pytest.approx(0.25 / 10)
    assert s(-SATURATED_MARGIN) == pytest.approx(1 / 10)
    assert pytest.approx(3.637, abs=5e-4) == SATURATED_REWARD


@pytest.mark.parametrize("name", PAIR_OBJECTIVES)
def test_saturation_counts_the_terms_that_hardly_pull(name):
    chosen, rejected = (0.2 * x for x in logratio_grid())
    pairs = list(zip(chosen.tolist(), rejected.tolist(), strict=True))
    factors = {
        "apo_zero": [d(x) < 0.025 for pair in pairs for x in pair],
        "apo_down": [d(x) < 0.025 for w, v in pairs for x in (w, w - v)],
        "sigmoid": [s(v - w) < 0.1 for w, v in pairs],
    }[name]
    expected = sum(factors) / len(factors)
    assert 0 < expected < 1
    assert mixed((name, 1.0)).saturation(chosen, rejected) == pytest.approx(expected)


def test_a_mix_counts_the_terms_of_all_its_objectives_and_sft_has_none():
    far, near = torch.tensor([9.0]), torch.tensor([0.0])
    assert mixed(("apo_zero", 1.0), ("sft", 1.0)).saturation(far, near) == 1 / 2
    assert mixed(("apo_zero", 1.0), ("sigmoid", 1.0)).saturation(far, near) == pytest.approx(2 / 3)
    assert mixed(("sft", 1.0)).saturation(far, near) == 0


SMOOTHED = {
    "apo_zero": lambda w, v, e: (1 - e) * (1 - s(w) + s(v)) + e * (1 - s(v) + s(w)),
    "apo_down": lambda w, v, e: (1 - e) * (s(w) + 1 - s(w - v)) + e * (s(v) + 1 - s(v - w)),
    "sigmoid": lambda w, v, e: -(1 - e) * math.log(s(w - v)) - e * math.log(s(v - w)),
}


@pytest.mark.parametrize("name", PAIR_OBJECTIVES)
def test_label_smoothing_mixes_in_the_loss_of_the_pair_with_its_sides_swapped(name):
    chosen, rejected = logratio_grid()
    smoothed = mixed((name, 2.0), label_smoothing=0.2)
    expected = [
        2 * SMOOTHED[name](0.1 * w, 0.1 * v, 0.2)
        for w, v in zip(chosen.tolist(), rejected.tolist(), strict=True)
    ]
    found = smoothed.anchored(chosen, rejected)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    zero = torch.zeros(1, dtype=torch.float64)
    assert smoothed.anchored(zero, zero).item() == pytest.approx(smoothed.at_zero)


def test_smoothed_dpo_has_its_lowest_loss_at_the_margin_that_the_chance_says():
    lowest = torch.tensor([math.log(0.8 / 0.2) / 0.1], dtype=torch.float64, requires_grad=True)
    smoothed = mixed(("sigmoid", 1.0), label_smoothing=0.2)
    for offset, sign in ((-1.0, -1), (0.0, 0), (1.0, 1)):
        loss = smoothed.anchored(lowest + offset, torch.zeros_like(lowest)).sum()
        (gradient,) = torch.autograd.grad(loss, lowest)
        assert torch.where(gradient.abs() < 1e-12, 0, gradient).sign().item() == sign


def test_smoothed_apo_zero_is_apo_zero_with_a_smaller_gradient_and_nothing_else():
    chosen, rejected = logratio_grid()
    smoothed = mixed(("apo_zero", 1.0), label_smoothing=0.2).anchored(chosen, rejected)
    torch.testing.assert_close(smoothed, 0.6 * apo_zero_loss(chosen, rejected, beta=0.1) + 0.4)


def test_label_smoothing_leaves_the_sft_term_alone():
    logps, tokens = torch.tensor([-6.0, -20.0]), torch.tensor([3.0, 5.0])
    plain, smoothed = (mixed(("sft", 0.3), label_smoothing=e) for e in (0.0, 0.2))
    assert torch.equal(
        plain.sft(logps, tokens, tokens.mean()), smoothed.sft(logps, tokens, tokens.mean())
    )


def test_saturation_counts_both_labellings_by_their_chances():
    far, near = torch.tensor([9.0]), torch.tensor([0.0])
    smoothed = mixed(("sigmoid", 1.0), label_smoothing=0.2)
    assert smoothed.saturation(far, near) == pytest.approx(0.8), "swapped it still pulls"
    assert smoothed.saturation(near, far) == pytest.approx(0.2)
    assert mixed(("apo_down", 1.0), label_smoothing=0.2).saturation(far, near) == pytest.approx(
        0.8 * 1 + 0.2 * 1 / 2
    )
