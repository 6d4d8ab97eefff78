"""The result of a selection for the terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clair_apo.select.run import Selection, Spread


def selection_table(found: Selection) -> RenderableType:
    """The number that decided before and after, and why pairs were left out."""
    table = Table(
        title=f"{found.rule.by}: {found.kept:,} of {found.n:,} pairs kept",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for name in ("pairs", "mean, 95 % interval", "min", "25 %", "median", "75 %", "max"):
        table.add_column(name, justify="left" if name == "pairs" else "right")
    for words, spread in (("all with a number", found.before), ("kept", found.after)):
        if spread:
            table.add_row(words, *_cells(spread))
    lines = [f"left out: {count:,} {reason}" for reason, count in found.left_out.items()]
    if len(found.by_source) > 1:
        lines += [f"kept of {source}: {count:,}" for source, count in found.by_source.items()]
    return Group(table, *map(Text, lines))


def _cells(spread: Spread) -> list[str]:
    mean = spread.mean
    shown = f"{mean.mean:.3f}"
    if mean.low is not None and mean.high is not None:
        shown += f" [{mean.low:.3f}, {mean.high:.3f}]"
    rest = (spread.minimum, spread.q1, spread.median, spread.q3, spread.maximum)
    return [shown, *(f"{value:.3f}" for value in rest)]
