"""The findings of a lint in the terminal, and in words for any page."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clair_apo.lint.report import Figure, Finding, LintReport
from clair_apo.lint.rules import Severity
from clair_apo.stats import Interval

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: ""}


def lint_table(report: LintReport) -> RenderableType:
    """The findings as a table, and below it what was found clean or left out."""
    table = Table(
        title=Text(headline(report)), title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    table.add_column("severity", no_wrap=True)
    table.add_column("finding", no_wrap=True)
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("share and figures, with 95 % intervals", overflow="fold")
    for finding in report.findings:
        said = "\n".join([share_text(finding.share), *figure_lines(finding)])
        severity = Text(finding.severity.value, style=_COLOURS[finding.severity])
        table.add_row(severity, finding.name, f"{finding.count:,}", Text(said))
    return Group(table, *(Text(line) for line in _below(report)))


def headline(report: LintReport) -> str:
    """What was looked at, and what was found, in one line."""
    counts = [(report.count(severity), severity.value) for severity in Severity]
    found = ", ".join(f"{count} {word}{'s' if count != 1 else ''}" for count, word in counts)
    rows = "" if report.rows == report.pairs else f" in {report.rows:,} rows"
    return f"{report.pairs:,} pairs{rows} of {report.prompts:,} prompts: {found}"


def figure_lines(finding: Finding) -> list[str]:
    """The figures of a finding, one in a line."""
    return [f"{figure.name} {figure_text(figure)}" for figure in finding.figures]


def figure_text(figure: Figure) -> str:
    """A figure with its interval, in its unit."""
    value = figure.value
    if figure.unit == "share":
        return share_text(value)
    places = 2 if figure.unit == "standard deviations" else 0
    return _with_interval(value, f",.{places}f")


def share_text(share: Interval) -> str:
    """A share with its interval, in percent."""
    return _with_interval(share, ".1%")


def _with_interval(value: Interval, form: str) -> str:
    if value.low is None or value.high is None:
        return f"{value.mean:{form}}"
    return f"{value.mean:{form}} [{value.low:{form}}, {value.high:{form}}]"


def _below(report: LintReport) -> Iterator[str]:
    if report.clean:
        yield f"nothing found by: {', '.join(report.clean)}"
    reasons = dict.fromkeys(report.left_out.values())
    for reason in reasons:
        names = [name for name, why in report.left_out.items() if why == reason]
        yield f"not looked for: {', '.join(names)} ({reason})"
