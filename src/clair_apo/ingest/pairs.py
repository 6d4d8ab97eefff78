"""Reads foreign rows as preference pairs: text or messages, with the prompt beside or within."""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clair_apo.errors import DataError
from clair_apo.ingest.cells import conversation
from clair_apo.ingest.rows import read_rows
from clair_apo.records import Conversation, Record, prompt_id

COLUMNS = ("prompt", "chosen", "rejected")


RUN_PAIRS = "pairs.jsonl"
"""The file of a run folder that holds its pairs."""


class EmptyTextError(DataError):
    """A prompt or an answer without text."""


class TrainingPair(Record):
    """Two answers to one prompt: all three as plain text, or all three as messages."""

    id: str
    """The prompt's id: the first 16 hex digits of its digest."""
    prompt: str | Conversation
    chosen: str | Conversation
    rejected: str | Conversation
    weight: float | None = None
    """Of the pair in the loss of its step; None where the data has no column `weight`."""
    dataset_source: str | None = None
    """The name of its data set, where several are mixed."""

    def to_trl_row(self) -> dict[str, Any]:
        """The preference row that TRL's trainers take, with weight and source where it has them."""
        absent = {"weight": self.weight, "dataset_source": self.dataset_source}
        return self.model_dump(exclude={name for name, value in absent.items() if value is None})


def load_pairs(name: str, split: str = "train") -> list[TrainingPair]:
    """Load preference pairs.

    A row has the columns `prompt`, `chosen` and `rejected`, each text or messages, and may have a
    number `weight`; others are ignored. `chosen` and `rejected` may be whole conversations with the
    prompt in them; then the column `prompt` may be missing.

    Args:
        name: a JSONL or Parquet file, a folder of `datasets`, or a hub name (untested: no hub
            here).
        split: of a folder or hub name with several.

    Raises:
        DataError: nothing there, a row that is no pair (named by file and line), no rows, or a
            `weight` in some rows and not in others.
    """
    pairs, unweighted = [], None
    for where, row in read_rows(name, split):
        pairs.append(pair_from_row(row, where))
        if pairs[-1].weight is None and unweighted is None:
            unweighted = where
    if not pairs:
        raise DataError(f"{name}: there is not one pair in it; nothing to train on")
    if unweighted and any(pair.weight is not None for pair in pairs):
        raise DataError(f"{unweighted}: no 'weight', which other rows have; write 1 for the usual")
    return pairs


def pairs_of(name: str) -> str:
    """The name of the data that holds pairs: of a run folder its file of pairs, else as it is."""
    path = Path(name).expanduser() / RUN_PAIRS
    return str(path) if path.is_file() else name


def plain_text(answer: str | Conversation) -> str:
    """A side of a pair as one text: its turns with an empty line between them."""
    return answer if isinstance(answer, str) else "\n\n".join(turn.content for turn in answer)


def pair_from_row(row: Mapping[str, Any], where: str) -> TrainingPair:
    """Map a foreign row to a `TrainingPair`.

    Args:
        row: the row as it was read.
        where: file and line, for errors.

    Raises:
        EmptyTextError: a prompt or an answer without text.
        DataError: missing column, turns in an impossible order, half a character, or a `weight`
            that is no number from 0 up.
    """
    pair = _pair(row, where)
    weight = row.get("weight")
    if weight is None:
        return pair
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not 0 <= weight < math.inf:
        raise DataError(f"{where}: 'weight' must be a number, 0 or above, got {weight!r}")
    return pair.model_copy(update={"weight": float(weight)})


def _pair(row: Mapping[str, Any], where: str) -> TrainingPair:
    for column in COLUMNS[1:]:
        if row.get(column) is None:
            raise DataError(
                f"{where}: expected columns {', '.join(COLUMNS)}, found {', '.join(row) or 'none'}"
            )
    prompt, chosen, rejected = (row.get(column) for column in COLUMNS)
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        return _text_pair(prompt, chosen, rejected, where)
    if isinstance(chosen, str) and prompt is None:
        raise DataError(f"{where}: expected column 'prompt' beside plain-text answers")
    chosen_turns = conversation(chosen, where, "chosen", role="assistant")
    rejected_turns = conversation(rejected, where, "rejected", role="assistant")
    shared = _common_beginning(chosen_turns, rejected_turns)
    given = shared if prompt is None else conversation(prompt, where, "prompt")
    if chosen_turns[: len(given)] == given == rejected_turns[: len(given)]:
        chosen_turns, rejected_turns = chosen_turns[len(given) :], rejected_turns[len(given) :]
    elif shared and shared[-1:] == given[-1:]:  # a system turn stands before the prompt there
        given = shared
        chosen_turns, rejected_turns = chosen_turns[len(given) :], rejected_turns[len(given) :]
    _check_turns(given, chosen_turns, rejected_turns, where)
    return TrainingPair(
        id=prompt_id(given), prompt=given, chosen=chosen_turns, rejected=rejected_turns
    )


def _text_pair(prompt: str, chosen: str, rejected: str, where: str) -> TrainingPair:
    as_messages = []
    for column, text in zip(COLUMNS, (prompt, chosen, rejected), strict=True):
        if not text.strip():
            raise EmptyTextError(f"{where}: {column!r} is empty; remove the row or fill it in")
        as_messages.append(conversation(text, where, column))
    return TrainingPair(
        id=prompt_id(as_messages[0]), prompt=prompt, chosen=chosen, rejected=rejected
    )


def _check_turns(
    prompt: Conversation, chosen: Conversation, rejected: Conversation, where: str
) -> None:
    if not prompt or prompt[-1].role != "user":
        raise DataError(f"{where}: 'prompt' must end with the user's turn")
    for column, turns in zip(COLUMNS, (prompt, chosen, rejected), strict=True):
        if turns and not turns[-1].content.strip():
            raise EmptyTextError(f"{where}: {column!r} is empty; remove the row or fill it in")
        if column != "prompt" and (not turns or turns[0].role != "assistant"):
            raise DataError(f"{where}: {column!r} must answer the prompt with the assistant's turn")


def _common_beginning(one: Conversation, other: Conversation) -> Conversation:
    """What both conversations begin with, before the first answer in which they differ."""
    equal = itertools.takewhile(lambda turns: turns[0] == turns[1], zip(one, other, strict=False))
    shared = [turn for turn, _ in equal]
    while shared and shared[-1].role == "assistant":  # equal answers, or an answer's equal start
        shared.pop()
    return tuple(shared)
