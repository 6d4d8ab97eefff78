"""Shares jobs among processes, on one machine or on several with one disk.

Each job has a folder. Whoever holds the folder's lock does the job, and a file in it says how the
job ended; a killed process loses its lock, and its job is taken up by another.
"""

import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import TypeAdapter

from clair_apo.console import say
from clair_apo.errors import BusyError, ClairApoError
from clair_apo.records import Record
from clair_apo.run_folder import RunFolder, read_record_file, write_json

FAILURE = "failure.txt"
"""The traceback of a failure that is no user's mistake."""
DELETE = "delete it, and run again"
"""What to do about a file of the experiment that cannot be read."""
LOOK_AGAIN = 5.0
"""Seconds between two looks at what another process is at work on."""


class Outcome(Record):
    """How a job ended."""

    state: Literal["done", "failed"]
    why: str = ""
    """Of a failure, in one line."""
    ended: float
    """Seconds since 1970."""


_OUTCOME = TypeAdapter(Outcome)


class Job(NamedTuple):
    """Something to do in a folder."""

    title: str
    file: Path
    """Where its outcome is written; its folder may have several jobs, one after the other."""
    work: Callable[[], None]


def read_outcome(path: Path) -> Outcome | None:
    """How a job ended; None where it has not.

    Raises:
        RunError: the file cannot be read.
    """
    return read_record_file(path, _OUTCOME, DELETE)


def is_done(path: Path) -> bool:
    """Whether a job ended, and did not fail."""
    outcome = read_outcome(path)
    return outcome is not None and outcome.state == "done"


def do_all(jobs: Sequence[Job], since: float) -> None:
    """Do every job that is not done, and wait for those that other processes are at work on.

    A job that fails is written down as failed, and the others go on. One that failed before
    `since` is tried again.

    Args:
        jobs: in the order in which they are begun.
        since: when this invocation started, in seconds since 1970.

    Raises:
        KeyboardInterrupt: Ctrl+C in the middle of a job.
    """
    waiting, told = list(jobs), False
    while waiting:
        still = [job for job in waiting if not _ended(job, since) and not _did(job, since)]
        if still and len(still) == len(waiting):
            if not told:
                say(f"waiting for {len(still)} that other processes are at work on")
            told = True
            time.sleep(LOOK_AGAIN)
        waiting = still


def _ended(job: Job, since: float) -> bool:
    outcome = read_outcome(job.file)
    return outcome is not None and (outcome.state == "done" or outcome.ended >= since)


def _did(job: Job, since: float) -> bool:
    """Do a job; False where another process has it."""
    folder = RunFolder(job.file.parent)
    folder.prepare()
    try:
        with folder.locked():
            if not _ended(job, since):  # by another process, since we looked
                say(job.title)
                write_json(job.file, _attempt(job).model_dump())
    except BusyError:
        return False
    return True


def _attempt(job: Job) -> Outcome:
    try:
        job.work()
    except ClairApoError as error:
        why = str(error)
    except Exception as error:  # such as torch's, out of memory: the others go on
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        (job.file.parent / FAILURE).write_text(traceback.format_exc(), encoding="utf-8")
    else:
        return Outcome(state="done", ended=time.time())
    say(f"{job.title}: failed: {why}")
    return Outcome(state="failed", why=why, ended=time.time())
