"""The config of an experiment: data sets, objectives, seeds, and how they are compared."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from clair_apo.config import Config, Section, UserPath
from clair_apo.evaluation.figure_name import FigureName

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
"""Of a data set or an objective: folders are named after it."""


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | Path) else value


TUNED = ("beta", "learning_rate")
"""The settings of a training that may be lists, out of which one value is chosen."""
_OF_THE_CELL = ("dataset_name", "datasets", "output_dir", "seed", "reference_cache")


class DataConfig(Section):
    """Where the pairs of a data set are from: one of `generate` and `pairs`."""

    generate: UserPath | None = None
    """A config of `clair-apo generate`."""
    pairs: str | None = None
    """Pairs that are there: a JSONL or Parquet file, a run folder, a folder of `datasets`, or a
    hub name."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.generate is None) == (self.pairs is None):
            raise ValueError("set one of generate (a config) and pairs (finished pairs)")
        return self


class ChoiceConfig(Section):
    """The rule that chooses betas and learning rates, on the development prompts alone."""

    figure: str
    """The figure that decides, as `<suite>.<figure>`; with a minus sign before it lower is better.
    The values with the best mean are taken; of equal ones, those that the config lists first."""
    data: str | None = None
    """The data set on which every objective is tuned; its choice holds for all data sets. By
    default each data set has a choice of its own."""

    @field_validator("figure")
    @classmethod
    def _is_a_figure(cls, text: str) -> str:
        FigureName.parse(text)
        return text

    @property
    def parsed(self) -> FigureName:
        """The figure by its suite."""
        return FigureName.parse(self.figure)


class RatesConfig(Section):
    """What `--dry_run` reckons with; take the numbers from runs of yours, and say which."""

    source: str
    """Where the numbers are from."""
    prompts: int = Field(gt=0)
    """Of each data set that is made."""
    usd_per_prompt: float = Field(0.0, ge=0)
    """What servers take for a prompt of a data set, over all its requests."""
    tokens_per_prompt: int = Field(gt=0)
    """Generated for a prompt of a data set, over all its requests."""
    pairs: int = Field(gt=0)
    """That a cell is trained on."""
    tokens_per_pair: int = Field(gt=0)
    """Prompt and both answers, a shared beginning counted once."""
    training_tokens_per_second: float = Field(gt=0)
    """Of one cell's training, over all its processes."""
    answers: int = Field(gt=0)
    """That a model gives in all evaluations on the test prompts."""
    development_answers: int = Field(0, ge=0)
    """The same on the development prompts."""
    usd_per_answer: float = Field(0.0, ge=0)
    """What a judge takes for one of them."""
    tokens_per_answer: int = Field(gt=0)
    """Generated for an answer, a judge's reply included where it is asked on this machine."""
    generated_tokens_per_second: float = Field(gt=0)
    """Of a model that is asked on this machine, many requests at a time."""
    start_seconds: float = Field(0.0, ge=0)
    """That pass before a model gives its first answer, such as those of a server that loads it."""
    model_gigabytes: float = Field(gt=0)
    """A saved model."""
    optimizer_gigabytes: float = Field(ge=0)
    """What a checkpoint has beside the model."""
    usd_per_hour: float = Field(0.0, ge=0)
    """Of the machine."""


class ExperimentConfig(Config):
    """A grid of trainings, and how they are compared.

    Each command has a config file of its own, which also runs alone. In every cell these keys of
    them are replaced: `run_dir`, `store` of generate; `dataset_name`, `output_dir`, `seed`,
    `reference_cache`, `beta`, `learning_rate` of train; `run_dir`, `store`, `pairs`, `model` of
    advise; `run_dir`, `store` and the models of evaluate.
    """

    model_config = SettingsConfigDict(cli_prog_name="clair-apo experiment")

    run_dir: UserPath
    """The folder of the experiment: `data`, `cells`, the request store and the reference of all,
    `experiment.json`, `experiment.md` and `experiment.html`."""
    data: dict[Name, DataConfig] = Field(min_length=1)
    """The data sets, by names of yours."""
    same_prompts: bool = True
    """Train on the prompts that every data set has a pair of, with one pair of each. Of a prompt
    with several pairs, such as a chain's, the digest of the prompt says which one. false takes
    every data set as it is."""
    train: UserPath
    """A config of `clair-apo train`, for everything that cells have in common."""
    objectives: dict[Name, dict[str, Any]] = Field(min_length=1)
    """By names of yours, the keys of `train` that make the objective, such as
    `{loss_type: apo_zero, beta: [0.02, 0.1]}`. `beta` and `learning_rate` may be lists, out of
    which `choose` takes a value."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Every chosen cell is trained with each of them; the first one is the one for choosing."""
    development: UserPath | None = None
    """A config of `clair-apo evaluate` with the prompts to choose on; needed with `choose`."""
    choose: ChoiceConfig | None = None
    """How values are chosen; needed where an objective has several."""
    evaluate: Annotated[
        tuple[UserPath, ...],
        BeforeValidator(
            _as_tuple, json_schema_input_type=str | Annotated[list[str], Field(min_length=1)]
        ),
    ] = Field(min_length=1)
    """A config of `clair-apo evaluate` with the test prompts, or a list of such configs, each with
    prompts and sampling of its own and suites that no other has. Only chosen cells answer them,
    after all choices are made. The first of its models says how a cell's model is asked; with
    `each` among the models every checkpoint of a cell is evaluated."""
    figures: tuple[str, ...] = Field(min_length=1)
    """What is compared, as `<suite>.<figure>`: means over rows. A minus sign says that lower is
    better."""
    baseline: str
    """What the others are compared with, as `<data>/<objective>`."""
    advise: UserPath | None = None
    """A config of `clair-apo advise`: what it says of each data set before anything is trained
    stands in the table."""
    keep_weights: bool = True
    """false deletes the weights of a cell when it is evaluated, or not chosen."""
    num_processes: int | None = Field(None, ge=1)
    """Train in so many processes, as in `clair-apo train`."""
    accelerate_config: UserPath | None = None
    """A YAML of `accelerate launch` for the training."""
    rates: RatesConfig | None = None
    """What `--dry_run` reckons time and disk with."""
    only: tuple[str, ...] = ()
    """Work on these cells alone, by name; `data` makes the data sets and stops."""
    dry_run: bool = False
    """Say what there is to do, and with `rates` how long it takes; start nothing."""
    launch: Literal["lines", "slurm"] | None = None
    """Print what other machines can run, a command a cell or an array job for Slurm; start
    nothing."""

    @field_validator("figures")
    @classmethod
    def _are_figures(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        names = [FigureName.parse(text).name for text in texts]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} stands there twice")
        return texts

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("each seed once: the same seed makes the same model")
        return seeds

    @field_validator("objectives")
    @classmethod
    def _are_settings(cls, objectives: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, settings in objectives.items():
            for key, value in settings.items():
                if key in _OF_THE_CELL:
                    raise ValueError(f"{name}: {key} is the cell's own; leave it out")
                if key in TUNED and isinstance(value, list) and not value:
                    raise ValueError(f"{name}: {key} is an empty list")
        return objectives

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        data, _, objective = self.baseline.partition("/")
        if data not in self.data or objective not in self.objectives:
            raise ValueError(
                f"baseline: expected <data>/<objective>, such as "
                f"{next(iter(self.data))}/{next(iter(self.objectives))}, got {self.baseline!r}"
            )
        if self.choose and self.choose.data not in (None, *self.data):
            raise ValueError(f"choose.data: there is no data set {self.choose.data!r}")
        tuned = [name for name in self.objectives if len(self.values_of(name)) > 1]
        if tuned and (self.choose is None or self.development is None):
            raise ValueError(
                f"objective {tuned[0]!r} has several values to choose from: set choose (the rule) "
                "and development (the prompts to choose on)"
            )
        if self.choose and not tuned:
            raise ValueError("choose: no objective has several values; leave it out")
        return self

    def values_of(self, objective: str) -> list[dict[str, Any]]:
        """The values of beta and learning rate that an objective may take."""
        found: list[dict[str, Any]] = [{}]
        for key in TUNED:
            asked = self.objectives[objective].get(key)
            if asked is not None:
                values = asked if isinstance(asked, list) else [asked]
                found = [{**one, key: value} for one in found for value in values]
        return found
