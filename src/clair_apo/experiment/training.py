"""One cell: trains it in a process of its own, evaluates it, and frees the disk."""

import shutil

from clair_apo.evaluation import evaluate
from clair_apo.experiment.cells import Cell
from clair_apo.experiment.plan import CellFolder, ExperimentPlan
from clair_apo.training_process import is_trained, train_apart

WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json")


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
    for checkpoint in folder.model.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def delete_weights(folder: CellFolder) -> None:
    """Delete a trained model; its card, settings, logs and answers stay."""
    if not is_trained(folder.model):
        return
    delete_checkpoints(folder)
    for pattern in WEIGHTS:
        for file in folder.model.glob(pattern):
            file.unlink()
