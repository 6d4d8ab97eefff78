"""How far two or more raters agree beyond chance: Cohen's kappa and Krippendorff's alpha.

Raw agreement flatters: where nearly all verdicts are equal, raters who guess agree as well. Both
coefficients are 1 for full agreement and 0 for chance.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np

from clair_apo.stats import Clusters, Interval, bootstrap_interval

Level = Literal["nominal", "ordinal", "interval"]
"""What a rating's values are: names, ranks, or numbers with distances."""

_DRAWS = 1000


def cohens_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Cohen's kappa of two raters; nan where both give one and the same value throughout.

    Args:
        first: one rater's categories.
        second: the other's, of the same units in the same order.

    Raises:
        ValueError: there are no units, or not as many of one as of the other.
    """
    return _kappa(*_numbered(first, second))


def kappa_interval(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    confidence: float = 0.95,
    clusters: Clusters | None = None,
    *,
    draws: int = _DRAWS,
    seed: int = 0,
) -> Interval:
    """Cohen's kappa with the percentile interval of a cluster bootstrap; n counts the units.

    Args:
        first: one rater's categories.
        second: the other's, of the same units in the same order.
        confidence: coverage of the interval, between 0 and 1; default 0.95.
        clusters: the cluster of each unit; by default units are independent.
        draws: data sets that are drawn.
        seed: decides which.

    Raises:
        ValueError: as `cohens_kappa` does, and where it has no value, with the reason.
    """
    a, b = _numbered(first, second)
    if reason := why_undefined([list(first), list(second)]):
        raise ValueError(reason)
    return bootstrap_interval(
        lambda rows: _kappa(a[rows], b[rows]), len(a), confidence, clusters, draws=draws, seed=seed
    )


def krippendorffs_alpha(ratings: Sequence[Sequence[Any]], level: Level = "nominal") -> float:
    """Krippendorff's alpha of any number of raters; nan where all values are the same.

    Args:
        ratings: of each rater the values of all units, None where the rater gave none.
        level: what the values are; numbers, unless it is nominal.

    Raises:
        ValueError: raters with different numbers of units, or no unit that two have rated.
    """
    counts, domain = _counted(ratings, level)
    return _alpha(counts, domain, level)


def alpha_interval(
    ratings: Sequence[Sequence[Any]],
    level: Level = "nominal",
    confidence: float = 0.95,
    clusters: Clusters | None = None,
    *,
    draws: int = _DRAWS,
    seed: int = 0,
) -> Interval:
    """Krippendorff's alpha with the percentile interval of a cluster bootstrap.

    Args:
        ratings: of each rater the values of all units, None where the rater gave none.
        level: what the values are; numbers, unless it is nominal.
        confidence: coverage of the interval, between 0 and 1; default 0.95.
        clusters: the cluster of each unit; by default units are independent.
        draws: data sets that are drawn.
        seed: decides which.

    Returns:
        n counts the units that at least two raters have rated; the others say nothing.

    Raises:
        ValueError: as `krippendorffs_alpha` does, and where it has no value, with the reason.
    """
    counts, domain = _counted(ratings, level)
    if reason := why_undefined(ratings):
        raise ValueError(reason)
    paired = np.flatnonzero(counts.sum(axis=1) >= 2)
    counts = counts[paired]
    groups = None if clusters is None else [clusters[unit] for unit in paired.tolist()]
    return bootstrap_interval(
        lambda rows: _alpha(counts[rows], domain, level),
        len(counts),
        confidence,
        groups,
        draws=draws,
        seed=seed,
    )


def why_undefined(ratings: Sequence[Sequence[Any]]) -> str:
    """The sentence why raters have no agreement beyond chance; empty where they have one.

    Args:
        ratings: of each rater the values of all units, None where the rater gave none.
    """
    counted = [
        value
        for unit in zip(*ratings, strict=True)
        for value in _given(unit)
        if len(_given(unit)) >= 2
    ]
    if not counted:
        return "no unit was rated by two raters"
    if len(set(counted)) == 1:
        return (
            f"all {len(counted)} ratings are {counted[0]!r}: chance alone would agree as often, "
            "and there is no coefficient of agreement"
        )
    return ""


def _given(unit: Sequence[Any]) -> list[Any]:
    return [value for value in unit if value is not None]


def _numbered(
    first: Sequence[Hashable], second: Sequence[Hashable]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Both raters' categories as whole numbers from 0."""
    if len(first) != len(second) or not len(first):
        raise ValueError(f"{len(first)} and {len(second)} ratings are not of the same units")
    order: dict[Hashable, int] = {}
    for value in (*first, *second):
        order.setdefault(value, len(order))
    a, b = (np.asarray([order[value] for value in one]) for one in (first, second))
    return a, b


def _kappa(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    from sklearn.metrics import cohen_kappa_score  # a second to load

    if len(np.union1d(first, second)) == 1:
        return float("nan")
    return float(cohen_kappa_score(first, second))


def _counted(
    ratings: Sequence[Sequence[Any]], level: Level
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """How many raters gave each unit each value, and the values; shapes (units, V) and (V,)."""
    lengths = {len(rater) for rater in ratings}
    if len(lengths) != 1:
        raise ValueError(f"raters have {sorted(lengths)} units; each must have all of them")
    values = {value for rater in ratings for value in _given(rater)}
    # names have no order: that of their text does as well as another
    domain = sorted(values, key=str) if level == "nominal" else sorted(values)
    place = {value: number for number, value in enumerate(domain)}
    counts = np.zeros((lengths.pop(), len(domain)))
    for rater in ratings:
        for unit, value in enumerate(rater):
            if value is not None:
                counts[unit, place[value]] += 1
    if not (counts.sum(axis=1) >= 2).any():
        raise ValueError("no unit was rated by two raters")
    numbers = range(len(domain)) if level == "nominal" else domain
    return counts, np.asarray(numbers, dtype=float)


def _alpha(counts: np.ndarray[Any, Any], domain: np.ndarray[Any, Any], level: Level) -> float:
    import krippendorff

    paired = counts[counts.sum(axis=1) >= 2]
    if np.count_nonzero(paired.sum(axis=0)) < 2:
        return float("nan")
    return float(
        krippendorff.alpha(value_counts=paired, value_domain=domain, level_of_measurement=level)
    )
