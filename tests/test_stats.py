"""Means and shares with their intervals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from clair_apo.stats import Interval, Share, mean_interval, share_interval

values = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30)


@given(values, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_is_students_t_interval(numbers, confidence):
    found = mean_interval(numbers, confidence)
    error = stats.sem(numbers)
    assert found.n == len(numbers)
    assert found.mean == pytest.approx(np.mean(numbers), abs=1e-6)
    if error > 1e-9:
        low, high = stats.t.interval(confidence, len(numbers) - 1, np.mean(numbers), error)
        assert found.low == pytest.approx(low, rel=1e-9, abs=1e-6)
        assert found.high == pytest.approx(high, rel=1e-9, abs=1e-6)


def test_two_values_have_the_interval_of_the_cauchy_quantile():
    # with one degree of freedom t is Cauchy: its 97.5 % quantile is tan(0.475 pi)
    found = mean_interval([0.0, 2.0])
    half = math.tan(0.475 * math.pi) * math.sqrt(2) / math.sqrt(2)
    assert (found.n, found.mean, found.clusters) == (2, 1.0, 2)
    assert found.high - 1 == pytest.approx(half)
    assert 1 - found.low == pytest.approx(half)


def test_about_95_of_100_intervals_hold_the_mean():
    rng = np.random.default_rng(0)
    held = sum(
        found.low <= 3.0 <= found.high
        for found in (mean_interval(rng.normal(3.0, 2.0, 8).tolist()) for _ in range(2000))
    )
    # binomial: 1900 expected, standard deviation 9.7; five of them
    assert abs(held - 1900) < 5 * math.sqrt(2000 * 0.95 * 0.05)


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert mean_interval([2.5]) == Interval(n=1, mean=2.5, low=None, high=None, clusters=1)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_an_interval_is_written_with_its_n():
    assert str(Interval(n=1, mean=2.5, low=None, high=None)) == "+2.500 (n=1)"
    assert str(Interval(n=9, mean=-1, low=-2, high=0)) == "-1.000 [-2.000, +0.000] (n=9)"


def test_a_share_has_wilsons_interval():
    # the interval holds every p whose z score against the share is below z
    n, count, z = 50, 9, stats.norm.ppf(0.975)
    found = share_interval(count, n)
    assert found.value == 9 / 50
    for p in (found.low, found.high):
        assert abs(count / n - p) / math.sqrt(p * (1 - p) / n) == pytest.approx(z)


@pytest.mark.parametrize("count", [0, 7])
def test_none_or_all_of_a_few_is_no_certainty(count):
    found = share_interval(count, 7)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.2


def test_of_nothing_nothing_is_known_and_more_than_all_is_no_share():
    assert share_interval(0, 0) == Share(n=0, count=0, low=0, high=1)
    for count in (-1, 3):
        with pytest.raises(ValueError, match="no share"):
            share_interval(count, 2)


def test_a_share_is_written_in_percent_with_its_n():
    assert str(Share(n=8, count=2, low=0.1, high=0.5)) == "25.0% [10.0%, 50.0%] (n=8)"
