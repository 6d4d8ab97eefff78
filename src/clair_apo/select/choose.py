"""Decides which pairs a rule keeps, given their numbers."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from clair_apo.select.rule import Rule

KEPT = ""
"""In place of a reason."""


class Candidate(NamedTuple):
    """A pair as far as a rule looks at it."""

    value: float | None
    """Its number; None where it has none."""
    source: str
    """Where it is from."""
    tie: str
    """Decides between equal numbers: a digest of the row, so the order of the data does not."""


def choose(candidates: Sequence[Candidate], rule: Rule) -> list[str]:
    """Why each pair is left out; empty for those that are kept.

    Args:
        candidates: all pairs, in the order of the data.
        rule: which of them are kept.
    """
    reasons = [_outside(candidate, rule) for candidate in candidates]
    inside = [number for number, reason in enumerate(reasons) if reason == KEPT]
    groups: dict[str, list[int]] = defaultdict(list)
    for number in inside:
        groups[candidates[number].source if rule.quota else ""].append(number)
    for group in groups.values():
        for number in _ranked(group, candidates, rule)[_most(len(group), rule) :]:
            reasons[number] = _beyond(rule)
    return reasons


def _outside(candidate: Candidate, rule: Rule) -> str:
    if candidate.value is None:
        return "no value"
    if rule.min is not None and candidate.value < rule.min:
        return f"below {rule.min:g}"
    if rule.max is not None and candidate.value > rule.max:
        return f"above {rule.max:g}"
    return KEPT


def _ranked(group: Sequence[int], candidates: Sequence[Candidate], rule: Rule) -> list[int]:
    """The pairs of a group, those that are kept first."""
    sign = -1 if rule.keep == "top" else 1
    return sorted(
        group, key=lambda number: (sign * (candidates[number].value or 0), candidates[number].tie)
    )


def _most(pairs: int, rule: Rule) -> int:
    if rule.share is not None:
        return round(rule.share * pairs)
    limit = rule.count or rule.quota
    return pairs if limit is None else limit


def _beyond(rule: Rule) -> str:
    if rule.quota:
        return f"beyond the {rule.quota} of its source"
    amount = f"{rule.share:.0%}" if rule.share is not None else f"{rule.count}"
    return f"not in the {rule.keep} {amount}"
