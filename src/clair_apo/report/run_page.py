"""The page of a whole run: its pairs, its training with what the policy says, its evaluation."""

from pathlib import Path

from clair_apo.files import atomic_writer
from clair_apo.report.contrast import PAIRS, check_complete, summarise
from clair_apo.report.evaluation_answers import RESULTS
from clair_apo.report.evaluation_page import evaluation_part
from clair_apo.report.html import Part, pairs_script, render
from clair_apo.report.pairs_page import pairs_part
from clair_apo.report.training_page import training_part
from clair_apo.report.training_run import find_training
from clair_apo.run_folder import RunFolder

PAGE = "run.html"
EVALUATION = "evaluation"
"""The folder in a run folder into which `clair-apo evaluate` writes by the shipped configs."""


def write_run_page(folder: Path) -> Path | None:
    """Draw all that a run folder holds into one self-contained page, `run.html` in it.

    The same files give the same bytes.

    Args:
        folder: with pairs, with the `checkpoint` of a training and an `evaluation` in it, or with
            a training itself.

    Returns:
        The page; None where there is one part or none, which has a page of its own.

    Raises:
        RunError: a part of the run is not finished, or cannot be read.
        DataError: a file has a line that is not its record.
    """
    parts = _parts(folder)
    if len(parts) < 2:
        return None
    values = {"name": folder.resolve().name, "parts": parts}
    with atomic_writer(folder / PAGE) as file:
        file.write(render("run.html.jinja", values, pairs_script() if _has_pairs(folder) else ""))
    return folder / PAGE


def _parts(folder: Path) -> list[Part]:
    found = []
    if _has_pairs(folder):
        run = RunFolder(folder)
        check_complete(run)
        found.append(pairs_part(run, summarise(run)))
    if training := find_training(folder):
        found.append(training_part(training))
    if (folder / EVALUATION / RESULTS).is_file():
        found.append(evaluation_part(folder / EVALUATION))
    return found


def _has_pairs(folder: Path) -> bool:
    return (folder / PAIRS).is_file()
