"""Progress bars for whatever takes longer than a glance."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

CONSOLE = Console(stderr=True, highlight=False)
"""What a person reads while a command runs; results go to standard output."""


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
    with Progress(*columns, console=CONSOLE) as progress:
        task = progress.add_task(description, total=total)
        yield lambda steps: progress.advance(task, steps)
