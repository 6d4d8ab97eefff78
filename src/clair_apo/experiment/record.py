"""What an experiment came to: the content of `experiment.json`."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter

from clair_apo.experiment.choose import Choice
from clair_apo.experiment.compare import Comparison, Estimate
from clair_apo.experiment.data import MadeData
from clair_apo.records import Record
from clair_apo.run_folder import read_record_file, write_json

FILE = "experiment.json"


class CellState(Record):
    """A cell, and what its training was."""

    name: str
    data: str
    objective: str
    values: dict[str, Any]
    """The `beta` and `learning_rate` that the objective names."""
    seed: int
    state: Literal["done", "failed", "open"]
    why: str = ""
    """Of a failure."""
    steps: int | None = None
    tokens: int | None = None
    """That one pass over its pairs has, each pair with both answers."""
    alarms: tuple[str, ...] = ()
    """The kinds of alarms of its training."""
    reference_computed: int | None = None
    """Pairs whose reference the training computed itself."""
    checkpoints: int | None = None
    """That were evaluated."""


class AnchorVerdict(Record):
    """What `advise` said of a data set, and what the trainings say."""

    data: str
    advice: str
    reason: str
    figure: str
    zero_minus_down: Estimate | None
    """APO-zero's mean minus APO-down's, as measured, without the figure's sign; None where one
    failed."""
    verdict: Literal["right", "wrong", "not shown"]
    """`right` and `wrong` where the 95 % interval over prompts leaves out 0; it is not corrected.
    Where lower is better, zero is right where its mean is the lower one."""


class ExperimentRecord(Record):
    """An experiment: its data, choices, cells and comparisons."""

    settings: dict[str, Any]
    """What decides what a cell is; compared when the folder is used again."""
    base: str = ""
    """The model before any training."""
    data: dict[str, MadeData] = Field(default_factory=dict)
    choices: tuple[Choice, ...] = ()
    cells: tuple[CellState, ...] = ()
    """Those that answer the test prompts, then those that only were candidates."""
    figures: tuple[str, ...] = ()
    """That are compared, with their signs."""
    baseline: str = ""
    confidence: float = 0.95
    """The corrected coverage of the differences to the baseline."""
    comparisons: tuple[Comparison, ...] = ()
    anchors: tuple[AnchorVerdict, ...] = ()


def read_record(folder: Path) -> ExperimentRecord | None:
    """The record of a folder; None where no experiment was begun in it.

    Raises:
        RunError: it cannot be read.
    """
    return read_record_file(folder / FILE, TypeAdapter(ExperimentRecord), "name another run_dir")


def write_record(folder: Path, record: ExperimentRecord) -> None:
    """Write `experiment.json`, whole or not at all."""
    write_json(folder / FILE, record.model_dump(mode="json"))
