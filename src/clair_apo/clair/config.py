"""The config of a run of `generate`: nested, strict, read from YAML, the command line or Python.

The sections that only one part of the program reads stand there: `GateConfig` beside the gate,
`PromptsConfig` beside the reading of prompts, `ControlsConfig` beside what the stages work with.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from clair_apo.clair.filters.gate import GateConfig
from clair_apo.clair.recipes import RECIPES, Recipe, RecipeName
from clair_apo.clair.scorer import ScorerConfig
from clair_apo.clair.stages.context import ControlsConfig, Role
from clair_apo.clair.stages.load import PromptsConfig
from clair_apo.clair.stages.table import StageDef, stages_of
from clair_apo.config import Config, Section, UserPath
from clair_apo.llm import ModelSpec
from clair_apo.records import Direction, RevisionFormat
from clair_apo.run_folder import Shard


class RevisionConfig(Section):
    """What the reviser is asked for."""

    format: RevisionFormat = "segments"
    """`segments`: new texts for numbered sentences and lines; `edits`: a list of exact
    replacements; `full`: the whole revised answer."""
    rubric: UserPath | None = None
    """A text file with the preference in plain words; it enters the template, and the judge's."""
    template: UserPath | None = None
    """A Jinja file of your own in place of the format's."""
    direction: Direction | None = None
    """`improve` or `worsen`; by default what the recipe says."""
    keep_length: bool = False
    """Ask the reviser to keep the answer about as long as it is."""
    fold: bool = True
    """Used with `edits`: look for a quoted passage that is not in the answer once more, with white
    space, quotes, dashes, the case of the first letter and Unicode's form set aside."""
    ask_again: bool = True
    """Ask once more where a reply was cut (with a larger limit) or cannot be read."""


class OutputConfig(Section):
    """How the finished pairs are written."""

    test_size: float = Field(0.1, ge=0, lt=1)
    """Share of all possible prompts whose pairs make the test split of `dataset/`."""
    parquet: bool = False
    """Write the splits of `dataset/` as Parquet beside the JSONL."""


# no docstring under the field: it could not name what is in the table
_RECIPE = (
    f"What becomes chosen and what rejected: one of {', '.join(f'`{name}`' for name in RECIPES)}. "
    "With `clair` a reviser's minimal revision of the target's answer is preferred to that answer."
)


class GenerateConfig(Config):
    """A run that turns prompts into preference pairs."""

    run_dir: UserPath
    """The run's folder: one file a stage, and `manifest.json`."""
    recipe: RecipeName = Field("clair", description=_RECIPE)
    prompts: PromptsConfig
    target: ModelSpec
    """The model to be aligned; it answers the prompts that bring no answer of their own."""
    samples: int = Field(2, ge=2)
    """Answers of the target to choose among, for the recipes in which a judge chooses."""
    reviser: ModelSpec | None = None
    """The model that revises or, for `stronger_preferred`, the stronger one."""
    judge: ModelSpec | None = None
    """The model that chooses and verifies; another one than the reviser if you like."""
    scorer: ScorerConfig | None = None
    """Gives both sides of every pair a score and, for the recipes in which a judge chooses among
    answers, chooses in its place."""
    pool: tuple[ModelSpec, ...] = ()
    """Models that answer side by side, for the recipes `pool` (two or more) and `delta` (two: the
    first one's answer is chosen, the second one's rejected)."""
    strip_thinking: bool = True
    """Take from every answer and every revision the thinking that it begins with, such as
    `<think> ... </think>`, and from answers the end marks that a server let through; false leaves
    them in both sides of a pair. The request store keeps answers as they came."""
    revision: RevisionConfig = RevisionConfig()
    pairs: Literal["whole", "chain"] = "whole"
    """`whole`: a revision makes one pair. `chain`: its edits are applied one after another, and
    each makes a pair of the texts before and after it; with the formats `edits` and `segments`."""
    gate: GateConfig = GateConfig()
    verify: bool = False
    """Have `judge` confirm that chosen is better; a pair that is not confirmed is dropped."""
    controls: ControlsConfig = ControlsConfig()
    """Used with `verify`."""
    output: OutputConfig = OutputConfig()
    store: UserPath | None = None
    """The request store; by default `requests.sqlite` beside the run's folder."""
    max_cost: float | None = Field(None, gt=0)
    """Stop before the run has cost more USD than this, over all its invocations; run again with
    more to go on."""
    offline: bool = False
    """Ask nothing: a request that failed fails again, and where the store knows nothing the run
    ends."""
    shard: str | None = None
    """`i/n`: only the i-th of n parts of the prompts, from 1; in a folder below `run_dir`, and
    with a store, of its own. `clair-apo merge` joins the parts."""

    @field_validator("shard")
    @classmethod
    def _is_a_shard(cls, text: str | None) -> str | None:
        if text is not None:
            Shard.parse(text)
        return text

    @model_validator(mode="after")
    def _has_its_models(self) -> Self:
        recipe = self.recipe_def
        if "reviser" in self._roles and self.reviser is None:
            raise ValueError(f"recipe {self.recipe!r} needs a reviser: set reviser.model")
        choosing = recipe.chooses and not recipe.given_only
        if self.scorer and self.scorer.gap is not None and not recipe.chooses:
            raise ValueError(f"recipe {self.recipe!r} chooses among no answers: take gap out")
        if self.scorer and recipe.chooses and self.judge and not self.verify:
            raise ValueError("judge and scorer would both choose: take one of them out")
        choosing = choosing and not self.scorer
        if (choosing or self.verify) and self.judge is None:
            why = f"recipe {self.recipe!r}" if choosing else "verify"
            other = ", or a scorer" if choosing else ""
            raise ValueError(f"{why} needs a judge: set judge.model{other}")
        if fault := recipe.pool_fault(len(self.pool)):
            raise ValueError(f"recipe {self.recipe!r} {fault}")
        asked = self.revision.direction
        if asked and self.recipe in ("clair", "worsen") and asked != recipe.direction:
            other = "worsen" if self.recipe == "clair" else "clair"
            raise ValueError(f"revision.direction {asked!r} is the recipe {other!r}: name that one")
        return self

    @model_validator(mode="after")
    def _makes_its_chains_of_edits(self) -> Self:
        if self.pairs != "chain":
            return self
        if not self.recipe_def.has_both_sides_of_a_revision:
            able = [n for n, recipe in RECIPES.items() if recipe.has_both_sides_of_a_revision]
            raise ValueError(
                f"pairs 'chain' needs an answer and its revision as the two sides, as in the "
                f"recipes {' and '.join(able)}; with {self.recipe!r} use pairs 'whole'"
            )
        if self.revision.format == "full":
            raise ValueError(
                "pairs 'chain' needs edits, and in the format 'full' there are none: set "
                "revision.format to edits or segments"
            )
        return self

    @model_validator(mode="after")
    def _tells_its_models_apart(self) -> Self:
        known: dict[str, tuple[str, str]] = {}
        for role, spec in self.asked_models.items():
            if spec.base_url is None and spec.mode != "files":
                continue  # a model in this process is known by its files
            address = (spec.base_url or "files").rstrip("/")
            other, at = known.setdefault(spec.served_identity, (role, address))
            # a revision that both were given says that they are the same
            if at != address and spec.revision is None:
                raise ValueError(
                    f"{other} and {role} are both called {spec.model!r}, at {at} and {address}: "
                    f"their answers would be taken for each other's; set {role}.revision to a "
                    "word for its weights (or the same word in both, if they are the same)"
                )
        return self

    @property
    def recipe_def(self) -> Recipe:
        """The entry of the recipe in `RECIPES`."""
        return RECIPES[self.recipe]

    @property
    def stages(self) -> tuple[StageDef, ...]:
        """The stages of the run in their order, after the prompts are loaded."""
        return stages_of(
            self.recipe_def,
            verified=self.verify,
            chained=self.pairs == "chain",
            scored=self.scorer is not None,
            scoring_role=self.scorer.role if self.scorer else None,
            pool=len(self.pool),
        )

    @property
    def _roles(self) -> set[Role]:
        return {stage.role for stage in self.stages if stage.role}

    @property
    def asked_models(self) -> dict[Role, ModelSpec]:
        """The models that the stages ask, by role; the target also where the data may answer."""
        named: dict[Role, ModelSpec | None] = {
            "target": None if self.recipe_def.given_only else self.target,
            "reviser": self.reviser,
            "judge": self.judge,
            **{f"pool.{number}": spec for number, spec in enumerate(self.pool)},
        }
        if self.scorer and self.scorer.role:
            named[self.scorer.role] = self.scorer.spec
        return {role: spec for role, spec in named.items() if spec and role in self._roles}

    @property
    def direction(self) -> Direction:
        """Whether the revision improves the answer or worsens it."""
        return self.revision.direction or self.recipe_def.direction

    @property
    def training_tokenizer(self) -> str | None:
        """The tokenizer of the model to be trained; None where only a server knows it."""
        local = None if self.target.base_url else self.target.model
        return self.gate.tokenizer or local

    @property
    def training_revision(self) -> str | None:
        """The target's revision, for its tokenizer; None in the modes that answer later."""
        return self.target.revision if self.target.mode == "live" else None

    @property
    def prompt_shard(self) -> Shard | None:
        """The part of the prompts that this run takes; None for all."""
        return Shard.parse(self.shard) if self.shard else None

    @property
    def folder(self) -> Path:
        """The folder that the run works in: `run_dir`, or the shard's below it."""
        shard = self.prompt_shard
        return self.run_dir / shard.name if shard else self.run_dir

    @property
    def store_path(self) -> Path:
        """The request store's file; each shard has one of its own."""
        shard = self.prompt_shard
        if shard is None:
            return self.store or self.run_dir.parent / "requests.sqlite"
        if self.store is None:
            return self.folder / "requests.sqlite"
        return self.store.with_stem(f"{self.store.stem}-{shard.name}")
