"""Trains in a process of its own: nothing of it stays in memory when it ends."""

import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clair_apo.console import say
from clair_apo.errors import BusyError, TrainingError
from clair_apo.files import atomic_writer
from clair_apo.run_folder import RunFolder

_ERROR = re.compile(r"clair-apo: error: |[A-Za-z_.]*(?:Error|Exception): ")
LOOK_AGAIN = 2.0
"""Seconds between two looks at a folder in which another process trains."""
AGAIN = "the same command goes on from the last checkpoint"


@dataclass(frozen=True)
class Launch:
    """In how many processes a training runs.

    Attributes:
        num_processes: as in `clair-apo train`; None for one.
        accelerate_config: a YAML of `accelerate launch`.
    """

    num_processes: int | None = None
    accelerate_config: Path | None = None

    @property
    def options(self) -> list[str]:
        """The options of `clair-apo train` that say so."""
        options: list[str] = []
        if self.num_processes is not None:
            options += ["--num_processes", str(self.num_processes)]
        if self.accelerate_config is not None:
            options += ["--accelerate_config", str(self.accelerate_config)]
        return options


def is_trained(model: Path) -> bool:
    """Whether a training came to its end in this folder."""
    return "train" in RunFolder(model).manifest().get("stages", {})


def train_apart(
    name: str,
    settings: Mapping[str, Any],
    config_file: Path,
    launch: Launch,
    log: Path | None = None,
) -> None:
    """Train, unless that is done; go on from the last checkpoint where there is one.

    Args:
        name: of what is trained, for errors.
        settings: of `clair-apo train`, with `output_dir`.
        config_file: where they are written, for the process to read.
        launch: in how many processes.
        log: takes what it says, and keeps what earlier ones said; by default the terminal does.

    Raises:
        TrainingError: it ended before its last step.
        KeyboardInterrupt: Ctrl+C; a checkpoint is saved.
    """
    model = Path(settings["output_dir"])
    while True:
        _wait_for_others(name, model)
        if is_trained(model):
            return
        write_config(settings, config_file)
        try:
            run_command(name, ["train", *launch.options, "--config", str(config_file)], log)
            return
        except TrainingError:
            # a training that was still loading has the folder since: that of a killed process
            if not (_is_held(model) or is_trained(model)):
                raise


def _is_held(model: Path) -> bool:
    """Whether a process trains in this folder."""
    if not model.is_dir():
        return False
    try:
        with RunFolder(model).locked():
            return False
    except BusyError:
        return True


def write_config(settings: Mapping[str, Any], config_file: Path) -> None:
    """Write the config of a training, which goes on from its last checkpoint where it has one.

    Args:
        settings: of `clair-apo train`, with `output_dir`.
        config_file: its folder is made where it is not there.
    """
    resume = any(Path(settings["output_dir"]).glob("checkpoint-*/trainer_state.json"))
    known = dict(settings) | ({"resume_from_checkpoint": "true"} if resume else {})
    config_file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_writer(config_file) as file:
        file.write(yaml.safe_dump(known, sort_keys=False))


def _wait_for_others(name: str, model: Path) -> None:
    """Wait while a training is under way in a folder, such as that of a process that was killed."""
    told = False
    while _is_held(model):
        if not told:
            say(f"{name}: waiting for a training that is under way in {model}")
        told = True
        time.sleep(LOOK_AGAIN)


def run_command(name: str, arguments: Sequence[str], log: Path | None = None) -> None:
    """Run a command of `clair-apo` that loads a model to be trained.

    Args:
        name: of what it is run for, for errors.
        arguments: after `clair-apo`.
        log: as in `train_apart`.

    Raises:
        TrainingError, KeyboardInterrupt: as `train_apart` does.
    """
    command = [sys.executable, "-m", "clair_apo", *arguments]
    with (
        log.open("ab") if log else nullcontext() as output,
        subprocess.Popen(command, stdout=output, stderr=output) as process,
    ):
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
        raise TrainingError(f"{name}: the training was killed by signal {-status}; {AGAIN}")
    if status:
        why = _last_error(log) if log else "as it says above"
        raise TrainingError(f"{name}: the training did not end, {why}; {AGAIN}")


def _last_error(log: Path) -> str:
    """The last error in a log: that of this program, or the last line of a traceback."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [line for line in lines if _ERROR.match(line)]
    return f"{found[-1][:400]!r} in {log}" if found else f"see {log}"
