"""The request store: every answer that was ever paid for, under the key of its request.

One SQLite file in WAL mode. An answer is on disk before anything else is done with it. Values
are the raw responses as JSON, so a changed parser never asks again.
"""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from clair_apo.errors import StoreError
from clair_apo.llm.chat import RawResponse

VERSION = 1
PATIENCE_S = 60
"""How long to wait for another process that writes."""
_SCHEMA = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY,      -- ChatRequest.key
    model TEXT NOT NULL,       -- identity of the model that answered
    response TEXT NOT NULL,    -- the raw response, JSON
    answered_at REAL NOT NULL  -- seconds since 1970
) WITHOUT ROWID
"""


class RequestStore:
    """A SQLite file of answered requests; made with its folder when it is opened.

    Raises:
        StoreError: the file is damaged, is no request store, is of another version, or cannot be
            written. The file is never changed in these cases.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=PATIENCE_S)
            self._prepare()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        with self._explained():
            return int(self._db.execute("SELECT count(*) FROM answers").fetchone()[0])

    def get(self, key: str) -> RawResponse | None:
        """The response under a key, None where there is none."""
        with self._explained():
            row = self._db.execute("SELECT response FROM answers WHERE key = ?", (key,)).fetchone()
        return cast(RawResponse, json.loads(row[0])) if row else None

    def put(self, key: str, model: str, response: RawResponse) -> None:
        """Keep a response for good; a key that is already there keeps its first response."""
        text = json.dumps(response)  # escaped: a response may spell half a surrogate pair
        with self._explained(), self._db:
            self._db.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", (key, model, text, time.time())
            )

    def close(self) -> None:
        """Close the file; the store is of no use afterwards."""
        self._db.close()

    def _prepare(self) -> None:
        tables = [row[0] for row in self._db.execute("SELECT name FROM sqlite_master")]
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if tables and "answers" not in tables:
            raise StoreError(f"{self.path}: is a database but no request store; name another file")
        if tables and version != VERSION:
            raise StoreError(
                f"{self.path}: is a request store of version {version}, this program reads "
                f"{VERSION}; it was left as it is; name another file or the program that wrote it"
            )
        self._use_wal()
        # FULL: an answer that was paid for also survives a power cut
        self._db.execute("PRAGMA synchronous = FULL")
        if not tables:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.execute(_SCHEMA.replace("TABLE", "TABLE IF NOT EXISTS", 1))
                self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _use_wal(self) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                # SQLite waits for locks, but not here: processes may open a new store together
                if "locked" not in str(error) or time.monotonic() > give_up:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"{self.path}: the request store cannot be used ({error}); nothing in it was "
                "removed; free space or mend the file, or name another one with store"
            ) from None
