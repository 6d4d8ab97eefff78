"""The page of an experiment: figures, data, trainings, what the models say, in one file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clair_apo.errors import RunError
from clair_apo.evaluation.checkpoints import step_of
from clair_apo.evaluation.tables import interval_text
from clair_apo.experiment.plan import BASE, CellFolder, DataFolder
from clair_apo.experiment.record import CellState, ExperimentRecord, read_record
from clair_apo.experiment.table import (
    SENTENCES,
    WordTable,
    by_figure,
    comparison_tables,
    other_tables,
)
from clair_apo.files import atomic_writer
from clair_apo.ingest.rows import read_rows
from clair_apo.report.evaluation_answers import (
    RESULTS,
    ShownPrompt,
    read_answers_of,
    read_results,
    side_by_side,
)
from clair_apo.report.forest_plot import forest_plot
from clair_apo.report.html import image_source, render
from clair_apo.report.pairs_page import WordDiff, pair_diff
from clair_apo.report.training_run import PlotName, find_training, read_training, training_plots

PAGE, TEMPLATE = "experiment.html", "experiment.html.jinja"
MOST_PAIRS = 3
"""Of each data set."""
MOST_PROMPTS = 6
"""Of each evaluation: evenly spread over its prompts."""
PLOTS: tuple[PlotName, ...] = ("logps",)
"""Of each training: what the objective does to chosen and rejected."""


class ShownFigure(NamedTuple):
    """A compared figure: its table, and the plot of it."""

    table: WordTable
    plot: str
    """A data URL."""


class ShownPair(NamedTuple):
    """A pair of a data set."""

    id: str
    prompt: str
    diff: WordDiff


class ShownData(NamedTuple):
    """A data set: what is known of it, and some of its pairs."""

    name: str
    facts: tuple[tuple[str, str], ...]
    pairs: tuple[ShownPair, ...]


class ShownTraining(NamedTuple):
    """The training of a cell."""

    cell: str
    facts: tuple[tuple[str, str], ...]
    plots: tuple[tuple[str, str], ...]
    """Caption and data URL."""


class ShownEvaluation(NamedTuple):
    """What the models say to some prompts of an evaluation."""

    name: str
    prompts: list[ShownPrompt]


def write_experiment_page(folder: Path) -> Path:
    """Draw an experiment into `experiment.html` in its folder; the same files give the same bytes.

    Args:
        folder: the `run_dir` of `clair-apo experiment`.

    Raises:
        RunError: there is no experiment in it, or a file of it cannot be read.
        DataError: a file of it has a line that is not its row.
    """
    record = read_record(folder)
    if record is None:
        raise RunError(f"{folder}: holds no experiment; run `clair-apo experiment` first")
    shown = list(_first_of_groups(record))
    values = {
        "name": folder.resolve().name,
        "record": record,
        "done": sum(cell.state == "done" for cell in record.cells),
        "failed": [cell for cell in record.cells if cell.state == "failed"],
        "sentences": SENTENCES,
        "figures": list(_figures(record)),
        "tables": other_tables(record),
        "data": [_data(folder, name, record) for name in record.data],
        "trainings": [_training(folder, cell) for cell in shown],
        "evaluations": list(_evaluations(folder, shown)),
        "most_pairs": MOST_PAIRS,
    }
    with atomic_writer(folder / PAGE) as file:
        file.write(render(TEMPLATE, values))
    return folder / PAGE


def _first_of_groups(record: ExperimentRecord) -> Iterator[CellState]:
    """The first evaluated cell of each data set and objective."""
    seen = set()
    for cell in record.cells:
        compared = any(
            (one.data, one.objective) == (cell.data, cell.objective) for one in record.comparisons
        )
        if compared and cell.state == "done" and (cell.data, cell.objective) not in seen:
            seen.add((cell.data, cell.objective))
            yield cell


def _figures(record: ExperimentRecord) -> Iterator[ShownFigure]:
    tables = comparison_tables(record)
    for table, rows in zip(tables, by_figure(record).values(), strict=True):
        yield ShownFigure(table, forest_plot(rows))


def _data(folder: Path, name: str, record: ExperimentRecord) -> ShownData:
    made = record.data[name]
    facts = (
        ("Pairs", f"{made.pairs:,} of {made.made:,} made, over {made.prompts:,} prompts"),
        ("Jaccard", interval_text(made.jaccard.model_dump())),
        ("Levenshtein share", interval_text(made.levenshtein_share.model_dump())),
        *([("Advice", f"{made.advice}: {made.reason}")] if made.advice else []),
    )
    return ShownData(name, facts, tuple(_pairs(DataFolder(folder / "data" / name).pairs)))


def _pairs(path: Path) -> Iterator[ShownPair]:
    for number, (_, row) in enumerate(read_rows(str(path), "train")):
        if number == MOST_PAIRS:
            return
        prompt, diff = pair_diff(row, str(path))
        yield ShownPair(str(number + 1), prompt, diff)


def _cell(folder: Path, cell: CellState) -> CellFolder:
    return CellFolder(folder / "cells" / cell.name)


def _training(folder: Path, cell: CellState) -> ShownTraining:
    found = find_training(_cell(folder, cell).model)
    facts = (
        ("Steps", str(cell.steps)),
        ("Alarms", ", ".join(cell.alarms) or "none"),
        *((key, f"{value:g}") for key, value in cell.values.items()),
    )
    if found is None:
        return ShownTraining(cell.name, facts, ())
    plots = training_plots(read_training(found), PLOTS)
    return ShownTraining(
        cell.name, facts, tuple((plot.caption, image_source(plot.svg)) for plot in plots)
    )


def _evaluations(folder: Path, cells: list[CellState]) -> Iterator[ShownEvaluation]:
    places: dict[str, dict[str, Path]] = {}
    for cell in cells:
        for path in sorted(_cell(folder, cell).test.glob(f"*/{RESULTS}")):
            places.setdefault(path.parent.name, {})[cell.name] = path.parent
    for name, of in places.items():
        answers = [_answers(path, cell) for cell, path in of.items()]
        base = _answers(next(iter(of.values())), BASE)
        ids = list(base or answers[0])
        most = min(MOST_PROMPTS, len(ids))  # none where only benchmarks were asked
        spread = [ids[place * len(ids) // most] for place in range(most)]
        prompts = side_by_side([base, *answers], spread)
        if prompts:
            yield ShownEvaluation(name, prompts)


def _answers(folder: Path, cell: str) -> Mapping[str, Any]:
    """What a cell's model said, or its last checkpoint."""
    content = read_results(folder)
    models = [name for name in content["models"] if (name == BASE) == (cell == BASE)]
    if not models:
        return {}
    return read_answers_of(folder, content, max(models, key=lambda name: step_of(name) or 0), cell)
