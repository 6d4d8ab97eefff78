"""The interval of values from 0 to 1: Student's, or Wilson's where nothing varies."""

import pytest

from clair_apo.stats import (
    bounded_interval,
    mean_interval,
    paired_bounded_interval,
    paired_interval,
    proportion_interval,
)


def test_where_values_vary_it_is_students_cut_at_the_bounds():
    values = [1.0, 0.5, 1.0]
    found, students = bounded_interval(values), mean_interval(values)
    assert students.high > 1.0
    assert (found.low, found.high) == (students.low, 1.0)
    assert found.standard_error == students.standard_error


@pytest.mark.parametrize("n", [1, 2, 7])
def test_where_none_varies_it_is_wilsons(n):
    found, wilsons = bounded_interval([1.0] * n), proportion_interval([1.0] * n)
    assert (found.low, found.high) == (wilsons.low, wilsons.high)


def test_one_cluster_is_one_value_however_many_rows_it_has():
    found = bounded_interval([1.0, 0.9, 0.8], clusters=["a"] * 3)
    one = bounded_interval([0.9])
    assert (found.low, found.high) == (pytest.approx(one.low), pytest.approx(one.high))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_another_value_is_refused(value):
    with pytest.raises(ValueError, match="between 0 and 1"):
        bounded_interval([0.5, value])


def test_differences_that_vary_have_students_interval():
    first, second = [1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.5]
    found, students = paired_bounded_interval(first, second), paired_interval(first, second)
    assert found == students


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        (1.0, 0.0, 1 - 2 * (1 - 0.92444), 1.0),
        (0.5, 0.5, -(1 - 0.92444), 1 - 0.92444),
        (0.0, 1.0, -1.0, 2 * (1 - 0.92444) - 1),
    ],
)
def test_a_difference_that_is_the_same_in_all_rows_is_not_certain(first, second, low, high):
    # by hand: Wilson's lower bound for 47 of 47 is 1 / (1 + 1.96^2 / 47) = 0.92444
    found = paired_bounded_interval([first] * 47, [second] * 47)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_difference_of_one_cluster_is_one_difference():
    found = paired_bounded_interval([1.0, 1.0], [0.0, 0.5], clusters=["a", "a"])
    one = paired_bounded_interval([1.0], [0.25])
    assert (found.low, found.high) == (pytest.approx(one.low), pytest.approx(one.high))


def test_differences_are_made_of_values_from_0_to_1():
    with pytest.raises(ValueError, match="between 0 and 1"):
        paired_bounded_interval([2.0, 0.0], [1.0, 0.0])
