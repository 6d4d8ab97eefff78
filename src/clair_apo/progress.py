"""What a person sees: progress and remarks on standard error, results on standard output."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

CONSOLE = Console(stderr=True, highlight=False)
"""Remarks and progress, on standard error."""

_RESULTS = Console(highlight=False, soft_wrap=True)


def print_result(result: RenderableType) -> None:
    """Print a line or a table of a command's result, brackets and all, on standard output."""
    _RESULTS.print(result, markup=False)


def say(sentence: str) -> None:
    """Tell the person at the terminal something, as it is written."""
    CONSOLE.print(sentence, markup=False, soft_wrap=True)


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error while the block runs; yields a function that moves it on.

    Args:
        description: what is being done, a few words.
        total: how many things there are to do.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # nothing to do, nothing to show
    with Progress(*columns, console=CONSOLE, disable=total == 0) as progress:
        task = progress.add_task(description, total=total)
        yield lambda steps: progress.advance(task, steps)
