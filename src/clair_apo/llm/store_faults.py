"""What to do about what SQLite complains of."""

import sqlite3

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
