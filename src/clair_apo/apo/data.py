"""Pairs for training, from wherever they lie, and which of them are held out.

Foreign rows become `TrainingPair`s here and nowhere else. The split is decided by each prompt's
digest alone: adding rows moves none, and the order of the file changes nothing.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from clair_apo.errors import DataError
from clair_apo.ingest.cells import conversation
from clair_apo.ingest.rows import read_rows, split_names
from clair_apo.records import Conversation, Record, digest, prompt_id
from clair_apo.run_folder import is_held_out

COLUMNS = ("prompt", "chosen", "rejected")
TEST = "test"
"""The split that is held out where data brings it."""


class TrainingPair(Record):
    """Two answers to one prompt: all three as plain text, or all three as messages."""

    id: str
    """The prompt's id: the first 16 hex digits of its digest."""
    prompt: str | Conversation
    chosen: str | Conversation
    rejected: str | Conversation

    def to_trl_row(self) -> dict[str, Any]:
        """The preference row that TRL's trainers take."""
        return self.model_dump()


class PairSplit(NamedTuple):
    """Pairs to train on and pairs held out, each in the order of their ids."""

    train: tuple[TrainingPair, ...]
    held_out: tuple[TrainingPair, ...]
    rule: str = ""
    """In words: what decided which pairs are held out, or why none are."""
    left: int = 0
    """Pairs beyond `max_pairs`."""


def load_pairs(name: str, split: str = "train") -> list[TrainingPair]:
    """Load preference pairs.

    A row has the columns `prompt`, `chosen` and `rejected`, each text or messages; others are
    ignored. `chosen` and `rejected` may be whole conversations with the prompt in them; then the
    column `prompt` may be missing.

    Args:
        name: a JSONL or Parquet file, a folder of `datasets`, or a hub name (untested: no hub
            here).
        split: of a folder or hub name with several.

    Raises:
        DataError: nothing there, a row that is no pair (named by file and line), or no rows.
    """
    pairs = [pair_from_row(row, where) for where, row in read_rows(name, split)]
    if not pairs:
        raise DataError(f"{name}: there is not one pair in it; nothing to train on")
    return pairs


def split_pairs(
    pairs: Iterable[TrainingPair], held_out: float, max_pairs: int | None = None
) -> PairSplit:
    """Hold out pairs by the digest of their prompt, and limit the rest.

    Args:
        pairs: in any order; equal prompts stay together.
        held_out: the share of all possible prompts that is held out, from 0 to below 1.
        max_pairs: train on the first so many, in the order of their ids; None takes all.

    Raises:
        DataError: no pair is left to train on.
    """
    ordered = sorted(pairs, key=lambda pair: (pair.id, digest(pair.to_trl_row())))
    out = tuple(pair for pair in ordered if is_held_out(pair.id, held_out))
    rest = tuple(pair for pair in ordered if not is_held_out(pair.id, held_out))
    if not rest:
        raise DataError(
            f"all {len(ordered)} pairs are held out, none is left to train on; lower held_out"
        )
    if out:
        rule = f"by the digests of their prompts, held_out {held_out:g}"
    elif held_out:
        rule = f"no prompt's digest falls into held_out {held_out:g}; raise it"
    else:
        rule = "held_out is 0"
    train = rest[:max_pairs]
    return PairSplit(train=train, held_out=out, rule=rule, left=len(rest) - len(train))


def load_split_pairs(
    name: str, train_split: str, held_out: float, max_pairs: int | None = None
) -> PairSplit:
    """Load pairs and hold some out: the data's own `test` split, else as `split_pairs`.

    Args:
        name: as `load_pairs` takes it.
        train_split: the split to train on.
        held_out: where the data has a `test` split beside that one, any share above 0 holds out
            that split and nothing else, since it may be of the same prompts; 0 holds out none.
        max_pairs: as `split_pairs` takes it.

    Raises:
        DataError: as the two functions.
    """
    pairs = load_pairs(name, train_split)
    if train_split == TEST or TEST not in split_names(name):
        return split_pairs(pairs, held_out, max_pairs)
    split = split_pairs(pairs, 0, max_pairs)
    if not held_out:
        rule = f"held_out is 0, although {name} has a {TEST} split"
        return PairSplit(split.train, (), rule, split.left)
    tested = split_pairs(load_pairs(name, TEST), 0).train
    both = len({pair.id for pair in tested} & {pair.id for pair in split.train})
    rule = f"the {TEST} split of {name}"
    if both:
        rule += f", {both} of whose prompts are trained on too"
    return PairSplit(split.train, tested, rule, split.left)


def data_digest(pairs: Iterable[TrainingPair]) -> str:
    """SHA-256 over pairs, in hex; the same for the same pairs in the same order."""
    return digest([pair.to_trl_row() for pair in pairs])


def pair_from_row(row: Mapping[str, Any], where: str) -> TrainingPair:
    """Map a foreign row to a `TrainingPair`.

    Args:
        row: the row as it was read.
        where: file and line, for errors.

    Raises:
        DataError: missing column, empty prompt or answer, or turns in an impossible order.
    """
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
    for column, text in zip(COLUMNS, (prompt, chosen, rejected), strict=True):
        if not text.strip():
            raise DataError(f"{where}: {column!r} is empty; remove the row or fill it in")
    same_as_messages = conversation(prompt, where, "prompt")
    return TrainingPair(
        id=prompt_id(same_as_messages), prompt=prompt, chosen=chosen, rejected=rejected
    )


def _check_turns(
    prompt: Conversation, chosen: Conversation, rejected: Conversation, where: str
) -> None:
    if not prompt or prompt[-1].role != "user":
        raise DataError(f"{where}: 'prompt' must end with the user's turn")
    for column, turns in zip(COLUMNS, (prompt, chosen, rejected), strict=True):
        if turns and not turns[-1].content.strip():
            raise DataError(f"{where}: {column!r} is empty; remove the row or fill it in")
        if column != "prompt" and (not turns or turns[0].role != "assistant"):
            raise DataError(f"{where}: {column!r} must answer the prompt with the assistant's turn")


def _common_beginning(one: Conversation, other: Conversation) -> Conversation:
    """What both conversations begin with, before the first answer in which they differ."""
    equal = itertools.takewhile(lambda turns: turns[0] == turns[1], zip(one, other, strict=False))
    shared = [turn for turn, _ in equal]
    while shared and shared[-1].role == "assistant":  # equal answers, or an answer's equal start
        shared.pop()
    return tuple(shared)
