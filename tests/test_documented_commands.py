"""Every command line that README, docs, configs and scripts show, or once showed, is understood.

`command_lines.txt` holds those of version 0.1 before its modules were renamed.
"""

import dataclasses
import re
import shlex

import pytest
import typer

from clair_apo.apo.arguments import TrainingSetup
from clair_apo.clair import GenerateConfig
from clair_apo.cli import app
from clair_apo.config import dotted_keys, option_names, unknown_key
from clair_apo.evaluation import EvaluateConfig
from clair_apo.experiment import ExperimentConfig
from clair_apo.rounds import RoundsConfig
from tests.helpers import ROOT
from tests.helpers.documented import commands_in

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "configs").rglob("*.yaml")),
    *sorted((ROOT / "scripts").glob("*.py")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
]
SHOWN = commands_in(DOCUMENTS)
LINES = (ROOT / "tests/command_lines.txt").read_text("utf-8").splitlines()
OLD = [tuple(shlex.split(line)) for line in LINES]

SCRIPT = re.compile(r"(scripts|benchmarks)/\w+\.py")
OF_ITS_OWN_PARSER = {
    "demo": GenerateConfig,
    "experiment": ExperimentConfig,
    "generate": GenerateConfig,
    "rounds": RoundsConfig,
    "train": None,
    "build": None,
}


def test_there_are_command_lines_to_look_at():
    assert len(SHOWN) > 60 and len(OLD) == 86


@pytest.mark.parametrize("words", sorted({*SHOWN, *OLD}), ids=shlex.join)
def test_a_command_line_that_a_document_shows_is_understood(words):
    for file in named_files(words):
        assert (ROOT / file).exists(), f"{file} is not there"
    if words[0] == "clair-apo":
        check_command(list(words[1:]))
    else:
        script = next((n for n, word in enumerate(words) if SCRIPT.fullmatch(word)), None)
        if script is not None:  # else the name of a command, in a sentence
            check_script(words[script], list(words[script + 1 :]))


def named_files(words):
    """The files of the repository that a command line names."""
    shipped = re.compile(r"(configs|scripts|benchmarks|src)/.*\.\w+")
    return [word for word in words if shipped.fullmatch(word)]


def check_command(words):
    group = typer.main.get_command(app)
    while words and hasattr(group, "commands"):
        name = words.pop(0)
        assert name in group.commands, f"no command {name}"
        group = group.commands[name]
    if not words:
        return  # the name of a command, in a sentence
    context = group.make_context(group.name, words)
    if group.name in OF_ITS_OWN_PARSER:
        config = OF_ITS_OWN_PARSER[group.name]
        of_training = keys_of_build() if group.name == "build" else keys_of(TrainingSetup)
        check_keys(context.args, dotted_keys(config) if config else of_training)
    if group.name == "evaluate" and named_files(context.args):
        EvaluateConfig.from_command_line(context.args)  # its keys depend on its models and suites


def check_script(script, words):
    if script == "scripts/train.py":
        check_keys(words, keys_of(TrainingSetup))
    elif script == "scripts/build_reference.py":
        check_keys(words, keys_of_build())
    else:
        source = (ROOT / script).read_text("utf-8")
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in source, f"{script} has no {option}"


def keys_of(setup):
    parts = setup.__annotations__.values()
    return {field.name for part in parts for field in dataclasses.fields(part)}


def keys_of_build():
    return keys_of(TrainingSetup) | {"shard"}


def check_keys(words, keys):
    for option in option_names(words):
        assert option in {*keys, "config"}, unknown_key(option, keys)
