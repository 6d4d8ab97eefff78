"""The figures of an experiment as a plot: a row for each data set and objective, with intervals."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clair_apo.experiment.compare import Comparison
from clair_apo.report.html import image_source
from clair_apo.report.training_run import saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#1f6fb2", "#c2601f", "#4d7c2a", "#7b3294", "#8a6d00", "#2b7f78", "#6b6b6b")
"""Of objectives, in the order of the config; told apart by colour-blind readers, and by name."""
WIDTH, ROW, MARGINS = 7.2, 0.24, 1.0
"""Of a plot, of each row of it, and of what is above and below the rows, in inches."""


def forest_plot(rows: Sequence[Comparison]) -> str:
    """One figure of all groups as a data URL: means over seeds with 95 % intervals over prompts.

    A dashed line is the model before the training. A filled point is of a group whose corrected
    difference to the baseline leaves out 0.

    Args:
        rows: the comparisons of one figure and one view, at least one.
    """
    from matplotlib.figure import Figure  # half a second: only where something is drawn

    figure = Figure(figsize=(WIDTH, MARGINS + ROW * len(rows)), layout="constrained")
    draw_forest(figure.add_subplot(), rows)
    return image_source(saved(figure, "svg"))


def draw_forest(axes: "Axes", rows: Sequence[Comparison]) -> None:
    """Draw into axes of your own, as `forest_plot` does."""
    objectives = list(dict.fromkeys(one.objective for one in rows))
    for place, one in enumerate(rows):
        color = COLORS[objectives.index(one.objective) % len(COLORS)]
        _draw_row(axes, place, one, color)
    base = _base(rows)
    if base is not None:
        axes.axvline(base, color="black", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(rows)), [f"{one.data} / {one.objective}" for one in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first row is on top
    axes.set_xlabel(rows[0].figure)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", linewidth=0.4)


def _draw_row(axes: "Axes", place: int, one: Comparison, color: str) -> None:
    interval = one.estimate.over_prompts
    style: dict[str, Any] = {"color": color, "markersize": 5.5}
    style["markerfacecolor"] = color if one.is_clear else "white"
    if interval.low is not None and interval.high is not None:
        axes.plot([interval.low, interval.high], [place, place], color=color, linewidth=1.4)
    axes.plot([interval.mean], [place], "o", **style)


def _base(rows: Sequence[Comparison]) -> float | None:
    """The figure of the model before the training: every group has the same."""
    for one in rows:
        if one.to_base:
            return one.estimate.over_prompts.mean - one.to_base.over_prompts.mean
    return None
