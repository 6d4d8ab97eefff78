"""What the rounds came to: the content of `rounds.json`."""

from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter

from clair_apo.records import Record
from clair_apo.run_folder import read_record_file, write_json
from clair_apo.stats import Interval

FILE = "rounds.json"


class Gain(Record):
    """How far a round's figure is from that of the round before."""

    figure: str
    difference: Interval
    """This round minus the one before, paired by row."""
    gained: bool
    """Whether the rule counts it as a gain."""


class Round(Record):
    """One round that came to its end."""

    number: int
    """From 1."""
    target: str
    """The model that answered, and that the training started from."""
    model: str
    """The folder of the model that it became."""
    prompts: int
    pairs: int
    asked: int
    """Requests to models when the pairs were made, in the last invocation."""
    loss_type: str
    advice: str | None
    """What `advise` said; None where it was not asked."""
    steps: int
    figures: dict[str, dict[str, Any]]
    """Of the new model by suite and figure, as in `evaluation.json`."""
    gain: Gain | None
    """None without a rule to stop."""
    ended: str


class RoundsRecord(Record):
    """All rounds so far."""

    initial: str
    """The model before the first round."""
    settings: dict[str, Any]
    """What decides what a round does; compared when the folder is used again."""
    initial_figures: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Of that model, as in a round; known from the first round on."""
    rounds: tuple[Round, ...] = ()
    stopped: str = ""
    """Why there is no further round; empty while there may be one."""

    @property
    def current(self) -> str:
        """The model after the last round."""
        return self.rounds[-1].model if self.rounds else self.initial


def read_record(folder: Path) -> RoundsRecord | None:
    """The record of a folder; None where no round was begun in it.

    Raises:
        RunError: it cannot be read.
    """
    return read_record_file(folder / FILE, TypeAdapter(RoundsRecord), "name another run_dir")


def write_record(folder: Path, record: RoundsRecord) -> None:
    """Write `rounds.json`, whole or not at all."""
    write_json(folder / FILE, record.model_dump(mode="json"))
