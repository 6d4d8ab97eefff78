"""The summary as the command line prints it."""

from collections import Counter

from rich.table import Table
from rich.text import Text

from clair_apo.report.contrast import ContrastSummary
from clair_apo.report.numerals import numeral, row


def counts_line(summary: ContrastSummary) -> str:
    """Where the prompts went: `9 prompts in = 7 pairs + 2 dropped (cut 1, no_op 1)`."""
    counts = summary.counts
    reasons = Counter[str]()
    for drop in counts.drops:
        reasons[drop.reason.value] += drop.count
    why = ", ".join(f"{reason} {reasons[reason]}" for reason in sorted(reasons))
    line = f"{counts.prompts} prompts in = {counts.pairs} pairs + {counts.dropped} dropped"
    return f"{line} ({why})" if why else line


def verification_lines(summary: ContrastSummary) -> tuple[str, ...]:
    """What a judge said that verified the pairs, and a warning where its word counts for little."""
    said = summary.verification
    if said is None:
        return ()
    lines = (f"verification: {said.sentence}",)
    return (*lines, f"warning: {said.warning}") if said.warning else lines


def contrast_table(summary: ContrastSummary) -> Table:
    """The statistics as a table of 80 columns; the caption states the tokeniser."""
    table = Table(
        title=f"Contrast of chosen and rejected, n = {numeral(summary.counts.pairs)} pairs",
        # as Text: brackets in the sentence are no markup
        caption=Text(f"Lengths and distances in characters. Jaccard tokens: {summary.tokenizer}."),
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("statistic", no_wrap=True)
    for name in ("mean", "95% interval", "sd", "25%", "median", "75%"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in map(row, summary.statistics):
        table.add_row(line.label, line.mean, line.interval, line.sd, line.q1, line.median, line.q3)
    return table
