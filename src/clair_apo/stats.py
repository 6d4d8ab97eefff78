"""Means and shares with their 95 % intervals."""

import math
import statistics
from collections.abc import Sequence

from clair_apo.records import Record


class Interval(Record):
    """A mean over `n` values with its 95 % confidence interval (Student's t).

    `low` and `high` are None where fewer than two values leave no interval.
    """

    n: int
    mean: float
    low: float | None
    high: float | None

    def times(self, factor: float) -> "Interval":
        """The interval multiplied by `factor`, such as a total from a mean."""
        bounds = [None if bound is None else bound * factor for bound in (self.low, self.high)]
        return Interval(n=self.n, mean=self.mean * factor, low=bounds[0], high=bounds[1])

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:+.3f} (n={self.n})"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}] (n={self.n})"


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of `values` with its two-sided t interval.

    Args:
        values: at least one number, independent of each other.
        confidence: coverage of the interval, between 0 and 1; default 0.95.

    Raises:
        ValueError: no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("a mean needs at least one value")
    mean = statistics.fmean(values)
    if n == 1:
        return Interval(n=1, mean=mean, low=None, high=None)
    from scipy.stats import t  # half a second to load: only where an interval is drawn

    half = float(t.ppf((1 + confidence) / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return Interval(n=n, mean=mean, low=mean - half, high=mean + half)


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
    from scipy.stats import binomtest

    found = binomtest(count, n).proportion_ci(confidence, method="wilson")
    return Share(n=n, count=count, low=float(found.low), high=float(found.high))
