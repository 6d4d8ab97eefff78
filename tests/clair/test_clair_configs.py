import importlib.util

import jsonschema
import pytest
import yaml

from clair_apo.clair import GateConfig, GenerateConfig
from tests.helpers import ROOT

CONFIGS = sorted((ROOT / "configs" / "clair").glob("*.yaml"))
SCHEMA = ROOT / "configs" / "clair" / "schema.json"


def test_all_generation_configs_are_here():
    recipes = ["judge_then_revise", "off_policy_judge", "on_policy_judge", "stronger_preferred"]
    expected = sorted([*recipes, "demo", "edits", "full", "local_server", "worsen"])
    assert [p.stem for p in CONFIGS] == expected


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_generation_config_names_its_schema_and_says_what_it_is_for(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    if not path.is_symlink():  # the demo's lies in the package, where there is no schema
        name = lines.pop(0).removeprefix("# yaml-language-server: $schema=")
        assert (path.parent / name) == SCHEMA
    assert lines[0].startswith("# Purpose:")
    for heading in ("# Command:", "# Hardware:", "# Values:", "# Expect:"):
        assert heading in path.read_text(encoding="utf-8")


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


@pytest.fixture
def validator():
    return jsonschema.Draft202012Validator(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_generation_config_fits_the_schema_that_editors_read(path, validator):
    assert list(validator.iter_errors(yaml.safe_load(path.read_text(encoding="utf-8")))) == []


def test_the_schema_finds_an_unknown_key_and_a_wrong_value(validator):
    config = {"run_dir": "r", "prompts": {"path": "p", "colum": "x"}, "target": {"model": "m"}}
    wrong = config | {"revision": {"format": "whole"}}
    found = {tuple(error.path) for error in validator.iter_errors(wrong)}
    assert found >= {("prompts",), ("revision", "format")}


def test_the_schema_is_that_of_the_models_as_they_are():
    script = ROOT / "scripts" / "write_config_schema.py"
    spec = importlib.util.spec_from_file_location("write_config_schema", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert SCHEMA.read_text(encoding="utf-8") == module.config_schema(), (
        "the generation config has changed: run python scripts/write_config_schema.py"
    )
