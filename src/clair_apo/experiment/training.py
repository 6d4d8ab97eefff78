"""One cell: trains it in a process of its own, evaluates it, and frees the disk."""

import shutil

import yaml

from clair_apo.config import read_yaml
from clair_apo.errors import RunError
from clair_apo.evaluation import evaluate
from clair_apo.experiment.cells import Cell
from clair_apo.experiment.plan import CellFolder, ExperimentPlan
from clair_apo.training_process import is_trained, train_apart

WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json")
_PLACES = ("model_name_or_path", "dataset_name", "output_dir", "reference_cache")
"""Paths, which another machine may spell otherwise."""
_ASKED = ("resume_from_checkpoint",)


def check_settings(plan: ExperimentPlan, cell: Cell) -> None:
    """See that a cell that was trained earlier is still the one that the config describes.

    Its name has the values of beta and learning rate; other keys of an objective may have changed
    under it. A training that did not end looks at that itself, where it has a checkpoint.

    Raises:
        RunError: the cell was trained with other settings.
    """
    file = plan.cell_folder(cell).training_config
    if not is_trained(plan.cell_folder(cell).model):
        return
    found, asked = read_yaml(file), yaml.safe_load(yaml.safe_dump(plan.training(cell)))
    keys = [key for key in {**found, **asked} if key not in (*_PLACES, *_ASKED)]
    changed = [key for key in keys if found.get(key) != asked.get(key)]
    if changed:
        raise RunError(
            f"{file}: {cell.name} was trained with other settings ({', '.join(changed)}); give the "
            "changed objective another name, or name another run_dir"
        )


def train_cell(plan: ExperimentPlan, cell: Cell) -> None:
    """Train a cell, unless that is done.

    Raises:
        TrainingError: it ended before its last step; its log says why.
        KeyboardInterrupt: Ctrl+C; a checkpoint is saved.
    """
    folder = plan.cell_folder(cell)
    settings = plan.training(cell)
    train_apart(cell.name, settings, folder.training_config, plan.launch, folder.log)


def develop_cell(plan: ExperimentPlan, cell: Cell) -> None:
    """Train a cell, and evaluate it on the development prompts.

    Raises:
        ClairApoError: as the training and `evaluate` raise it.
    """
    train_cell(plan, cell)
    evaluate(plan.developing(cell))
    if not plan.over_checkpoints:  # else a chosen cell has them evaluated
        delete_checkpoints(plan.cell_folder(cell))


def evaluate_cell(plan: ExperimentPlan, cell: Cell) -> None:
    """Train a cell, unless that is done, and evaluate it on the test prompts.

    Raises:
        ClairApoError: as the training and `evaluate` raise it.
    """
    train_cell(plan, cell)
    for config in plan.testing(cell):
        evaluate(config)
    folder = plan.cell_folder(cell)
    if not plan.over_checkpoints:
        delete_checkpoints(folder)
    if not plan.config.keep_weights:
        delete_weights(folder)


def delete_checkpoints(folder: CellFolder) -> None:
    """Delete the checkpoints of a training that came to its end: nothing goes on from them."""
    if not is_trained(folder.model):
        return
    for checkpoint in folder.model.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def delete_weights(folder: CellFolder) -> None:
    """Delete a trained model; its card, settings, logs and answers stay."""
    delete_checkpoints(folder)
    if not is_trained(folder.model):
        return
    for pattern in WEIGHTS:
        for file in folder.model.glob(pattern):
            file.unlink()
