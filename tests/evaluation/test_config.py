"""The config of an evaluation: keys inside lists and mappings, and what is refused."""

import pytest
import yaml

from clair_apo.errors import ConfigError
from clair_apo.evaluation import EvaluateConfig

MINIMAL = {
    "run_dir": "runs/x",
    "models": {"trained": {"model": "m"}, "base": {"model": "b", "temperature": 0.7}},
    "prompts": {"path": "p.jsonl"},
    "suites": [{"suite": "health"}, {"suite": "checks", "checks": "rules.yaml"}],
}


def read(folder, *args, **changes):
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | changes, sort_keys=False))
    return EvaluateConfig.from_command_line(["--config", str(path), *args])


def test_models_answer_greedily_unless_told_otherwise(tmp_path):
    config = read(tmp_path)
    assert [model.temperature for model in config.models.values()] == [0, 0.7]
    assert list(config.models) == ["trained", "base"]


def test_options_reach_into_lists_and_mappings(tmp_path):
    config = read(
        tmp_path,
        *("--models.trained.max_tokens=7", "--models.base.dtype", "bf16"),
        *("--models.third.model", "c", "--suites.1.checks", "other.yaml", "--offline"),
    )
    assert config.models["trained"].max_tokens == 7
    assert config.models["base"].dtype == "bf16"
    assert config.models["third"].model == "c"
    assert config.suites[1].checks.name == "other.yaml"
    assert config.offline


IN_THE_FILE = {
    "models.trained.modle": (
        {"models": {"trained": {"modle": "m"}}},
        "models.trained.model",
    ),
    "models.elsewhere.recored": (
        {"models": {"elsewhere": {"recored": ["x"]}}},
        "models.elsewhere.recorded",
    ),
    "suites.0.chekcs": (
        {"suites": [{"suite": "checks", "chekcs": "x"}]},
        "suites.0.checks",
    ),
    "pairs.heldout": ({"pairs": {"path": "x", "heldout": 0.2}}, "pairs.held_out"),
}


@pytest.mark.parametrize("key", IN_THE_FILE)
def test_an_unknown_key_inside_a_list_or_mapping_is_answered_with_the_nearest(tmp_path, key):
    changes, nearest = IN_THE_FILE[key]
    with pytest.raises(
        ConfigError, match=rf"c\.yaml: unknown key '{key}'; did you mean '{nearest}'"
    ):
        read(tmp_path, **changes)


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        ("models.trained.max_token", "models.trained.max_tokens"),
        ("suites.1.cheks", "suites.1.checks"),
        ("suites.2.name", "suites.0.name"),
        ("prompts.pth", "prompts.path"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(tmp_path, option, nearest):
    with pytest.raises(
        ConfigError, match=rf"^command line: unknown key '{option}'; did you mean '{nearest}'"
    ):
        read(tmp_path, f"--{option}", "x")


REFUSED = {
    "unknown suite 'helth'; did you mean 'health'": {"suites": [{"suite": "helth"}]},
    "needs the key 'suite'": {"suites": [{"name": "x"}]},
    "two suites are called 'health'": {"suites": [{"suite": "health"}, {"suite": "health"}]},
    "'differences' has a meaning": {"models": {"differences": {"model": "m"}}},
    "suite 'health' is about held-out prompts": {"prompts": None},
    "prompts and pairs: give one of them": {"pairs": {"path": "x"}},
    "best_by is about checkpoints": {"best_by": "health.ended"},
    "best_by: expected <suite>.<figure>": {
        "models": {"each": "x/checkpoint-*"},
        "best_by": "helth.ended",
    },
    r"models\.trained\.max_tokens: .*greater than 0": {
        "models": {"trained": {"model": "m", "max_tokens": 0}}
    },
    r"models\.given\.recorded: ": {"models": {"given": {"recorded": []}}},
    r"models\.a b\.\[key\]: .*pattern": {"models": {"a b": {"model": "m"}}},
    "checks: name a file of rules": {"suites": [{"suite": "checks"}]},
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_config_that_cannot_be_used_says_why_in_one_line(tmp_path, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read(tmp_path, **REFUSED[words])
    assert "\n" not in str(caught.value)


def test_help_names_its_own_command(capsys):
    with pytest.raises(SystemExit):
        EvaluateConfig.from_command_line(["--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: clair-apo evaluate ")
    assert "--pairs.held_out" in shown
