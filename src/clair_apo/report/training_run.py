"""A finished training as its folder describes it: its logs, its facts, and figures of them.

trainer_state.json, manifest.json -> TrainingRun -> Plot (rewards, log-probabilities, quadrants,
single tokens, watched answers)

Folders of earlier versions are read too: their names of metrics and alarms are translated once,
when they are read.
"""

import json
import math
import os
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from clair_apo.errors import RunError
from clair_apo.records import Record
from clair_apo.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


STATE = "trainer_state.json"
CHECKPOINT = "checkpoint"
"""The folder in a run folder into which the shipped configs of `clair-apo train` write."""

CHOSEN, REJECTED, MARGIN = "#1f6fb2", "#c2601f", "#6b6b6b"
"""As on the pages: blue for chosen, orange for rejected; told apart by colour-blind readers."""
QUADRANTS = {
    "chosen_up_rejected_down": ("chosen up, rejected down", "#1f6fb2"),
    "chosen_up_rejected_up": ("both up", "#9cc7e8"),
    "chosen_down_rejected_down": ("both down", "#f0c5a2"),
    "chosen_down_rejected_up": ("chosen down, rejected up", "#c2601f"),
}
SIZE = (7.2, 3.4)
"""Width and height of a figure, in inches."""
DOTS_PER_INCH = 150
"""Resolution of a PNG."""
MAX_POINTS = 2_000
"""Points of one line: of more logs every second, third, ... is drawn, the last one always."""

_REWARDS: Mapping[str, tuple[str, str, str]] = {
    "rewards/chosen": ("chosen", CHOSEN, "-"),
    "rewards/rejected": ("rejected", REJECTED, "-"),
    "rewards/margins": ("margin", MARGIN, ":"),
}
_LOGPS: Mapping[str, tuple[str, str, str]] = {
    "logps/chosen": ("chosen", CHOSEN, "-"),
    "ref_logps/chosen": ("chosen, reference", CHOSEN, "--"),
    "logps/rejected": ("rejected", REJECTED, "-"),
    "ref_logps/rejected": ("rejected, reference", REJECTED, "--"),
}
_TOKENS: Mapping[str, tuple[str, str, str]] = {
    "first_difference_logps/chosen": ("first difference, chosen", CHOSEN, "-"),
    "first_difference_logps/rejected": ("first difference, rejected", REJECTED, "-"),
    "hardest_logps/chosen": ("hardest of chosen", MARGIN, ":"),
}
_ENDS: Mapping[str, tuple[str, str, str]] = {
    "end_logps/chosen": ("after chosen", CHOSEN, "-"),
    "end_logps/rejected": ("after rejected", REJECTED, "-"),
}
_FOLLOWED: Mapping[str, tuple[str, str, str]] = {
    "followed/share": ("share of its tokens", CHOSEN, "-"),
    "followed/whole": ("pairs followed to the end", MARGIN, "-"),
}
_WATCHED: Mapping[str, tuple[str, str, str]] = {
    "watch/ended": ("end by themselves", CHOSEN, "o-"),
    "watch/rep_3": ("rep-3", REJECTED, "o-"),
}
_CHECKS = "watch/checks/"
_CHECK_COLORS = ("#4d7c2a", "#7b3294", "#8a6d00", "#2b7f78", "#6b6b6b")

# names in training folders of earlier versions, and what they are called now
_OLD_QUADRANTS = {
    "quadrants/winner_up_loser_down": "quadrants/chosen_up_rejected_down",
    "quadrants/winner_up_loser_up": "quadrants/chosen_up_rejected_up",
    "quadrants/winner_down_loser_down": "quadrants/chosen_down_rejected_down",
    "quadrants/winner_down_loser_up": "quadrants/chosen_down_rejected_up",
}
_OLD_METRICS = _OLD_QUADRANTS | {f"eval_{k}": f"eval_{v}" for k, v in _OLD_QUADRANTS.items()}
_OLD_ALARMS = {"winner_falls": "chosen_falls", "winner_collapses": "chosen_collapses"}


class Curve(NamedTuple):
    """One metric over the steps at which it was logged."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def thinned(self) -> "Curve":
        """At most `MAX_POINTS` of its points, evenly spaced, the last one included."""
        every = -(-len(self.steps) // MAX_POINTS) or 1
        first = (len(self.steps) - 1) % every
        return Curve(self.steps[first::every], self.values[first::every])


class TrainingRun(NamedTuple):
    """A training as its folder describes it."""

    folder: Path
    name: str
    logs: tuple[Mapping[str, Any], ...]
    """Every log in order, those of evaluations included."""
    facts: Mapping[str, Any]
    """The manifest's entry of the training; empty where a trainer was used without `train`."""

    def curve(self, metric: str) -> Curve:
        """A metric over its steps, without NaN and infinity; empty where it was never logged.

        Args:
            metric: its name in the logs; that of an evaluation begins with `eval_`.
        """
        points = [
            (int(log["step"]), float(log[metric]))
            for log in self.logs
            if isinstance(log.get(metric), int | float) and math.isfinite(log[metric])
        ]
        return Curve(*zip(*points, strict=True)) if points else Curve((), ())

    def last(self, metric: str) -> float | None:
        """The last logged value of a metric; None where it was never logged."""
        values = self.curve(metric).values
        return values[-1] if values else None


def find_training(folder: Path) -> Path | None:
    """The folder of a finished training: this one or its `checkpoint`; None if there is none."""
    places = (folder, folder / CHECKPOINT)
    return next((place for place in places if (place / STATE).is_file()), None)


def read_training(folder: Path) -> TrainingRun:
    """Read a training folder.

    Raises:
        RunError: there is no training in it, or its state cannot be read.
    """
    found = find_training(folder)
    if found is None:
        raise RunError(
            f"{folder}: no {STATE}; run `clair-apo train` to its end first, with this output_dir"
        )
    try:
        state = json.loads((found / STATE).read_text(encoding="utf-8"))
        logs = tuple(
            {_OLD_METRICS.get(name, name): value for name, value in log.items()}
            for log in state["log_history"]
            if isinstance(log.get("step"), int)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{found / STATE}: cannot be read ({error})") from None
    whole = found.resolve()
    name = whole.parent.name if whole.name == CHECKPOINT else whole.name
    name = os.fsencode(name).decode(errors="replace")  # it need not be UTF-8
    return TrainingRun(found, name, logs, _facts(found))


def _facts(folder: Path) -> Mapping[str, Any]:
    """The entry of `train` about this folder; an earlier version wrote it into the run folder."""
    own = _stage(folder)
    if own:
        return own
    above = _stage(folder.resolve().parent)
    return above if Path(str(above.get("output_dir", ""))).name == folder.resolve().name else {}


def _stage(folder: Path) -> Mapping[str, Any]:
    stage = RunFolder(folder).manifest().get("stages", {}).get("train")
    if not isinstance(stage, dict):
        return {}
    alarms = stage.get("alarms")
    return stage | {"alarms": [_alarm(a) for a in alarms]} if isinstance(alarms, list) else stage


def _alarm(alarm: Any) -> Any:
    if not isinstance(alarm, dict):
        return alarm
    name = alarm.get("name")
    return alarm | {"name": _OLD_ALARMS.get(str(name), name)}


PlotName = Literal["rewards", "logps", "quadrants", "tokens", "ends", "followed", "watch"]
_CAPTIONS: Mapping[PlotName, str] = {
    "rewards": "Rewards of chosen and rejected: beta times the log-ratio of policy and reference.",
    "logps": (
        "Log-probabilities of the answers: the policy's, and dashed the reference's on the "
        "same pairs."
    ),
    "quadrants": "Where the pairs of each log stand: shares of four directions.",
    "tokens": (
        "Log-probabilities of single tokens, which a sum hides: the first at which the two "
        "answers differ, and the least likely one of chosen from there on."
    ),
    "ends": ("Log-probability of the end token after each answer; near 0 the policy would stop."),
    "followed": "How far greedy decoding follows chosen from the first difference on.",
    "watch": (
        "Watched answers to held-out prompts: shares that end and keep to each check, rep-3."
    ),
}


class Plot(Record):
    """One figure as PNG and as SVG."""

    name: PlotName
    caption: str
    png: bytes
    svg: bytes

    def write(self, folder: Path) -> Path:
        """Write `<name>.png` into a folder."""
        path = folder / f"{self.name}.png"
        path.write_bytes(self.png)
        return path


def training_plots(
    run: TrainingRun, names: Collection[PlotName] = tuple(_CAPTIONS)
) -> tuple[Plot, ...]:
    """Draw what was logged; a figure without a single point is left out.

    Lines are training logs, points are evaluations of held-out pairs.

    Args:
        run: the training.
        names: the figures that are wanted; all by default.
    """
    drawn = ((name, _figure(run, name)) for name in _CAPTIONS if name in names)
    return tuple(
        Plot(name=name, caption=_CAPTIONS[name], png=saved(figure, "png"), svg=saved(figure, "svg"))
        for name, figure in drawn
        if figure is not None
    )


def _figure(run: TrainingRun, name: PlotName) -> "Figure | None":
    match name:
        case "rewards":
            return _lines(run, "reward", _REWARDS)
        case "logps":
            return _lines(run, "log-probability (nats)", _LOGPS)
        case "quadrants":
            return _quad(run)
        case "tokens":
            return _lines(run, "log-probability (nats)", _TOKENS)
        case "ends":
            return _lines(run, "log-probability (nats)", _ENDS)
        case "followed":
            return _lines(run, "share", _FOLLOWED)
        case "watch":
            return _lines(run, "share", _watched(run))


def _lines(
    run: TrainingRun, label: str, metrics: Mapping[str, tuple[str, str, str]]
) -> "Figure | None":
    figure, axes = _axes(label)
    for metric, (name, color, style) in metrics.items():
        steps, values = run.curve(metric).thinned()
        if steps:
            axes.plot(steps, values, style, color=color, label=name, linewidth=1.6)
        held_out = run.curve(f"eval_{metric}").thinned()
        if held_out.steps and style != "--":
            axes.plot(*held_out, "o", color=color, label=f"{name}, held out", markersize=5)
    if not axes.lines:
        return None
    if label == "reward":
        axes.axhline(0, color="black", linewidth=0.6)
    return _with_legend(figure, axes)


def _watched(run: TrainingRun) -> Mapping[str, tuple[str, str, str]]:
    """The figures of watched answers, those of the run's checks by their names."""
    names = dict.fromkeys(name for log in run.logs for name in log if name.startswith(_CHECKS))
    checks = {
        name: (name.removeprefix(_CHECKS), _CHECK_COLORS[place % len(_CHECK_COLORS)], "o--")
        for place, name in enumerate(names)
    }
    return {**_WATCHED, **checks}


def _quad(run: TrainingRun) -> "Figure | None":
    curves = {name: run.curve(f"quadrants/{name}").thinned() for name in QUADRANTS}
    steps = curves["chosen_up_rejected_down"].steps
    if not steps or any(curve.steps != steps for curve in curves.values()):
        return None
    figure, axes = _axes("share of pairs")
    axes.stackplot(
        steps,
        *(curve.values for curve in curves.values()),
        labels=[label for label, _ in QUADRANTS.values()],
        colors=[color for _, color in QUADRANTS.values()],
    )
    axes.set_ylim(0, 1)
    return _with_legend(figure, axes)


def _axes(label: str) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure  # half a second: only where something is drawn
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _with_legend(figure: "Figure", axes: "Axes") -> "Figure":
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def saved(figure: "Figure", kind: Literal["png", "svg"]) -> bytes:
    """A figure as the bytes of a file; the same figure gives the same bytes."""
    import matplotlib

    # no date, and names made of the content: the same run gives the same bytes
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    file = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "clair-apo", "svg.fonttype": "none"}):
        figure.savefig(file, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
    return file.getvalue()
