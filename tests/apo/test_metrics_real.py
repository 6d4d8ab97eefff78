"""Metrics and failures with two processes on CPU."""

import json
import re
import sys

import pytest
from safetensors.torch import load_file, save_file

from tests.helpers.launching import ROOT, command, finished, launch
from tests.helpers.tiny_apo import make_rows, make_tokenizer

pytestmark = pytest.mark.real


@pytest.fixture
def launched(write_config, tmp_path):
    """Trains the tiny model on 15 pairs in so many processes; returns what ran and its logs."""

    def run(name, processes, **options):
        values = {
            "loss_type": ["apo_zero", "sft"],
            "loss_weights": [1.0, 0.2],
            "train_sampling_strategy": "sequential",
            "held_out": 0.4,
            "per_device_train_batch_size": 4 // processes,
            "per_device_eval_batch_size": 2,
        }
        path = write_config(name, 15, **(values | options))
        done = finished(command(path, processes))
        state = tmp_path / name / "trainer_state.json"
        logs = json.loads(state.read_text())["log_history"] if state.exists() else None
        return done, logs

    return run


def assert_agree(mine, other, but=()):
    """What two logs both tell is the same, aside from what any two runs differ in."""
    differ = ("runtime", "per_second", "utilisation", "num_tokens", "flos", *but)
    for key in mine.keys() & other.keys():
        if not key.endswith(differ):
            assert other[key] == pytest.approx(mine[key], rel=1e-3, abs=2e-4), key


def test_two_processes_log_what_one_logs_on_uneven_batches(launched, tmp_path):
    """30 seconds beside other busy processes, two starts of three processes in all."""
    (alone, one), (both, two) = launched("one", 1), launched("two", 2)
    assert alone.returncode == both.returncode == 0, alone.stderr + both.stderr
    # an epoch's last step has fewer pairs than the others, and fewer than the processes ask for
    trained = json.loads((tmp_path / "one" / "manifest.json").read_text())["stages"]["train"]
    assert trained["trained"] % 4
    assert trained["trained"] % 2 or trained["held_out"] % 4
    assert len(one) == len(two)
    for mine, other in zip(one, two, strict=True):
        assert mine.keys() == other.keys()
        assert_agree(mine, other)
    assert (tmp_path / "two" / "training.html").read_text().count("<img ") == 6


def test_two_processes_count_each_pair_of_a_stream_once(tmp_path):
    """30 seconds beside other busy processes, two starts of three processes in all."""
    script, found = str(ROOT / "tests" / "helpers" / "stream_run.py"), []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run = [script, str(tmp_path / name)]
        cpu = ROOT / "configs" / "accelerate" / "cpu.yaml"
        done = finished(launch(cpu, run) if name == "two" else [sys.executable, *run])
        assert done.returncode == 0, done.stderr
        found.append(json.loads((tmp_path / name / "logs.json").read_text()))
    one, two = found
    assert len(one["rewards"]["chosen"]) == len(two["rewards"]["chosen"]) == 7
    for side in ("chosen", "rejected"):
        assert two["rewards"][side] == pytest.approx(one["rewards"][side], abs=1e-4)
    for mine, other in zip(one["history"], two["history"], strict=True):
        assert_agree(mine, other, but=("epoch",))
    assert {"loss", "rewards/chosen"} <= one["history"][1].keys() & two["history"][1].keys()


def test_a_nan_on_one_process_ends_both_and_names_its_pair(launched, tiny_folder):
    """15 seconds beside other busy processes, one start of two."""
    weights = load_file(tiny_folder / "model.safetensors")
    winner = make_rows(15)[6]["chosen"][0]["content"].split()[0]
    row = make_tokenizer().convert_tokens_to_ids(winner)
    weights["model.embed_tokens.weight"][row] = float("nan")
    save_file(weights, tiny_folder / "model.safetensors", metadata={"format": "pt"})
    done, logs = launched("nan", 2, held_out=0.0, precompute_ref_log_probs=False)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("clair-apo: error: ")]
    assert said, done.stderr
    assert re.search(r"after step \d: the loss of .* is not finite: pairs? [0-9a-f]{16}", said[0])
    assert logs is None
