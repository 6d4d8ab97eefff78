"""Starts the scripts as a user does: in one process, or in two with accelerate."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from tests.helpers import ROOT

# One thread for each process: sums are then taken in one order, and two share two cores in peace.
ENVIRONMENT = os.environ | {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),  # tests.helpers
}

LONGEST_S = 240


def command(config: Path, processes: int, script: str = "scripts/train.py") -> list[str]:
    """The command line for a script of the repository with a training config."""
    run = [str(ROOT / script), "--config", str(config)]
    if processes == 1:
        return [sys.executable, *run]
    return launch(ROOT / "configs" / "accelerate" / "cpu.yaml", run)


def finished(run: list[str]) -> subprocess.CompletedProcess[str]:
    """What a command line came to, with its output as text.

    One that does not end is a failure that shows where each of its processes stands.
    """
    process = subprocess.Popen(
        run,
        env=ENVIRONMENT | {"PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        root = psutil.Process(process.pid)
        for each in (*root.children(recursive=True), root):
            each.send_signal(signal.SIGABRT)
        out, err = process.communicate(timeout=60)
        raise AssertionError(f"did not end in {LONGEST_S} s\n{out}\n{err}") from None
    return subprocess.CompletedProcess(run, process.returncode, out, err)


def launch(accelerate_config: Path, run: list[str]) -> list[str]:
    """`accelerate launch` on a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = ["-m", "accelerate.commands.launch", "--main_process_port", port]
    return [sys.executable, *launcher, "--config_file", str(accelerate_config), *run]
