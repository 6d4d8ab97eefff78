"""Figures of an evaluation: pairs of models, and statistics without a value."""

import pytest

from clair_apo.errors import DataError
from clair_apo.evaluation.suites.figures import RowFigure, StatisticFigure


def test_two_means_are_compared_on_the_rows_that_both_have():
    first = RowFigure({"a": 1.0, "b": 0.0, "c": 1.0}, factor=100)
    second = RowFigure({"c": 0.0, "a": 0.5, "d": 1.0}, factor=100)
    found = first.minus(second)
    assert (found.n, found.mean) == (2, 75)
    with pytest.raises(DataError, match="no row in common"):
        first.minus(RowFigure({"x": 1.0}))


def test_a_statistic_without_value_is_told_as_wrong_data():
    def needs_two(ids):
        return float("nan") if len(set(ids)) < 2 else float(len(set(ids)))

    figure = StatisticFigure(["a", "b", "c"], needs_two, draws=20)
    assert figure.interval().mean == 3
    with pytest.raises(DataError, match="no value"):
        StatisticFigure(["a"], needs_two, draws=20).interval()
    with pytest.raises(DataError, match="no value"):
        figure.minus(StatisticFigure(["c", "d"], needs_two, draws=20))


def test_preferences_that_are_all_the_same_leave_an_interval():
    ties = RowFigure({str(n): 0.5 for n in range(20)}, unit=True, factor=100)
    found = ties.interval()
    assert found.low < 45 < 55 < found.high
    always = RowFigure({str(n): 1.0 for n in range(20)}, unit=True, factor=100)
    assert always.minus(ties).low < 50


def test_a_figure_beyond_1_is_compared_without_bounds():
    share, count = RowFigure({"a": 0.5, "b": 1.0}, unit=True), RowFigure({"a": 3.0, "b": 5.0})
    assert count.minus(share).mean == 3.25
