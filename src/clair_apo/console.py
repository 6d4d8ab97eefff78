"""Output for a person: progress and remarks on standard error, results on standard output."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from threading import Event, Thread
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from clair_apo.output_streams import NARROWEST


def _console(**settings: Any) -> Console:
    console = Console(highlight=False, **settings)
    if console.width < NARROWEST:  # 0 would write nothing, and 1 a letter a line
        console.width = 80
    return console


CONSOLE = _console(stderr=True)
"""Remarks and progress, on standard error."""

LINE_EVERY_S = 30.0
"""How often a line of progress is written where standard error is no terminal."""

_RESULTS = _console(soft_wrap=True)
_RATE_OVER_S = 300.0  # rows come in their order, so in bursts
_COST_OVER_ROWS = 2000
_BAR_EVERY_S = 0.1
_SHORT_WAIT_S = 600.0
_YEAR_S = 365.25 * 86400


def print_result(result: RenderableType) -> None:
    """Print a line or a table of a command's result, brackets and all, on standard output."""
    _RESULTS.print(result, markup=False)


def say(sentence: str) -> None:
    """Tell the person at the terminal something, as it is written."""
    CONSOLE.print(sentence, markup=False, soft_wrap=True)


class Usage(Protocol):
    """Counts of requests to a model so far; see `clair_apo.llm.pricing.Meter`."""

    asked: int
    prompt_tokens: int
    completion_tokens: int
    in_flight: int
    limit: int
    waits_until: float


Money = Callable[[], float | None]
"""Returns what a run has cost so far, in US dollars; None where a price is missing."""


@contextmanager
def show_progress(
    stage: str, total: int, usage: Usage | None = None, money: Money = lambda: None
) -> Iterator[Callable[[str], None]]:
    """Show on standard error how far a stage is, while the block runs.

    On a terminal it is a bar, and below it what became of the rows and what the model is doing;
    elsewhere it is a line every half minute and one at the end.

    Args:
        stage: its name.
        total: how many rows it has; with 0 nothing is shown.
        usage: of the model that it asks, where it asks one.
        money: of the run, over all its models and invocations; shown where a model is asked.

    Yields:
        A function to be told what became of each row: `kept`, or why it was dropped.
    """
    progress = _StageProgress(stage, total, usage, money)
    if total == 0:
        yield progress.done
    elif CONSOLE.is_terminal and not CONSOLE.is_dumb_terminal:  # where no bar can be drawn
        with progress.bar:
            yield progress.done
    else:
        over = Event()
        writer = Thread(target=_write_lines, args=(progress, over), daemon=True)
        writer.start()
        try:
            yield progress.done
        finally:
            over.set()
            writer.join()
            with suppress(Exception):
                say(progress.line())


def _write_lines(progress: "_StageProgress", over: Event) -> None:
    while not over.wait(LINE_EVERY_S):
        with suppress(Exception):  # the next line may be written; the run goes on without any
            say(progress.line())


class _StageProgress:
    """The progress of a stage: rows done, what became of them, the time left."""

    def __init__(self, stage: str, total: int, usage: Usage | None, money: Money) -> None:
        self.stage, self.total = stage, total
        self._usage, self._money = usage, money
        self._outcomes: Counter[str] = Counter()
        self._costs: deque[float] = deque(maxlen=_COST_OVER_ROWS)
        self.bar = _Bar(self.status)
        self._task = self.bar.add_task(stage, total=total)
        self._bar_due = 0.0

    def done(self, outcome: str) -> None:
        """Count a row that is done."""
        self._outcomes[outcome] += 1
        if self._usage and (cost := self._money()) is not None:
            self._costs.append(cost)
        if time.monotonic() >= self._bar_due:  # a bar's step takes as long as reading a row back
            self.move_bar()

    def move_bar(self) -> None:
        """Let the bar, and its estimate of the time left, know how many rows are done."""
        self.bar.update(self._task, completed=self._outcomes.total())
        self._bar_due = time.monotonic() + _BAR_EVERY_S

    def line(self) -> str:
        """The progress in one line."""
        self.move_bar()
        done = self._outcomes.total()
        parts = [f"{self.stage}: {done:,} of {self.total:,} rows", *self._parts()]
        left_s = self.bar.tasks[0].time_remaining
        if done < self.total and left_s is not None:
            parts.append(f"about {duration(left_s)} left")
        return "; ".join(parts)

    def status(self) -> str:
        """The text below the bar; moves the bar first."""
        self.move_bar()
        return "; ".join(self._parts())

    def _parts(self) -> Iterable[str]:
        if self._outcomes:
            yield ", ".join(f"{name} {n:,}" for name, n in self._outcomes.most_common())
        usage = self._usage
        if usage is None:
            return
        if usage.asked:  # rows come in their order, so the first may keep all others waiting
            yield f"{usage.asked:,} answers"
        if usage.limit:
            yield f"{usage.in_flight} in flight of {usage.limit} at most"
        if usage.completion_tokens:
            yield (
                f"{_short(usage.prompt_tokens)} tokens in, {_short(usage.completion_tokens)} out"
            )
        if (cost := self._money()) is not None:
            yield f"${cost:.2f} so far" + self._projected(cost)
        if usage.waits_until > time.time():
            yield f"waiting for the server {wait_in_words(usage.waits_until - time.time())}"

    def _projected(self, cost: float) -> str:
        """The cost when the stage is done: as much for each row as for the latest ones."""
        left = self.total - self._outcomes.total()
        if len(self._costs) < 2 or left <= 0:
            return ""
        per_row = (self._costs[-1] - self._costs[0]) / (len(self._costs) - 1)
        return f", about ${cost + per_row * left:.2f} when all rows are done"


class _Bar(Progress):
    """A bar for one stage, with a line of text below it."""

    def __init__(self, status: Callable[[], str]) -> None:
        self._status = status
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=CONSOLE,
            refresh_per_second=4,
            speed_estimate_period=_RATE_OVER_S,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, and what there is to say."""
        status = ""
        if self.tasks:  # rich asks once before there are any
            with suppress(Exception):  # it would end the thread that draws
                status = self._status()
        yield self.make_tasks_table(self.tasks)
        if status:
            yield Text("  " + status, style="dim")


def _short(number: int) -> str:
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{letter}"
    return str(number)


def wait_in_words(seconds: float) -> str:
    """A time of waiting and its end, in words: `2 days, until 2026-12-02 09:32`.

    Times are local, their seconds shown where the wait is short. What no calendar reaches has no
    date.
    """
    try:
        until = datetime.now() + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return duration(seconds)
    shown = until.isoformat(" ", "seconds" if seconds < _SHORT_WAIT_S else "minutes")
    return f"{duration(seconds)}, until {shown}"


def duration(seconds: float) -> str:
    """A number of seconds in the largest fitting unit, rounded."""
    for length, most, unit in ((1, 90, "s"), (60, 90, "min"), (3600, 36, "h")):
        if seconds < most * length:
            count = seconds / length
            return f"{count:.1f} h" if unit == "h" else f"{count:.0f} {unit}"
    if seconds < 2 * _YEAR_S:
        return f"{seconds / 86400:.0f} days"
    return f"{seconds / _YEAR_S:,.0f} years"
