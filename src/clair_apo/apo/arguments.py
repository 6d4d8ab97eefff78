"""The settings of a training run: TRL's flat YAML and command line over three dataclasses."""

import argparse
import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml
from trl.scripts.utils import DatasetConfig, TrlParser
from trl.trainer.model_config import ModelConfig

from clair_apo.advice.advise import read_advice
from clair_apo.advice.decide import LOSS_TYPE
from clair_apo.apo.config import AUTO, APOConfig
from clair_apo.apo.data import PairSplit, load_mixture, load_split_pairs
from clair_apo.config import option_names, read_yaml, split_config_option, unknown_key
from clair_apo.console import say
from clair_apo.errors import ClairApoError, ConfigError

# settings of the moment, of the process, secret, or replaced by what they led to
_NOT_AGAIN = {
    "advice",
    "dry_run",
    "resume_from_checkpoint",
    "local_rank",
    "hub_token",
    "push_to_hub_token",
}

UNPAIRED = ("kto", "apo_zero_unpaired")
"""The `loss_type` of objectives whose answers have no partner."""


@dataclass
class PairArguments:
    """Which pairs are trained on, and which are held out."""

    dataset_name: str | None = None
    """A JSONL or Parquet file of pairs, a folder of `datasets`, or a hub name."""
    datasets: list[DatasetConfig] = dataclasses.field(default_factory=list)
    """Several data sets in place of `dataset_name`, in TRL's form: a list of `path`, `split`
    (`train`) and `fraction`, the share of the mixture (all of every data set by default)."""
    dataset_train_split: str = "train"
    """The split to read, where the data has several."""
    held_out: float = 0.1
    """The share of prompts held out for evaluation, chosen by their digest; 0 holds out none.
    Where the data has a `test` split of its own, that is held out instead."""
    max_pairs: int | None = None
    """Train on the first so many pairs in the order of their digests; all by default."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: names the key and the value got.
        """
        if self.dataset_name and self.datasets:
            raise ConfigError("give dataset_name (one data set) or datasets (a mixture), not both")
        if not self.dataset_name and not self.datasets:
            raise ConfigError("dataset_name is missing: a file of pairs, a folder or a hub name")
        self.datasets = [_part(part) for part in self.datasets]
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out must be from 0 to below 1, got {self.held_out}")
        if self.max_pairs is not None and self.max_pairs < 1:
            raise ConfigError(f"max_pairs must be at least 1, got {self.max_pairs}")

    def load_split(self) -> PairSplit:
        """Load the pairs, and hold some out.

        Raises:
            ClairApoError: no pairs there, a row that is none, or a mixture that cannot be.
        """
        if self.dataset_name:
            split, out = self.dataset_train_split, self.held_out
            return load_split_pairs(self.dataset_name, split, out, self.max_pairs)
        return load_mixture(self.datasets, self.held_out, self.max_pairs)

    @property
    def data_name(self) -> str:
        """What is trained on, as it was named."""
        return self.dataset_name or ", ".join(part.path for part in self.datasets)

    @property
    def data_short_name(self) -> str:
        """The same without folders."""
        names = [self.dataset_name] if self.dataset_name else [part.path for part in self.datasets]
        return " + ".join(Path(name).name for name in names)


def _part(given: Any) -> DatasetConfig:
    """One data set of a mixture, as a YAML or the command line writes it."""
    if isinstance(given, DatasetConfig):
        return given
    if isinstance(given, str):
        return DatasetConfig(given)
    if not isinstance(given, dict) or "path" not in given:
        raise ConfigError(f"datasets: expected a path, split and fraction in each, got {given!r}")
    known = {each.name for each in dataclasses.fields(DatasetConfig)}
    for key in given:
        if key not in known:
            raise ConfigError(f"datasets, {given['path']}: {unknown_key(key, known)}")
    return DatasetConfig(**given)


@dataclass
class ScriptArguments(PairArguments):
    """The pairs, and whether to train on them."""

    dry_run: bool = False
    """Look the pairs over and estimate memory and time, without loading weights or training."""
    advice: str | None = None
    """What `clair-apo advise` found: its folder, or its `advise.json`. `loss_type: auto` takes the
    objective from it, and the model's card and manifest say why."""


class TrainingSetup(NamedTuple):
    """All settings of one training run."""

    script: ScriptArguments
    args: APOConfig
    model: ModelConfig


def parse_arguments(argv: Sequence[str]) -> TrainingSetup:
    """Read `--config FILE.yaml` and the options after it.

    Raises:
        ConfigError: unreadable file, unknown key (with the nearest one), or a wrong value;
            `loss_type: auto` with an advice that is neither zero nor down.
    """
    setup = TrainingSetup(*parse_into(argv, tuple(TrainingSetup.__annotations__.values())))
    _take_advice(setup)
    return setup


def _take_advice(setup: TrainingSetup) -> None:
    """Put the objective of an advice in place of `loss_type: auto`."""
    asked, path = AUTO in setup.args.loss_type, setup.script.advice
    if not asked and path is None:
        return
    if not asked or path is None:
        raise ConfigError(
            "loss_type auto and advice belong together: the one takes the objective from the "
            "other, which `clair-apo advise` writes; set both or none"
        )
    found = read_advice(Path(path))
    if found.advice not in LOSS_TYPE:
        raise ConfigError(
            f"{path}: the advice is {found.advice}, because {found.reason}; name the loss_type "
            "yourself (apo_zero where you hold the chosen answers for better than the model's own, "
            "apo_down where for worse)"
        )
    setup.args.replace_auto(LOSS_TYPE[found.advice])


def is_unpaired(argv: Sequence[str]) -> bool:
    """Whether a command line of `clair-apo train` names an objective without partners.

    Raises:
        ConfigError: the config cannot be read.
    """
    path, options = split_config_option(argv)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--loss_type")
    named = parser.parse_known_args(options)[0].loss_type
    return (named or (read_yaml(path) if path else {}).get("loss_type")) in UNPAIRED


def parse_into(
    argv: Sequence[str], kinds: Sequence[Any], leave_out: Collection[str] = ()
) -> tuple[Any, ...]:
    """Read the same form of command line into other dataclasses, TRL's `KTOConfig` for one.

    Args:
        argv: the command line.
        kinds: dataclasses, a `ModelConfig` among them; no two have a key in common.
        leave_out: keys of the file that have no meaning here; a line says which it had.

    Returns:
        One object of each kind, in their order.

    Raises:
        ConfigError: unreadable file, unknown key (with the nearest one), or a wrong value.
    """
    parser = _Parser(kinds)
    path, options = split_config_option(argv)
    values = read_yaml(path) if path else {}
    if idle := [key for key in values if key in leave_out]:
        say(f"{path}: without a meaning for this loss_type: {', '.join(idle)}")
        values = {key: value for key, value in values.items() if key not in idle}
    known = {f.name for kind in kinds for f in dataclasses.fields(kind) if f.init}
    for key in values:
        if key not in known:
            raise ConfigError(f"{path}: {unknown_key(key, known)}")
    for option in option_names(options):
        key = option.replace("-", "_")
        if key not in known and key.removeprefix("no_") not in known and key != "help":
            raise ConfigError(f"command line: {unknown_key(key, known)}")
    parser.set_defaults_with_config(**values)
    try:
        parsed: tuple[Any, ...] = parser.parse_args_into_dataclasses(options)
    except ClairApoError:
        raise
    except ValueError as error:  # what transformers and trl say of a wrong value
        raise ConfigError(f"{path or 'command line'}: {' '.join(str(error).split())}") from None
    if not any(getattr(part, "model_name_or_path", None) for part in parsed):
        raise ConfigError("model_name_or_path is missing: a folder, a hub name or smollm2-135m")
    return parsed


def resolved_yaml(setup: TrainingSetup) -> str:
    """Every setting that is not the default, as a YAML that can be run again as it is."""
    values: dict[str, Any] = {}
    for part in setup:
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            value = value.value if isinstance(value, Enum) else value
            if field.name == "datasets":
                value = [_written(part) for part in value]
            plain = value is None or isinstance(value, str | int | float | list | dict)
            if field.init and plain and field.name not in _NOT_AGAIN and value != _default(field):
                values[field.name] = value
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _written(part: DatasetConfig) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(part).items() if v is not None}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default.value if isinstance(field.default, Enum) else field.default


class _Parser(TrlParser):
    """TRL's parser, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message}")
