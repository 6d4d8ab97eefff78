"""The rounds as tables: one for the terminal, rows of words for the page."""

from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from clair_apo.evaluation.tables import NONE, interval_text
from clair_apo.rounds.record import Round, RoundsRecord


class RoundWords(NamedTuple):
    """A round in words."""

    number: str
    pairs: str
    objective: str
    steps: str
    gain: str
    verdict: str


def round_words(one: Round) -> RoundWords:
    """A round in the words of the table."""
    objective = one.loss_type if one.advice is None else f"{one.loss_type} (advised: {one.advice})"
    gain, verdict = NONE, NONE
    if one.gain:
        gain = interval_text(one.gain.difference.model_dump(), plus=True)
        verdict = "gain" if one.gain.gained else "no gain shown"
    return RoundWords(
        number=str(one.number),
        pairs=f"{one.pairs:,} of {one.prompts:,} prompts",
        objective=objective,
        steps=f"{one.steps:,}",
        gain=gain,
        verdict=verdict,
    )


def figures_of(record: RoundsRecord) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Every figure, as `<suite>.<figure>`, with a cell for the first model and for each round."""
    columns = [record.initial_figures, *(one.figures for one in record.rounds)]
    names = dict.fromkeys(
        (suite, figure) for each in columns for suite, figures in each.items() for figure in figures
    )
    return tuple(
        (
            f"{suite}.{figure}",
            tuple(interval_text(each.get(suite, {}).get(figure)) for each in columns),
        )
        for suite, figure in names
    )


def rounds_table(record: RoundsRecord) -> Table:
    """The rounds for the terminal; the caption says why they ended."""
    figure = next((one.gain.figure for one in record.rounds if one.gain), None)
    table = Table(
        title="Rounds (95 % intervals)",
        caption=Text(f"{record.stopped}; the model: {record.current}"),
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    columns = ["round", "pairs", "objective", "steps"]
    columns += [f"{figure}, minus the round before", ""] if figure else []
    for column in columns:
        table.add_column(Text(column), justify="left")
    for one in record.rounds:
        table.add_row(*map(Text, round_words(one)[: len(columns)]))
    return table
