"""Writes the numbers of an evaluation for people: a table for the terminal, one in Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
NOT_MODELS = ("differences", "remarks", "counts", "checkpoints")
"""The keys of a suite in `evaluation.json` that are no model's name."""


class FigureRow(NamedTuple):
    """One figure in words: a cell for each column, and what it counts."""

    name: str
    cells: tuple[str, ...]
    n: str


class SuiteTable(NamedTuple):
    """The figures of a suite."""

    suite: str
    columns: tuple[str, ...]
    """The models, then the differences."""
    rows: tuple[FigureRow, ...]
    remarks: tuple[str, ...]


def suite_tables(content: Mapping[str, Any]) -> list[SuiteTable]:
    """The tables of an `evaluation.json`, suite by suite."""
    return [_suite_table(key, numbers) for key, numbers in content["suites"].items()]


def _suite_table(suite: str, numbers: Mapping[str, Any]) -> SuiteTable:
    models = {name: of for name, of in numbers.items() if name not in NOT_MODELS}
    over = numbers.get("checkpoints")
    columns = models | numbers["differences"] if over is None else _columns(models, over)
    names = list(dict.fromkeys(figure for of in columns.values() for figure in of))
    remarks = [*numbers["remarks"], *_missing(columns), *_rule(over or {})]
    return SuiteTable(
        suite,
        tuple(columns),
        tuple(_row(name, columns) for name in names),
        tuple(dict.fromkeys(remarks)),
    )


def _columns(models: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a suite over checkpoints: what they come to, then the other models."""
    kinds = [kind for kind in ("last", "mean", "best") if kind in over]
    columns = {kind: over[kind]["figures"] for kind in kinds}
    columns |= {name: of for name, of in models.items() if name not in over["names"]}
    for kind in kinds:
        columns |= over[kind]["differences"]
    return columns


def _rule(over: Mapping[str, Any]) -> Iterator[str]:
    if "last" in over:
        yield f"last is {over['last']['name']}; mean is over {over['mean']['of']} checkpoints"
    if "best" in over:
        best = over["best"]
        yield (
            f"best is {best['name']}, {best['rule']}; its intervals are corrected for that "
            f"({best['correction']}, {100 * best['confidence']:.2f} % each)"
        )


def _row(name: str, columns: Mapping[str, Mapping[str, Any]]) -> FigureRow:
    entries = [of.get(name) for of in columns.values()]
    counts = dict.fromkeys(_count(entry) for entry in entries if entry and "n" in entry)
    differ = [" - " in column for column in columns]
    cells = (interval_text(entry, plus=plus) for entry, plus in zip(entries, differ, strict=True))
    return FigureRow(name, tuple(cells), ", ".join(counts) or NONE)


def _missing(columns: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each reason why figures are missing, of models and not of differences."""
    for column, of in columns.items():
        if " - " in column:
            continue
        reasons: dict[str, list[str]] = {}
        for figure, entry in of.items():
            if "unavailable" in entry:
                reasons.setdefault(entry["unavailable"], []).append(figure)
        for reason, figures in reasons.items():
            yield f"{column}: no {', '.join(figures)}: {reason}"


def _count(entry: Mapping[str, Any]) -> str:
    n, clusters = entry["n"], entry.get("clusters")
    return f"{n:,}" if clusters in (None, n) else f"{n:,} ({clusters:,} clusters)"


def interval_text(entry: Mapping[str, Any] | None, *, plus: bool = False) -> str:
    """A figure with its interval: `0.89 [0.74, 0.96]`; a dash where there is none."""
    if entry is None or "unavailable" in entry:
        return NONE
    shown = [v for v in (entry["mean"], entry["low"], entry["high"]) if v is not None]
    places = _places(max(abs(value) for value in shown))
    mean = _number(entry["mean"], places, plus=plus)
    if entry["low"] is None or entry["high"] is None:
        return mean
    low, high = (_number(entry[side], places, plus=plus) for side in ("low", "high"))
    return f"{mean} [{low}, {high}]"


def _places(largest: float) -> int:
    return 0 if largest >= 1000 else 1 if largest >= 10 else 2 if largest >= 0.1 else 3


def _number(value: float, places: int, *, plus: bool) -> str:
    digits = f"{abs(value):,.{places}f}"
    if not digits.strip("0.,"):
        return digits
    return (MINUS if value < 0 else "+" if plus else "") + digits


def evaluation_table(content: Mapping[str, Any]) -> RenderableType:
    """The tables of an evaluation for the terminal."""
    parts: list[RenderableType] = []
    for found in suite_tables(content):
        parts += [_Fitting(found), *(Text(f"  {remark}") for remark in found.remarks)]
    return Group(*parts)


class _Fitting:
    """The table of a suite: a column for each model, or a line where the columns do not fit."""

    def __init__(self, table: SuiteTable) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = _wide(self.table)
        unbound = options.update(width=10_000)
        fits = Measurement.get(console, unbound, wide).maximum <= options.max_width
        yield wide if fits else _long(self.table)


def _empty(found: SuiteTable) -> Table:
    table = Table(
        title=Text(f"{found.suite} (95 % intervals; differences paired by row)"),
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("figure", no_wrap=True)
    return table


def _wide(found: SuiteTable) -> Table:
    table = _empty(found)
    for column in (*found.columns, "n"):
        table.add_column(Text(column), justify="right", no_wrap=True)
    for row in found.rows:
        table.add_row(row.name, *map(Text, row.cells), row.n)
    return table


def _long(found: SuiteTable) -> Table:
    table = _empty(found)
    table.add_column("of")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("n", justify="right")
    for row in found.rows:
        first, *rest = zip(found.columns, row.cells, strict=True)
        table.add_row(row.name, *map(Text, first), row.n)
        for cells in rest:
            table.add_row("", *map(Text, cells))
    return table


def evaluation_markdown(content: Mapping[str, Any]) -> str:
    """The tables of an evaluation as a Markdown file."""
    lines = ["# Evaluation", ""]
    lines.append(
        "95 % intervals, with clusters taken into account where there are any; differences are "
        "paired by row."
    )
    for found in suite_tables(content):
        columns = ("figure", *found.columns, "n")
        lines += ["", f"## {found.suite}", "", markdown_line(columns), "|---" * len(columns) + "|"]
        lines += [markdown_line((row.name, *row.cells, row.n)) for row in found.rows]
        lines += ["", *(f"- {_escaped(remark)}" for remark in found.remarks)]
    return "\n".join(lines).rstrip() + "\n"


def markdown_line(cells: Sequence[str]) -> str:
    """A row of a Markdown table; what has a meaning there is escaped."""
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
