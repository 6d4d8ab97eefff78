"""Writes the data set of a run: its splits as JSONL, as Parquet, and on the hub.

Pushing is tested against a local server that speaks the hub's API; a real push was never made.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from clair_apo.errors import RunError
from clair_apo.files import Columns, ColumnType, ListOf, atomic_writer, columns_of, read_jsonl
from clair_apo.records import PreferencePair, Record
from clair_apo.run_folder import DATASET, SPLITS, SUFFIXES, is_held_out

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ROWS_AT_ONCE = 1_000
"""Rows of one Parquet row group: what is held in memory."""
MESSAGE = "Preference pairs made by clair-apo"
"""Of the commit on the hub."""


class SplitCounts(Record):
    """How many pairs each split holds."""

    train: int
    test: int


def write_splits(pairs: Path, folder: Path, test_size: float) -> SplitCounts:
    """Split `pairs.jsonl` into `train.jsonl` and `test.jsonl`, rows unchanged and in their order.

    A split without a pair has no file: an empty one cannot be loaded.

    Args:
        pairs: the file of pairs; read once, one row at a time.
        folder: made if need be; older splits in it are replaced.
        test_size: share of all possible prompts that goes to the test split, from 0 to below 1.

    Raises:
        DataError: `pairs` has a line that is no pair.
    """
    counts = dict.fromkeys(SPLITS, 0)
    files = {split: folder / f"{split}.jsonl" for split in counts}
    with ExitStack() as stack:
        out = {split: stack.enter_context(atomic_writer(file)) for split, file in files.items()}
        for pair in read_jsonl(pairs, PreferencePair):
            split = "test" if is_held_out(pair.id, test_size) else "train"
            out[split].write(pair.model_dump_json() + "\n")
            counts[split] += 1
    for split, count in counts.items():
        if not count:
            files[split].unlink()
    return SplitCounts(**counts)


def write_parquet_splits(folder: Path, wanted: bool) -> None:
    """Write each split of a data set's folder as Parquet too; else remove what a run left before.

    Whoever loads the folder takes the Parquet file of a split that has one.
    """
    for split in SPLITS:
        jsonl = folder / f"{split}.jsonl"
        jsonl.with_suffix(".parquet").unlink(missing_ok=True)
        if wanted and jsonl.exists():
            write_parquet(jsonl)


def write_parquet(jsonl: Path, kind: type[Record] = PreferencePair) -> Path:
    """Write the records of a JSONL file as Parquet beside it, whole or not at all.

    The columns are the record's fields, nested ones as structs and lists: `prompt`, `chosen` and
    `rejected` are read back by `datasets` as the conversations that TRL takes.

    Args:
        jsonl: the file to read, a row at a time.
        kind: what its rows are.

    Returns:
        The file written: the same name, with the suffix `.parquet`.

    Raises:
        DataError: a row is no such record.
    """
    from pyarrow import RecordBatch, parquet

    path = jsonl.with_suffix(".parquet")
    part = path.with_name(f".{path.name}.part")
    schema = arrow_schema(kind)
    try:
        with parquet.ParquetWriter(part, schema) as writer:
            for rows in _batches(read_jsonl(jsonl, kind)):
                writer.write_batch(RecordBatch.from_pylist(rows, schema=schema))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _batches(records: Iterator[Record]) -> Iterator[list[dict[str, Any]]]:
    while rows := [record.model_dump(mode="json") for record in islice(records, ROWS_AT_ONCE)]:
        yield rows


def arrow_schema(kind: type[BaseModel]) -> Any:
    """The Arrow schema of a record: decided by its fields, not by the rows at hand."""
    import pyarrow

    return pyarrow.schema(_arrow_type(columns_of(kind)))


def _arrow_type(column: ColumnType) -> Any:
    import pyarrow

    if isinstance(column, ListOf):
        return pyarrow.list_(_arrow_type(column.item))
    if isinstance(column, Columns):
        return pyarrow.struct([(name, _arrow_type(field)) for name, field in column.fields])
    return getattr(pyarrow, "bool_" if column == "bool" else column)()


def check_push() -> None:
    """Find out what can be known of a push before a run begins.

    Raises:
        RunError: nobody is logged in, or the hub may not be spoken to.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise RunError("--push_to_hub: HF_HUB_OFFLINE forbids to speak to the hub; unset it")
    if not get_token():
        raise RunError("--push_to_hub: nobody is logged in; run `hf auth login` or set HF_TOKEN")


def push_dataset(run: Path, name: str) -> str:
    """Push a run's data set with its card, into a private data set if there is none yet.

    Raises:
        RunError: the run holds no data set with its card, or it could not be pushed.
    """
    return push_to_hub(_dataset_files(run), name)


def _dataset_files(run: Path) -> dict[str, Path]:
    """Its card and a file a split, by their paths on the hub."""
    folder = run / DATASET
    files = {}
    for split in SPLITS:
        both = (folder / f"{split}{suffix}" for suffix in SUFFIXES)
        if file := next((file for file in both if file.exists()), None):
            files[file.name] = file
    card = folder / "README.md"
    if not files or not card.exists():
        raise RunError(f"{run}: holds no data set with its card; run generate, then report")
    return {card.name: card, **files}


def push_to_hub(
    files: Mapping[str, Path], name: str, *, private: bool = True, api: "HfApi | None" = None
) -> str:
    """Put files into a data set on the hub, in one commit; the data set is made if need be.

    Args:
        files: paths in the data set, such as `data/train.parquet`, and the files to put there.
        name: the data set, `user/name` or `name`.
        private: whether only its owner sees a data set that is made now.
        api: a client of one's own; by default that of the environment (`HF_TOKEN`, `HF_ENDPOINT`).

    Returns:
        The address of the commit.

    Raises:
        RunError: it could not be pushed; the files are as they were.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = api or HfApi()
    additions = [CommitOperationAdd(there, here) for there, here in files.items()]
    try:
        repo = api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        commit = api.create_commit(
            repo.repo_id, additions, commit_message=MESSAGE, repo_type="dataset"
        )
    except Exception as error:  # no network, no token, no permission: errors of many libraries
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"{name}: could not be pushed to the hub ({reason}); the run is complete on this disk: "
            "log in with `hf auth login`, see the name and the network, and push again"
        ) from None
    return str(commit.commit_url)
