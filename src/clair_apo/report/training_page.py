"""The page of a training: its facts and alarms, its figures, and the metrics at its end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clair_apo.files import atomic_writer
from clair_apo.records import Record
from clair_apo.report.html import Part, image_source, render, render_part
from clair_apo.report.terminal import NONE, numeral
from clair_apo.report.training_answers import read_answers
from clair_apo.report.training_run import Plot, TrainingRun, read_training, training_plots

PAGE, TEMPLATE = "training.html", "training.html.jinja"

SHOWN_FACTS = {
    "objective": "Objective",
    "beta": "beta",
    "model": "Model",
    "dataset": "Data",
    "trained": "Pairs trained on",
    "held_out": "Pairs held out",
    "steps": "Steps",
    "changes": "Changed during the run",
    "pair_layout": "Pair layout",
    "reference": "Reference",
    "reference_digest": "Reference digest",
    "template_digest": "Template digest",
}


class FinalMetric(Record):
    """One metric at the end of a training, as text."""

    name: str
    trained: str
    """Its value in the last training log."""
    held_out: str
    """Its value in the last evaluation."""


class TrainingReport(Record):
    """The files that `write_training_report` wrote."""

    page: Path
    plots: tuple[Path, ...]


def write_training_report(folder: Path) -> TrainingReport:
    """Draw a training run into `training.html` and PNG files beside its `trainer_state.json`.

    The same run gives the same bytes.

    Args:
        folder: the output folder of a training, or a run folder with a `checkpoint` in it.

    Raises:
        RunError: there is no training in it, or its state cannot be read.
    """
    run = read_training(folder)
    plots = training_plots(run)
    page = training_page(run, plots)
    with atomic_writer(run.folder / PAGE) as file:
        file.write(page)
    return TrainingReport(
        page=run.folder / PAGE, plots=tuple(plot.write(run.folder) for plot in plots)
    )


def training_page(run: TrainingRun, plots: Sequence[Plot]) -> str:
    """The page as HTML; what models and users wrote is text on it, never markup."""
    return render(TEMPLATE, _values(run, plots))


def training_part(folder: Path) -> Part:
    """A training as a part of a larger page; raises as `write_training_report`."""
    run = read_training(folder)
    return render_part("training", "Training", TEMPLATE, _values(run, training_plots(run)))


def _values(run: TrainingRun, plots: Sequence[Plot]) -> dict[str, Any]:
    return {
        "name": run.name,
        "facts": _facts(run.facts),
        "why": _texts(run.facts.get("why")),
        "alarms": _alarms(run.facts.get("alarms")),
        "watched": read_answers(run.folder),
        "metrics": _final_metrics(run),
        "figures": [(plot.name, plot.caption, image_source(plot.svg)) for plot in plots],
    }


def _facts(stage: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, _text(stage[key])) for key, name in SHOWN_FACTS.items() if stage.get(key)]


def _text(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _texts(value: Any) -> list[str]:
    return [str(part) for part in value] if isinstance(value, list) else []


def _alarms(value: Any) -> list[tuple[str, str]]:
    """Each alarm as a heading and a sentence."""
    found = value if isinstance(value, list) else []
    return [
        (
            f"{alarm.get('name')} at step {alarm.get('step')}",
            f"{alarm.get('what')}. {alarm.get('advice')}",
        )
        for alarm in found
        if isinstance(alarm, dict)
    ]


def _final_metrics(run: TrainingRun) -> list[FinalMetric]:
    """Every metric of the last training log that is a mean over pairs or tokens."""
    nothing: Mapping[str, Any] = {}
    last = next((log for log in reversed(run.logs) if "rewards/chosen" in log), nothing)
    names = [name for name in last if "/" in name or f"eval_{name}" in _evaluated(run)]
    names += dict.fromkeys(name for log in run.logs for name in log if name.startswith("watch/"))
    return [
        FinalMetric(
            name=name,
            trained=NONE if name.startswith("watch/") else _written(run.last(name)),
            held_out=_written(run.last(name if name.startswith("watch/") else f"eval_{name}")),
        )
        for name in names
    ]


def _evaluated(run: TrainingRun) -> Mapping[str, Any]:
    return next((log for log in reversed(run.logs) if "eval_loss" in log), {})


def _written(value: float | None) -> str:
    return NONE if value is None else numeral(value, 3)
