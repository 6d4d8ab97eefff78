"""Reference log-probabilities on disk, found by the content of the pairs and of the reference.

    FOLDER/<reference>/reference.json        who the reference is
    FOLDER/<reference>/<sha256>.safetensors  answers to some pairs, under the digest of the file

`<reference>` is the digest of a `ReferenceIdentity`; inside, a pair has the digest of its token
ids for a key. Files appear whole and never change, so any number of processes may write at once,
on a network file system too. A file whose content is not what its name says is not used.

Knows nothing of models and trainers.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError

from clair_apo.errors import StoreError, WriteError
from clair_apo.files import advice_on_writing, atomic_writer
from clair_apo.models import cache_folder
from clair_apo.records import Record, digest
from clair_apo.run_folder import now

FORMAT = 2
"""Of what an entry is found by. Format 1 said nothing of all adapters, buffers and attributes that
enter the forward: its answers may be another model's, and are not used."""
IDENTITY_FILE = "reference.json"
_KEY_BYTES = hashlib.sha256().digest_size

logger = logging.getLogger(__name__)


class ReferenceIdentity(Record):
    """Whatever decides a reference's log-probabilities, besides the token ids."""

    weights: str
    """SHA-256 of the function that the model computes, as `model_function` reads it."""
    tokenizer: str
    """SHA-256 of vocabulary, rules and chat template."""
    dtype: str
    """Of the weights, and of the arithmetic where that differs: `float32, bf16 autocast`."""
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """The name of its folder: 32 hex digits."""
        return digest(self.model_dump())[:32]


class ReferenceFacts(Record):
    """The content of `reference.json`."""

    identity: ReferenceIdentity
    model: str
    """What the model was called when it was first asked. A name for people; nothing is found by
    it."""
    created: str


class PairTokenLogps(NamedTuple):
    """What a reference says of every scored token of a pair's two answers."""

    chosen: NDArray[np.floating]
    """(tokens of the chosen answer,)."""
    rejected: NDArray[np.floating]
    """(tokens of the rejected answer,)."""


class StoredReference(NamedTuple):
    """One reference in a cache, as `clair-apo reference info` shows it."""

    facts: ReferenceFacts
    folder: Path
    pairs: int
    tokens: int
    size: int
    """Bytes of its files."""
    faults: tuple[str, ...]
    """Files that are not used, each with the reason."""


class _Chunk(NamedTuple):
    """One file, read and found sound: P pairs."""

    keys: list[bytes]
    lengths: NDArray[np.int64]
    """(P, 2): tokens of both answers, the chosen one first."""
    values: NDArray[np.floating]
    """(sum of lengths,)."""

    def answers(self) -> Iterator[tuple[bytes, PairTokenLogps]]:
        """Each key with its answer, views of `values`."""
        sides = iter(np.split(self.values, self.lengths.reshape(-1).cumsum()[:-1]))
        for key in self.keys:
            yield key, PairTokenLogps(next(sides), next(sides))


class _UnsoundError(Exception):
    """A file whose content is not what it should be."""


def default_cache() -> Path:
    """`reference` in the user's cache folder, or in `$CLAIR_APO_CACHE`."""
    return cache_folder() / "reference"


def cache_path(chosen: Path | str | None) -> Path:
    """The folder of the cache: the one that was chosen, else the user's."""
    return Path(chosen).expanduser() if chosen else default_cache()


class ReferenceStore:
    """The part of a cache that belongs to one reference.

    Args:
        root: the cache's folder; made when the first answer is kept.
        identity: who is asked.
        model: what it is called, for `info`.
        keeps: False for a reference that no digest tells apart: nothing is found, nothing kept.

    Raises:
        StoreError: its folder holds another reference than its name says.
    """

    def __init__(
        self, root: Path, identity: ReferenceIdentity, model: str, *, keeps: bool = True
    ) -> None:
        self.folder = root / identity.digest
        self.keeps = keeps
        self._facts = ReferenceFacts(identity=identity, model=model, created=now())
        if (self.folder / IDENTITY_FILE).exists():
            read_facts(self.folder)

    def find(self, keys: Collection[bytes]) -> dict[bytes, PairTokenLogps]:
        """The answers that are there; damaged files are named in a warning and not used."""
        wanted = set(keys) if self.keeps else set()
        found: dict[bytes, PairTokenLogps] = {}
        for path in _chunk_paths(self.folder) if wanted else ():
            try:
                shard = _read_chunk(path)
            except _UnsoundError as fault:
                logger.warning(f"reference cache: {path} is not used ({fault}); delete it")
                continue
            # copies: the views of a few pairs would keep the whole file in memory
            found |= {
                k: PairTokenLogps(*map(np.copy, v)) for k, v in shard.answers() if k in wanted
            }
            if len(found) == len(wanted):
                break
        return found

    def earlier_format(self) -> str | None:
        """A warning where the cache holds this model in a format that is not used any more."""
        if (self.folder / IDENTITY_FILE).exists():
            return None
        stale = [
            folder.name[:12]
            for folder in sorted(self.folder.parent.glob("*"))
            if (facts := _readable_facts(folder))
            and facts.identity.format < FORMAT
            and facts.model == self._facts.model
        ]
        if not stale:
            return None
        return (
            f"reference cache: what was kept of {self._facts.model} in an earlier format "
            f"({', '.join(stale)}) may be of other adapters, buffers or attributes, so the "
            "reference is computed anew; these folders can be deleted"
        )

    def add(self, answers: Mapping[bytes, PairTokenLogps]) -> None:
        """Keep answers for good, in one new file.

        Raises:
            StoreError: the folder cannot be written.
        """
        if not answers or not self.keeps:
            return
        pairs = list(answers.values())
        content = safetensors.numpy.save(
            {
                "reference": np.frombuffer(bytes.fromhex(self.folder.name), np.uint8),
                "keys": np.frombuffer(b"".join(answers), np.uint8).reshape(-1, _KEY_BYTES),
                "lengths": np.array([[len(side) for side in pair] for pair in pairs], np.int64),
                "values": np.concatenate([side for pair in pairs for side in pair]),
            }
        )
        try:
            if not (self.folder / IDENTITY_FILE).exists():
                with atomic_writer(self.folder / IDENTITY_FILE) as file:
                    file.write(self._facts.model_dump_json(indent=2) + "\n")
            _write_whole(
                self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors", content
            )
        except OSError as error:
            raise StoreError(
                f"{self.folder}: the reference cache cannot be written ({error.strerror or error});"
                f" {advice_on_writing(error)} with reference_cache"
            ) from None
        except WriteError as error:
            raise StoreError(
                f"{self.folder}: the reference cache cannot be written ({error}); another folder "
                "is named with reference_cache"
            ) from None


def read_facts(folder: Path) -> ReferenceFacts:
    """Read `reference.json` of a folder.

    Raises:
        StoreError: the file is missing, damaged, or speaks of another reference.
    """
    path = folder / IDENTITY_FILE
    try:
        facts = ReferenceFacts.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        raise StoreError(
            f"{path}: cannot be read, so nobody knows whose log-probs lie beside it; delete the "
            "folder, or name another one with reference_cache"
        ) from None
    if facts.identity.digest != folder.name:
        raise StoreError(
            f"{path}: speaks of reference {facts.identity.digest}, the folder of {folder.name}; "
            "it is not used: delete the folder, or name another one with reference_cache"
        )
    return facts


def _readable_facts(folder: Path) -> ReferenceFacts | None:
    try:
        return read_facts(folder)
    except StoreError:
        return None


class MergedReference(NamedTuple):
    """What `merge_caches` took over."""

    files: int
    """That the target lacked."""
    faults: tuple[str, ...]
    """Files that were left where they are, each with the reason."""


def merge_caches(sources: Sequence[Path], target: Path) -> MergedReference:
    """Take the references of several caches over into one; what is there already stays.

    Two caches never contradict each other: a file is named after its content, a pair after its
    tokens, a reference after what it computes.

    Args:
        sources: folders of caches, as other machines have filled them.
        target: the folder of the cache that runs will read; made where there is none.

    Raises:
        StoreError: a source is no cache, or a folder of it is not what its name says; or the target
            cannot be written.
    """
    taken, faults = 0, list[str]()
    folders = [folder for source in sources for folder in _reference_folders(source)]
    for folder in folders:
        into = ReferenceStore(target, (facts := read_facts(folder)).identity, facts.model)
        for path in _chunk_paths(folder):
            try:
                answers = dict(_read_chunk(path).answers())
            except _UnsoundError as fault:
                faults.append(f"{path}: {fault}")
                continue
            if not (into.folder / path.name).exists():
                into.add(answers)
                taken += 1
    return MergedReference(taken, tuple(faults))


def stored_references(root: Path) -> list[StoredReference]:
    """Every reference in a cache, each file of it read and checked.

    Raises:
        StoreError: there is no cache, or a folder in it that is not what its name says.
    """
    return [_stored(folder) for folder in _reference_folders(root)]


def _reference_folders(root: Path) -> list[Path]:
    folders = sorted(path.parent for path in root.glob(f"*/{IDENTITY_FILE}"))
    if not folders:
        raise StoreError(
            f"{root}: there is no reference cache; clair-apo reference build makes one"
        )
    return folders


def _stored(folder: Path) -> StoredReference:
    lengths: dict[bytes, int] = {}
    faults = []
    paths = _chunk_paths(folder)
    for path in paths:
        try:
            shard = _read_chunk(path)
        except _UnsoundError as fault:
            faults.append(f"{path}: {fault}")
        else:
            lengths |= zip(shard.keys, shard.lengths.sum(1).tolist(), strict=True)
    return StoredReference(
        facts=read_facts(folder),
        folder=folder,
        pairs=len(lengths),
        tokens=sum(lengths.values()),
        size=sum(path.stat().st_size for path in paths),
        faults=tuple(faults),
    )


def _chunk_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _read_chunk(path: Path) -> _Chunk:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _UnsoundError(f"cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != path.stem:
        raise _UnsoundError("damaged: its content is not what its name says")
    try:
        arrays = safetensors.numpy.load(content)
        reference = arrays["reference"].tobytes().hex()
        shard = _Chunk(
            keys=[key.tobytes() for key in arrays["keys"]],
            lengths=arrays["lengths"].reshape(-1, 2),
            values=arrays["values"],
        )
    except (SafetensorError, KeyError, ValueError):
        raise _UnsoundError("no file of a reference cache") from None
    if reference != path.parent.name:
        raise _UnsoundError(f"it belongs to reference {reference}")
    return shard


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears under its name when it is on disk, or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
