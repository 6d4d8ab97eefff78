"""The report page of a run: one self-contained HTML file that asks nothing of the network.

    render_page     a run -> HTML, with a card for each pair
    word_diff       two answers -> the words in which they differ
    length_figure   the histogram of lengths -> coordinates of bars and labels

What models and users wrote is data on the page, never markup: every value is escaped, and the
content security policy runs the page's own script and no other.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any, Literal, NamedTuple, TypeVar

from clair_apo.alignment import Block, blocks
from clair_apo.files import read_jsonl
from clair_apo.ingest.pairs import pair_from_row, plain_text
from clair_apo.records import (
    STAGE_TITLES,
    ChainStep,
    Contrast,
    Conversation,
    Dropped,
    DropReason,
    PreferencePair,
    Record,
)
from clair_apo.report.contrast import (
    DROPPED,
    PAIRS,
    ContrastSummary,
    LengthHistogram,
    length_change,
)
from clair_apo.report.html import Part, cut_text, pairs_script, render, render_part
from clair_apo.report.terminal import statistic_text
from clair_apo.run_folder import RunFolder

TEMPLATE = "report.html.jinja"
MAX_CARDS = 500
"""Pairs, and dropped prompts, that the page shows at most."""
MAX_TEXT = 200_000
"""Characters of one text that the page shows at most."""
MAX_PAGE = 10_000_000
"""Characters after which the page shows no more pairs, and no more dropped prompts."""
SAMPLE_SEED = 0

REASON_SENTENCES = {
    DropReason.DUPLICATE: "the same prompt stood in the data before",
    DropReason.NEAR_DUPLICATE: "nearly the same prompt stood in the data before",
    DropReason.EMPTY: "the answer or the revision has no text",
    DropReason.CUT: "ran into the token limit",
    DropReason.REFUSED: "the reviser declined",
    DropReason.UNPARSED: "the reviser's reply does not have the asked form",
    DropReason.EDIT_NOT_FOUND: "an edit names text that is not there, or more than once",
    DropReason.NO_OP: "both sides are equal",
    DropReason.NOT_SCORED: "the scorer gives no score",
    DropReason.REQUEST_FAILED: "the server rejected the request, or failed at it",
    DropReason.CONTAMINATED: "the prompt shares a passage with a test set",
    DropReason.THINKING_DIFFERS: "one side begins with thinking, the other does not",
    DropReason.OVER_EDITED: "the revision changes more than the gate allows",
    DropReason.IDENTICAL_AFTER_TRUNCATION: "the same tokens in training, or none",
    DropReason.LENGTH_RATIO: "the chosen side is too short or too long beside the rejected one",
    DropReason.LENGTH_DIFFERENCE: "one side is too many characters longer than the other",
    DropReason.TOO_LONG: "one side has too many characters",
    DropReason.KEYWORD: "a side holds one of the keywords that no side may hold",
    DropReason.LANGUAGE_CHANGED: "the sides are in different languages",
    DropReason.MENTIONS_REVISION: "the revision speaks of being one",
    DropReason.CHECKS_FAILED: "the chosen side does not pass every check",
    DropReason.JUDGE_REJECTED: "no side is better, by the judge",
}
SORT_ORDERS = {
    "id-asc": "Id, first to last",
    "id-desc": "Id, last to first",
    "jaccard-asc": "Jaccard, least alike first",
    "jaccard-desc": "Jaccard, most alike first",
    "levenshtein-asc": "Levenshtein, smallest first",
    "levenshtein-desc": "Levenshtein, largest first",
    "change-asc": "Length change, shortened first",
    "change-desc": "Length change, lengthened first",
}

WIDTH = 640
LEFT, RIGHT = 1, 1
PANEL_HEIGHT = 130
PANEL_TOPS = (40, 232)
"""The y of the top of the bars, in the upper and in the lower panel."""
AXIS_Y = PANEL_TOPS[-1] + PANEL_HEIGHT
HEIGHT = AXIS_Y + 60
MAX_TICKS = 5

Side = Literal["rejected", "chosen"]
R = TypeVar("R", bound=Record)


class DiffSpan(Record):
    """A stretch of one text, which the other text shares or does not."""

    kind: Literal["same", "changed"]
    text: str


class WordDiff(NamedTuple):
    """Two texts as spans; the spans of a side, joined, are that side's text."""

    rejected: tuple[DiffSpan, ...]
    chosen: tuple[DiffSpan, ...]


class PairCard(Record):
    """One pair as it is on the page."""

    id: str
    prompt: Conversation
    rejected: tuple[DiffSpan, ...]
    chosen: tuple[DiffSpan, ...]
    rationale: str
    contrast: Contrast
    share: float
    """Levenshtein distance as a share of the longer text."""
    change: int
    """Length of the chosen answer minus that of the rejected one, in characters."""
    step: ChainStep | None
    """In the chain of a revision's edits."""


def render_page(
    run: RunFolder, summary: ContrastSummary, read: Callable[[], None] = lambda: None
) -> str:
    """The report page of a run as HTML.

    Args:
        run: the folder that `summary` was made of.
        summary: what `summarise` returned for it.
        read: called for every row that was read.
    """
    return render(TEMPLATE, _values(run, summary, read), pairs_script())


def pairs_part(run: RunFolder, summary: ContrastSummary) -> Part:
    """The pairs of a run as a part of a larger page, which carries `pairs_script`."""
    return render_part("pairs", "Data", TEMPLATE, _values(run, summary, lambda: None))


def _values(run: RunFolder, summary: ContrastSummary, read: Callable[[], None]) -> dict[str, Any]:
    counts = summary.counts
    pairs = _sample(run, PAIRS, PreferencePair, counts.pairs, read)
    dropped = _sample(run, DROPPED, Dropped, counts.dropped, read)
    return {
        "summary": summary,
        "statistics": [statistic_text(statistic) for statistic in summary.statistics],
        "figure": length_figure(summary),
        "cards": list(map(_card, pairs)),
        "dropped": dropped,
        "max_text": MAX_TEXT,
        "seed": SAMPLE_SEED,
        "sort_orders": SORT_ORDERS,
        "stage_titles": STAGE_TITLES,
        "reason_sentences": REASON_SENTENCES,
    }


def _sample(
    run: RunFolder, name: str, kind: type[R], total: int, read: Callable[[], None]
) -> list[R]:
    """The rows that the page shows, by their ids: all, or a seeded sample of `MAX_CARDS`.

    They are fewer where they come to more than `MAX_PAGE` characters. An id is a digest, so the
    first ones are a sample as well.
    """
    wanted = set(random.Random(SAMPLE_SEED).sample(range(total), min(total, MAX_CARDS)))
    found: list[R] = []
    for number, record in enumerate(read_jsonl(run.file(name), kind)):
        if number in wanted:
            found.append(kind.model_validate(_cut(record.model_dump())))
        read()
    shown: list[R] = []
    left = MAX_PAGE
    for record in sorted(found, key=attrgetter("id")):
        left -= len(record.model_dump_json())
        if shown and left < 0:
            break
        shown.append(record)
    return shown


def _cut(value: Any) -> Any:
    """A record's values with texts of `MAX_TEXT` characters at most, and how many are left out."""
    if isinstance(value, str):
        return cut_text(value, MAX_TEXT)
    if isinstance(value, dict):
        return {key: _cut(inner) for key, inner in value.items()}
    return tuple(map(_cut, value)) if isinstance(value, list | tuple) else value


def _card(pair: PreferencePair) -> PairCard:
    diff = word_diff(plain_text(pair.rejected), plain_text(pair.chosen))
    return PairCard(
        id=pair.id,
        prompt=pair.prompt,
        rejected=diff.rejected,
        chosen=diff.chosen,
        rationale=pair.rationale,
        contrast=pair.contrast,
        share=pair.contrast.levenshtein_share,
        change=length_change(pair.contrast),
        step=pair.provenance.step,
    )


def pair_diff(row: Mapping[str, Any], where: str) -> tuple[str, WordDiff]:
    """The prompt of a pair from anybody, and its two answers compared.

    Args:
        row: with prompt, chosen and rejected.
        where: it is from, for errors.

    Raises:
        DataError: it is no pair.
    """
    pair = pair_from_row(row, where)
    diff = word_diff(plain_text(pair.rejected), plain_text(pair.chosen))
    return plain_text(pair.prompt), diff


def word_diff(rejected: str, chosen: str) -> WordDiff:
    """Compare two texts word by word; every character of both stands in exactly one span.

    Long texts are compared more coarsely, so that the time is bounded: see
    `clair_apo.alignment.blocks`.
    """
    found = list(_without_islands(blocks(rejected, chosen)))
    return WordDiff(
        rejected=tuple(_span(block.same, block.old) for block in found if block.old),
        chosen=tuple(_span(block.same, block.new) for block in found if block.new),
    )


def _without_islands(found: list[Block]) -> Iterator[Block]:
    """A blank between two changes is changed as well: alone it does not part them."""
    changed: Block | None = None
    for number, block in enumerate(found):
        inside = changed is not None and number + 1 < len(found)
        if block.same and not (inside and block.old.isspace()):
            if changed:
                yield changed
            changed = None
            yield block
        else:
            before = changed or Block(False, "", "")
            changed = Block(False, before.old + block.old, before.new + block.new)
    if changed:
        yield changed


def _span(same: bool, text: str) -> DiffSpan:
    return DiffSpan(kind="same" if same else "changed", text=text)


class Bar(Record):
    """The bar of one bin of one side."""

    x: float
    y: float
    width: float
    height: float
    first: int
    """Shortest length of the bin in characters."""
    last: int
    """Longest length of the bin in characters."""
    count: int


class Panel(Record):
    """The bars of one side over the shared axis."""

    side: Side
    top: float
    base: float
    bars: tuple[Bar, ...]
    median: float
    median_x: float


class Tick(Record):
    """A labelled place on the shared axis, in characters."""

    x: float
    value: int
    align: Literal["start", "middle", "end"]
    """The part of the label that is at `x`: at the edges of the drawing it grows inwards."""


class LengthFigure(Record):
    """Two panels with one axis of lengths and one scale of counts."""

    width: int
    height: int
    left: int
    right: int
    axis_y: int
    highest: int
    """Count that fills a panel's height."""
    panels: tuple[Panel, ...]
    ticks: tuple[Tick, ...]


def length_figure(summary: ContrastSummary) -> LengthFigure | None:
    """Lay out the histogram of lengths; None where there are no pairs."""
    lengths = summary.lengths
    if not lengths.edges:
        return None
    median = {statistic.key: statistic.median for statistic in summary.statistics}
    highest = max(*lengths.rejected, *lengths.chosen)
    sides: tuple[Side, Side] = ("rejected", "chosen")
    return LengthFigure(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        axis_y=AXIS_Y,
        highest=highest,
        panels=tuple(
            Panel(
                side=side,
                top=top,
                base=top + PANEL_HEIGHT,
                bars=_bars(lengths, side, top, highest),
                median=median[f"{side}_characters"],
                median_x=_x(median[f"{side}_characters"], lengths),
            )
            for side, top in zip(sides, PANEL_TOPS, strict=True)
        ),
        ticks=_ticks(lengths),
    )


def _x(value: float, lengths: LengthHistogram) -> float:
    low, high = lengths.edges[0], lengths.edges[-1]
    return round(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT), 2)


def _bars(lengths: LengthHistogram, side: Side, top: int, highest: int) -> tuple[Bar, ...]:
    counts = lengths.rejected if side == "rejected" else lengths.chosen
    bars = []
    for first, end, count in zip(lengths.edges, lengths.edges[1:], counts, strict=False):
        if not count:
            continue
        x = _x(first, lengths)
        height = round(count / highest * PANEL_HEIGHT, 2)
        bars.append(
            Bar(
                x=x + 1,  # a gap of two units parts neighbouring bars
                y=round(top + PANEL_HEIGHT - height, 2),
                width=round(_x(end, lengths) - x - 2, 2),
                height=height,
                first=first,
                last=end - 1,
                count=count,
            )
        )
    return tuple(bars)


def _ticks(lengths: LengthHistogram) -> tuple[Tick, ...]:
    """At most `MAX_TICKS` of at most 21 edges, evenly spaced, the first of them included."""
    edges = lengths.edges
    step = next(step for step in (1, 2, 4, 5) if len(edges) <= step * MAX_TICKS)
    return tuple(
        Tick(x=_x(edge, lengths), value=edge, align=_align(edge, edges)) for edge in edges[::step]
    )


def _align(edge: int, edges: tuple[int, ...]) -> Literal["start", "middle", "end"]:
    return "start" if edge == edges[0] else "end" if edge == edges[-1] else "middle"
