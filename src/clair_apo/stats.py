"""Means, shares and differences with their 95 % intervals, also of values that come in clusters.

Values of one cluster (the same item, passage or prompt) are not independent: an interval that takes
them for it is too narrow. Two models are compared by `paired_interval`, never by two intervals
beside each other. Formulas: Miller, "Adding Error Bars to Evals", arXiv 2411.00640, section 2 to 5,
with the factor C / (C - 1) for C clusters.
"""

import math
import statistics
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from clair_apo.records import Record

Clusters = Sequence[Hashable]
"""The cluster of each value, in the order of the values."""


class Interval(Record):
    """A mean, or another figure, of `n` values with its 95 % confidence interval.

    `low`, `high` and the errors are None where fewer than two clusters leave no interval.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    clusters: int | None = None
    """How many clusters the values are from, `n` where each stands alone; None in files of earlier
    versions, as the next two."""
    standard_error: float | None = None
    """Of the mean, with the clusters taken into account."""
    standard_error_naive: float | None = None
    """Of the mean, as if every value were independent."""

    def times(self, factor: float) -> "Interval":
        """The interval multiplied by `factor`, such as a total from a mean; `factor` >= 0."""
        scaled = {
            name: None if value is None else value * factor
            for name in ("low", "high", "standard_error", "standard_error_naive")
            for value in [getattr(self, name)]
        }
        return self.model_copy(update={"mean": self.mean * factor, **scaled})

    def __str__(self) -> str:
        count = f"n={self.n}"
        if self.clusters not in (None, self.n):
            count += f", {self.clusters} clusters"
        if self.low is None or self.high is None:
            return f"{self.mean:+.3f} ({count})"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}] ({count})"


def mean_interval(
    values: Sequence[float], confidence: float = 0.95, clusters: Clusters | None = None
) -> Interval:
    """The mean of `values` with its two-sided t interval.

    With C clusters the squared error is C / (C - 1) / n^2 times the sum over clusters of the
    squared sum of deviations, and t has C - 1 degrees of freedom; where every value is a cluster of
    its own, that is Student's interval.

    Args:
        values: at least one number.
        confidence: coverage of the interval, between 0 and 1; default 0.95.
        clusters: the cluster of each value; by default all are independent.

    Raises:
        ValueError: no values, or not one cluster for each.
    """
    numbers, groups = _checked(values, clusters)
    mean, n = statistics.fmean(values), len(values)
    count = int(groups.max()) + 1
    error = _standard_error(numbers, groups)
    low, high = _t_bounds(mean, error, count - 1, confidence)
    return Interval(
        n=n,
        mean=mean,
        low=low,
        high=high,
        clusters=count,
        standard_error=error,
        standard_error_naive=_standard_error(numbers, np.arange(n)),
    )


def paired_interval(
    first: Sequence[float],
    second: Sequence[float],
    confidence: float = 0.95,
    clusters: Clusters | None = None,
) -> Interval:
    """The mean of `first` - `second`, two models' values on the same rows, with its interval.

    Args:
        first: the values of one model.
        second: those of another, in the same order of rows.
        confidence: coverage of the interval, between 0 and 1; default 0.95.
        clusters: the cluster of each row; by default rows are independent.

    Raises:
        ValueError: as `mean_interval` does, and where the rows are not as many.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values are not on the same rows")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    return mean_interval(differences, confidence, clusters)


def paired_bounded_interval(
    first: Sequence[float],
    second: Sequence[float],
    confidence: float = 0.95,
    clusters: Clusters | None = None,
) -> Interval:
    """The mean difference of values from 0 to 1, such as shares, on the same rows.

    It is `paired_interval`'s. Where the rows leave no error, because the
    difference is the same in all clusters or there is but one, that would say too much: then
    Wilson's interval gives the share of clusters that may have another difference, from -1 to 1.

    Args:
        first: the values of one model.
        second: those of another, in the same order of rows.
        confidence: coverage of the interval, between 0 and 1; default 0.95.
        clusters: the cluster of each row; by default rows are independent.

    Raises:
        ValueError: as `paired_interval` does, and where a value is not between 0 and 1.
    """
    _check_bounded([*first, *second])
    found = paired_interval(first, second, confidence, clusters)
    assert found.clusters is not None
    low, high = found.low, found.high
    if low is None or high is None or not found.standard_error:
        same, _ = _wilson(1.0, found.clusters, confidence)
        low = max(-1.0, found.mean * same - (1 - same))
        high = min(1.0, found.mean * same + (1 - same))
    return found.model_copy(update={"low": low, "high": high})


def proportion_interval(
    values: Sequence[float], confidence: float = 0.95, clusters: Clusters | None = None
) -> Interval:
    """The share of ones among `values`, each 0 or 1, with Wilson's interval.

    Where values come in clusters, Wilson's interval is that of the effective number of values: n
    over the design effect, the ratio of the squared errors with and without clusters. Where all
    values are equal there is no such ratio, and the number of clusters is taken.

    Args:
        values: at least one; 0 or 1, or true and false.
        confidence: coverage of the interval, between 0 and 1; default 0.95.
        clusters: the cluster of each value; by default all are independent.

    Raises:
        ValueError: as `mean_interval` does, and where a value is neither 0 nor 1.
    """
    if any(value not in (0, 1) for value in values):
        raise ValueError("a share is made of zeros and ones")
    found = mean_interval([float(value) for value in values], confidence, clusters)
    assert found.clusters is not None
    effective = float(found.clusters)
    if found.standard_error and found.standard_error_naive:
        effective = found.n * (found.standard_error_naive / found.standard_error) ** 2
    low, high = _wilson(found.mean, effective, confidence)
    return found.model_copy(update={"low": low, "high": high})


def bounded_interval(
    values: Sequence[float], confidence: float = 0.95, clusters: Clusters | None = None
) -> Interval:
    """The mean of values from 0 to 1, such as soft preferences, with an interval within 0 and 1.

    It is `mean_interval`'s. Where the values leave no error, because all clusters have the same
    mean or there is but one, that would say too much, and Wilson's is taken, of as many values as
    there are clusters.

    Args:
        values: at least one, each from 0 to 1.
        confidence: coverage of the interval, between 0 and 1; default 0.95.
        clusters: the cluster of each value; by default all are independent.

    Raises:
        ValueError: as `mean_interval` does, and where a value is not between 0 and 1.
    """
    _check_bounded(values)
    found = mean_interval(values, confidence, clusters)
    assert found.clusters is not None
    low, high = found.low, found.high
    if low is None or high is None or not found.standard_error:
        low, high = _wilson(found.mean, found.clusters, confidence)
    return found.model_copy(update={"low": max(0.0, low), "high": min(1.0, high)})


def bootstrap_interval(
    statistic: Callable[[np.ndarray[Any, Any]], float],
    n: int,
    confidence: float = 0.95,
    clusters: Clusters | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """A figure that is no mean, with the percentile interval of a cluster bootstrap.

    Whole clusters are drawn with replacement, as many as there are.

    Args:
        statistic: the figure from the numbers of the rows, 0 to `n` - 1, some of them repeated; nan
            where it has no value for these.
        n: how many rows there are.
        confidence: coverage of the interval, between 0 and 1; default 0.95.
        clusters: the cluster of each row; by default rows are independent.
        draws: how many data sets are drawn.
        seed: decides which.

    Returns:
        `standard_error` is the standard deviation over the draws; `standard_error_naive` that of
        rows drawn alone.

    Raises:
        ValueError: no rows, not one cluster for each, or a figure that has no value on all rows.
    """
    _, groups = _checked([0.0] * n, clusters)
    whole = float(statistic(np.arange(n)))
    if math.isnan(whole):
        raise ValueError("the figure has no value on these rows")
    count = int(groups.max()) + 1
    found = _drawn(statistic, groups, draws, seed)
    naive = found if count == n else _drawn(statistic, np.arange(n), draws, seed)
    if count < 2 or len(found) < 2:
        return Interval(n=n, mean=whole, low=None, high=None, clusters=count)
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Interval(
        n=n,
        mean=whole,
        low=float(low),
        high=float(high),
        clusters=count,
        standard_error=float(np.std(found, ddof=1)),
        standard_error_naive=float(np.std(naive, ddof=1)) if len(naive) > 1 else None,
    )


def jackknife_interval(
    statistic: Callable[[np.ndarray[Any, Any]], float],
    n: int,
    confidence: float = 0.95,
    clusters: Clusters | None = None,
    *,
    groups: int = 50,
) -> Interval:
    """A figure of a body of rows, with the t interval of a jackknife that leaves out groups.

    For a figure to which a row that is there twice says something else, such as distinct-n: there a
    bootstrap is off. Clusters are dealt out to G groups; the squared error is (G - 1) / G times the
    sum of squared deviations of the G figures that each leave one group out.

    Args:
        statistic: the figure from the numbers of the rows, each at most once; not nan.
        n: how many rows there are.
        confidence: coverage of the interval, between 0 and 1; default 0.95.
        clusters: the cluster of each row; by default rows are independent.
        groups: how many groups there are at most.

    Raises:
        ValueError: no rows, or not one cluster for each.
    """
    _, cluster = _checked([0.0] * n, clusters)
    rows, count = np.arange(n), int(cluster.max()) + 1
    whole, made = float(statistic(rows)), min(count, groups)

    def error(group: np.ndarray[Any, Any], made: int) -> float | None:
        if made < 2:
            return None
        left = np.asarray([statistic(rows[group != one]) for one in range(made)])
        return float(math.sqrt((made - 1) / made * float(np.square(left - left.mean()).sum())))

    found = error(cluster % made, made)
    alone = min(n, groups)
    low, high = _t_bounds(whole, found, made - 1, confidence)
    return Interval(
        n=n,
        mean=whole,
        low=low,
        high=high,
        clusters=count,
        standard_error=found,
        standard_error_naive=found if count == n else error(rows % alone, alone),
    )


def sample_size(
    difference: float,
    standard_deviation: float,
    *,
    power: float = 0.8,
    confidence: float = 0.95,
    design_effect: float = 1.0,
) -> int:
    """How many rows it takes to tell a mean from another that is `difference` away.

    Formula: (z_(1-a/2) + z_power)^2 sd^2 / difference^2, times the design effect (Miller, 5;
    for two models on the same rows, take the standard deviation of their differences).

    Args:
        difference: the difference that is to be found, in the unit of the values; not 0.
        standard_deviation: of one row's value.
        power: the probability of finding it; 0.5 asks only that the expected interval leaves it
            out.
        confidence: coverage of the interval, between 0 and 1; default 0.95.
        design_effect: the squared ratio of the errors with clusters and without; 1 where rows are
            independent.

    Raises:
        ValueError: the difference is 0: no number of rows finds it.
    """
    if difference == 0:
        raise ValueError("no number of rows tells two equal means apart")
    from scipy.stats import norm

    z = float(norm.ppf((1 + confidence) / 2) + norm.ppf(power))
    return max(2, math.ceil(design_effect * (z * standard_deviation / difference) ** 2))


class Share(Record):
    """A share of `n` with its 95 % confidence interval (Wilson's), all between 0 and 1."""

    n: int
    count: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself; 0 of 0 is 0."""
        return self.count / self.n if self.n else 0.0

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}] (n={self.n})"


def share_interval(count: int, n: int, confidence: float = 0.95) -> Share:
    """The share `count` of `n` with its two-sided Wilson interval.

    It keeps within 0 and 1, and says something where none or all of few were counted.

    Args:
        count: how many, 0 to `n`.
        n: of how many, independent of each other; of 0 nothing is known: the interval is 0 to 1.
        confidence: coverage of the interval, between 0 and 1; default 0.95.

    Raises:
        ValueError: `count` is not between 0 and `n`.
    """
    if not 0 <= count <= n:
        raise ValueError(f"{count} of {n} is no share")
    if n == 0:
        return Share(n=0, count=0, low=0.0, high=1.0)
    low, high = _wilson(count / n, n, confidence)
    return Share(n=n, count=count, low=low, high=high)


def _checked(
    values: Sequence[float], clusters: Clusters | None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The values, and the number of each one's cluster, from 0."""
    if not len(values):
        raise ValueError("a mean needs at least one value")
    numbers = np.asarray(values, dtype=float)
    if clusters is None:
        return numbers, np.arange(len(numbers))
    if len(clusters) != len(numbers):
        raise ValueError(f"{len(numbers)} values have {len(clusters)} clusters; give one for each")
    order: dict[Hashable, int] = {}
    return numbers, np.asarray([order.setdefault(one, len(order)) for one in clusters])


def _check_bounded(values: Sequence[float]) -> None:
    if not all(0 <= value <= 1 for value in values):
        raise ValueError("a value is not between 0 and 1")


def _standard_error(values: np.ndarray[Any, Any], groups: np.ndarray[Any, Any]) -> float | None:
    count = int(groups.max()) + 1
    if count < 2:
        return None
    sums = np.bincount(groups, weights=values - values.mean(), minlength=count)
    return float(math.sqrt(count / (count - 1) * float(sums @ sums)) / len(values))


def _t_bounds(
    mean: float, error: float | None, freedom: int, confidence: float
) -> tuple[float | None, float | None]:
    if error is None:
        return None, None
    from scipy.stats import t  # half a second to load: only where an interval is drawn

    half = float(t.ppf((1 + confidence) / 2, freedom)) * error
    return mean - half, mean + half


def _wilson(share: float, n: float, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share of `n`, which need not be a whole number."""
    from scipy.stats import norm

    z2 = float(norm.ppf((1 + confidence) / 2)) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * share * (1 - share) / n + (z2 / (2 * n)) ** 2) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _drawn(
    statistic: Callable[[np.ndarray[Any, Any]], float],
    groups: np.ndarray[Any, Any],
    draws: int,
    seed: int,
) -> np.ndarray[Any, Any]:
    """The figure on `draws` data sets of clusters drawn with replacement, without nan."""
    rng = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(groups))[:-1])
    found = [
        float(statistic(np.concatenate([members[c] for c in rng.integers(count, size=count)])))
        for _ in range(draws)
    ]
    return np.asarray([one for one in found if not math.isnan(one)])
