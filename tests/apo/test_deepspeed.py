"""Two processes under DeepSpeed on CPUs train the weights of one (`make test-deepspeed`)."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.helpers.launching import ROOT, command, finished, launch

pytestmark = pytest.mark.deepspeed


@pytest.fixture
def write(write_config):
    def write(name: str, **options) -> Path:
        return write_config(name, 20, held_out=0.3, per_device_eval_batch_size=2, **options)

    return write


@pytest.mark.parametrize(
    ("stage", "way"), [(1, "shared_prefix"), (2, "shared_prefix"), (3, "padded")]
)
def test_spread_policies_train_as_one_process(write, tmp_path, stage, way):
    zero = yaml.safe_load((ROOT / "configs" / "accelerate" / "zero3.yaml").read_text())
    zero |= {"num_processes": 2, "mixed_precision": "no", "use_cpu": True}
    zero["deepspeed_config"] |= {
        "zero_stage": stage,
        "zero3_init_flag": stage == 3,
        "zero3_save_16bit_model": stage == 3,
    }
    (tmp_path / "zero.yaml").write_text(yaml.safe_dump(zero))
    whole = write("whole", per_device_train_batch_size=6)
    spread = write("spread", per_device_train_batch_size=3, max_tokens_per_batch=44)
    script = [str(ROOT / "scripts" / "train.py"), "--config", str(spread)]
    for run in (command(whole, 1), launch(tmp_path / "zero.yaml", script)):
        done = finished(run)
        assert done.returncode == 0, done.stderr
    assert ("auto: padded, because" in done.stderr) == (way == "padded"), done.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "spread"))
    start = load_file(tmp_path / "tiny" / "model.safetensors")
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-4, rtol=0)
        assert (weight - start[name]).abs().max() > 1e-3
    rewards = [
        json.loads((tmp_path / name / "evaluation.json").read_text())["chosen"]
        for name in ("whole", "spread")
    ]
    assert rewards[1] == pytest.approx(rewards[0], abs=1e-4)
