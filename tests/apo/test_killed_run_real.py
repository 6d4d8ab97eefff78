"""`kill -9` between and during saves, in one process and two: only the steps since are lost."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.launching import ROOT, command, finished

pytestmark = pytest.mark.real


@pytest.fixture
def write(write_config, tmp_path):
    """Writes a config of 8 steps, 4 in an epoch, each of them saved; named after its output.

    Of 13 pairs an epoch's last step has one, so that three repeats fill up two processes.
    """

    def write(name: str, **options) -> Path:
        values = {
            "reference_cache": str(tmp_path / "cache"),
            "held_out": 0.0,
            "save_strategy": "steps",
            "save_steps": 1,
            "save_total_limit": 1,
            "use_peft": True,
            "lora_r": 4,
            "lora_target_modules": ["q_proj", "v_proj"],
            "lora_dropout": 0.2,
            "disable_dropout": False,
        }
        return write_config(name, 13, **(values | options))

    return write


def killed(parts: list[str], when: str, step: int) -> list[str]:
    """The command with `killed_run.py` before the script."""
    at = next(i for i, part in enumerate(parts) if part.endswith("train.py"))
    return [
        *parts[:at],
        str(ROOT / "tests" / "helpers" / "killed_run.py"),
        when,
        str(step),
        *parts[at:],
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_twice_ends_with_the_bits_of_one_that_was_not(write, tmp_path, processes):
    """133 seconds for one process, 183 for two, beside other busy processes: four starts each."""
    options = {"per_device_train_batch_size": 4 // processes}
    whole = finished(command(write("whole", **options), processes))
    assert whole.returncode == 0, whole.stderr
    config = write("cut", **options)
    resume = ["--resume_from_checkpoint", "true"]

    first = finished(killed(command(config, processes), "during", 3))
    assert first.returncode != 0
    torn = tmp_path / "cut" / "checkpoint-3"
    assert json.loads((torn / "checkpoint.json").read_text())["complete"] is False
    assert (tmp_path / "cut" / "checkpoint-2").exists(), "kept, although one was the limit"
    second = finished(killed([*command(config, processes), *resume], "between", 6))
    assert second.returncode != 0
    assert f"{torn} is passed over: it" in second.stderr
    third = finished([*command(config, processes), *resume])
    assert third.returncode == 0, third.stderr

    found, expected = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("cut", "whole")
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert max(weight.abs().max() for name, weight in expected.items() if "lora_B" in name) > 1e-3
