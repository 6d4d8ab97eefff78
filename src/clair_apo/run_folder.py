"""The run folder: its files, manifest and lock, its shards, and which prompts it holds out.

Files appear whole or not at all. This module does not know what the stages do.
"""

import functools
import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from clair_apo.errors import BusyError, RunError
from clair_apo.files import atomic_writer, first_fault

T = TypeVar("T")

MANIFEST = "manifest.json"
LOCK = ".lock"
DATASET = "dataset"
"""The folder of the data set, in the run folder."""
SPLITS = ("train", "test")
SUFFIXES = (".parquet", ".jsonl")
"""Of a split's file; where there are two files the first is loaded."""
PACKAGES = (
    "clair-apo",
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "peft",
    "trl",
    "openai",
)


class RunFolder:
    """A folder that holds one run: `prompts.jsonl`, ..., `pairs.jsonl`, `manifest.json`.

    The folder is made when the first file is written, not before.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def file(self, name: str) -> Path:
        """The path of a file in the folder."""
        return self.path / name

    def prepare(self) -> None:
        """Make the folder, and see that it can be written.

        Raises:
            RunError: the path is a file, or lies where nothing can be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()
        except OSError as error:
            raise RunError(
                f"{self.path}: no run folder can be written there ({error.strerror}); "
                "name another run_dir"
            ) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock while the block runs; a killed process loses it.

        Raises:
            BusyError: another process is at work in it.
        """
        lock = FileLock(self.file(LOCK), blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise BusyError(
                f"{self.path}: another process is at work in this run folder; wait for it, or name "
                "another run_dir"
            ) from None
        try:
            self._remove_parts()
            yield
        finally:
            lock.release()

    def _remove_parts(self) -> None:
        """Remove what a killed process left half written here and in the folders of this run."""
        for left_behind in (*self.path.glob(".*.part"), *self.path.glob("*/.*.part")):
            folder = left_behind.parent
            # a folder below with a lock is another run, such as a shard's
            if folder == self.path or not (folder / LOCK).exists():
                left_behind.unlink(missing_ok=True)

    def manifest(self) -> dict[str, Any]:
        """The manifest of the run; empty before the first stage ended.

        Raises:
            RunError: the manifest cannot be read.
        """
        path = self.file(MANIFEST)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read ({error}); use another run folder") from None
        if not isinstance(content, dict):
            raise RunError(f"{path}: is not a manifest; use another run folder")
        return content

    def changed_files(self) -> Iterator[str]:
        """The names of files of ended stages that are gone or changed since they were written.

        Stages of earlier versions, without digests in the manifest, are left out.
        """
        for stage in self.manifest().get("stages", {}).values():
            for name, digest in stage.get("digests", {}).items():
                path = self.file(name)
                if not path.is_file() or file_digest(path) != digest:
                    yield name

    def update_manifest(self, **entries: Any) -> None:
        """Add or replace top-level entries, and note the versions that wrote them."""
        content = self.manifest() | entries
        content |= {"packages": package_versions(), "git_revision": git_revision()}
        write_json(self.file(MANIFEST), content)

    def record_stage(self, stage: str, entry: dict[str, Any]) -> None:
        """Add or replace the entry of one stage."""
        stages = self.manifest().get("stages", {})
        self.update_manifest(stages=stages | {stage: entry})


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, whole or not at all."""
    with atomic_writer(path) as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_record_file(path: Path, kind: TypeAdapter[T], way_out: str) -> T | None:
    """Records that `write_json` wrote; None where there is no such file.

    Args:
        path: of the file.
        kind: of the records.
        way_out: what to do about a file that cannot be read.

    Raises:
        RunError: it cannot be read, or is of another version.
    """
    try:
        return kind.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise RunError(
            f"{path}: is damaged, or was written by another version of this program "
            f"({first_fault(error)}); {way_out}"
        ) from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error}); {way_out}") from None


def now() -> str:
    """The time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of the packages that shape a result, those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def git_revision() -> str | None:
    """The commit of the working directory; None outside a checkout or without git."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # in a repository without a commit git fails, and prints "HEAD" all the same
    return result.stdout.strip() if result.returncode == 0 else None


@dataclass(frozen=True)
class Shard:
    """One of several parts of data that machines share; disjoint, and together all of it.

    A row's id alone decides, so every machine draws the same parts, whatever the order of the data,
    and two equal rows are in one part, where one is dropped as the other's duplicate.
    """

    number: int
    """From 1."""
    count: int
    """How many parts there are."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `i/n`.

        Raises:
            ValueError: it is something else.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"expected i/n, from 1/n to n/n, such as 3/8; got {text!r}")
        return cls(int(match[1]), int(match[2]))

    @property
    def name(self) -> str:
        """For folders and files: `3-of-8`."""
        return f"{self.number}-of-{self.count}"

    def holds(self, row_id: str) -> bool:
        """Whether a row belongs to this part.

        Args:
            row_id: a digest in hex.
        """
        return shard_number(int(row_id, 16), self.count) == self.number


def shard_number(row_id: int, count: int) -> int:
    """The part, from 1, that a row with this id belongs to."""
    return row_id % count + 1


def is_held_out(prompt_id: str, fraction: float) -> bool:
    """Whether a prompt belongs to the held-out share of all possible prompts.

    The id's first 32 bits, read as a number from 0 to 1, lie below `fraction`. So the order and
    number of rows change nothing, recipes over the same prompts hold out the same ones, and a
    larger fraction holds out all that a smaller one does.

    Args:
        prompt_id: a digest in hex, as `records.prompt_id` makes it.
        fraction: from 0 (none) to 1 (all).
    """
    return int(prompt_id[:8], 16) / 2**32 < fraction
