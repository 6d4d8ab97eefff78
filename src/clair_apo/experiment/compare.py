"""Compares the groups of an experiment: means over seeds, and differences to the baseline.

A group is an objective on a data set, with its cells of all seeds. Two intervals are told apart.
The one over prompts takes the mean over seeds of each prompt: it says how sure the figure is for
other prompts, with these trainings. The one over seeds takes the mean over prompts of each seed: it
says how sure it is for other trainings, with these prompts.
"""

from collections.abc import Mapping, Sequence

from clair_apo.errors import DataError
from clair_apo.evaluation.figure_name import FigureName
from clair_apo.evaluation.suites.figures import RowFigure, mean_of_rows
from clair_apo.experiment.measured import LOG_RATIOS, Figures, Measured, View
from clair_apo.records import Record
from clair_apo.stats import Interval, mean_interval

CONFIDENCE = 0.95

Group = Sequence[Measured]
"""The cells of a group that were evaluated, one for each seed."""


class Estimate(Record):
    """A mean over seeds, or a difference of two, with both intervals."""

    over_prompts: Interval
    over_seeds: Interval
    """Without bounds for one seed."""


class Comparison(Record):
    """One figure of one group."""

    data: str
    objective: str
    view: View
    figure: str
    estimate: Estimate
    to_base: Estimate | None
    """The difference to the model before the training; None where it has no such figure."""
    to_baseline: Estimate | None
    """The difference to the baseline group; None for itself, or where that failed."""
    corrected: Interval | None
    """The same over prompts, at the coverage that is corrected for the number of comparisons."""

    @property
    def is_clear(self) -> bool:
        """Whether the corrected interval of the difference to the baseline leaves out 0."""
        return _leaves_out_zero(self.corrected)


def compare(
    groups: Mapping[tuple[str, str], Group],
    figures: Sequence[FigureName],
    baseline: tuple[str, str],
    confidence: float,
) -> tuple[Comparison, ...]:
    """Compare every group in every figure.

    Args:
        groups: those with at least one evaluated cell.
        figures: what is compared; those that a group has not are left out.
        baseline: the group that others are compared with.
        confidence: of the corrected interval, as `corrected_confidence` says.
    """
    return tuple(
        found
        for key, group in groups.items()
        for view in group[0].views
        for figure in [*(one.name for one in figures), *_log_ratios(group)]
        if (found := _compared(key, group, groups.get(baseline, ()), view, figure, confidence))
    )


def corrected_confidence(groups: int, figures: int, views: int = 1) -> float:
    """The coverage of an interval that holds for all comparisons with the baseline together.

    Bonferroni: 1 - 0.05 / K, for K comparisons.

    Args:
        groups: of the experiment, the baseline included.
        figures: that are compared.
        views: of each figure: last, mean, best.
    """
    return 1 - (1 - CONFIDENCE) / max(1, (groups - 1) * figures * views)


def difference(
    first: Group, second: Group, view: View, figure: str, confidence: float = CONFIDENCE
) -> Estimate:
    """The mean over seeds of one group minus that of another, on the seeds that both have.

    Over prompts it is paired by row, over seeds by seed.

    Raises:
        DataError: the two have no seed or no row in common.
    """
    a, b = _seeds(first, view, figure), _seeds(second, view, figure)
    pairs = [(a[seed], b[seed]) for seed in a if seed in b]
    if not pairs:
        raise DataError(f"{figure}: the two groups have no seed in common")
    own, other = (mean_of_rows([pair[side] for pair in pairs]) for side in (0, 1))
    return Estimate(
        over_prompts=own.minus(other, confidence),
        over_seeds=mean_interval([x.minus(y).mean for x, y in pairs], confidence),
    )


def _compared(
    key: tuple[str, str],
    group: Group,
    baseline: Group,
    view: View,
    figure: str,
    confidence: float,
) -> Comparison | None:
    values = _seeds(group, view, figure)
    if not values:
        return None
    own = mean_of_rows(list(values.values()))
    to_baseline, corrected = None, None
    # nats on held-out pairs are of the data set's own pairs: two data sets have no row in common
    if baseline and group[0].cell.group != baseline[0].cell.group and _comparable(figure):
        try:
            to_baseline = difference(group, baseline, view, figure)
            corrected = difference(group, baseline, view, figure, confidence).over_prompts
        except DataError:
            pass
    return Comparison(
        data=key[0],
        objective=key[1],
        view=view,
        figure=figure,
        estimate=Estimate(
            over_prompts=own.interval(),
            over_seeds=mean_interval([one.interval().mean for one in values.values()]),
        ),
        to_base=_to_base(group, view, figure),
        to_baseline=to_baseline,
        corrected=corrected,
    )


def _comparable(figure: str) -> bool:
    return not figure.startswith(f"{LOG_RATIOS}.")


def _seeds(group: Group, view: View, figure: str) -> dict[int, RowFigure]:
    """A figure of every cell that has it, by seed."""
    return {
        one.cell.seed: one.views[view][figure]
        for one in group
        if figure in one.views.get(view, {}) and one.views[view][figure].values
    }


def _to_base(group: Group, view: View, figure: str) -> Estimate | None:
    base: Figures = group[0].base
    values = _seeds(group, view, figure)
    if figure not in base or not base[figure].values:
        return None
    return Estimate(
        over_prompts=mean_of_rows(list(values.values())).minus(base[figure]),
        over_seeds=mean_interval([one.minus(base[figure]).mean for one in values.values()]),
    )


def _log_ratios(group: Group) -> list[str]:
    return [name for name in group[0].views["last"] if not _comparable(name)]


def _leaves_out_zero(interval: Interval | None) -> bool:
    if interval is None or interval.low is None or interval.high is None:
        return False
    return interval.low > 0 or interval.high < 0
