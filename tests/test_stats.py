"""Means and shares with their intervals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from clair_apo.stats import (
    Interval,
    Share,
    bootstrap_interval,
    mean_interval,
    paired_interval,
    proportion_interval,
    sample_size,
    share_interval,
)

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


def _brute_clustered_error(numbers, clusters):
    """Miller's double sum over pairs of values of the same cluster, with the factor C / (C - 1)."""
    n, mean, count = len(numbers), sum(numbers) / len(numbers), len(set(clusters))
    total = sum(
        (numbers[i] - mean) * (numbers[j] - mean)
        for i in range(n)
        for j in range(n)
        if clusters[i] == clusters[j]
    )
    return math.sqrt(count / (count - 1) * total) / n


clustered = st.lists(st.tuples(st.floats(-10, 10), st.integers(0, 4)), min_size=2, max_size=25)


@given(clustered)
def test_a_clustered_error_is_the_double_sum_over_pairs_in_clusters(rows):
    numbers, clusters = [value for value, _ in rows], [cluster for _, cluster in rows]
    found = mean_interval(numbers, clusters=clusters)
    assert (found.n, found.clusters) == (len(rows), len(set(clusters)))
    if found.clusters < 2:
        assert found.standard_error is found.low is found.high is None
        return
    expected = _brute_clustered_error(numbers, clusters)
    assert found.standard_error == pytest.approx(expected, abs=1e-9)
    half = stats.t.ppf(0.975, found.clusters - 1) * expected
    assert found.high - found.low == pytest.approx(2 * half, abs=1e-6)


def test_rows_that_are_repeated_k_times_know_no_more_than_once():
    numbers = np.random.default_rng(0).normal(size=12)
    once = mean_interval(numbers.tolist())
    repeated = mean_interval(np.repeat(numbers, 5).tolist(), clusters=[n // 5 for n in range(60)])
    assert repeated.standard_error == pytest.approx(once.standard_error)
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))
    # taken for 60 values, n and n - 1 differ
    naive = once.standard_error / math.sqrt(5) * math.sqrt(11 * 5 / 59)
    assert repeated.standard_error_naive == pytest.approx(naive)


def test_where_every_value_is_a_cluster_both_errors_are_one():
    found = mean_interval([1.0, 4.0, 2.0], clusters=["a", "b", "c"])
    assert found == mean_interval([1.0, 4.0, 2.0])
    assert found.standard_error == pytest.approx(found.standard_error_naive)


def test_a_pair_of_models_has_the_error_of_its_differences():
    rng = np.random.default_rng(1)
    first = rng.normal(size=40)
    second = first + rng.normal(0.3, 0.2, size=40)
    found = paired_interval(first.tolist(), second.tolist())
    assert found.mean == pytest.approx(np.mean(first - second))
    # variance of a difference: both variances less twice the covariance (Miller, section 4)
    covariance = np.cov(first, second)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert found.standard_error == pytest.approx(math.sqrt(variance / 40))
    low, high = stats.ttest_rel(first, second).confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high))


def test_a_pair_of_models_in_clusters_has_the_clustered_error_of_its_differences():
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(2, 30)).tolist()
    clusters = [n % 7 for n in range(30)]
    found = paired_interval(first, second, clusters=clusters)
    differences = [a - b for a, b in zip(first, second, strict=True)]
    assert found.standard_error == pytest.approx(_brute_clustered_error(differences, clusters))
    assert (found.n, found.clusters) == (30, 7)
    with pytest.raises(ValueError, match="same rows"):
        paired_interval(first, second[:-1])


@given(st.integers(1, 60), st.data())
def test_a_share_of_independent_values_has_scipys_wilson_interval(n, data):
    count = data.draw(st.integers(0, n))
    found = proportion_interval([1] * count + [0] * (n - count))
    expected = stats.binomtest(count, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert found.mean == pytest.approx(count / n)


def test_a_share_in_clusters_has_wilsons_interval_of_the_effective_number():
    # each of 30 values stands there four times: 120 values know as much as 30
    values = [int(n % 3 == 0) for n in range(30)]
    four = [value for value in values for _ in range(4)]
    found = proportion_interval(four, clusters=[n // 4 for n in range(120)])
    naive = mean_interval(four)
    effective = 120 * (naive.standard_error / found.standard_error) ** 2
    assert effective == pytest.approx(30 * (29 / 30) / (119 / 120))
    z2 = stats.norm.ppf(0.975) ** 2
    for p in (found.low, found.high):  # the score equation that defines the interval
        assert (found.mean - p) ** 2 == pytest.approx(z2 * p * (1 - p) / effective)
    alone = proportion_interval(four)
    assert found.high - found.low > 1.8 * (alone.high - alone.low)


def test_equal_values_in_clusters_count_as_many_as_there_are_clusters():
    found = proportion_interval([1] * 20, clusters=[n // 5 for n in range(20)])
    assert (found.mean, found.high) == (1, pytest.approx(1))
    assert found.low == pytest.approx(share_interval(4, 4).low)


def test_a_share_is_made_of_zeros_and_ones():
    assert proportion_interval([True, False]).mean == 0.5
    with pytest.raises(ValueError, match="zeros and ones"):
        proportion_interval([0.5, 1])


def test_a_bootstrap_of_a_mean_has_the_error_of_the_closed_form():
    rng = np.random.default_rng(3)
    effects = rng.normal(size=60)
    clusters = np.repeat(np.arange(60), 3)
    numbers = effects[clusters] + 0.3 * rng.normal(size=180)
    drawn = bootstrap_interval(lambda rows: numbers[rows].mean(), 180, clusters=clusters.tolist())
    exact = mean_interval(numbers.tolist(), clusters=clusters.tolist())
    assert drawn.mean == pytest.approx(exact.mean)
    assert (drawn.n, drawn.clusters) == (180, 60)
    # 2,000 draws know a standard deviation to 1.6 %
    assert drawn.standard_error == pytest.approx(exact.standard_error, rel=0.08)
    assert drawn.standard_error_naive == pytest.approx(exact.standard_error_naive, rel=0.08)
    assert drawn.high - drawn.low == pytest.approx(exact.high - exact.low, rel=0.1)


def test_about_95_of_100_bootstrap_intervals_hold_a_median_of_clustered_values():
    rng = np.random.default_rng(4)
    held = 0
    for seed in range(150):
        numbers = np.repeat(rng.normal(size=40), 2)  # every value twice: 40 clusters
        found = bootstrap_interval(
            lambda rows, numbers=numbers: float(np.median(numbers[rows])),
            80,
            clusters=[n // 2 for n in range(80)],
            draws=150,
            seed=seed,
        )
        held += found.low <= 0 <= found.high
    # 142.5 expected; a bootstrap that took 80 rows for independent would hold about 120
    assert 133 <= held <= 150


def test_a_bootstrap_is_the_same_for_the_same_seed_and_leaves_out_draws_without_value():
    numbers = np.arange(10.0)

    def ratio(rows):
        below = (numbers[rows] < 5).sum()
        return float("nan") if below == len(rows) else float(below / (len(rows) - below))

    found = [bootstrap_interval(ratio, 10, draws=500, seed=seed) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    assert found[0].mean == 1
    assert math.isfinite(found[0].standard_error)
    with pytest.raises(ValueError, match="no value"):
        bootstrap_interval(lambda _: float("nan"), 3)


def test_one_cluster_gives_a_figure_without_interval():
    found = bootstrap_interval(lambda rows: float(len(rows)), 3, clusters=["a"] * 3)
    assert found == Interval(n=3, mean=3, low=None, high=None, clusters=1)


@pytest.mark.parametrize("call", [mean_interval, proportion_interval])
def test_every_value_needs_its_cluster(call):
    with pytest.raises(ValueError, match="2 values have 1 clusters"):
        call([0, 1], clusters=["a"])


@pytest.mark.parametrize(
    ("share", "deviation", "expected"),
    # of AlpacaEval's soft preferences near these win rates: standard deviation 0.38 to 0.42
    [(0.30, 0.39, 15), (0.70, 0.38, 14), (0.513, 0.42, 4010)],
)
def test_the_rows_that_it_takes_to_leave_one_half(share, deviation, expected):
    assert sample_size(share - 0.5, deviation, power=0.5) == expected


def test_the_sample_size_finds_the_difference_as_often_as_was_asked():
    n = sample_size(0.5, 1.0, power=0.8)
    rng = np.random.default_rng(5)
    means = [mean_interval(rng.normal(0.5, 1.0, n).tolist()) for _ in range(1500)]
    found = sum(one.low > 0 for one in means) / 1500
    # t in place of z costs a little at n = 32; five standard deviations of 0.01
    assert n == 32
    assert found == pytest.approx(0.79, abs=0.05)


def test_clusters_and_certainty_cost_rows():
    plain = sample_size(0.1, 1.0)
    assert plain == math.ceil((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 * 100)
    assert sample_size(0.1, 1.0, design_effect=2.0) == pytest.approx(2 * plain, abs=1)
    assert sample_size(0.1, 1.0, confidence=0.99) > plain
    assert sample_size(-0.1, 1.0) == plain
    assert sample_size(100.0, 1.0) == 2
    with pytest.raises(ValueError, match="no number of rows"):
        sample_size(0.0, 1.0)


def test_an_interval_in_points_is_a_hundred_times_the_share():
    found = mean_interval([0.0, 1.0, 1.0], clusters=["a", "a", "b"]).times(100)
    share = mean_interval([0.0, 1.0, 1.0], clusters=["a", "a", "b"])
    for name in ("mean", "low", "high", "standard_error", "standard_error_naive"):
        assert getattr(found, name) == pytest.approx(100 * getattr(share, name))
    assert (found.n, found.clusters) == (3, 2)
    assert mean_interval([2.0]).times(100).low is None


def test_an_interval_says_how_many_clusters_it_has():
    found = Interval(n=9, mean=1, low=0, high=2, clusters=3)
    assert str(found) == "+1.000 [+0.000, +2.000] (n=9, 3 clusters)"
