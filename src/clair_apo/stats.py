"""Means with their intervals, the form in which every figure leaves this package."""

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
