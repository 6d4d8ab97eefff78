"""The length-controlled win rate against brute force and simulated judges."""

import numpy as np
import pytest
from scipy.optimize import minimize

from clair_apo.evaluation.suites.length_control import (
    GamedRows,
    LengthWeights,
    fit_length_control,
)


def _logistic(x):
    return 1 / (1 + np.exp(-x))


def _comparisons(n, length=-1.5, difficulty=0.8, model=0.4, seed=0, longer=100):
    """Soft preferences of a judge with known effects, without noise."""
    rng = np.random.default_rng(seed)
    differences = rng.normal(longer, 300, n)
    hard = rng.normal(0, 1, n)
    terms = np.tanh(differences / differences.std(ddof=1))
    return _logistic(length * terms + difficulty * hard + model), differences, hard


def test_known_effects_of_a_judge_are_found_again():
    shares, differences, hard = _comparisons(400)
    found = fit_length_control(shares, differences, hard, strength=1e4)
    assert found.weights.length == pytest.approx(-1.5, abs=0.01)
    assert found.weights.difficulty == pytest.approx(0.8, abs=0.01)
    assert found.weights.model == pytest.approx(0.4, abs=0.01)
    assert found.win_rate() == pytest.approx(np.mean(_logistic(0.8 * hard + 0.4)), abs=1e-3)


def test_the_fit_is_the_minimum_of_the_penalised_log_loss():
    shares, differences, hard = _comparisons(60, seed=1)
    rng = np.random.default_rng(2)
    gamed = GamedRows(rng.normal(0, 1, 30), rng.normal(0, 1, 30), rng.uniform(0, 1, 30))

    def loss(w):
        own = w[0] * np.tanh(differences / differences.std(ddof=1)) + w[1] * hard + w[2]
        tied = w[0] * np.tanh(gamed.length_terms) + w[1] * gamed.difficulty
        terms = np.logaddexp(0, own) - shares * own
        others = np.logaddexp(0, tied) - gamed.preferences * tied
        return np.abs(w).sum() + 2.0 * (terms.sum() + 0.1 * others.sum())

    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-6}).x
    found = fit_length_control(shares, differences, hard, gamed, strength=2.0).weights
    assert [found.length, found.difficulty, found.model] == pytest.approx(best, abs=2e-3)


def test_wins_that_come_from_length_alone_are_none_at_equal_length():
    # the model's answers are 300 characters longer on average
    shares, differences, _ = _comparisons(300, difficulty=0.0, model=0.0, longer=-300)
    found = fit_length_control(shares, differences)
    assert shares.mean() > 0.65
    assert found.win_rate() == pytest.approx(0.5, abs=0.01)
    assert found.weights.difficulty == 0


def test_the_weakest_of_ten_penalties_is_chosen_where_there_is_no_noise():
    shares, differences, hard = _comparisons(200)
    assert fit_length_control(shares, differences, hard).strength == pytest.approx(1e4)


def test_a_strong_penalty_draws_the_rate_to_one_half():
    shares, differences, hard = _comparisons(50, model=2.0)
    assert fit_length_control(shares, differences, hard, strength=1e-4).win_rate() == 0.5
    assert fit_length_control(shares, differences, hard, strength=1e4).win_rate() > 0.8


def test_a_row_without_verdict_is_predicted_and_not_fitted():
    shares, differences, hard = _comparisons(50)
    whole = fit_length_control(shares, differences, hard, strength=100.0)
    lost = shares.copy()
    lost[0] = np.nan
    found = fit_length_control(lost, differences, hard, strength=100.0)
    assert found.weights.model == pytest.approx(whole.weights.model, abs=0.02)
    assert len(found.weights.predicted(hard)) == 50
    assert found.win_rate() == pytest.approx(float(found.weights.predicted(hard).mean()), abs=1e-12)


def test_a_bootstrap_of_all_rows_once_is_the_fit_itself():
    shares, differences, hard = _comparisons(50)
    found = fit_length_control(shares, differences, hard)
    assert found.win_rate_on(range(50)) == pytest.approx(found.win_rate(), abs=1e-9)
    assert found.win_rate_on(range(25)) != pytest.approx(found.win_rate(), abs=1e-9)
    assert np.isnan(found.win_rate_on([3] * 50))


def test_published_weights_alone_predict_a_win_rate():
    weights = LengthWeights(length=-1.0, difficulty=2.0, model=0.5)
    assert weights.predicted(np.array([0.0, 1.0])) == pytest.approx(
        [_logistic(0.5), _logistic(2.5)]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0] * 4, [1.0, 2, 3, 4]), "at least 5"),
        (([1.0] * 5, [1.0, 2, 3, 4]), "as many"),
        (([1.0] * 5, [7.0] * 5), "no effect"),
        (([float("nan")] * 6, [1.0, 2, 3, 4, 5, 6]), "at least 5"),
    ],
)
def test_what_cannot_be_fitted_says_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_length_control(*arguments)


def test_gamed_rows_without_difficulties_are_refused():
    gamed = GamedRows(np.zeros(1), np.zeros(1), np.zeros(1))
    with pytest.raises(ValueError, match="difficulty"):
        fit_length_control([1.0, 0, 1, 0, 1], [1.0, 2, 3, 4, 5], gamed=gamed)
