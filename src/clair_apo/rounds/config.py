"""The config of a run of rounds: the configs of its commands, and the rule by which it stops."""

from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from clair_apo.config import Config, Section, UserPath
from clair_apo.evaluation.figure_name import FigureName


class StopConfig(Section):
    """When the rounds end before their number is reached."""

    figure: str
    """The figure of the evaluation that decides, as `<suite>.<figure>`; with a minus sign before
    it lower is better."""
    min_gain: float = Field(0.0, ge=0, allow_inf_nan=False)
    """A round has gained where the whole 95 % interval of the difference to the round before it,
    paired by row, lies above this. After a round that has not, the rounds end."""

    @field_validator("figure")
    @classmethod
    def _names_a_figure_of_a_suite(cls, text: str) -> str:
        FigureName.parse(text)
        return text

    @property
    def parsed(self) -> FigureName:
        """The figure by its suite."""
        return FigureName.parse(self.figure)


class RoundsConfig(Config):
    """A run of rounds. Each command has a config file of its own, which also runs alone.

    In every round these keys of them are replaced: `run_dir`, `store`, `target.model` of generate;
    `run_dir`, `store`, `pairs`, `model` of advise; `dataset_name`, `model_name_or_path`,
    `output_dir`, `reference`, `advice`, `resume_from_checkpoint` of train; `run_dir`, `store`,
    `models` of evaluate.
    """

    model_config = SettingsConfigDict(cli_prog_name="clair-apo rounds")

    run_dir: UserPath
    """The folder of the rounds: `round-1`, `round-2` and so on, `rounds.json`, `rounds.html`, and
    the request store of all."""
    rounds: int = Field(3, ge=1)
    """So many rounds at most."""
    generate: UserPath
    """A config of `clair-apo generate`. Its target is the model of the first round."""
    train: UserPath
    """A config of `clair-apo train`."""
    evaluate: UserPath
    """A config of `clair-apo evaluate`. Its prompts must not be those that are trained on. The
    first of its models says how the models of the rounds are asked."""
    advise: UserPath | None = None
    """A config of `clair-apo advise`, whose advice a training with `loss_type: auto` takes; needed
    for that alone."""
    reference: Literal["initial", "previous"] = "previous"
    """The reference model of the training: the model of the round before, or the first one."""
    stop: StopConfig | None = None
    """The rule to stop early; without it all rounds are made."""
    num_processes: int | None = Field(None, ge=1)
    """Train in so many processes, as in `clair-apo train`."""
    accelerate_config: UserPath | None = None
    """A YAML of `accelerate launch` for the training."""
