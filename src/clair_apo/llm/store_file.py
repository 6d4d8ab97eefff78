"""The file of a request store: opens it, checks it for damage, brings it up to date.

    StoreFile       the SQLite connection, its journal and its transactions
    file_system     on which kind of disk a folder is
    advice_for      what a user can do about an error of SQLite, or about damaged rows

`clair_apo.llm.store` reads and writes the rows.
"""

import re
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import psutil

from clair_apo.console import say
from clair_apo.errors import StoreError
from clair_apo.llm.store_checksums import (
    DamagedRow,
    add_checksums,
    damaged_rows,
    has_checksums,
    use_checksums,
)
from clair_apo.llm.store_schema import OLDER_VERSIONS, SCHEMA, TABLES, VERSION

RESERVE_BYTES = 64 * 2**20
"""The disk space that stays free: what is under way when it is reached can still be kept."""
CHECKED_WHOLE_BYTES = 64 * 2**20
"""A store up to this size is read through when it is opened, which takes about 0.7 s."""
PATIENCE_S = 60
"""The longest wait for another process that writes."""

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

# what runs in user space (`fuse.sshfs`, `fuse.s3fs`) is taken for such; `fuseblk` is a local disk
_NETWORK = re.compile(
    "9p|afpfs|afs|beegfs|ceph|cifs|coda|davfs|fuse[.].*|glusterfs|gpfs|lustre|ncpfs|nfs[34]?|"
    "orangefs|panfs|pvfs2|smb[23]|smbfs|vboxsf|virtiofs|vmhgfs|webdav|wekafs"
)
_ADVICE_ON_INDEX = (
    "keep a copy of the file, and run `sqlite3 FILE REINDEX`: the rows themselves are sound"
)


class StoreFile:
    """An open SQLite file that is a sound request store.

    Attributes:
        path: the file.
        db: the connection.
        has_checksums: whether its rows have them: not in an older store that cannot be written.
    """

    has_checksums: bool

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with self.with_store_errors():
            if not self.in_memory:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(self.path, timeout=PATIENCE_S)
            use_checksums(self.db)
            try:
                self._prepare()
            except BaseException:
                self.db.close()
                raise

    def close(self) -> None:
        """Close the file; the store is of no use afterwards."""
        self.db.close()

    @property
    def in_memory(self) -> bool:
        """Whether there is no file."""
        return str(self.path) == ":memory:"

    def _prepare(self) -> None:
        tables = [row[0] for row in self.db.execute("SELECT name FROM sqlite_master")]
        version = self.db.execute("PRAGMA user_version").fetchone()[0]
        if tables and "answers" not in tables:
            raise StoreError(f"{self.path}: is a database but no request store; name another file")
        if tables and version not in (VERSION, *OLDER_VERSIONS):
            raise StoreError(
                f"{self.path}: is a request store of version {version}, this program reads "
                f"{VERSION}; it was left as it is; name another file with store, or use the "
                "program that wrote it"
            )
        if version == VERSION:
            self._refuse_missing_checksums(tables)
        self._look_for_damage()
        self._choose_journal()
        # FULL: an answer that was paid for also survives a power cut
        self.db.execute("PRAGMA synchronous = FULL")
        if version != VERSION or not {*tables} >= {*TABLES}:
            self._bring_up_to_date()
        self.has_checksums = has_checksums(self.db, "answers")

    def _refuse_missing_checksums(self, tables: Sequence[str]) -> None:
        for table in TABLES:
            if table in tables and not has_checksums(self.db, table):
                self.refuse(f"table {table} has lost its checksums", sqlite3.SQLITE_CORRUPT)

    def _bring_up_to_date(self) -> None:
        """Make the tables that are missing, and checksums for rows that have none; all or none."""
        try:
            with self.db:
                self.db.execute("BEGIN IMMEDIATE")
                for statement in SCHEMA:
                    self.db.execute(statement)
                older = [table for table in TABLES if not has_checksums(self.db, table)]
                if older:
                    self._check_room_for_checksums()
                for table in older:
                    add_checksums(self.db, table)
                self.db.execute(f"PRAGMA user_version = {VERSION}")
        except sqlite3.OperationalError as error:
            if not _is_read_only(error):
                raise

    def _check_room_for_checksums(self) -> None:
        """All rows are written anew: meanwhile the file takes twice its space."""
        if self.in_memory:
            return
        size = self.path.stat().st_size
        if free_bytes(self.path.parent) < size + RESERVE_BYTES:
            reason = f"{(size + RESERVE_BYTES) / 2**20:.0f} MB must be free to add its checksums"
            self.refuse(reason, sqlite3.SQLITE_FULL)
        if size > CHECKED_WHOLE_BYTES:
            say(f"{self.path}: adding a checksum to every answer, once")

    def _look_for_damage(self) -> None:
        """Find damage before anything is paid for.

        SQLite itself refuses a file that is cut short or has no header. Reading a store of
        gigabytes takes longer than most runs' first answers, so of a large one only the ends of
        its tables are read; damage between them is reported when it is met.
        """
        if not self.in_memory and self.path.stat().st_size > CHECKED_WHOLE_BYTES:
            for query in (
                "SELECT response FROM answers ORDER BY rowid LIMIT 1",
                "SELECT response FROM answers ORDER BY rowid DESC LIMIT 1",
                "SELECT min(key) FROM answers",
                "SELECT max(key) FROM answers",
            ):
                self.db.execute(query).fetchall()
            return
        self.refuse_damaged(list(damaged_rows(self.db)))
        faults = [str(row[0]) for row in self.db.execute("PRAGMA integrity_check(3)")]
        if faults != ["ok"]:
            of_index = all("index" in fault for fault in faults)
            self.refuse(
                f"it is damaged: {'; '.join(faults)}",
                sqlite3.SQLITE_CORRUPT,
                _ADVICE_ON_INDEX if of_index else "",
            )

    def refuse_damaged(self, rows: Sequence[DamagedRow], path: Path | None = None) -> None:
        """Raise a `StoreError` about the rows that are damaged, if any are.

        Args:
            rows: the damaged ones.
            path: the file that holds them; by default this one.
        """
        if rows:
            self.refuse(damage_of(rows), 0, advice_for_damage(rows), path)

    def _choose_journal(self) -> None:
        kind = "" if self.in_memory else file_system(self.path.parent)
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
                self.db.execute(f"PRAGMA journal_mode = {mode}")
                return
            except sqlite3.OperationalError as error:
                if _is_read_only(error):  # what stands in it can be read all the same
                    return
                # SQLite waits for locks, but not here: processes may open a new store together
                if "locked" not in str(error) or time.monotonic() > give_up:
                    raise
                time.sleep(0.01)

    @contextmanager
    def with_store_errors(self) -> Iterator[None]:
        """Turn errors of SQLite and of the system into a `StoreError` that says what to do."""
        try:
            yield
        except sqlite3.Error as error:
            self.refuse(str(error), getattr(error, "sqlite_errorcode", 0))
        except UnicodeDecodeError:  # the complaint quotes what is damaged
            self.refuse("its names are no UTF-8", sqlite3.SQLITE_CORRUPT)
        except OSError as error:
            self.refuse(str(error), 0)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction: all that is written in the block is kept for good, or none of it."""
        with self.with_store_errors(), self.db:
            if not self.has_checksums:  # else it would have been given them
                self.refuse("it is read-only", sqlite3.SQLITE_READONLY)
            yield

    def refuse(
        self, reason: str, code: int, advice: str = "", path: Path | None = None
    ) -> NoReturn:
        """Raise a `StoreError`.

        Args:
            reason: what is wrong, for a person.
            code: SQLite's code of it; 0 where it has none.
            advice: what to do; by default what the code says.
            path: the file that is meant; by default this one.
        """
        shown = " ".join(reason.split())
        raise StoreError(
            f"{path or self.path}: the request store cannot be used ({shown}); nothing in it was "
            f"removed; {advice or advice_for(code)}"
        ) from None


def file_system(folder: Path) -> str:
    """The type of the file system that a folder lies on, such as `ext4`; empty if unknown."""
    place = folder.resolve()
    found = ""
    longest = -1
    for disk in psutil.disk_partitions(all=True):
        depth = len(Path(disk.mountpoint).parts)
        # of several on one folder the last one covers the others
        if depth >= longest and place.is_relative_to(disk.mountpoint):
            found, longest = disk.fstype, depth
    return found


def is_network(file_system: str) -> bool:
    """Whether files of this type of file system may be changed from another machine."""
    return _NETWORK.fullmatch(file_system.lower()) is not None


def free_bytes(folder: Path) -> int:
    """The bytes that may still be written into a folder."""
    return shutil.disk_usage(folder).free


def advice_for(code: int) -> str:
    """What a user can do about an error code of SQLite; 0 stands for any other error."""
    # the low byte is the kind of error, the rest its detail
    return _ADVICE.get(code & 0xFF, _ADVICE_ELSE)


def damage_of(rows: Sequence[DamagedRow]) -> str:
    """Which rows of a store are damaged, in one sentence."""
    more = f", and {len(rows) - 1} more" if len(rows) > 1 else ""
    return f"it is damaged: {rows[0].sentence}{more}"


def advice_for_damage(rows: Sequence[DamagedRow]) -> str:
    """The advice on damaged rows: an answer is asked again, once its row is gone."""
    table = rows[0].table
    numbers = ", ".join(str(row.number) for row in rows if row.table == table)
    kind = {"answers": "have it asked again", "batches": "have its requests asked again"}
    return (
        "bring back a sound copy of the file if there is one; to "
        f"{kind.get(table, 'forget it')} in place of that, run `sqlite3 FILE "
        f'"REINDEX; DELETE FROM {table} WHERE rowid IN ({numbers})"` and the same command again'
    )


def _is_read_only(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY
