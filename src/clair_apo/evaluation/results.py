"""Makes the numbers of `evaluation.json` from what suites measured: intervals and differences."""

from collections.abc import Mapping, Sequence
from typing import Any

from clair_apo.errors import DataError
from clair_apo.evaluation.suites.base import SuiteResult
from clair_apo.evaluation.suites.figures import Figure, RowFigure, StatisticFigure, Unavailable
from clair_apo.stats import Interval

Entry = dict[str, Any]
"""One figure: the fields of an `Interval`, or `{"unavailable": why}`."""


def suite_numbers(result: SuiteResult, models: Sequence[str]) -> dict[str, Any]:
    """The entry of a suite in `evaluation.json`.

    Args:
        result: what it measured.
        models: their names, the one in question first.

    Returns:
        By model its figures, then `differences`, `remarks` and `counts`.
    """
    figures = {name: result.figures[name] for name in models if name in result.figures}
    found: dict[str, Any] = {name: figure_numbers(of) for name, of in figures.items()}
    first, *others = models
    found["differences"] = {
        f"{first} - {other}": difference_numbers(figures[first], figures[other])
        for other in others
        if first in figures and other in figures
    }
    found["remarks"] = list(result.remarks)
    found["counts"] = {name: dict(counts) for name, counts in result.counts.items()}
    return found


def figure_numbers(figures: Mapping[str, Figure], confidence: float = 0.95) -> dict[str, Entry]:
    """Every figure of a model with its interval."""
    return {name: _entry(figure, confidence) for name, figure in figures.items()}


def difference_numbers(
    first: Mapping[str, Figure], second: Mapping[str, Figure], confidence: float = 0.95
) -> dict[str, Entry]:
    """Every figure that two models have, the first one's minus the second one's, paired by row."""
    return {
        name: _difference(figure, second[name], confidence)
        for name, figure in first.items()
        if name in second
    }


def _entry(figure: Figure, confidence: float) -> Entry:
    if isinstance(figure, Unavailable):
        return {"unavailable": figure.reason}
    try:
        return _numbers(figure.interval(confidence))
    except DataError as error:
        return {"unavailable": str(error)}


def _difference(first: Figure, second: Figure, confidence: float) -> Entry:
    for figure in (first, second):
        if isinstance(figure, Unavailable):
            return {"unavailable": figure.reason}
    try:
        if isinstance(first, RowFigure) and isinstance(second, RowFigure):
            return _numbers(first.minus(second, confidence))
        if isinstance(first, StatisticFigure) and isinstance(second, StatisticFigure):
            return _numbers(first.minus(second, confidence))
    except DataError as error:
        return {"unavailable": str(error)}
    return {"unavailable": "the two models have figures of different kinds"}


def _numbers(interval: Interval) -> Entry:
    order = ("mean", "low", "high", "n", "clusters", "standard_error", "standard_error_naive")
    values = interval.model_dump()
    return {name: values[name] for name in order}
