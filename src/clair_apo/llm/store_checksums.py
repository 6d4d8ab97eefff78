"""A checksum for every row of the request store: SQLite has none, so a flipped bit goes unseen.

It is made of the whole row, key and costs included, and stands in the row's last column. SHA-256
because it is in every Python, the same everywhere, and cheap beside a commit (20 us for a response
of 3,000 characters); its first 16 hex digits, as in a prompt's id: among a billion damaged rows
none is expected to pass.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from clair_apo.llm.store_schema import CHECKSUM, TABLES

_ROWS_AT_ONCE = 1000


def checksum(values: Sequence[Any]) -> str:
    """The checksum of a row's values, without the checksum itself."""
    # a text that became a blob is another value, even where the bytes are the same
    row = json.dumps(values, default=repr, separators=(",", ":"))
    return hashlib.sha256(row.encode()).hexdigest()[:16]


def text_of(stored: bytes) -> str:
    """A text of the database, also one that damage made no UTF-8: its checksum tells."""
    return stored.decode(errors="surrogateescape")


def use_checksums(db: sqlite3.Connection) -> None:
    """Let a connection read damaged texts, and make checksums in SQL: `checksum(VALUES)`."""
    db.text_factory = text_of
    db.create_function("checksum", -1, lambda *values: checksum(values), deterministic=True)


def has_checksums(db: sqlite3.Connection, table: str, schema: str = "main") -> bool:
    """Whether the rows of a table have checksums; those of older stores have none."""
    return any(row[1] == CHECKSUM for row in db.execute(f"PRAGMA {schema}.table_info({table})"))


class DamagedRow(NamedTuple):
    """A row whose checksum is not that of its values."""

    table: str
    number: int
    """Its rowid."""
    name: str
    """The request's key, or the batch's id; it may be damaged itself."""

    @property
    def sentence(self) -> str:
        """A sentence about the damage."""
        kinds = {"answers": "the answer to request", "batches": "the batch"}
        what = kinds.get(self.table, "the failure of request")
        return f"{what} {self.name} is not as it was stored (table {self.table}, row {self.number})"


def damage_in(table: str, row: Sequence[Any]) -> DamagedRow | None:
    """The damage of one row, read as `rowid, *`; None where there is none."""
    number, *values, stored = row
    if stored == checksum(values):
        return None
    name = values[0] if isinstance(values[0], str) else repr(values[0])
    return DamagedRow(table, number, name.encode(errors="replace").decode())


def damaged_rows(db: sqlite3.Connection, schema: str = "main") -> Iterator[DamagedRow]:
    """All damaged rows of a store, read through."""
    for table in TABLES:
        if has_checksums(db, table, schema):
            for row in db.execute(f"SELECT rowid, * FROM {schema}.{table}"):
                if damage := damage_in(table, row):
                    yield damage


def add_checksums(db: sqlite3.Connection, table: str) -> None:
    """Give the rows of an older store their checksums; to be called in a transaction."""
    db.execute(f"ALTER TABLE {table} ADD COLUMN {CHECKSUM} TEXT")
    last = -(2**63)
    while rows := db.execute(
        f"SELECT rowid, * FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {_ROWS_AT_ONCE}",
        (last,),
    ).fetchall():
        last = rows[-1][0]
        db.executemany(
            f"UPDATE {table} SET {CHECKSUM} = ? WHERE rowid = ?",
            [(_if_sound(row[1:-1]), row[0]) for row in rows],
        )


def _if_sound(values: Sequence[Any]) -> str:
    """The checksum; none for a row that is damaged already: its text is no UTF-8."""
    try:
        for value in values:
            str(value).encode()
    except UnicodeEncodeError:
        return ""
    return checksum(values)
