"""The comparison of an experiment in words: for the terminal, for Markdown and for the page."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from clair_apo.evaluation.tables import NONE, interval_text, markdown_line
from clair_apo.experiment.compare import Comparison, Estimate
from clair_apo.experiment.measured import View
from clair_apo.experiment.record import AnchorVerdict, CellState, ExperimentRecord
from clair_apo.stats import Interval

ONE_SEED = "one seed"


class WordTable(NamedTuple):
    """A table whose cells are words."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables_of(record: ExperimentRecord) -> tuple[WordTable, ...]:
    """All tables of an experiment; empty ones are left out."""
    return (*comparison_tables(record), *other_tables(record))


def other_tables(record: ExperimentRecord) -> tuple[WordTable, ...]:
    """Choices, advice, data and cells; empty tables are left out."""
    found = (_choices(record), _advice(record.anchors), _data(record), _cells(record.cells))
    return tuple(table for table in found if table.rows)


def by_figure(record: ExperimentRecord) -> dict[tuple[str, View], list[Comparison]]:
    """The comparisons of each figure and view, in the order of `record.comparisons`."""
    found: dict[tuple[str, View], list[Comparison]] = {}
    for one in record.comparisons:
        found.setdefault((one.figure, one.view), []).append(one)
    return found


def comparison_tables(record: ExperimentRecord) -> Iterator[WordTable]:
    """A table for each figure and view, in the order of `record.comparisons`."""
    of = by_figure(record)
    several = len({view for _, view in of}) > 1
    for (figure, view), rows in of.items():
        compared = any(one.to_baseline for one in rows)
        columns: tuple[str, ...] = ("data / objective", "mean over seeds", "over seeds")
        columns += ("minus base",) if any(one.to_base for one in rows) else ()
        columns += (
            (
                f"minus {record.baseline}",
                "over seeds",
                f"corrected, {100 * record.confidence:.2f} %",
                "",
            )
            if compared
            else ()
        )
        yield WordTable(
            title=f"{figure} ({view} checkpoint)" if several else figure,
            columns=columns,
            rows=tuple(_row(one, columns, compared=compared) for one in rows),
            note=_n(rows),
        )


def _row(one: Comparison, columns: Sequence[str], *, compared: bool) -> tuple[str, ...]:
    cells = [f"{one.data} / {one.objective}", *_estimate(one.estimate)]
    if "minus base" in columns:
        cells.append(_words(one.to_base.over_prompts, plus=True) if one.to_base else NONE)
    if compared:
        cells += _estimate(one.to_baseline, plus=True)
        cells.append(_words(one.corrected, plus=True))
        cells.append("clear of 0" if one.is_clear else "")
    return tuple(cells)


def _estimate(estimate: Estimate | None, *, plus: bool = False) -> list[str]:
    if estimate is None:
        return [NONE, NONE]
    return [_words(estimate.over_prompts, plus=plus), _bounds(estimate.over_seeds, plus=plus)]


def _words(interval: Interval | None, *, plus: bool = False) -> str:
    return interval_text(interval.model_dump() if interval else None, plus=plus)


def _bounds(interval: Interval, *, plus: bool) -> str:
    """The interval over seeds without its mean, which stands beside it already."""
    if interval.low is None:
        return ONE_SEED
    return "[" + _words(interval, plus=plus).partition("[")[2]


def _n(rows: Sequence[Comparison]) -> str:
    prompts = sorted({one.estimate.over_prompts.clusters or 0 for one in rows})
    seeds = sorted({one.estimate.over_seeds.n for one in rows})
    return f"n = {_span(prompts)} prompts, {_span(seeds)} seeds"


def _span(numbers: Sequence[int]) -> str:
    first, last = numbers[0], numbers[-1]
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def _choices(record: ExperimentRecord) -> WordTable:
    rows = [
        (
            f"{choice.data} / {choice.objective}",
            ", ".join(f"{key} {value:g}" for key, value in one.values.items()),
            _words(one.figure) if one.figure else "failed",
            "chosen" if one.values == choice.chosen else "",
        )
        for choice in record.choices
        for one in choice.candidates
    ]
    rule = record.choices[0].rule if record.choices else ""
    return WordTable("Choices", ("data / objective", "values", "figure", ""), tuple(rows), rule)


def _advice(anchors: Sequence[AnchorVerdict]) -> WordTable:
    rows = [
        (
            one.data,
            one.advice,
            _words(one.zero_minus_down.over_prompts, plus=True) if one.zero_minus_down else NONE,
            one.verdict,
        )
        for one in anchors
    ]
    figure = anchors[0].figure if anchors else ""
    return WordTable(
        "What was advised before the training",
        ("data", "advice", f"{figure}: zero minus down", "the advice was"),
        tuple(rows),
    )


def _data(record: ExperimentRecord) -> WordTable:
    rows = [
        (
            name,
            *(f"{number:,}" for number in (one.pairs, one.prompts, one.made)),
            _words(one.jaccard),
            _words(one.levenshtein_share),
            one.digest[:12],
        )
        for name, one in record.data.items()
    ]
    columns = ("data", "pairs", "prompts", "of pairs made", "Jaccard", "Levenshtein share")
    return WordTable("Data", (*columns, "digest"), tuple(rows))


def _cells(cells: Sequence[CellState]) -> WordTable:
    rows = [
        (
            one.name,
            one.state,
            *(_count(number) for number in (one.steps, one.tokens, one.reference_computed)),
            ", ".join(one.alarms) or one.why,
        )
        for one in cells
    ]
    columns = ("cell", "state", "steps", "tokens a pass", "reference passes", "alarms or failure")
    return WordTable("Cells", columns, tuple(rows))


def _count(number: int | None) -> str:
    return NONE if number is None else f"{number:,}"


def experiment_table(record: ExperimentRecord) -> RenderableType:
    """The tables for the terminal; where one is too wide, each of its rows is a block of lines."""
    return Group(*(_ForTerminal(table) for table in tables_of(record)))


class _ForTerminal:
    """A table that fits the terminal's width."""

    def __init__(self, found: WordTable) -> None:
        self._found = found
        self._shown = [
            place
            for place in range(len(found.columns))
            if place == 0 or {row[place] for row in found.rows} - {NONE, ONE_SEED, ""}
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"\n{self._found.title}", style="bold")
        table = self._table()
        if Measurement.get(console, options, table).maximum <= options.max_width:
            yield table
        else:
            yield from self._blocks()
        if self._found.note:
            yield Text(self._found.note, style="dim")

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for place in self._shown:
            table.add_column(Text(self._found.columns[place]), justify="left", no_wrap=True)
        for row in self._found.rows:
            table.add_row(*(Text(row[place]) for place in self._shown))
        return table

    def _blocks(self) -> Iterator[Text]:
        for row in self._found.rows:
            yield Text(row[0], overflow="fold")
            for place in self._shown[1:]:
                if row[place] not in (NONE, ONE_SEED, ""):
                    name = self._found.columns[place] or "verdict"
                    yield Text(f"  {name}: {row[place]}", overflow="fold")


def experiment_markdown(record: ExperimentRecord) -> str:
    """The tables as a Markdown file."""
    lines = ["# Experiment", "", *SENTENCES]
    for table in tables_of(record):
        lines += ["", f"## {table.title}", "", *([table.note, ""] if table.note else [])]
        lines += [markdown_line(table.columns), "|---" * len(table.columns) + "|"]
        lines += [markdown_line(row) for row in table.rows]
    return "\n".join(lines) + "\n"


SENTENCES = (
    "Brackets are 95 % intervals unless a column says otherwise. The interval beside a mean is "
    "over prompts, of the mean over seeds; the column after it is over seeds. Differences are "
    "paired by prompt, and by seed. The corrected interval holds for all comparisons with the "
    "baseline together (Bonferroni).",
)
"""What a reader has to know of the tables."""
