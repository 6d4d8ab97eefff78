"""What a cell was measured to be: its figures row by row, and the facts of its training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from clair_apo.errors import RunError
from clair_apo.evaluation.checkpoints import step_of
from clair_apo.evaluation.figure_name import FigureName
from clair_apo.evaluation.suites.figures import RowFigure, mean_of_rows
from clair_apo.evaluation.values import read_values
from clair_apo.experiment.cells import Cell
from clair_apo.experiment.plan import BASE, ExperimentPlan
from clair_apo.run_folder import RunFolder

View = Literal["last", "mean", "best"]
"""Of a cell with several evaluated checkpoints: which of them a figure is of."""
Figures = Mapping[str, RowFigure]
"""By `<suite>.<figure>`."""

LOG_RATIOS = "held_out_pairs"
"""The suite of the figures that the training itself measures: how many nats the log-probability of
chosen and rejected answers of its held-out pairs has moved."""


@dataclass(frozen=True)
class Measured:
    """A cell that was evaluated.

    Attributes:
        cell: which one.
        views: its figures by view; `last` alone where one model was evaluated.
        base: those of the model before the training, on the same rows.
        checkpoints: how many were evaluated.
    """

    cell: Cell
    views: Mapping[View, Figures]
    base: Figures
    checkpoints: int


def read_measured(plan: ExperimentPlan, cell: Cell) -> Measured:
    """Read what is known of a cell that was evaluated on the test prompts.

    Raises:
        RunError: a file is missing or cannot be read.
    """
    of_models: dict[str, dict[str, RowFigure]] = {}
    for config in plan.testing(cell):
        for name, figures in read_values(config.run_dir).items():
            of_models.setdefault(name, {}).update(figures)
    base = of_models.pop(BASE, {})
    names = sorted(of_models, key=lambda name: step_of(name) or 0)
    views: dict[View, Figures] = {"last": of_models[names[-1]] | _log_ratios(plan, cell)}
    if len(names) > 1:
        each = [of_models[name] for name in names]
        views["mean"] = {
            figure: mean_of_rows([of[figure] for of in each])
            for figure in each[0]
            if all(figure in of for of in each)
        }
        rules = [config.best_by for config in plan.testing(cell) if config.best_by]
        if rules:
            views["best"] = _best(FigureName.parse(rules[0]), each)
    return Measured(cell, views, base, len(names))


def development_figure(plan: ExperimentPlan, cell: Cell, figure: FigureName) -> RowFigure:
    """A figure of a cell on the development prompts.

    Raises:
        RunError: the evaluation cannot be read, or has no such figure.
    """
    found = read_values(plan.developing(cell).run_dir)[cell.name]
    return of_name(found, figure, cell.name)


def of_name(figures: Figures, figure: FigureName, where: str) -> RowFigure:
    """A figure by its name.

    Raises:
        RunError: there is none; says which there are.
    """
    if figure.name not in figures:
        raise RunError(
            f"{where} has no figure {figure.name!r} that is a mean over rows; "
            f"it has {', '.join(figures)}"
        )
    return figures[figure.name]


def _best(rule: FigureName, each: list[dict[str, RowFigure]]) -> Figures:
    return max(each, key=lambda of: rule.sign * of_name(of, rule, "best_by").interval().mean)


def _log_ratios(plan: ExperimentPlan, cell: Cell) -> dict[str, RowFigure]:
    """How far the held-out pairs of its own data have moved, in nats; none for a loss of TRL's."""
    folder = plan.cell_folder(cell).model
    try:
        found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        beta = RunFolder(folder).manifest()["stages"]["train"]["beta"]
        sides = {side: found[side] for side in ("chosen", "rejected")}
        ids = [f"{id}#{number}" for number, id in enumerate(found["ids"])]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{folder / 'evaluation.json'}: cannot be read ({error})") from None
    clusters = {id: id.partition("#")[0] for id in ids}
    sides["margin"] = [a - b for a, b in zip(sides["chosen"], sides["rejected"], strict=True)]
    return {
        f"{LOG_RATIOS}.{side}": RowFigure(
            {id: value / beta for id, value in zip(ids, values, strict=True)}, clusters
        )
        for side, values in sides.items()
    }
