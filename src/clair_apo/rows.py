"""Foreign rows, from wherever they lie: JSONL, Parquet, a folder of `datasets`, the hub.

Knows where rows are, not what is in them; `records` and the rooms map their columns.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clair_apo.errors import DataError
from clair_apo.records import read_json_rows

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands, for errors, and its columns."""


def read_rows(name: str, split: str = "train") -> Iterator[Row]:
    """Read the rows of a file, a folder or a hub data set, one at a time.

    Args:
        name: a JSONL or Parquet file, a folder saved by `datasets` or full of such files, or a
            data set's name on the hub (untested: no hub here).
        split: of a folder or hub data set that has several.

    Raises:
        DataError: nothing there, or something that cannot be read; names file and line.
    """
    path = Path(name).expanduser()
    if path.suffix in (".jsonl", ".json", ".ndjson") and not path.is_dir():
        yield from ((f"{path}:{number}", row) for number, row in read_json_rows(path))
    elif path.suffix == ".parquet" and path.is_file():
        yield from _parquet_rows(path)
    elif path.is_file():
        raise DataError(f"{path}: expected a .jsonl or .parquet file, or a folder")
    elif path.is_dir() or _may_be_a_hub_name(name):
        yield from _dataset_rows(name, path, split)
    else:
        raise DataError(f"{name}: there is no such file or folder")


def _may_be_a_hub_name(name: str) -> bool:
    return not name.startswith((".", "/", "~")) and name.count("/") <= 1


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows))
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from None


def _dataset_rows(name: str, path: Path, split: str) -> Iterator[Row]:
    from datasets import DatasetDict, load_dataset, load_from_disk

    saved = any((path / file).exists() for file in ("state.json", "dataset_dict.json"))
    try:
        data = load_from_disk(str(path)) if saved else load_dataset(name, split=split)
    except Exception as error:  # errors of many libraries, all meaning the same to a user
        what = "not a folder that datasets can read" if path.is_dir() else "no such file or folder"
        raise DataError(f"{name}: {what} ({' '.join(str(error).split())[:200]})") from None
    if isinstance(data, DatasetDict):
        if split not in data:
            raise DataError(f"{name}: has no split {split!r}, but {', '.join(data)}")
        data = data[split]
    yield from ((f"{name}: row {number}", row) for number, row in enumerate(data))
