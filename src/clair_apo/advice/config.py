"""The config of `clair-apo advise`: given judgements, or pairs with a model and a judge."""

from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from clair_apo.config import Config, UserPath
from clair_apo.llm import ModelSpec


class AdviseConfig(Config):
    """What is compared, by whom, and where the advice is written.

    Either `comparisons`, or `pairs` with a `judge`; `model` too, unless the rejected answers of the
    pairs are its own.
    """

    model_config = SettingsConfigDict(cli_prog_name="clair-apo advise")

    run_dir: UserPath
    """The folder of `advise.json`."""
    comparisons: UserPath | None = None
    """Judgements that are there already: JSONL with `prompt_id`, `chosen_share` (0 to 1) and
    `consistent`, and where they are known `chosen_characters`, `sample_characters` and
    `first_place`."""
    pairs: str | None = None
    """The pairs that are to be trained on: a JSONL or Parquet file, a folder or a hub name."""
    model: ModelSpec | None = None
    """The model that is to be trained, with the sampling that it is used with. By default the
    model whose answers the pairs reject, where they say so."""
    judge: ModelSpec | None = None
    """Compares its samples with the pairs' answers, in both orders."""
    rubric: UserPath | None = None
    """A text file with the preference in plain words, for the judge."""
    max_pairs: int | None = Field(400, gt=0)
    """Compare the first so many pairs in the order of their ids; null for all."""
    controls: int = Field(20, ge=0)
    """For so many pairs the judge is also shown the chosen answer beside a text that answers
    nothing and praises itself: one that prefers this text is refused."""
    beta: float = Field(0.1, gt=0, allow_inf_nan=False)
    """Of the training; the advice says where it saturates."""
    store: UserPath | None = None
    """The request store; by default `requests.sqlite` beside the folder."""
    offline: bool = False
    """Ask nothing: all answers must be in the store."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.comparisons is None) == (self.pairs is None):
            raise ValueError("set one of comparisons (given judgements) and pairs")
        if self.pairs is not None and self.judge is None:
            raise ValueError("pairs need a judge: set judge.model")
        asking = [name for name in ("model", "judge", "rubric") if getattr(self, name) is not None]
        if self.comparisons is not None and asking:
            raise ValueError(f"comparisons are judged already: leave {' and '.join(asking)} out")
        return self
