"""The experiment's figure for the README: what was learned, and what else changed."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clair_apo.experiment import Comparison, ExperimentRecord
from clair_apo.report.forest_plot import COLORS

PANELS = {
    "checks.share": "rules kept\n(share, minus before)",
    "health.ended": "answers that end\n(share, minus before)",
    "neutral.kl_k1": "drift on other prompts\n(nats an answer)",
    "knowledge.accuracy": "knowledge probe\n(share, minus before)",
}
"""Figures by name, with what their panel is called."""
APART = 0.16
"""Between the objectives of a data set, in rows."""


def draw(record: ExperimentRecord, path: Path) -> None:
    """Draw the panels into a PNG or SVG file: a row for each data set, a color for an objective."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for panel, (name, words) in zip(panels, PANELS.items(), strict=True):
        _panel(panel, [one for one in record.comparisons if one.figure == name], list(record.data))
        panel.set_xlabel(words)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=150, metadata={"Software": None} if path.suffix == ".png" else None)


def _panel(panel: Axes, rows: Sequence[Comparison], data: Sequence[str]) -> None:
    objectives = list(dict.fromkeys(one.objective for one in rows))
    for number, objective in enumerate(objectives):
        of = [one for one in rows if one.objective == objective]
        shown = [
            one.to_base.over_prompts if one.to_base else one.estimate.over_prompts for one in of
        ]
        shift = (number - (len(objectives) - 1) / 2) * APART
        places = [data.index(one.data) + shift for one in of]
        means = [interval.mean for interval in shown]
        errors = [
            [interval.mean - (interval.low or interval.mean) for interval in shown],
            [(interval.high or interval.mean) - interval.mean for interval in shown],
        ]
        color = COLORS[number % len(COLORS)]
        panel.errorbar(
            means, places, xerr=errors, fmt="o", color=color, label=objective, markersize=4
        )
    panel.axvline(0, color="black", linewidth=0.6)
    panel.set_yticks(range(len(data)), data)
    panel.set_ylim(len(data) - 0.5, -0.5)  # the first data set is on top
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="x", linewidth=0.4)
