"""The request store: every answer that was ever paid for, under the key of its request.

One SQLite file. An answer is on disk before anything else is done with it. Values are the raw
responses as JSON, so a changed parser never asks again; they are not compressed, so that
`sqlite3 FILE "SELECT response FROM answers"` reads them without this program.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from clair_apo.errors import StoreError
from clair_apo.llm.chat import Answer, ChatRequest, Completion, RawResponse
from clair_apo.llm.disks import file_system, free_bytes, is_network
from clair_apo.llm.responses import usage_of
from clair_apo.llm.store_faults import PATIENCE_S, advice_for
from clair_apo.llm.tables import (
    BREAK_OFF,
    CONFLICTS,
    OURS_IN_CONFLICT,
    PUT_BROKEN_OFF,
    PUT_FAILURE,
    SCHEMA,
    SPENT,
    TABLES,
    TAKE_ANSWERS,
    TAKE_BATCHES,
    TAKE_BROKEN_OFF,
    TAKE_FAILURES,
    VERSION,
    Spent,
    StoredAnswer,
    StoredBatch,
    TakenOver,
)
from clair_apo.progress import say

RESERVE_BYTES = 64 * 2**20
"""So much of the disk stays free: what is under way when it is reached can still be kept."""
CHECKED_WHOLE_BYTES = 64 * 2**20
"""A store up to this size is read through when it is opened (about 0.1 s)."""


class RequestStore:
    """A SQLite file of answered requests; made with its folder when it is opened.

    Several processes of one machine may use it together. On a network file system SQLite's
    write-ahead log cannot be shared: there a rollback journal is kept, which is slower.

    Raises:
        StoreError: the file is damaged, is no request store, is of another version, or cannot be
            written. The file is never changed in these cases.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with self._explained():
            if not self._in_memory:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=PATIENCE_S)
            try:
                self._prepare()
                self.check_room()
            except BaseException:
                self._db.close()
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

    def get(self, key: str) -> RawResponse | None:
        """The response under a key, None where there is none.

        Raises:
            StoreError: the file is damaged.
        """
        rows = self._rows("SELECT response FROM answers WHERE key = ?", key)
        if not rows:
            return None
        try:
            response = json.loads(rows[0][0])
        except ValueError as error:
            self._refuse(f"the answer {key} is no JSON: {error}", sqlite3.SQLITE_CORRUPT)
        if not isinstance(response, dict):
            self._refuse(f"the answer {key} is no JSON object", sqlite3.SQLITE_CORRUPT)
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
        with self._explained(), self._db:
            self._make_way(answer.key for answer in answers)
            self._db.executemany(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                rows,
            )

    def put_broken_off(self, responses: Sequence[StoredAnswer], run_id: str = "") -> None:
        """Keep responses that were paid for and are no whole answers: they count as spent."""
        if not responses:
            return
        with self._explained(), self._db:
            self._db.executemany(PUT_BROKEN_OFF, _rows_of(responses, run_id))

    def failed_answer(self, request: ChatRequest) -> Answer | None:
        """What a request came to that failed when it was last asked, None for any other.

        Says nothing about a request that was answered since: see `answer` first.
        """
        rows = self._rows("SELECT reason FROM failures WHERE key = ?", request.key)
        return Answer(request, None, rows[0][0]) if rows else self._read(request)

    def put_failures(self, failed: Sequence[Answer]) -> None:
        """Keep why requests have no answer; of several reasons the last."""
        if not failed:
            return
        when = time.time()
        rows = [(answer.request.key, answer.failure, when) for answer in failed]
        with self._explained(), self._db:
            self._db.executemany(PUT_FAILURE, rows)

    def spent(self, run_id: str) -> dict[str, Spent]:
        """What a run paid for comes to, by the model's identity; broken off or whole."""
        total: dict[str, Spent] = {}
        for table in ("answers", "broken_off"):
            for model, *sums in self._rows(SPENT.format(table=table), run_id):
                before = total.get(model, Spent(0, 0, 0))
                total[model] = before + Spent(*sums)
        return total

    def check_room(self) -> None:
        """See that the disk has room left; to be called before more is asked, not before a put.

        Raises:
            StoreError: less than `RESERVE_BYTES` is free.
        """
        if self._in_memory:
            return
        free = free_bytes(self.path.parent)
        if free < RESERVE_BYTES:
            self._refuse(f"only {free / 2**20:.0f} MB are free", sqlite3.SQLITE_FULL)

    def add_batch(self, batch: StoredBatch) -> None:
        """Write down a batch; one that is known already stays as it is."""
        row = (
            *(batch.id, batch.shard, batch.model, batch.host, batch.run_id),
            *(batch.state, batch.created, json.dumps(batch.keys)),
        )
        with self._explained(), self._db:
            self._db.execute(
                "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                row,
            )

    def update_batch(self, batch: StoredBatch, state: str, id: str | None = None) -> StoredBatch:
        """Write down what became of a batch; returns it in its new state.

        Args:
            batch: as it was.
            state: what it is now.
            id: the server's name for it, once there is one.
        """
        changed = replace(batch, state=state, id=id or batch.id)
        with self._explained(), self._db:
            self._db.execute(
                "UPDATE batches SET state = ?, id = ? WHERE shard = ?",
                (changed.state, changed.id, batch.shard),
            )
        return changed

    def batches(self) -> list[StoredBatch]:
        """All batches that were ever handed to a server, the oldest first."""
        rows = self._rows("SELECT * FROM batches ORDER BY created, id")
        return [StoredBatch(*(*row[:-1], tuple(json.loads(row[-1])))) for row in rows]

    def take_over(self, path: Path, run_id: str, new_run_id: str) -> TakenOver:
        """Keep all that another store holds as well; the other loses nothing.

        Args:
            path: the other store's file.
            run_id: a run whose answers it holds.
            new_run_id: what that run is called here.

        Raises:
            StoreError: one of the two cannot be used, or the other is not there.
        """
        if not path.exists():
            raise StoreError(f"{path}: there is no such request store; bring it here first")
        RequestStore(path).close()  # refuses what is damaged or no store
        with self._explained():
            self._db.execute("ATTACH DATABASE ? AS other", (str(path),))
            try:
                with self._db:
                    theirs = self._db.execute(OURS_IN_CONFLICT)
                    self._break_off([key for key, ours in theirs if not _is_whole(ours)])
                    (conflicts,) = self._db.execute(CONFLICTS).fetchone()
                    answers = self._db.execute(TAKE_ANSWERS, (run_id, new_run_id)).rowcount
                    self._db.execute(TAKE_BATCHES, (run_id, new_run_id))
                    self._db.execute(TAKE_FAILURES)
                    self._db.execute(TAKE_BROKEN_OFF, (run_id, new_run_id))
            finally:
                self._db.execute("DETACH DATABASE other")
        return TakenOver(answers, conflicts)

    def close(self) -> None:
        """Close the file; the store is of no use afterwards."""
        self._db.close()

    @property
    def _in_memory(self) -> bool:
        return str(self.path) == ":memory:"

    def _read(self, request: ChatRequest) -> Answer | None:
        response = self.get(request.key)
        return None if response is None else Answer.of_response(request, response)

    def _make_way(self, keys: Iterable[str]) -> None:
        """Put aside what earlier versions kept under these keys and is no whole answer."""
        query = "SELECT response FROM answers WHERE key = ?"
        there = [(key, self._db.execute(query, (key,)).fetchone()) for key in keys]
        self._break_off([key for key, row in there if row and not _is_whole(row[0])])

    def _break_off(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._db.execute(BREAK_OFF, (key,))
            self._db.execute("DELETE FROM answers WHERE key = ?", (key,))

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with self._explained():
            return self._db.execute(query, values).fetchall()

    def _prepare(self) -> None:
        tables = [row[0] for row in self._db.execute("SELECT name FROM sqlite_master")]
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if tables and "answers" not in tables:
            raise StoreError(f"{self.path}: is a database but no request store; name another file")
        if tables and version != VERSION:
            raise StoreError(
                f"{self.path}: is a request store of version {version}, this program reads "
                f"{VERSION}; it was left as it is; name another file with store, or use the "
                "program that wrote it"
            )
        self._look_for_damage()
        self._choose_journal()
        # FULL: an answer that was paid for also survives a power cut
        self._db.execute("PRAGMA synchronous = FULL")
        if not {*tables} >= TABLES:  # a new store, or one from before there were all of them
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for statement in SCHEMA:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _look_for_damage(self) -> None:
        """Find damage before anything is paid for.

        SQLite itself refuses a file that is cut short or has no header. Reading every page of a
        store of gigabytes takes longer than most runs' first answers, so of a large one only the
        ends of its tables are read; damage between them is reported when it is met.
        """
        if not self._in_memory and self.path.stat().st_size > CHECKED_WHOLE_BYTES:
            for query in (
                "SELECT response FROM answers ORDER BY rowid LIMIT 1",
                "SELECT response FROM answers ORDER BY rowid DESC LIMIT 1",
                "SELECT min(key) FROM answers",
                "SELECT max(key) FROM answers",
            ):
                self._db.execute(query).fetchall()
            return
        faults = [row[0] for row in self._db.execute("PRAGMA quick_check(3)")]
        if faults != ["ok"]:
            self._refuse(f"it is damaged: {'; '.join(faults)}", sqlite3.SQLITE_CORRUPT)

    def _choose_journal(self) -> None:
        kind = "" if self._in_memory else file_system(self.path.parent)
        if not is_network(kind):
            self._use_journal("WAL")
            return
        self._use_journal("DELETE")
        say(
            f"{self.path} lies on a network file system ({kind}): answers are kept with a rollback "
            "journal, which is slower; a store on a local disk is faster and safer"
        )

    def _use_journal(self, mode: str) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._db.execute(f"PRAGMA journal_mode = {mode}")
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
        except sqlite3.Error as error:
            self._refuse(str(error), getattr(error, "sqlite_errorcode", 0))
        except OSError as error:
            self._refuse(str(error), 0)

    def _refuse(self, reason: str, code: int) -> NoReturn:
        raise StoreError(
            f"{self.path}: the request store cannot be used ({reason}); nothing in it was "
            f"removed; {advice_for(code)}"
        ) from None


def _is_whole(text: str) -> bool:
    """Whether a stored response is a whole answer; what cannot be read is left as it is."""
    try:
        response = json.loads(text)
    except (ValueError, RecursionError):
        return True
    return not isinstance(response, dict) or Completion.is_whole(response)


def _rows_of(answers: Sequence[StoredAnswer], run_id: str) -> list[tuple[Any, ...]]:
    when = time.time()
    return [
        (a.key, a.model, run_id, *usage_of(a.response), when, _compact(a.response)) for a in answers
    ]


def _compact(response: RawResponse) -> str:
    text = json.dumps(response, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # a response may spell half a surrogate pair
        return json.dumps(response, separators=(",", ":"))
    return text
