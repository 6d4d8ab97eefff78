"""`clair-apo train --num_processes N`: one mistake is one line, and the processes one training."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from typer.testing import CliRunner

from clair_apo.cli import app
from clair_apo.errors import ConfigError
from clair_apo.launch import launch_training
from tests.helpers.launching import ENVIRONMENT, finished

TRAIN = [sys.executable, "-m", "clair_apo", "train"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_processes": 0}, "num_processes must be 1 or more, got 0"),
        ({"num_processes": -2}, "num_processes must be 1 or more, got -2"),
        ({"num_processes": 2, "accelerate_config": "none.yaml"}, "none.yaml is no file"),
        ({"num_processes": 2, "accelerate_config": "odd.yaml"}, "accelerate launch: "),
    ],
)
def test_what_cannot_be_launched_is_said_before_any_process_starts(tmp_path, options, said):
    (tmp_path / "odd.yaml").write_text("beta: 0.1\n")
    if name := options.get("accelerate_config"):
        options = options | {"accelerate_config": tmp_path / name}
    with pytest.raises(ConfigError, match=said):
        launch_training([], **options)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ConfigError, match="num_processes is 3, but this machine has 2 GPUs"):
        launch_training([], 3)


@pytest.mark.parametrize("asked", [{"num_processes": 2}, {}])
def test_cores_are_shared_only_where_the_number_of_processes_is_known(tmp_path, monkeypatch, asked):
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr("clair_apo.apo.trl_compat.run_in_processes", lambda command: None)
    config = tmp_path / "accelerate.yaml"
    config.touch()
    launch_training([], asked.get("num_processes"), config)
    assert os.environ.get("OMP_NUM_THREADS") == ("3" if asked else None)


def test_help_names_the_options_beside_those_of_the_config():
    shown = CliRunner().invoke(app, ["train", "--help"]).stdout
    assert "--num_processes N" in shown and "--accelerate_config FILE" in shown


@pytest.mark.real
@pytest.mark.parametrize("pairs, weights", [(8, None), (7, [0.25, 2, 0, 1, 3, 0.5, 1.5])])
def test_two_processes_train_what_one_trains_with_twice_the_batch(write_config, pairs, weights):
    """One command and no script: the losses are equal, and each line is printed once."""
    options = {"held_out": 0.0, "loss_type": ["apo_zero", "sft"]}
    one = write_config("one", pairs, per_device_train_batch_size=4, **options)
    two = write_config("two", pairs, per_device_train_batch_size=2, **options)
    data = one.with_name("pairs.jsonl")
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for row, weight in zip(rows, weights or [None] * pairs, strict=True):
        row["weight"] = weight
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = [
        finished([*TRAIN, "--config", str(one)]),
        finished([*TRAIN, "--config", str(two), "--num_processes", "2"]),
    ]
    for run in done:
        assert run.returncode == 0, run.stderr
        assert run.stdout.count(f"trained on {pairs} pairs in 4 steps") == 1
        assert run.stderr.count("weighted by their column weight: 0 to 3") == bool(weights)
    logs = [_losses(path.with_suffix("")) for path in (one, two)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-4) and len(logs[0]) == 4


def _losses(folder):
    state = json.loads((folder / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


@pytest.mark.real
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_says_so_in_a_line_and_leaves_no_process(write_config, sent):
    """SIGKILL to one process, as the system does when memory runs out; Ctrl+C to all of them."""
    config = write_config("run", 8, held_out=0.0, num_train_epochs=10_000)
    run = subprocess.Popen(
        [*TRAIN, "--config", str(config), "--num_processes", "2"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        workers = _workers(run, config.with_name("cache-run"))
        targets = workers[-1:] if sent == signal.SIGKILL else [psutil.Process(run.pid), *workers]
        for process in targets:
            process.send_signal(sent)
        _, told = run.communicate(timeout=120)
        assert not psutil.wait_procs(workers, timeout=10)[1]
    finally:
        for process in _family(run):
            process.kill()
    expected = (2, "was killed by signal 9") if sent == signal.SIGKILL else (130, "interrupted")
    assert run.returncode == expected[0], told
    assert expected[1] in told


def _family(run):
    try:
        root = psutil.Process(run.pid)
        return [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return []


def _workers(run, cache):
    """The two training processes, once the reference is being computed."""
    until = time.monotonic() + 120
    while time.monotonic() < until and run.poll() is None:
        found = [p for p in _family(run)[:-1] if "-m" in p.cmdline()]
        if len(found) == 2 and cache.exists():
            return found
        time.sleep(0.2)
    raise AssertionError(run.communicate(timeout=5))
