"""The lengths and the markup of both sides: shares, means and effects with their intervals."""

import math
from array import array
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from clair_apo.lint.report import Example, Figure, Finding
from clair_apo.lint.rows import PairRow
from clair_apo.lint.rules import (
    LARGE_GAP,
    LARGE_RELATIVE_GAP,
    MARKUP_GAP,
    RULES,
    SMALL_GAP,
    SMALL_RELATIVE_GAP,
    Severity,
)
from clair_apo.stats import (
    Interval,
    jackknife_interval,
    mean_interval,
    paired_bounded_interval,
    proportion_interval,
)
from clair_apo.text.markup import MARKUP

Numbers = npt.NDArray[np.float64]


class SideFigures:
    """Lengths and markup of the sides so far: 26 bytes a pair."""

    def __init__(self) -> None:
        self.chosen, self.rejected = array("d"), array("d")
        self._chosen_marks = {kind: bytearray() for kind in MARKUP}
        self._rejected_marks = {kind: bytearray() for kind in MARKUP}

    def add(self, row: PairRow) -> dict[str, str]:
        """Measure a pair.

        Returns:
            The markup rules that found it, with the side that has the marks.
        """
        self.chosen.append(len(row.chosen))
        self.rejected.append(len(row.rejected))
        found = {}
        for kind, holds in MARKUP.items():
            chosen, rejected = holds(row.chosen), holds(row.rejected)
            self._chosen_marks[kind].append(chosen)
            self._rejected_marks[kind].append(rejected)
            if chosen != rejected:
                found[f"markup_gap_{kind}"] = "chosen" if chosen else "rejected"
        return found

    def side_with_more(self, kind: str) -> str:
        """The side that has a kind of markup more often."""
        chosen, rejected = sum(self._chosen_marks[kind]), sum(self._rejected_marks[kind])
        return "chosen" if chosen >= rejected else "rejected"

    def length_finding(self, clusters: Sequence[int] | None) -> Finding:
        """The length gap, with Cohen's d and the relative gap where they have a value."""
        chosen, rejected = np.asarray(self.chosen), np.asarray(self.rejected)
        longer = proportion_interval((chosen > rejected).tolist(), clusters=clusters)
        effect, relative = (
            _jackknifed(figure, chosen, rejected, clusters) for figure in (cohens_d, relative_gap)
        )
        figures = [
            Figure(name="cohens_d", unit="standard deviations", value=effect) if effect else None,
            Figure(name="relative_gap", unit="share", value=relative) if relative else None,
            *(
                Figure(
                    name=name,
                    unit="characters",
                    value=mean_interval(values.tolist(), clusters=clusters),
                )
                for name, values in (
                    ("chosen_characters", chosen),
                    ("rejected_characters", rejected),
                )
            ),
        ]
        rule = RULES["length_gap"]
        return Finding(
            name=rule.name,
            severity=_length_severity(effect, relative),
            what=rule.what,
            advice=rule.advice,
            n=len(chosen),
            count=int((chosen > rejected).sum()),
            share=longer,
            figures=tuple(figure for figure in figures if figure),
        )

    def markup_finding(
        self, kind: str, clusters: Sequence[int] | None, examples: Sequence[Example]
    ) -> Finding | None:
        """The gap of one kind of markup; None where chance explains it."""
        chosen, rejected = (
            np.frombuffer(marks[kind], np.uint8)
            for marks in (self._chosen_marks, self._rejected_marks)
        )
        gap = paired_bounded_interval(chosen.tolist(), rejected.tolist(), clusters=clusters)
        if not _beyond(gap, 0.0):
            return None
        shares = {
            "chosen_share": proportion_interval(chosen.tolist(), clusters=clusters),
            "rejected_share": proportion_interval(rejected.tolist(), clusters=clusters),
            "difference": gap,
        }
        apart = chosen != rejected
        rule = RULES[f"markup_gap_{kind}"]
        return Finding(
            name=rule.name,
            severity=Severity.WARNING if _beyond(gap, MARKUP_GAP) else rule.severity,
            what=rule.what,
            advice=rule.advice,
            n=len(chosen),
            count=int(apart.sum()),
            share=proportion_interval(apart.tolist(), clusters=clusters),
            figures=tuple(
                Figure(name=name, unit="share", value=value) for name, value in shares.items()
            ),
            examples=tuple(examples),
        )


def cohens_d(chosen: Numbers, rejected: Numbers) -> float:
    """The difference of two means over the pooled standard deviation; nan without spread."""
    if len(chosen) < 2:
        return math.nan
    spread = math.sqrt((chosen.var(ddof=1) + rejected.var(ddof=1)) / 2)
    return float(chosen.mean() - rejected.mean()) / spread if spread else math.nan


def relative_gap(chosen: Numbers, rejected: Numbers) -> float:
    """How much longer the chosen sides are, as a share of the mean of the rejected ones."""
    return float(chosen.mean() / rejected.mean()) - 1


def _jackknifed(
    figure: Callable[[Numbers, Numbers], float],
    chosen: Numbers,
    rejected: Numbers,
    clusters: Sequence[int] | None,
) -> Interval | None:
    """A figure with its interval; None where it has no value, also without some of the pairs."""
    if math.isnan(figure(chosen, rejected)):
        return None
    found = jackknife_interval(
        lambda rows: figure(chosen[rows], rejected[rows]), len(chosen), clusters=clusters
    )
    return None if found.low is None or math.isnan(found.low) else found


def _length_severity(effect: Interval | None, relative: Interval | None) -> Severity:
    if effect and relative:
        if _beyond(effect, LARGE_GAP) and abs(relative.mean) >= LARGE_RELATIVE_GAP:
            return Severity.ERROR
        if _beyond(effect, SMALL_GAP) and abs(relative.mean) >= SMALL_RELATIVE_GAP:
            return Severity.WARNING
    return RULES["length_gap"].severity


def _beyond(interval: Interval, threshold: float) -> bool:
    """Whether a gap is as large as the threshold, and chance does not explain it."""
    if interval.low is None or interval.high is None:
        return False
    return abs(interval.mean) >= threshold and (interval.low > 0 or interval.high < 0)
