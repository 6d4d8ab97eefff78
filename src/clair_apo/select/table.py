"""The result of a selection for the terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clair_apo.select.run import Selection, Spread

NONE = "\N{EN DASH}"
"""In place of an interval that there is not."""


def selection_table(found: Selection) -> RenderableType:
    """The number that decided before and after, and why pairs were left out."""
    table = Table(
        title=f"{found.rule.by}: {found.kept:,} of {found.n:,} pairs kept",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for name in ("", "n", "mean", "95 % interval", "min", "25 %", "median", "75 %", "max"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for words, spread in (("all", found.before), ("kept", found.after)):
        if spread:
            table.add_row(words, *_cells(spread))
    lines = [f"left out: {count:,} {reason}" for reason, count in found.left_out.items()]
    if len(found.by_source) > 1:
        lines += [f"kept of {source}: {count:,}" for source, count in found.by_source.items()]
    return Group(table, *map(Text, lines))


def _cells(spread: Spread) -> list[str]:
    mean = spread.mean
    known = mean.low is not None and mean.high is not None
    interval = f"{mean.low:.3g} to {mean.high:.3g}" if known else NONE
    rest = (spread.minimum, spread.q1, spread.median, spread.q3, spread.maximum)
    return [f"{mean.n:,}", f"{mean.mean:.3g}", interval, *(f"{value:.3g}" for value in rest)]
