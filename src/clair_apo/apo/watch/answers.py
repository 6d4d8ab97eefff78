"""Answers of the policy to the same held-out prompts over time: their figures and their file.

The file holds one line an answer and is replaced as a whole, so a kill leaves no half of a step in
it. A resumed run keeps the lines up to its checkpoint and answers again from there.
"""

import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clair_apo.errors import DataError
from clair_apo.files import read_jsonl, write_jsonl
from clair_apo.records import Record
from clair_apo.text.checks import Check
from clair_apo.text.repetition import repetition

ANSWERS = "watched_answers.jsonl"
"""The file in a training's output folder."""
ENDED, REP_3, LENGTH = "watch/ended", "watch/rep_3", "watch/length"
CHECKS = "watch/checks/"
"""How the name of a check's figure begins."""

logger = logging.getLogger(__name__)


class WatchedPrompt(NamedTuple):
    """A held-out prompt that the policy answers again and again."""

    id: str
    """The pair's id, or its number in the held-out data."""
    text: str
    """The last turn of its conversation."""
    tokens: list[int]
    """What the policy is given."""
    chosen: str
    """The chosen answer of its pair, to look at beside."""
    chosen_tokens: int


class Answer(NamedTuple):
    """What a policy answered."""

    text: str
    tokens: int
    """Of the answer, its end token included."""
    ended: bool
    """Whether it gave an end token before it was cut."""


class WatchedAnswer(Record):
    """One line of the file: an answer at a step."""

    step: int
    id: str
    prompt: str
    chosen: str
    answer: str
    ended: bool
    tokens: int
    rep_3: float
    """The share of its three-word sequences that stood in it before."""
    checks: dict[str, bool]
    """Which rules of `watch_checks` it keeps to."""


class Judge:
    """Says of answers what code can.

    Args:
        checks: rules; one whose regular expression does not come to an end is left out from then
            on, with a warning.
    """

    def __init__(self, checks: Sequence[Check]) -> None:
        self._checks = list(checks)

    def judged(self, step: int, prompt: WatchedPrompt, answer: Answer) -> WatchedAnswer:
        """An answer with its figures."""
        return WatchedAnswer(
            step=step,
            id=prompt.id,
            prompt=prompt.text,
            chosen=prompt.chosen,
            answer=answer.text,
            ended=answer.ended,
            tokens=answer.tokens,
            rep_3=repetition(answer.text, 3),
            checks=self._passed(prompt.text, answer.text),
        )

    def _passed(self, prompt: str, answer: str) -> dict[str, bool]:
        found = {}
        for check in tuple(self._checks):
            try:
                found[check.name] = check.holds(prompt, answer)
            except DataError as error:
                logger.warning(f"watch_checks: {error}. Training goes on without this check")
                self._checks.remove(check)
        return found


def watch_metrics(answers: Sequence[WatchedAnswer]) -> dict[str, float]:
    """What is logged of the answers of one step: means over at least one of them."""
    found = {
        ENDED: statistics.fmean(answer.ended for answer in answers),
        REP_3: statistics.fmean(answer.rep_3 for answer in answers),
        LENGTH: statistics.fmean(answer.tokens for answer in answers),
    }
    names = [name for name in answers[0].checks if all(name in a.checks for a in answers)]
    for name in names:
        found[CHECKS + name] = statistics.fmean(answer.checks[name] for answer in answers)
    return found


class AnswerFile:
    """The file of a run's watched answers.

    Args:
        path: where it is, or will be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[WatchedAnswer] = []
        """In the order in which they were given."""

    def begin(self, step: int) -> set[int]:
        """Keep what was answered up to a step, and forget the rest; the file changes later.

        Args:
            step: from which a run goes on; 0 begins one, and keeps nothing.

        Returns:
            The steps that are kept.
        """
        self.rows = [row for row in self._read() if row.step <= step] if step else []
        return {row.step for row in self.rows}

    def _read(self) -> list[WatchedAnswer]:
        if not self._path.exists():
            return []
        try:
            return list(read_jsonl(self._path, WatchedAnswer))
        except (OSError, DataError) as error:
            logger.warning(f"{error}. The file is begun anew")
            return []

    def add(self, rows: Sequence[WatchedAnswer]) -> None:
        """Write the answers of another step behind those before."""
        self.rows += rows
        write_jsonl(self._path, self.rows)


def watched_words(history: Sequence[Mapping[str, Any]]) -> str:
    """The first and the last figures of watched answers in a sentence; empty where there are none.

    Args:
        history: the logs of a run, as `trainer.state.log_history` holds them.
    """
    logs = [entry for entry in history if ENDED in entry]
    if not logs:
        return ""
    first, last = logs[0], logs[-1]
    words = [
        f"{first[ENDED]:.0%} -> {last[ENDED]:.0%} end by themselves",
        f"rep-3 {first[REP_3]:.2f} -> {last[REP_3]:.2f}",
        f"{first[LENGTH]:.0f} -> {last[LENGTH]:.0f} tokens",
        *(
            f"{name.removeprefix(CHECKS)} {first[name]:.0%} -> {last[name]:.0%}"
            for name in first
            if name.startswith(CHECKS) and name in last
        ),
    ]
    return f"watched answers, steps {first['step']} -> {last['step']}: {', '.join(words)}"
