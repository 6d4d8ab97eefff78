"""Watched answers with several processes: two share the prompts out and write what one writes."""

import json

import pytest

from tests.helpers.launching import command, finished

pytestmark = pytest.mark.real


def test_two_processes_write_and_log_the_answers_of_one(write_config):
    """An odd number of prompts, so that one process answers more than the other; and one alone."""
    for prompts in (5, 1):
        options = {
            "held_out": 0.4,
            "watch_prompts": prompts,
            "eval_strategy": "epoch",
            "learning_rate": 1e-3,
        }
        found = []
        for processes in (1, 2):
            name, size = f"run{prompts}{processes}", 4 // processes
            config = write_config(name, 20, per_device_train_batch_size=size, **options)
            done = finished(command(config, processes))
            assert done.returncode == 0, done.stderr
            folder = config.with_suffix("")
            lines = (folder / "watched_answers.jsonl").read_text().split("\n")[:-1]
            rows = [json.loads(line) for line in lines]
            state = json.loads((folder / "trainer_state.json").read_text())
            logs = [entry for entry in state["log_history"] if "watch/ended" in entry]
            found.append(([(r["step"], r["id"], r["answer"]) for r in rows], logs))
        assert found[0] == found[1]
        assert len(found[0][0]) == 3 * prompts, "at the start and after each of two epochs"
