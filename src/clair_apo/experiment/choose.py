"""Chooses betas and learning rates by the rule of the config, on the development prompts alone."""

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from clair_apo.experiment.cells import Cell, candidates, tuned_groups
from clair_apo.experiment.measured import development_figure
from clair_apo.experiment.plan import ExperimentPlan
from clair_apo.experiment.work import DELETE, is_done
from clair_apo.records import Record
from clair_apo.run_folder import read_record_file, write_json
from clair_apo.stats import Interval

FILE = "choices.json"


class Candidate(Record):
    """Values that were tried."""

    values: dict[str, Any]
    figure: Interval | None
    """On the development prompts; None where the cell failed."""


class Choice(Record):
    """Which values a data set and an objective are trained with, and why."""

    data: str
    objective: str
    rule: str
    """In words."""
    candidates: tuple[Candidate, ...]
    """In the order of the config."""
    chosen: dict[str, Any] | None
    """None where every cell failed."""


_RECORD = TypeAdapter(tuple[Choice, ...])


def choose(plan: ExperimentPlan) -> tuple[Choice, ...]:
    """Choose, for every group with several values, and write it to `choices.json`.

    Args:
        plan: an experiment whose cells of the development prompts are done or have failed.
    """
    found = tuple(
        _choice(plan, candidates(plan.config, data, objective))
        for data, objective in tuned_groups(plan.config)
    )
    write_json(plan.folder / FILE, _RECORD.dump_python(found))
    return found


def read_choices(plan: ExperimentPlan) -> tuple[Choice, ...]:
    """What was chosen; empty before.

    Raises:
        RunError: the file cannot be read.
    """
    return read_record_file(plan.folder / FILE, _RECORD, DELETE) or ()


def _choice(plan: ExperimentPlan, cells: Sequence[Cell]) -> Choice:
    rule = plan.config.choose
    assert rule is not None
    tried = [Candidate(values=dict(cell.values), figure=_figure(plan, cell)) for cell in cells]
    sign = rule.parsed.sign
    able = [one for one in tried if one.figure]
    best = max(able, key=lambda one: sign * one.figure.mean) if able else None  # type: ignore[union-attr]
    words = "lowest" if sign < 0 else "highest"
    return Choice(
        data=cells[0].data,
        objective=cells[0].objective,
        rule=f"the {words} mean of {rule.parsed.name} on the development prompts",
        candidates=tuple(tried),
        chosen=best.values if best else None,
    )


def _figure(plan: ExperimentPlan, cell: Cell) -> Interval | None:
    if not is_done(plan.outcome_file(cell, "development")):
        return None
    assert plan.config.choose is not None
    return development_figure(plan, cell, plan.config.choose.parsed).interval()
