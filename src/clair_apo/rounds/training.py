"""Trains one round in a process of its own: nothing of it stays in memory when it ends."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from clair_apo.errors import TrainingError
from clair_apo.files import atomic_writer
from clair_apo.rounds.plan import RoundModels, RoundsPlan
from clair_apo.run_folder import RunFolder

AGAIN = "the same command goes on from the last checkpoint"


def is_trained(model: Path) -> bool:
    """Whether a training came to its end in this folder."""
    return "train" in RunFolder(model).manifest().get("stages", {})


def train_round(plan: RoundsPlan, number: int, models: RoundModels) -> None:
    """Train a round's model on its pairs, unless that is done; go on from its last checkpoint.

    The round's `train.yaml` is the config that `clair-apo train` is called with.

    Raises:
        TrainingError: it ended before its last step; it has said why.
        KeyboardInterrupt: Ctrl+C; a checkpoint is saved.
    """
    folders = plan.folders(number)
    if is_trained(folders.model):
        return
    resume = any(folders.model.glob("checkpoint-*/trainer_state.json"))
    with atomic_writer(folders.training_config) as file:
        file.write(yaml.safe_dump(plan.training(number, models, resume=resume), sort_keys=False))
    _run(number, [*_command(plan), "--config", str(folders.training_config)])


def _command(plan: RoundsPlan) -> list[str]:
    command = [sys.executable, "-m", "clair_apo", "train"]
    if plan.config.num_processes is not None:
        command += ["--num_processes", str(plan.config.num_processes)]
    if plan.config.accelerate_config is not None:
        command += ["--accelerate_config", str(plan.config.accelerate_config)]
    return command


def _run(number: int, command: Sequence[str]) -> None:
    with subprocess.Popen(command) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:  # the training has it as well, and saves a checkpoint
            process.wait()
            raise KeyboardInterrupt(AGAIN) from None
        except BaseException:
            process.terminate()
            raise
    if status == 130:
        raise KeyboardInterrupt(AGAIN)
    if status < 0:
        raise TrainingError(f"round {number}: the training was killed by signal {-status}; {AGAIN}")
    if status:
        raise TrainingError(f"round {number}: the training did not end, as it says above; {AGAIN}")
