"""How a summary is written for people: numbers in digits, a line and a table for the terminal."""

from collections import Counter

from rich.table import Table
from rich.text import Text

from clair_apo.records import Record
from clair_apo.report.contrast import ContrastSummary, Statistic

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
"""In place of a value that there is not."""


def counts_line(summary: ContrastSummary) -> str:
    """What became of the prompts: `9 prompts in = 7 pairs + 2 dropped (cut 1, no_op 1)`."""
    counts = summary.counts
    reasons = Counter[str]()
    for drop in counts.drops:
        reasons[drop.reason.value] += drop.count
    why = ", ".join(f"{reason} {reasons[reason]}" for reason in sorted(reasons))
    pairs = f"{counts.pairs} pairs"
    if counts.pairs != counts.paired:
        pairs = f"{counts.paired} with {pairs}"
    line = f"{counts.prompts} prompts in = {pairs} + {counts.dropped} dropped"
    return f"{line} ({why})" if why else line


def verification_lines(summary: ContrastSummary) -> tuple[str, ...]:
    """What the verifying judge found, and a warning where it cannot be trusted."""
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
    for line in map(statistic_text, summary.statistics):
        table.add_row(line.label, line.mean, line.interval, line.sd, line.q1, line.median, line.q3)
    return table


class StatisticText(Record):
    """A statistic in words and digits; all its values have the same number of decimal places."""

    label: str
    meaning: str
    n: str
    mean: str
    interval: str
    sd: str
    q1: str
    median: str
    q3: str


def statistic_text(statistic: Statistic) -> StatisticText:
    """Write a statistic for people; a dash where one pair is too few for a value."""
    places = _places(statistic)
    plus = statistic.unit == "signed characters"
    mean = statistic.mean

    def written(value: float) -> str:
        return numeral(value, places, plus=plus)

    return StatisticText(
        label=statistic.label,
        meaning=statistic.meaning,
        n=numeral(mean.n),
        mean=written(mean.mean),
        interval=(
            NONE
            if mean.low is None or mean.high is None
            else f"{written(mean.low)} to {written(mean.high)}"
        ),
        sd=NONE if statistic.sd is None else numeral(statistic.sd, places),
        q1=written(statistic.q1),
        median=written(statistic.median),
        q3=written(statistic.q3),
    )


def numeral(value: float, places: int = 0, *, plus: bool = False) -> str:
    """Write one number with thousands parted and a true minus sign; zero has no sign."""
    digits = f"{abs(value):,.{places}f}"
    if not any(digit in "123456789" for digit in digits):
        return digits
    return (MINUS if value < 0 else "+" if plus else "") + digits


def _places(statistic: Statistic) -> int:
    """The number of decimal places: 3 for ratios, 0 or 1 for characters."""
    if statistic.unit == "ratio":
        return 3
    return 0 if max(abs(statistic.mean.mean), abs(statistic.median)) >= 100 else 1
