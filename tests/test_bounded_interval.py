"""The interval of values from 0 to 1: Student's, or Wilson's where nothing varies."""

import pytest

from clair_apo.stats import bounded_interval, mean_interval, proportion_interval


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
