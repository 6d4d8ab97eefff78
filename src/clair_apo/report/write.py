"""Writes a run's report: `contrast.json` for programs, a page and a card for people."""

from pathlib import Path

from clair_apo.console import say, show_progress
from clair_apo.files import atomic_writer
from clair_apo.records import Record
from clair_apo.report.contrast import (
    DROPPED,
    PAIRS,
    PROMPTS,
    ContrastSummary,
    check_complete,
    summarise,
)
from clair_apo.report.dataset_card import CARD, has_dataset, render_card
from clair_apo.report.pairs_page import render_page
from clair_apo.run_folder import DATASET, RunFolder, write_json

CONTRAST = "contrast.json"
PAGE = "report.html"


class ReportFiles(Record):
    """The files that `write_report` wrote, and the summary in them."""

    contrast: Path
    page: Path
    card: Path | None
    """The data set's card; None where the run folder holds no data set."""
    summary: ContrastSummary


def write_report(run: Path) -> ReportFiles:
    """Summarise a run folder into `contrast.json`, `report.html` and `dataset/README.md` in it.

    The page is self-contained. The same run gives the same bytes. Progress is shown on standard
    error.

    Raises:
        RunError: no run folder, a file is missing, or the counts do not close.
        DataError: a file has a line that is not its record.
    """
    folder = RunFolder(run)
    check_complete(folder)
    for name in folder.changed_files():
        say(
            f"warning: {folder.file(name)} is not as the run wrote it: damaged, or changed by "
            "hand; `clair-apo generate` makes it again from the store"
        )
    with show_progress("report", _rows(folder)) as tell:

        def read() -> None:
            tell("read")

        # all of it before anything is written: all files or none
        summary = summarise(folder, read)
        page, card = render_page(folder, summary, read), render_card(folder, summary, read)
    report = ReportFiles(
        contrast=folder.file(CONTRAST),
        page=folder.file(PAGE),
        card=folder.file(DATASET) / CARD if card else None,
        summary=summary,
    )
    write_json(report.contrast, summary.model_dump(mode="json"))
    for path, text in ((report.page, page), (report.card, card)):
        if path and text:
            with atomic_writer(path) as file:
                file.write(text)
    return report


def _rows(run: RunFolder) -> int:
    """How many rows are read: pairs for the summary, the page and a card, the others once less."""
    card = has_dataset(run)
    times = {PROMPTS: 1, DROPPED: 2, PAIRS: 2 + card}
    return sum(count * _lines(run.file(name)) for name, count in times.items())


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
