"""Reads rows for a lint: pairs with their texts, and rows that training would stop at."""

from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from clair_apo.errors import DataError
from clair_apo.ingest.pairs import COLUMNS, EmptyTextError, TrainingPair, pair_from_row
from clair_apo.ingest.rows import read_rows
from clair_apo.records import Conversation

_HELD_OUT = ("test", "valid", "dev", "eval", "held")


class PairRow:
    """A pair with its place and its texts.

    Args:
        number: of the pair, from 0.
        where: file and line.
        pair: what the row holds.

    Attributes:
        prompt: what users and assistants say before the answers, without system turns.
        asked: the last turn of it.
        chosen: what the assistant says in the better answer.
        rejected: what it says in the other.
    """

    def __init__(self, number: int, where: str, pair: TrainingPair) -> None:
        self.number, self.where, self.pair = number, where, pair
        # a system turn that all prompts share would make them alike
        self.prompt = said(pair.prompt, "user", "assistant")
        self.asked = pair.prompt if isinstance(pair.prompt, str) else pair.prompt[-1].content
        self.chosen = said(pair.chosen, "assistant")
        self.rejected = said(pair.rejected, "assistant")

    @cached_property
    def prompt_key(self) -> int:
        """The same for prompts that differ in case and white space alone."""
        return text_key(self.prompt)


class Unreadable:
    """A row that is no pair.

    Args:
        where: file and line.
        error: what is wrong with it.
    """

    def __init__(self, where: str, error: DataError) -> None:
        self.where, self.reason = where, str(error).removeprefix(f"{where}: ")
        self.rule = "empty_text" if isinstance(error, EmptyTextError) else "unreadable"


def text_key(text: str) -> int:
    """A 64-bit digest of a text, without its case and white space."""
    return int.from_bytes(sha256(" ".join(text.casefold().split()).encode()).digest()[:8], "big")


def is_held_out(split: str) -> bool:
    """Whether a split is one for tests, by its name: `test`, `validation`, `test_prefs`."""
    return any(word in split.lower() for word in _HELD_OUT)


def row_count(name: str) -> int:
    """How many rows a JSONL or Parquet file has; 0 where only reading tells."""
    path = Path(name).expanduser()
    if path.suffix == ".parquet" and path.is_file():
        from pyarrow import parquet

        with suppress(Exception):  # reading the rows says what is wrong
            return int(parquet.read_metadata(path).num_rows)
    if path.suffix in (".jsonl", ".ndjson") and path.is_file():
        with path.open("rb") as file:
            return sum(bool(line.strip()) for line in file)
    return 0


def read_pairs(name: str, split: str) -> Iterator[PairRow | Unreadable]:
    """Read the rows of some data, one at a time.

    Args:
        name: a file, a folder, a hub name.
        split: of several that it has.

    Raises:
        DataError: it cannot be read, or no row of it is a pair.
    """
    pairs, first = 0, None
    for where, row in read_rows(name, split, {*COLUMNS, "weight"}):
        try:
            found = PairRow(pairs, where, pair_from_row(row, where))
        except DataError as error:
            first = first or error
            yield Unreadable(where, error)
            continue
        pairs += 1
        yield found
    if not pairs:
        raise first or DataError(f"{name}: there is not one pair in it; nothing to look at")


def said(text: str | Conversation, *roles: str) -> str:
    """What some roles say in a conversation; plain text as it is."""
    if isinstance(text, str):
        return text
    return "\n\n".join(turn.content for turn in text if turn.role in roles)
