from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from clair_apo.apo.arguments import parse_arguments

CONFIGS = Path(__file__).parents[2] / "configs"
TRAINING = sorted((CONFIGS / "apo").glob("*.yaml"))
LAUNCH = sorted((CONFIGS / "accelerate").glob("*.yaml"))


def test_all_configs_are_here():
    assert [p.stem for p in TRAINING] == ["demo", "down", "paper", "smollm3", "zero", "zero_lora"]
    assert [p.stem for p in LAUNCH] == ["cpu", "fsdp2", "multi_gpu", "single_gpu", "zero3"]


@pytest.mark.parametrize("path", [*TRAINING, *LAUNCH], ids=lambda p: p.stem)
def test_a_config_opens_with_purpose_command_hardware_and_where_its_values_are_from(path):
    text = path.read_text(encoding="utf-8")
    for heading in ("# Purpose: ", "# Command: ", "# Hardware:", "# Values: "):
        assert heading in text
    assert text.startswith("# Purpose:")


@pytest.mark.parametrize("path", TRAINING, ids=lambda p: p.stem)
def test_a_training_config_loads_with_exactly_its_values(path):
    setup = parse_arguments(["--config", str(path)])
    for key, value in yaml.safe_load(path.read_text()).items():
        part = next(part for part in setup if hasattr(part, key))
        found = getattr(part, key)
        if key == "loss_type":
            value = [value]
        if key == "report_to":
            value = []
        assert found == value, key


@pytest.mark.parametrize("path", LAUNCH, ids=lambda p: p.stem)
def test_a_launch_config_is_one_that_accelerate_reads(path):
    loaded = load_config_from_file(str(path))
    for key, value in yaml.safe_load(path.read_text()).items():
        if key not in ("mixed_precision", "distributed_type"):
            assert getattr(loaded, key) == value, key


def test_the_cpu_launch_runs_two_processes():
    assert load_config_from_file(str(CONFIGS / "accelerate" / "cpu.yaml")).num_processes == 2
