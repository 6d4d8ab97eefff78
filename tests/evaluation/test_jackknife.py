"""The jackknife: of a mean it is Student's interval; of a statistic of a body of rows, its own."""

import numpy as np
import pytest

from clair_apo.evaluation.suites.figures import StatisticFigure
from clair_apo.stats import jackknife_interval, mean_interval

VALUES = np.array([1.0, 4.0, 2.0, 8.0, 5.0, 7.0])


def test_the_jackknife_of_a_mean_is_the_t_interval_of_the_mean():
    found = jackknife_interval(lambda rows: float(VALUES[rows].mean()), len(VALUES))
    expected = mean_interval(list(VALUES))
    assert found.model_dump() == pytest.approx(expected.model_dump())


def test_the_jackknife_leaves_out_whole_clusters():
    clusters = ["a", "a", "b", "b", "c", "c"]
    found = jackknife_interval(lambda rows: float(VALUES[rows].mean()), 6, clusters=clusters)
    expected = mean_interval(list(VALUES), clusters=clusters)
    assert found.clusters == 3
    assert found.standard_error == pytest.approx(expected.standard_error)
    assert found.standard_error_naive == pytest.approx(expected.standard_error_naive)


def test_no_row_is_there_twice_in_a_jackknife_figure():
    seen = []

    def statistic(ids):
        seen.append(list(ids))
        return float(len(set(ids)))

    StatisticFigure([f"row {n}" for n in range(80)], statistic, jackknife=True).interval()
    assert all(len(set(ids)) == len(ids) for ids in seen)
    assert len(seen) == 51  # the whole, and without each of fifty groups
