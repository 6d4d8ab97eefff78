"""The page over all rounds of a run: what each came to, every figure by round, links to pages."""

import os
from pathlib import Path

from clair_apo.errors import RunError
from clair_apo.files import atomic_writer
from clair_apo.report.evaluation_page import write_evaluation_page
from clair_apo.report.html import render
from clair_apo.report.write import write_report
from clair_apo.rounds.record import Round, read_record
from clair_apo.rounds.table import figures_of, round_words

PAGE = "rounds.html"
LINKED = (
    ("pairs", "pairs/report.html"),
    ("training", "model/training.html"),
    ("evaluation", "evaluation/evaluation.html"),
)
"""The pages of a round, by the words of their links."""


def write_rounds_page(folder: Path) -> Path:
    """Draw the rounds into `rounds.html` in their folder, and the pages of their steps.

    The same files give the same bytes.

    Raises:
        RunError: there are no rounds in it.
    """
    record = read_record(folder)
    if record is None or not record.rounds:
        raise RunError(f"{folder}: holds no round that came to its end; run `clair-apo rounds`")
    for one in record.rounds:
        round_folder = Path(one.model).parent
        write_report(round_folder / "pairs")
        write_evaluation_page(round_folder / "evaluation")
    values = {
        "name": folder.resolve().name,
        "initial": Path(record.initial).name,
        "stopped": record.stopped or "the rounds have not come to their end",
        "figure": next((one.gain.figure for one in record.rounds if one.gain), None),
        "rounds": [(round_words(one), _links(folder, one)) for one in record.rounds],
        "figures": figures_of(record),
    }
    with atomic_writer(folder / PAGE) as file:
        file.write(render("rounds.html.jinja", values))
    return folder / PAGE


def _links(folder: Path, one: Round) -> list[tuple[str, str]]:
    """The pages of a round that are there, by paths from the folder."""
    place = Path(os.path.relpath(Path(one.model).parent, folder))
    return [
        (words, str(place / page)) for words, page in LINKED if (folder / place / page).exists()
    ]
