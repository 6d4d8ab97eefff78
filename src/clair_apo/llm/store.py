"""The request store: every answer that was paid for, under the key of its request.

One SQLite file. An answer is on disk before anything else is done with it. Values are the raw
responses as JSON, so a changed parser never asks again; they are not compressed, so that
`sqlite3 FILE "SELECT response FROM answers"` reads them without this program. Every row has a
checksum, which is compared whenever it is read.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clair_apo.errors import StoreError
from clair_apo.llm.responses import usage_of
from clair_apo.llm.store_checksums import checksum, damage_in, damaged_rows, has_checksums
from clair_apo.llm.store_file import RESERVE_BYTES, StoreFile, free_bytes
from clair_apo.llm.store_schema import (
    BREAK_OFF,
    CONFLICTS,
    OURS_IN_CONFLICT,
    PUT_ANSWER,
    PUT_BATCH,
    PUT_BROKEN_OFF,
    PUT_FAILURE,
    SPENT,
    TAKE_ANSWERS,
    TAKE_BATCHES,
    TAKE_BROKEN_OFF,
    TAKE_FAILURES,
    UPDATE_BATCH,
    Spent,
    StoredAnswer,
    StoredBatch,
    TakenOver,
)
from clair_apo.llm.types import Answer, ChatRequest, Completion, RawResponse


class RequestStore(StoreFile):
    """A SQLite file of answered requests; made with its folder when it is opened.

    Several processes of one machine may use it together. On a network file system SQLite's
    write-ahead log cannot be shared: there a rollback journal is kept, which is slower. A store of
    before there were checksums is given them, once; where it cannot be written it is read as it is.

    Raises:
        StoreError: the file is damaged, is no request store, is of another version, or cannot be
            written. The file is never changed in these cases.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        try:
            self.check_room()
        except BaseException:
            self.close()
            raise

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
        return int(self._rows("SELECT count(*) FROM answers")[0][0])

    def __contains__(self, key: str) -> bool:
        return bool(self._rows("SELECT 1 FROM answers WHERE key = ?", key))

    def missing(self, keys: Sequence[str]) -> set[str]:
        """Those of some keys that have no answer; a few hundred at a time."""
        places = ", ".join("?" * len(keys))
        rows = self._rows(f"SELECT key FROM answers WHERE key IN ({places})", *keys)
        return {*keys} - {row[0] for row in rows}

    def get(self, key: str) -> RawResponse | None:
        """The response under a key, None where there is none.

        Raises:
            StoreError: the answer, or the file, is damaged.
        """
        rows = self._sound_rows("answers", "WHERE key = ?", key)
        if not rows:
            return None
        try:
            response = json.loads(rows[0][6])
        except ValueError as error:
            self.refuse(f"the answer {key} is no JSON: {error}", sqlite3.SQLITE_CORRUPT)
        if not isinstance(response, dict):
            self.refuse(f"the answer {key} is no JSON object", sqlite3.SQLITE_CORRUPT)
        return response

    def answer(self, request: ChatRequest) -> Answer | None:
        """The whole answer to a request, None where there is none.

        A response that broke off, which earlier versions kept here, counts as not there.

        Raises:
            StoreError: the file is damaged.
        """
        answer = self._read(request)
        return answer if answer and answer.completion else None

    def put_many(self, answers: Sequence[StoredAnswer], run_id: str = "") -> None:
        """Keep answers for good, all of them or none; a key keeps its first answer.

        When this returns they are on the disk, and survive a power cut.

        Args:
            answers: what to keep.
            run_id: which run asked; see `spent`.

        Raises:
            StoreError: they could not be written; what was stored before is untouched.
        """
        rows = _rows_of(answers, run_id)
        with self.writing():
            self._move_broken_off(answer.key for answer in answers)
            self.db.executemany(PUT_ANSWER, rows)

    def put_broken_off(self, responses: Sequence[StoredAnswer], run_id: str = "") -> None:
        """Keep responses that were paid for and are no whole answers: they count as spent."""
        if not responses:
            return
        with self.writing():
            self.db.executemany(PUT_BROKEN_OFF, _rows_of(responses, run_id))

    def failed_answer(self, request: ChatRequest) -> Answer | None:
        """The failure of a request that failed when it was last asked; None for any other.

        Says nothing about a request that was answered since: see `answer` first.
        """
        rows = self._sound_rows("failures", "WHERE key = ?", request.key)
        return Answer(request, None, rows[0][1]) if rows else self._read(request)

    def put_failures(self, failed: Sequence[Answer]) -> None:
        """Keep why requests have no answer; of several reasons the last."""
        if not failed:
            return
        when = time.time()
        rows = [(answer.request.key, answer.failure, when) for answer in failed]
        with self.writing():
            self.db.executemany(PUT_FAILURE, [(*row, checksum(row)) for row in rows])

    def spent(self, run_id: str) -> dict[str, Spent]:
        """The answers and tokens that a run paid for, by model; broken off or whole."""
        total: dict[str, Spent] = {}
        # an older store that cannot be written was not given the second table
        for table in ("answers", "broken_off") if self.has_checksums else ("answers",):
            for model, *sums in self._rows(SPENT.format(table=table), run_id):
                before = total.get(model, Spent(0, 0, 0))
                total[model] = before + Spent(*sums)
        return total

    def check_room(self) -> None:
        """See that the disk has space left; to be called before more is asked, not before a put.

        Raises:
            StoreError: less than `RESERVE_BYTES` is free.
        """
        if self.in_memory:
            return
        free = free_bytes(self.path.parent)
        if free < RESERVE_BYTES:
            self.refuse(f"only {free / 2**20:.0f} MB are free", sqlite3.SQLITE_FULL)

    def add_batch(self, batch: StoredBatch) -> None:
        """Write down a batch; one that is known already stays as it is."""
        row = (
            *(batch.id, batch.name, batch.model, batch.host, batch.run_id),
            *(batch.state, float(batch.created), json.dumps(batch.keys)),
        )
        with self.writing():
            self.db.execute(PUT_BATCH, (*row, checksum(row)))

    def update_batch(self, batch: StoredBatch, state: str, id: str | None = None) -> StoredBatch:
        """Write down the new state of a batch; returns the batch in it.

        Args:
            batch: as it was.
            state: what it is now.
            id: the server's name for it, once there is one.
        """
        changed = replace(batch, state=state, id=id or batch.id)
        with self.writing():
            self.db.execute(UPDATE_BATCH, (changed.state, changed.id, batch.name))
        return changed

    def batches(self) -> list[StoredBatch]:
        """All batches that were ever handed to a server, the oldest first."""
        rows = self._sound_rows("batches", "ORDER BY created, id")
        return [StoredBatch(*(*row[:7], tuple(json.loads(row[7])))) for row in rows]

    def take_over(self, path: Path, run_id: str, new_run_id: str) -> TakenOver:
        """Keep all that another store holds as well; the other loses nothing.

        Args:
            path: the other store's file.
            run_id: a run whose answers it holds.
            new_run_id: what that run is called here.

        Raises:
            StoreError: one of the two cannot be used, an answer of the other is damaged, or it is
                not there.
        """
        if not path.exists():
            raise StoreError(f"{path}: there is no such request store; bring it here first")
        RequestStore(path).close()  # refuses what is damaged or no store
        with self.with_store_errors():
            self.db.execute("ATTACH DATABASE ? AS other", (str(path),))
            try:
                self.refuse_damaged(list(damaged_rows(self.db, "other")), path)
                with self.db:
                    theirs = self.db.execute(OURS_IN_CONFLICT)
                    self._move([key for key, ours in theirs if not _is_whole(ours)])
                    (conflicts,) = self.db.execute(CONFLICTS).fetchone()
                    answers = self.db.execute(TAKE_ANSWERS, (run_id, new_run_id)).rowcount
                    self.db.execute(TAKE_BATCHES, (run_id, new_run_id))
                    self.db.execute(TAKE_FAILURES)
                    if has_checksums(self.db, "broken_off", "other"):
                        self.db.execute(TAKE_BROKEN_OFF, (run_id, new_run_id))
            finally:
                self.db.execute("DETACH DATABASE other")
        return TakenOver(answers, conflicts)

    def _read(self, request: ChatRequest) -> Answer | None:
        response = self.get(request.key)
        return None if response is None else Answer.of_response(request, response)

    def _move_broken_off(self, keys: Iterable[str]) -> None:
        """Move to `broken_off` what earlier versions kept under these keys and is not whole."""
        query = "SELECT response FROM answers WHERE key = ?"
        there = [(key, self.db.execute(query, (key,)).fetchone()) for key in keys]
        self._move([key for key, row in there if row and not _is_whole(row[0])])

    def _move(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.db.execute(BREAK_OFF, (key,))
            self.db.execute("DELETE FROM answers WHERE key = ?", (key,))

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with self.with_store_errors():
            return self.db.execute(query, values).fetchall()

    def _sound_rows(self, table: str, which: str, *values: str) -> list[tuple[Any, ...]]:
        """Rows of a table, after their checksums were compared; without rowid and checksum."""
        rows = self._rows(f"SELECT rowid, * FROM {table} {which}", *values)
        if not self.has_checksums:
            return [row[1:] for row in rows]
        self.refuse_damaged([found for row in rows if (found := damage_in(table, row))])
        return [row[1:-1] for row in rows]


def _is_whole(text: str) -> bool:
    """Whether a stored response is a whole answer; what cannot be read is left as it is."""
    try:
        response = json.loads(text)
    except (ValueError, RecursionError):
        return True
    return not isinstance(response, dict) or Completion.is_whole(response)


def _rows_of(answers: Sequence[StoredAnswer], run_id: str) -> list[tuple[Any, ...]]:
    """Rows of `answers` and of `broken_off`, their checksums included."""
    when = time.time()
    rows = [
        (a.key, a.model, run_id, *usage_of(a.response), when, _compact(a.response)) for a in answers
    ]
    return [(*row, checksum(row)) for row in rows]


def _compact(response: RawResponse) -> str:
    text = json.dumps(response, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # a response may spell half a surrogate pair
        return json.dumps(response, separators=(",", ":"))
    return text
