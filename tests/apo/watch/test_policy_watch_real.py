"""Watched answers with several processes: two share the prompts out and write what one writes."""

import json

import pytest

from tests.helpers.launching import command, finished

pytestmark = pytest.mark.real


@pytest.fixture
def watched(write_config):
    """Trains for two epochs, and returns answers and logs of the watches."""

    def run(processes, prompts):
        config = write_config(
            f"run{prompts}{processes}",
            20,
            held_out=0.4,
            watch_prompts=prompts,
            eval_strategy="epoch",
            learning_rate=1e-3,
            per_device_train_batch_size=4 // processes,
        )
        done = finished(command(config, processes))
        assert done.returncode == 0, done.stderr
        folder = config.with_suffix("")
        lines = (folder / "watched_answers.jsonl").read_text().split("\n")[:-1]
        rows = [json.loads(line) for line in lines]
        state = json.loads((folder / "trainer_state.json").read_text())
        logs = [entry for entry in state["log_history"] if "watch/ended" in entry]
        return [(row["step"], row["id"], row["answer"]) for row in rows], logs

    return run


def test_two_processes_write_and_log_the_answers_of_one(watched):
    """Of five prompts one process answers three; of one prompt the other answers none."""
    one, two, alone = watched(1, 5), watched(2, 5), watched(2, 1)
    assert one == two
    assert len(one[0]) == 3 * 5, "at the start and after each of two epochs"
    first = one[0][0][1]
    assert alone[0] == [row for row in one[0] if row[1] == first]
