"""Every shipped YAML is read by the program that it is for, says how it is used, and names files
that are there."""

import dataclasses
import importlib.util
import re

import jsonschema
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from trl import KTOConfig, ModelConfig

from clair_apo.apo.arguments import PairArguments, parse_arguments, parse_into
from clair_apo.clair import GateConfig, GenerateConfig
from clair_apo.clair.planning import estimate as estimating
from clair_apo.evaluation import EvaluateConfig
from clair_apo.experiment import ExperimentConfig
from clair_apo.experiment.plan import ExperimentPlan
from clair_apo.rounds import RoundsConfig
from tests.helpers import ROOT
from tests.helpers.clair_runs import write_rows
from tests.helpers.scripted_roles import WordCounter

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
GENERATION = [path for path in CONFIGS if path.parent.name == "clair"]
WITH_SCHEMA = [
    path for path in CONFIGS if path.parent.name in ("clair", "evaluation", "experiments")
]
SCHEMA = ROOT / "configs" / "clair" / "schema.json"


def _name(path):
    return f"{path.parent.name}/{path.stem}"


def _generation(path):
    return [GenerateConfig.from_command_line(["--config", str(path)])]


def _training(path):
    return parse_arguments(["--config", str(path)])


def _unpaired(path):
    return parse_into(["--config", str(path)], (PairArguments, KTOConfig, ModelConfig))


def _launch(path):
    return [load_config_from_file(str(path))]


def _evaluation(path):
    return [EvaluateConfig.from_command_line(["--config", str(path)])]


def _rounds(path):
    if path.stem == "rounds":
        return [RoundsConfig.from_command_line(["--config", str(path)])]
    readers = {"generate": _generation, "train": _training, "evaluate": _evaluation}
    return readers[path.stem](path)


def _experiment(path):
    config = ExperimentConfig.from_command_line(["--config", str(path)])
    ExperimentPlan(config)  # reads the files that it names
    return [config]


def _of_experiment(path):
    """A file that the config of an experiment names, by what it is for."""
    kind = path.stem.split("_")[0]
    reader = {"train": _training, "development": _evaluation, "test": _evaluation}
    return reader.get(kind, _generation)(path)


READERS = {
    "experiments": _experiment,
    "demo": _of_experiment,
    "objectives": _of_experiment,
    "table2": _of_experiment,
    "rounds": _rounds,
    "clair": _generation,
    "apo": _training,
    "unpaired": _unpaired,
    "accelerate": _launch,
    "evaluation": _evaluation,
}


def _expected(key, value, found):
    """A value of the YAML as its reader spells it."""
    if key == "gate":  # a preset is resolved into its values
        return GateConfig(**value).model_dump(mode="json")
    if key == "models":
        return {n: {"model": v} if isinstance(v, str) else v for n, v in value.items()}
    if key == "report_to" and value == "none":
        return []
    return [value] if isinstance(found, list) and not isinstance(value, list) else value


def _plain(value):
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return str(value) if type(value).__module__ == "pathlib" else getattr(value, "value", value)


@pytest.mark.parametrize("path", CONFIGS, ids=_name)
def test_a_config_is_read_with_exactly_its_values(path):
    parts = READERS[path.parent.name](path)
    for key, value in yaml.safe_load(path.read_text("utf-8")).items():
        found = _plain(next(getattr(part, key) for part in parts if hasattr(part, key)))
        expected = _expected(key, value, found)
        assert _holds(found, expected), key


def _holds(found, expected):
    """Whether values are as a file gives them, which may leave out what has a default."""
    if isinstance(expected, dict):
        return all(name in found and _holds(found[name], expected[name]) for name in expected)
    if isinstance(expected, list) and expected and isinstance(expected[0], dict):
        return all(_holds(*both) for both in zip(found, expected, strict=True))
    return found == expected


@pytest.mark.parametrize("path", CONFIGS, ids=_name)
def test_a_config_begins_with_its_purpose_its_command_and_the_hardware(path):
    head = path.read_text("utf-8").split("\n\n")[0]
    headings = re.findall(r"(?m)^# ([A-Z]\w+):", head)
    assert headings[0] == "Purpose"
    assert {"Purpose", "Command", "Hardware"} <= set(headings)


@pytest.mark.parametrize("path", CONFIGS, ids=_name)
def test_a_config_names_files_that_are_there(path):
    text = path.read_text("utf-8")
    named = re.findall(r"\b(?:configs|scripts|src)/[\w/.-]+\.\w+", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    if not path.is_symlink() and path in WITH_SCHEMA:
        schema = re.match(r"# yaml-language-server: \$schema=(.+)\n", text)
        assert (path.parent / schema[1]).exists()


@pytest.mark.parametrize("path", GENERATION, ids=_name)
def test_a_generation_config_can_be_estimated(path, tmp_path, monkeypatch):
    monkeypatch.setattr(estimating, "TokenCounter", WordCounter)
    monkeypatch.chdir(tmp_path)
    data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "Why?", "answers": ["So.", "Thus."]}])
    (config,) = _generation(path)
    here = config.prompts.model_copy(update={"path": str(data), "ignore_given": True})
    rubric = config.revision.rubric and ROOT / config.revision.rubric
    revision = config.revision.model_copy(update={"rubric": rubric})
    found = estimating.estimate(config.model_copy(update={"prompts": here, "revision": revision}))
    assert (found.recipe, found.prompts) == (config.recipe, 1)
    asking = {model.role for model in found.models if model.requests}
    assert asking == set(config.asked_models)


@pytest.fixture
def validator():
    return jsonschema.Draft202012Validator(yaml.safe_load(SCHEMA.read_text("utf-8")))


@pytest.mark.parametrize("path", WITH_SCHEMA, ids=_name)
def test_a_config_fits_the_schema_that_editors_read(path):
    schema = yaml.safe_load((path.parent / "schema.json").read_text("utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors(yaml.safe_load(path.read_text("utf-8")))) == []


def test_the_schema_finds_an_unknown_key_and_a_wrong_value(validator):
    config = {"run_dir": "r", "prompts": {"path": "p", "colum": "x"}, "target": {"model": "m"}}
    wrong = config | {"revision": {"format": "whole"}, "recipe": "magic"}
    found = {tuple(error.path) for error in validator.iter_errors(wrong)}
    assert found >= {("prompts",), ("revision", "format"), ("recipe",)}


def test_the_schema_is_that_of_the_models_as_they_are():
    script = ROOT / "scripts" / "write_config_schema.py"
    spec = importlib.util.spec_from_file_location("write_config_schema", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, schema in module.config_schemas().items():
        assert path.read_text("utf-8") == schema, (
            f"{path} is not of this code: run python scripts/write_config_schema.py"
        )
