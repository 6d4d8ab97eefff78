"""Runs an experiment: data, choices, cells, comparison; each step finds what was done before.

Several processes may run the same experiment, on one machine or on several with one disk: each
takes cells that no other is at work on, and all end with the same table.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial

from clair_apo.console import say
from clair_apo.errors import BusyError, ConfigError, RunError
from clair_apo.experiment.cells import Cell, candidates, chosen_cells, names, tuned_groups
from clair_apo.experiment.choose import Choice, choose, read_choices
from clair_apo.experiment.close import chosen_values, close
from clair_apo.experiment.config import ExperimentConfig
from clair_apo.experiment.data import Functions, MadeData, make_data, read_data
from clair_apo.experiment.plan import ExperimentPlan, Step
from clair_apo.experiment.record import ExperimentRecord, read_record, write_record
from clair_apo.experiment.table import experiment_markdown
from clair_apo.experiment.training import (
    check_settings,
    delete_checkpoints,
    delete_weights,
    develop_cell,
    evaluate_cell,
)
from clair_apo.experiment.work import LOOK_AGAIN, Job, do_all
from clair_apo.files import atomic_writer
from clair_apo.llm import ChatModel
from clair_apo.run_folder import RunFolder

DATA = "data"
"""In `only`, in place of a cell."""
MARKDOWN = "experiment.md"


def run_experiment(
    config: ExperimentConfig,
    *,
    functions: Functions | None = None,
    judge_model: ChatModel | None = None,
) -> ExperimentRecord:
    """Make the data, train and evaluate every cell, and compare; run again to go on.

    A cell that fails is written down as failed, and the others go on.

    Args:
        config: what to do.
        functions: models of the caller's own, by data set and by their name in `generate`.
        judge_model: asked in place of the judge of `advise`.

    Raises:
        ConfigError: a file or a setting that cannot be used; before anything is asked.
        RunError: the folder holds an experiment of other settings, or a cell of them.
        ClairApoError: as `generate`, `advise` and `reference build` raise it; what they did is
            kept.
    """
    plan, since = ExperimentPlan(config), time.time()
    _take_folder(plan)
    data = _make_data(plan, functions or {}, judge_model)
    if config.only == (DATA,):
        return _closed(plan, data, read_choices(plan))
    tuned = [cell for group in tuned_groups(config) for cell in candidates(config, *group)]
    developing = _only(config, tuned)
    _check_settings(plan, tuned)
    do_all([_job(plan, cell, "development") for cell in developing], since)
    if config.only and len(developing) < len(tuned):
        choices: Sequence[Choice] = read_choices(plan)
    else:
        choices = choose(plan)
    tested = chosen_cells(config, chosen_values(choices))
    _check_settings(plan, tested)
    if not config.only:
        _forget(plan, [cell for cell in tuned if cell not in set(tested)])
    testing = _only(config, tested)
    _check_only(config, [*developing, *testing], [*tuned, *tested])
    do_all([_job(plan, cell, "test") for cell in testing], since)
    return _closed(plan, data, choices)


def _closed(
    plan: ExperimentPlan, data: Mapping[str, MadeData], choices: Sequence[Choice]
) -> ExperimentRecord:
    record = close(plan, data, choices)
    write_record(plan.folder, record)
    with atomic_writer(plan.folder / MARKDOWN) as file:
        file.write(experiment_markdown(record))
    return record


def _take_folder(plan: ExperimentPlan) -> None:
    """Begin an experiment in its folder, or find the same one there.

    Raises:
        RunError: the folder holds another one, or cannot be written.
    """
    RunFolder(plan.folder).prepare()
    found = read_record(plan.folder)
    if found is None:
        write_record(plan.folder, ExperimentRecord(settings=plan.settings))
    elif found.settings != plan.settings:
        changed = [key for key, value in plan.settings.items() if found.settings.get(key) != value]
        raise RunError(
            f"{plan.folder}: was begun with other settings ({', '.join(changed)}); name another "
            "run_dir"
        )


def _make_data(
    plan: ExperimentPlan, functions: Functions, judge_model: ChatModel | None
) -> dict[str, MadeData]:
    """The data sets; made by one process, while others wait for it."""
    folder, told = RunFolder(plan.folder / "data"), False
    while True:
        found = read_data(plan.folder)
        if found is not None:
            return found
        folder.prepare()
        try:
            with folder.locked():
                return read_data(plan.folder) or make_data(plan, functions, judge_model)
        except BusyError:
            if not told:
                say("waiting for another process that makes the data")
            told = True
            time.sleep(LOOK_AGAIN)


def _job(plan: ExperimentPlan, cell: Cell, step: Step) -> Job:
    work = develop_cell if step == "development" else evaluate_cell
    return Job(f"{cell.name}: {step}", plan.outcome_file(cell, step), partial(work, plan, cell))


def _check_settings(plan: ExperimentPlan, cells: Sequence[Cell]) -> None:
    for cell in cells:
        check_settings(plan, cell)


def _only(config: ExperimentConfig, cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if not config.only or cell.name in config.only]


def _check_only(config: ExperimentConfig, taken: Sequence[Cell], cells: Sequence[Cell]) -> None:
    if missing := [name for name in config.only if name not in names(taken)]:
        known = ", ".join(dict.fromkeys(names(cells)))
        raise ConfigError(f"only: there is no cell {missing[0]!r}; there are {known}")


def _forget(plan: ExperimentPlan, cells: Sequence[Cell]) -> None:
    """Delete what nobody needs of cells that were not chosen."""
    delete = delete_checkpoints if plan.config.keep_weights else delete_weights
    for cell in cells:
        delete(plan.cell_folder(cell))
