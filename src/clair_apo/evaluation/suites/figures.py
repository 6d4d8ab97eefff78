"""The figures of an evaluation: means over rows and other statistics of them, with intervals.

Two models are compared on the rows that both have, by the paired difference.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from clair_apo.errors import DataError
from clair_apo.stats import (
    Interval,
    bootstrap_interval,
    bounded_interval,
    jackknife_interval,
    mean_interval,
    paired_bounded_interval,
    paired_interval,
    proportion_interval,
)


@dataclass(frozen=True)
class RowFigure:
    """A mean over rows of one model.

    Attributes:
        values: by the row's id; two models' rows with the same id are a pair.
        clusters: the cluster of each row, by id; None where every row stands alone.
        unit: whether values are from 0 to 1 by nature, as shares and preferences are; the interval
            is then within 0 and 1, and Wilson's where every value is 0 or 1.
        factor: what values are multiplied by: 100 for figures in points.
    """

    values: Mapping[str, float]
    clusters: Mapping[str, str] | None = None
    unit: bool = False
    factor: float = 1.0

    def interval(self, confidence: float = 0.95) -> Interval:
        """The mean with its interval.

        Raises:
            DataError: there are no rows.
        """
        rows = _some(list(self.values))
        values = [self.values[row] for row in rows]
        make = mean_interval
        if self.unit:
            make = proportion_interval if set(values) <= {0.0, 1.0} else bounded_interval
        return make(values, confidence, _of(self.clusters, rows)).times(self.factor)

    def minus(self, other: "RowFigure", confidence: float = 0.95) -> Interval:
        """This model's mean minus another's, paired by row.

        Raises:
            DataError: no row is in both.
        """
        rows = _shared(list(self.values), other.values)
        both = self.unit and other.unit
        make = paired_bounded_interval if both else paired_interval
        return make(
            [self.values[row] for row in rows],
            [other.values[row] for row in rows],
            confidence,
            _of(self.clusters, rows),
        ).times(self.factor)


@dataclass(frozen=True)
class StatisticFigure:
    """A figure of one model that is no mean, such as kappa; its interval is a bootstrap's.

    Attributes:
        rows: the ids of the rows.
        statistic: the figure from ids, some of them repeated; nan where they give none.
        clusters: the cluster of each row, by id; None where every row stands alone.
        draws: data sets that are drawn.
        jackknife: take a jackknife's interval, for a statistic to which a row that is there twice
            says something else; then no id is repeated.
    """

    rows: Sequence[str]
    statistic: Callable[[Sequence[str]], float]
    clusters: Mapping[str, str] | None = None
    draws: int = 1000
    jackknife: bool = False

    def interval(self, confidence: float = 0.95) -> Interval:
        """The figure with its interval.

        Raises:
            DataError: there are no rows, or the figure has no value on them.
        """
        return self._interval(_some(list(self.rows)), self.statistic, confidence)

    def minus(self, other: "StatisticFigure", confidence: float = 0.95) -> Interval:
        """This model's figure minus another's, both on the same drawn rows.

        Raises:
            DataError: no row is in both.
        """
        rows = _shared(list(self.rows), dict.fromkeys(other.rows))
        return self._interval(
            rows, lambda ids: self.statistic(ids) - other.statistic(ids), confidence
        )

    def _interval(
        self, rows: list[str], statistic: Callable[[Sequence[str]], float], confidence: float
    ) -> Interval:
        def of_numbers(numbers: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> float:
            return statistic([rows[number] for number in numbers])

        clusters = _of(self.clusters, rows)
        if self.jackknife:
            return jackknife_interval(of_numbers, len(rows), confidence, clusters)
        try:
            return bootstrap_interval(of_numbers, len(rows), confidence, clusters, draws=self.draws)
        except ValueError as error:  # such as on the few rows that two models share
            raise DataError(str(error)) from None


@dataclass(frozen=True)
class Unavailable:
    """A figure that could not be measured, and why; it stands in place of a number."""

    reason: str


Figure = RowFigure | StatisticFigure | Unavailable


def mean_figure(figures: Sequence[Figure]) -> Figure:
    """The mean of one figure of several models, row by row on the rows that all have.

    Args:
        figures: of models that were measured alike, such as the checkpoints of a run.
    """
    rows = [one for one in figures if isinstance(one, RowFigure)]
    if len(rows) == len(figures):
        return mean_of_rows(rows)
    statistics = [one for one in figures if isinstance(one, StatisticFigure)]
    if len(statistics) == len(figures):
        one = statistics[0]
        ids = [id for id in one.rows if all(id in set(other.rows) for other in statistics)]
        mean = partial(_mean_statistic, statistics)
        return StatisticFigure(ids, mean, one.clusters, one.draws, one.jackknife)
    missing = next((one for one in figures if isinstance(one, Unavailable)), None)
    return missing or Unavailable("the models have figures of different kinds")


def mean_of_rows(rows: Sequence[RowFigure]) -> RowFigure:
    """The same for means over rows."""
    first = rows[0]
    shared = [id for id in first.values if all(id in one.values for one in rows)]
    means = {id: sum(one.values[id] for one in rows) / len(rows) for id in shared}
    return RowFigure(means, first.clusters, first.unit, first.factor)


def _mean_statistic(statistics: Sequence[StatisticFigure], ids: Sequence[str]) -> float:
    return sum(one.statistic(ids) for one in statistics) / len(statistics)


def _of(clusters: Mapping[str, str] | None, rows: Sequence[str]) -> list[str] | None:
    return None if clusters is None else [clusters[row] for row in rows]


def _some(rows: list[str]) -> list[str]:
    if not rows:
        raise DataError("a figure needs at least one row, and there is none")
    return rows


def _shared(rows: list[str], others: Mapping[str, object]) -> list[str]:
    shared = [row for row in rows if row in others]
    if not shared:
        raise DataError("the two models have no row in common; evaluate both on the same data")
    return shared
