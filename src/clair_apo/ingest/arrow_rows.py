"""Rows of Arrow tables: Parquet files and folders of `datasets`, converted value by value.

Only what somebody asks a row for is made a Python value, so a column of images or of dates past
the year 9999 stops nobody who does not read it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clair_apo.errors import DataError

if TYPE_CHECKING:
    from pyarrow import RecordBatch

Row = tuple[str, Mapping[str, Any]]
"""The place of a row, for errors, and its columns."""

_ROWS_AT_ONCE = 1000


class ArrowRow(Mapping[str, Any]):
    """One row of a table: the names of all its columns, and their values when they are asked for.

    Args:
        columns: those of the batch that holds the row.
        number: which row of the batch.
        where: file and row, for errors.
    """

    def __init__(self, columns: "_Columns", number: int, where: str) -> None:
        self._columns, self._number, self._where = columns, number, where
        self._values: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._columns.read:
            raise KeyError(name)
        if name not in self._values:
            self._values[name] = self._converted(name)
        return self._values[name]

    def _converted(self, name: str) -> Any:
        try:
            return self._columns.sound(name)[self._number].as_py()
        except Exception as error:  # of Arrow and of whatever makes a Python value of its types
            raise DataError(
                f"{self._where}: column {name!r} cannot be read ({_reason(error)}); mend the "
                "value, or remove the row"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns.names)

    def __len__(self) -> int:
        return len(self._columns.names)

    def __contains__(self, name: object) -> bool:
        return name in self._columns.names


class _Columns:
    """The columns of one batch, each looked over before its first value is read.

    Args:
        batch: what was read.
        names: of all columns, also of those that were not.
    """

    def __init__(self, batch: "RecordBatch", names: Sequence[str]) -> None:
        self.names = list(dict.fromkeys(names))
        self.read = set(batch.schema.names)
        self._batch = batch
        self._sound: dict[str, Any] = {}

    def sound(self, name: str) -> Any:
        """A column whose values lie within its memory: damaged ones may point anywhere.

        Raises:
            KeyError: several columns have the name.
            pyarrow.ArrowException: it is damaged.
        """
        if name not in self._sound:
            column = self._batch.column(name)
            try:
                column.validate(full=True)
            except Exception as error:
                if "UTF8" not in str(error):  # else the value that it is about says so itself
                    raise
            self._sound[name] = column
        return self._sound[name]


def parquet_rows(path: Path, wanted: Collection[str] | None = None) -> Iterator[Row]:
    """The rows of a Parquet file.

    Args:
        path: the file.
        wanted: the columns, in any case of letters, that are read from it; by default all.

    Raises:
        DataError: the file cannot be read.
    """
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            read = [name for name in names if wanted is None or name.lower() in wanted]
            batches = file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=read)
            yield from _numbered(batches, names, str(path))
    except DataError:
        raise
    except Exception as error:  # of Arrow, of its codecs, of the file system
        raise DataError(f"{path}: not a readable Parquet file ({_reason(error)})") from None


def dataset_rows(
    name: str, path: Path, split: str | Sequence[str], wanted: Collection[str] | None = None
) -> Iterator[Row]:
    """The rows of a folder saved by `datasets` or full of files, or of a data set on the hub.

    Args:
        name: of the folder or data set.
        path: the same as a path.
        split: of several splits this one; of a sequence the first that there is.
        wanted: the columns, in any case of letters, that are read; by default all.

    Raises:
        DataError: it cannot be read, or has no such split.
    """
    from datasets import DatasetDict, load_dataset, load_from_disk

    one, asked = (split, [split]) if isinstance(split, str) else (None, split)
    saved = any((path / file).exists() for file in ("state.json", "dataset_dict.json"))
    try:
        data = load_from_disk(str(path)) if saved else load_dataset(name, split=one)
    except Exception as error:  # errors of many libraries, all meaning the same to a user
        what = "not a folder that datasets can read" if path.is_dir() else "no such file or folder"
        raise DataError(f"{name}: {what} ({_reason(error)})") from None
    if isinstance(data, DatasetDict):
        found = next((name for name in asked if name in data), None)
        if found is None:
            choice = " or ".join(map(repr, asked))
            raise DataError(f"{name}: has no split {choice}, but {', '.join(data)}")
        data = data[found]
    try:
        yield from _numbered(_batches(data, wanted), data.column_names, name)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{name}: cannot be read ({_reason(error)})") from None


def _batches(data: Any, wanted: Collection[str] | None) -> Iterator["RecordBatch"]:
    read = [name for name in data.column_names if wanted is None or name.lower() in wanted]
    # as Arrow: nothing is decoded, whatever format the data set was saved with
    tables = data.select_columns(read).with_format("arrow").iter(_ROWS_AT_ONCE) if read else ()
    for table in tables:
        yield from table.combine_chunks().to_batches()
    if not read:
        yield _empty_rows(data.num_rows)


def _empty_rows(count: int) -> "RecordBatch":
    """A batch of rows of which nothing was read."""
    import pyarrow

    return pyarrow.record_batch([pyarrow.nulls(count)], names=[""])


def _numbered(batches: Iterator["RecordBatch"], names: Sequence[str], name: str) -> Iterator[Row]:
    first = 0
    for batch in batches:
        columns = _Columns(batch, names)
        for number in range(batch.num_rows):
            where = f"{name}: row {first + number}"
            yield where, ArrowRow(columns, number, where)
        first += batch.num_rows


def _reason(error: Exception) -> str:
    """The message of a library's error, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
