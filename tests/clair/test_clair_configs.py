from pathlib import Path

import pytest
import yaml

from clair_apo.clair import GateConfig, GenerateConfig

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "clair").glob("*.yaml"))


def test_all_generation_configs_are_here():
    recipes = ["judge_then_revise", "off_policy_judge", "on_policy_judge", "stronger_preferred"]
    expected = sorted([*recipes, "demo", "edits", "full", "local_server", "worsen"])
    assert [p.stem for p in CONFIGS] == expected


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_generation_config_opens_with_purpose_command_hardware_and_where_its_values_are_from(
    path,
):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Purpose:")
    for heading in ("# Command:", "# Hardware:", "# Values:", "# Expect:"):
        assert heading in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_generation_config_loads_with_exactly_its_values(path):
    config = GenerateConfig.from_command_line(["--config", str(path)]).model_dump(mode="json")
    for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        if key == "gate":  # a preset is resolved into its values
            assert config[key] == GateConfig(**value).model_dump(mode="json")
        elif isinstance(value, dict):
            assert value.items() <= config[key].items(), key
        else:
            assert config[key] == value, key
