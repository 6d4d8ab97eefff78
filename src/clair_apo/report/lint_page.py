"""The page of a lint: what was found, how often, and rows that show it; and `lint.json`."""

from pathlib import Path

from clair_apo.files import atomic_writer
from clair_apo.lint import LintReport, Severity
from clair_apo.lint.table import figure_text, headline, share_text
from clair_apo.report.contrast import PAIRS
from clair_apo.report.html import render
from clair_apo.run_folder import write_json

RESULTS, PAGE = "lint.json", "lint.html"


def lint_folder(data: str) -> Path:
    """Where the files of a lint go by default: into a run's folder, or `lint/NAME` beside you.

    Args:
        data: what was looked over: a run, a file, a folder or a hub name.
    """
    path = Path(data).expanduser()
    if (path / PAIRS).is_file():
        return path
    return Path("lint") / (path.stem if path.is_file() else path.resolve().name)


def write_lint(report: LintReport, folder: Path) -> Path:
    """Write what a lint found to `lint.json` and `lint.html`; the same report gives the same bytes.

    Args:
        report: of `clair_apo.lint.lint`.
        folder: made where there is none.

    Returns:
        The page.

    Raises:
        WriteError: a file cannot be written.
    """
    write_json(folder / RESULTS, report.model_dump(mode="json"))
    with atomic_writer(folder / PAGE) as file:
        file.write(_page(report))
    return folder / PAGE


def _page(report: LintReport) -> str:
    values = {
        "report": report,
        "headline": headline(report),
        "severities": list(Severity),
        "share_text": share_text,
        "figure_text": figure_text,
    }
    return render("lint.html.jinja", values)
