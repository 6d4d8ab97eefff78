"""Agreement beyond chance, against the formulas and published examples."""

import math

import numpy as np
import pytest

from clair_apo.agreement import (
    alpha_interval,
    cohens_kappa,
    kappa_interval,
    krippendorffs_alpha,
    why_undefined,
)

# four raters, twelve units: the example of Krippendorff, "Computing Krippendorff's
# Alpha-Reliability" (2011); its nominal alpha is 0.743, ordinal 0.815, interval 0.849
A = [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None]
B = [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3]
C = [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None]
D = [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None]


def _two_raters(n, agreement, seed=0):
    """Two raters of three categories; the second copies the first with some probability."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 3, n)
    second = np.where(rng.random(n) < agreement, first, rng.integers(0, 3, n))
    return first.tolist(), second.tolist()


def test_kappa_is_what_is_left_of_agreement_after_chance():
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    observed, chance = 35 / 50, 0.5 * 0.6 + 0.5 * 0.4
    assert cohens_kappa(first, second) == pytest.approx((observed - chance) / (1 - chance))


def test_raters_who_agree_have_1_and_raters_who_guess_have_0():
    first, guess = _two_raters(4000, agreement=0.0)
    assert cohens_kappa(first, first) == 1
    assert abs(cohens_kappa(first, guess)) < 0.05
    assert krippendorffs_alpha([first, first]) == 1
    assert abs(krippendorffs_alpha([first, guess])) < 0.05


def test_raw_agreement_of_90_percent_can_be_no_agreement():
    first = ["good"] * 90 + ["bad"] * 5 + ["good"] * 5
    second = ["good"] * 90 + ["good"] * 5 + ["bad"] * 5
    assert cohens_kappa(first, second) < 0


@pytest.mark.parametrize(
    ("level", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_of_the_published_example(level, expected):
    assert krippendorffs_alpha([A, B, C, D], level) == pytest.approx(expected, abs=5e-4)


def test_names_are_categories_too():
    names = [None if v is None else f"grade {v}" for v in A]
    others = [None if v is None else f"grade {v}" for v in B]
    assert krippendorffs_alpha([names, others]) == pytest.approx(krippendorffs_alpha([A, B]))


def test_an_interval_counts_the_units_that_two_have_rated():
    found = alpha_interval([A, B, C, D], "interval", draws=200)
    assert found.n == 11  # the last unit has one rating
    assert found.low < found.mean == pytest.approx(0.849, abs=5e-4)
    assert found.low < found.mean < found.high


def test_the_bootstrap_of_kappa_has_the_asymptotic_error():
    first, second = _two_raters(400, agreement=0.6)
    found = kappa_interval(first, second, draws=250)
    # for categories that are equally frequent the error is nearly sqrt(p (1 - p) / n) / (1 - pe)
    agreed = np.mean(np.asarray(first) == np.asarray(second))
    error = math.sqrt(agreed * (1 - agreed) / 400) / (1 - 1 / 3)
    assert found.n == found.clusters == 400
    assert found.standard_error == pytest.approx(error, rel=0.2)
    assert found.low < found.mean < found.high


def test_units_that_stand_in_clusters_make_the_interval_wider():
    first, second = _two_raters(100, agreement=0.6)
    clusters = [unit for unit in range(100) for _ in range(4)]
    four = [[value for value in one for _ in range(4)] for one in (first, second)]
    for found in (
        kappa_interval(*four, clusters=clusters, draws=200),
        alpha_interval(four, clusters=clusters, draws=200),
    ):
        assert (found.n, found.clusters) == (400, 100)
        # every row stands there four times: the naive error is half the true one
        assert found.standard_error == pytest.approx(2 * found.standard_error_naive, rel=0.2)


def test_one_category_only_has_no_coefficient_and_says_so():
    ties = ["tie"] * 6
    assert math.isnan(cohens_kappa(ties, ties))
    assert math.isnan(krippendorffs_alpha([ties, ties]))
    for call in (lambda: kappa_interval(ties, ties), lambda: alpha_interval([ties, ties])):
        with pytest.raises(ValueError, match="all 12 ratings are 'tie'"):
            call()


def test_a_rater_who_always_says_the_same_agrees_by_chance():
    assert cohens_kappa(["a"] * 4, ["a", "b", "a", "b"]) == 0
    assert why_undefined([["a"] * 4, ["a", "b", "a", "b"]]) == ""


def test_units_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="3 and 2 ratings"):
        cohens_kappa([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="0 and 0"):
        cohens_kappa([], [])
    with pytest.raises(ValueError, match="each must have all"):
        krippendorffs_alpha([[1, 2, 3], [1, 2]])
    with pytest.raises(ValueError, match="no unit"):
        krippendorffs_alpha([[1, None], [None, 2]])
    assert why_undefined([[1, None], [None, 2]]) == "no unit was rated by two raters"
