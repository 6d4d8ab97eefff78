"""The geometry of the length histogram: where each bar, tick and label goes. The page draws it.

Units are those of the SVG's view box; x grows to the right, y downwards.
"""

from typing import Literal

from clair_apo.records import Record
from clair_apo.report.contrast import ContrastSummary, LengthHistogram

WIDTH = 640
LEFT, RIGHT = 1, 1
PANEL_HEIGHT = 130
PANEL_TOPS = (40, 232)
"""Top of the bars' area of the upper and of the lower panel."""
AXIS_Y = PANEL_TOPS[-1] + PANEL_HEIGHT
HEIGHT = AXIS_Y + 60
MAX_TICKS = 5

Side = Literal["rejected", "chosen"]


class Bar(Record):
    """One bin of one side."""

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
    """A place on the shared axis, in characters."""

    x: float
    value: int
    anchor: Literal["start", "middle", "end"]
    """Which end of the label stands at `x`: at the edges of the drawing it grows inwards."""


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
        Tick(x=_x(edge, lengths), value=edge, anchor=_anchor(edge, edges)) for edge in edges[::step]
    )


def _anchor(edge: int, edges: tuple[int, ...]) -> Literal["start", "middle", "end"]:
    return "start" if edge == edges[0] else "end" if edge == edges[-1] else "middle"
