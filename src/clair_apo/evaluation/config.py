"""The config of an evaluation: models, held-out prompts or pairs, and the suites."""

from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import Discriminator, Field, StringConstraints, Tag, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from clair_apo.clair import PromptsConfig
from clair_apo.config import Config, Section, UserPath, unknown_key
from clair_apo.evaluation.figure_name import FigureName
from clair_apo.evaluation.suites.alpaca_eval import AlpacaEval
from clair_apo.evaluation.suites.base import NAME, SuiteConfig
from clair_apo.evaluation.suites.checks import ChecksSuite
from clair_apo.evaluation.suites.gsm8k import Gsm8k
from clair_apo.evaluation.suites.health import HealthSuite
from clair_apo.evaluation.suites.lm_eval import LmEval
from clair_apo.evaluation.suites.mixeval_hard import MixEvalHard
from clair_apo.evaluation.suites.multiple_choice import MultipleChoice
from clair_apo.evaluation.suites.win_rate import WinRateSuite
from clair_apo.llm import ModelSpec

EACH = "each"
"""The key in `models` that stands for the checkpoints of a run."""
_RESERVED = ("differences", "remarks", "counts", "checkpoints", "mean", "best", "last")


class AskedModel(ModelSpec):
    """A model that is asked: as in a generation config, but it answers greedily by default."""

    temperature: float | None = Field(0.0, ge=0, allow_inf_nan=False)
    """0, the default here, takes the likeliest token always; null is not sent."""


class RecordedModel(Section):
    """A model that is not asked: what it answered, or what a judge said of it, lies in files."""

    recorded: tuple[UserPath, ...] = Field(min_length=1)
    """JSONL or JSON files, plain or `.gz`, in the format of the benchmark; for `prompts` and
    `pairs` rows `{"prompt": ..., "answer": ...}`, or the `responses.jsonl` of a run."""


class PairsConfig(Section):
    """Where the preference pairs are from, and which of them are held out."""

    path: str
    """A JSONL or Parquet file, a folder of `datasets`, or a data set's name on the hub."""
    split: str = "train"
    """The split of a hub data set or folder that has several."""
    held_out: float = Field(0.1, gt=0, le=1)
    """As `held_out` of the training: the share of all possible prompts that was held out there,
    by the prompts' digests; 1 takes every pair."""


def _kind(value: Any) -> str:
    recorded = "recorded" in value if isinstance(value, dict) else isinstance(value, RecordedModel)
    return "files" if recorded else "asked"


AnyModel = Annotated[
    Annotated[AskedModel, Tag("asked")] | Annotated[RecordedModel, Tag("files")],
    Discriminator(_kind),
]
AnySuite = Annotated[
    AlpacaEval
    | ChecksSuite
    | Gsm8k
    | HealthSuite
    | LmEval
    | MixEvalHard
    | MultipleChoice
    | WinRateSuite,
    Discriminator("suite"),
]
SUITES: dict[str, type[SuiteConfig]] = {
    kind.model_fields["suite"].default: kind for kind in get_args(get_args(AnySuite)[0])
}
"""Every suite by its name."""


def _each_as_text(schema: dict[str, Any]) -> None:
    """Let the schema of `models` take the pattern of `each` as it may be written: as text."""
    for inner in schema.get("patternProperties", {}).values():
        choices = {"anyOf": [*inner.pop("oneOf", inner.pop("anyOf", [])), {"type": "string"}]}
        inner.update(choices)


class EvaluateConfig(Config):
    """An evaluation: suites over models."""

    model_config = SettingsConfigDict(cli_prog_name="clair-apo evaluate")

    run_dir: UserPath
    """The evaluation's folder: `evaluation.json`, `evaluation.md`, `evaluation.html`, and the rows
    of each suite."""
    models: dict[Annotated[str, StringConstraints(pattern=NAME)], AnyModel] = Field(
        min_length=1, json_schema_extra=_each_as_text
    )
    """By a name of yours; the first is the one in question, and the others are compared with it.
    The name `each` stands for all checkpoints that its `model`, such as `runs/x/checkpoint-*`,
    names."""
    prompts: PromptsConfig | None = None
    """Held-out prompts."""
    pairs: PairsConfig | None = None
    """Held-out pairs, in place of `prompts`."""
    suites: tuple[AnySuite, ...] = Field(min_length=1)
    """What is measured, in this order."""
    best_by: str | None = None
    """Of checkpoints: the figure that chooses the best, as `<suite>.<figure>`; with a minus sign
    before it the lowest is best. Without it no checkpoint is called the best."""
    drop_checkpoints: bool = False
    """Delete a checkpoint's folder once its answers are stored, except that of the last one."""
    store: UserPath | None = None
    """The request store; by default `requests.sqlite` beside the evaluation's folder."""
    max_cost: float | None = Field(None, gt=0)
    """Stop before the evaluation has cost more USD than this, over all its invocations."""
    offline: bool = False
    """Ask nothing: where the store knows nothing the evaluation ends."""

    @field_validator("models", mode="before")
    @classmethod
    def _each_may_be_a_pattern(cls, models: Any) -> Any:
        if isinstance(models, dict) and isinstance(models.get(EACH), str):
            return models | {EACH: {"model": models[EACH]}}
        return models

    @field_validator("models")
    @classmethod
    def _names_are_free(cls, models: dict[str, AnyModel]) -> dict[str, AnyModel]:
        if taken := [name for name in models if name in _RESERVED]:
            raise ValueError(f"{taken[0]!r} has a meaning in evaluation.json; take another name")
        each = models.get(EACH)
        if each is not None and (isinstance(each, RecordedModel) or each.base_url):
            raise ValueError("each: names folders of checkpoints, such as runs/x/checkpoint-*")
        return models

    @field_validator("suites", mode="before")
    @classmethod
    def _suites_are_known(cls, suites: Any) -> Any:
        for suite in suites if isinstance(suites, list | tuple) else ():
            name = suite.get("suite") if isinstance(suite, dict) else None
            if isinstance(suite, dict) and name not in SUITES:
                if name is None:
                    raise ValueError("each entry needs the key 'suite', such as {suite: health}")
                raise ValueError(unknown_key(str(name), SUITES).replace("key", "suite", 1))
        return suites

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        keys = [suite.key for suite in self.suites]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"two suites are called {twice[0]!r}; give one of them a name")
        if self.prompts and self.pairs:
            raise ValueError("prompts and pairs: give one of them; pairs bring their prompts")
        needy = [suite.key for suite in self.suites if suite.needs_prompts]
        if needy and not (self.prompts or self.pairs):
            raise ValueError(f"suite {needy[0]!r} is about held-out prompts: set prompts or pairs")
        if EACH not in self.models and (self.best_by or self.drop_checkpoints):
            what = "best_by" if self.best_by else "drop_checkpoints"
            raise ValueError(f"{what} is about checkpoints: name them with models.each")
        return self

    @model_validator(mode="after")
    def _best_is_a_figure_of_a_suite(self) -> Self:
        if self.best_by is not None:
            try:
                known = FigureName.parse(self.best_by).suite in {one.key for one in self.suites}
            except ValueError:
                known = False
            if not known:
                raise ValueError(f"best_by: expected <suite>.<figure>, got {self.best_by!r}")
        return self

    @property
    def store_path(self) -> Path:
        """The request store's file."""
        return self.store or self.run_dir.parent / "requests.sqlite"
