"""What to do about what SQLite complains of."""

import sqlite3
from collections.abc import Sequence

from clair_apo.llm.store_checksums import DamagedRow

PATIENCE_S = 60
"""How long to wait for another process that writes."""

_WRITABLE = "make the file and its folder writable, or name another one with store"
_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full: free space, or move the file to another disk and name "
    "it with store; then run the same command again",
    sqlite3.SQLITE_CORRUPT: 'keep the file; `sqlite3 FILE ".recover" | sqlite3 mended.sqlite` '
    "rescues what can be read: name that file with store",
    sqlite3.SQLITE_NOTADB: "name another file with store",
    sqlite3.SQLITE_READONLY: _WRITABLE,
    sqlite3.SQLITE_CANTOPEN: _WRITABLE,
    sqlite3.SQLITE_BUSY: f"another process has kept it for {PATIENCE_S} seconds: wait for it, or "
    "end it",
}
_ADVICE_ELSE = "mend the file or the disk that it lies on, or name another one with store"


def advice_for(code: int) -> str:
    """What a user can do about an error code of SQLite; 0 stands for any other error."""
    # the low byte is the kind of error, the rest its detail
    return _ADVICE.get(code & 0xFF, _ADVICE_ELSE)


def damage_of(rows: Sequence[DamagedRow]) -> str:
    """Which rows of a store are damaged, in one sentence."""
    more = f", and {len(rows) - 1} more" if len(rows) > 1 else ""
    return f"it is damaged: {rows[0].sentence}{more}"


def advice_for_damage(rows: Sequence[DamagedRow]) -> str:
    """How damaged rows can be done without: an answer is asked again, once its row is gone."""
    table = rows[0].table
    numbers = ", ".join(str(row.number) for row in rows if row.table == table)
    kind = {"answers": "have it asked again", "batches": "have its requests asked again"}
    return (
        "bring back a sound copy of the file if there is one; to "
        f"{kind.get(table, 'forget it')} in place of that, run `sqlite3 FILE "
        f'"REINDEX; DELETE FROM {table} WHERE rowid IN ({numbers})"` and the same command again'
    )


ADVICE_FOR_INDEX = (
    "keep a copy of the file, and run `sqlite3 FILE REINDEX`: the rows themselves are sound"
)
"""Where an index alone is damaged: it is made again of the rows."""
