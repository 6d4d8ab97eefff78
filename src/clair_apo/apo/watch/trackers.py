"""Gives watched answers as a table to the trackers that take one."""

import importlib
from collections.abc import Collection, Sequence
from typing import Any

from clair_apo.apo.watch.answers import WatchedAnswer

TABLE = "watch/answers"
"""The name of the table."""
_TAKE_TABLES = ("wandb", "trackio")
_COLUMNS = ("step", "id", "prompt", "chosen", "answer", "ended", "tokens", "rep_3")


def log_answers(report_to: Collection[str], answers: Sequence[WatchedAnswer]) -> None:
    """Log all answers of a run so far as one table.

    Args:
        report_to: the trackers of the run, by the names that transformers gives them. One that
            takes no table is passed over, and none is imported that does not report.
        answers: in the order in which they were given.
    """
    for name in _TAKE_TABLES:
        if name in report_to:
            tracker = importlib.import_module(name)
            tracker.log({TABLE: tracker.Table(dataframe=_frame(answers))})


def _frame(answers: Sequence[WatchedAnswer]) -> Any:
    rows = [
        {name: getattr(answer, name) for name in _COLUMNS} | answer.checks for answer in answers
    ]
    return importlib.import_module("pandas").DataFrame(rows)
