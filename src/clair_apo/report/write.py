"""Writes a run's report: `contrast.json` for programs, `report.html` for people."""

from pathlib import Path

from clair_apo.records import Record, atomic_writer
from clair_apo.report.contrast import ContrastSummary, summarise
from clair_apo.report.page import render_page
from clair_apo.runs import RunFolder, write_json

CONTRAST = "contrast.json"
PAGE = "report.html"


class ReportFiles(Record):
    """What `write_report` wrote, and what stands in it."""

    contrast: Path
    page: Path
    summary: ContrastSummary


def write_report(run: Path) -> ReportFiles:
    """Summarise a run folder into `contrast.json` and a self-contained `report.html` beside it.

    The same run gives the same bytes.

    Raises:
        RunError: no run folder, a file is missing, or the counts do not close.
        DataError: a file has a line that is not its record.
    """
    folder = RunFolder(run)
    summary = summarise(folder)
    page = render_page(folder, summary)  # before anything is written: both files or neither
    report = ReportFiles(contrast=folder.file(CONTRAST), page=folder.file(PAGE), summary=summary)
    write_json(report.contrast, summary.model_dump(mode="json"))
    with atomic_writer(report.page) as file:
        file.write(page)
    return report
