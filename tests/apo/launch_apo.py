"""Starts the scripts as a user does: in one process, or in two with accelerate."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# One thread for each process: sums are then taken in one order, and two share two cores in peace.
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def command(config: Path, processes: int, script: str = "scripts/train.py") -> list[str]:
    """The command line for a script of the repository with a training config."""
    run = [str(ROOT / script), "--config", str(config)]
    if processes == 1:
        return [sys.executable, *run]
    return launch(ROOT / "configs" / "accelerate" / "cpu.yaml", run)


def finished(run: list[str]) -> subprocess.CompletedProcess[str]:
    """What a command line came to, with its output as text."""
    return subprocess.run(
        run, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )


def launch(accelerate_config: Path, run: list[str]) -> list[str]:
    """`accelerate launch` on a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = ["-m", "accelerate.commands.launch", "--main_process_port", port]
    return [sys.executable, *launcher, "--config_file", str(accelerate_config), *run]
