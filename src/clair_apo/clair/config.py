"""The generation config: nested, strict, readable from YAML, the command line or Python."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from clair_apo.config import Config, Section, UserPath
from clair_apo.llm import ModelSpec
from clair_apo.records import RevisionFormat

RecipeName = Literal["clair"]


class PromptsConfig(Section):
    """Where the prompts are from."""

    path: str
    """A JSONL or Parquet file, a folder saved by `datasets`, or a data set's name on the hub."""
    column: str | None = None
    """The column with the prompt; by default the first of the usual names that the data has."""
    split: str = "train"
    """The split of a hub data set or `datasets` folder that has several."""
    limit: int | None = Field(None, gt=0)
    """Use so many prompts, drawn with `seed`; by default all."""
    seed: int = 0
    """Decides which prompts `limit` draws."""
    max_characters: int = Field(32_000, gt=0)
    """A longer prompt stops the run before anything is asked."""


class RevisionConfig(Section):
    """What the reviser is asked for."""

    format: RevisionFormat = "edits"
    """`edits`: a list of exact replacements; `full`: the whole revised answer."""
    rubric: UserPath | None = None
    """A text file with the preference in plain words; it enters the template."""
    template: UserPath | None = None
    """A Jinja file of your own in place of the format's."""


class GenerateConfig(Config):
    """A run that turns prompts into preference pairs."""

    run_dir: UserPath
    """The run's folder: one file a stage, and `manifest.json`."""
    recipe: RecipeName = "clair"
    """Who plays winner and loser: `clair` has the target's answer lose to its revision."""
    prompts: PromptsConfig
    target: ModelSpec
    """The model to be aligned; it answers the prompts that bring no answer of their own."""
    reviser: ModelSpec
    """The model that revises."""
    revision: RevisionConfig = RevisionConfig()
    store: UserPath | None = None
    """The request store; by default `requests.sqlite` beside the run's folder."""

    @property
    def store_path(self) -> Path:
        """The request store's file."""
        return self.store or self.run_dir.parent / "requests.sqlite"
