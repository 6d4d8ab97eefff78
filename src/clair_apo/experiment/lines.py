"""What other machines run of an experiment: lines for `accelerate launch`, or a job for Slurm."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from clair_apo.experiment.cells import Cell, candidates, chosen_cells, tuned_groups
from clair_apo.experiment.choose import read_choices
from clair_apo.experiment.close import chosen_values
from clair_apo.experiment.data import read_data
from clair_apo.experiment.plan import ExperimentPlan
from clair_apo.experiment.work import is_done
from clair_apo.training_process import is_trained, write_config


def launch_lines(plan: ExperimentPlan, options: Sequence[str]) -> str:
    """A line for each cell that is to be trained, and one that evaluates and compares.

    Writes the config of train of each cell that it names.

    Args:
        plan: the experiment.
        options: of the command `clair-apo experiment`, without `--launch`.
    """
    command = _command(options)
    if read_data(plan.folder) is None:
        return f"{command} --only data\n# and then this command once more, for the cells"
    cells, later = _open_cells(plan)
    lines = [_line(plan, cell) for cell in cells if not is_trained(plan.cell_folder(cell).model)]
    lines.append(f"{command}  # evaluates, chooses and compares{later}")
    return "\n".join(lines)


def slurm_script(plan: ExperimentPlan, options: Sequence[str]) -> str:
    """An array job with a task for each cell that is open.

    Args:
        plan: the experiment.
        options: of the command `clair-apo experiment`, without `--launch`.
    """
    command = _command(options)
    first = read_data(plan.folder) is None
    cells, later = _open_cells(plan)
    names = "\n".join(f"  {shlex.quote(cell.name)}" for cell in cells)
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={plan.folder.name}",
        f"#SBATCH --array=0-{max(0, len(cells) - 1)}",
        "#SBATCH --output=%x-%a.out",
        "# what a task needs: GPUs, memory and hours are yours to add",
        *([f"# before this job, on one machine: {command} --only data"] if first else []),
        f"# when all tasks have ended, on one machine: {command}{later}",
        f"CELLS=(\n{names}\n)",
        f'{command} --only "${{CELLS[$SLURM_ARRAY_TASK_ID]}}"',
    ]
    return "\n".join(lines)


def without_launch(options: Sequence[str]) -> list[str]:
    """The options of the command that does the work: those given, without `--launch`."""
    kept, skip = [], False
    for option in options:
        if skip:
            skip = False
        elif option == "--launch":
            skip = True
        elif not option.startswith("--launch="):
            kept.append(option)
    return kept


def _command(options: Sequence[str]) -> str:
    return shlex.join(["clair-apo", "experiment", *options])


def _line(plan: ExperimentPlan, cell: Cell) -> str:
    file = plan.cell_folder(cell).training_config
    write_config(plan.training(cell), file)
    return shlex.join(["accelerate", "launch", *_processes(plan), *_train(file)])


def _processes(plan: ExperimentPlan) -> Iterator[str]:
    launch = plan.launch
    if launch.accelerate_config is not None:
        yield from ("--config_file", str(launch.accelerate_config))
    if launch.num_processes is not None:
        yield from ("--num_processes", str(launch.num_processes))


def _train(config: Path) -> tuple[str, ...]:
    return "-m", "clair_apo", "train", "--config", str(config)


def _open_cells(plan: ExperimentPlan) -> tuple[list[Cell], str]:
    """The cells that are not done, and what is said of those that come later."""
    config = plan.config
    tuned = [cell for group in tuned_groups(config) for cell in candidates(config, *group)]
    trying = [cell for cell in tuned if not is_done(plan.outcome_file(cell, "development"))]
    choices = read_choices(plan)
    if trying or (tuned and not choices):
        return trying, "; the cells with the chosen values follow"
    tested = chosen_cells(config, chosen_values(choices))
    return [cell for cell in tested if not is_done(plan.outcome_file(cell, "test"))], ""
