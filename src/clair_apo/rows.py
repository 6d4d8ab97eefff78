"""Foreign rows, from wherever they lie: JSONL, Parquet, a folder of `datasets`, the hub.

Knows where rows are, not what is in them; `records` and the rooms map their columns.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from clair_apo.errors import DataError
from clair_apo.records import PROMPT_COLUMNS, read_json_rows

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands, for errors, and its columns."""


def read_rows(name: str, split: str | Sequence[str] = "train") -> Iterator[Row]:
    """Read the rows of a file, a folder or a hub data set, one at a time.

    Args:
        name: a JSON, JSONL or Parquet file, a folder saved by `datasets` or full of such files, or
            a data set's name on the hub (untested: no hub here).
        split: of a folder or hub data set that has several; of a sequence the first that it has.

    Raises:
        DataError: nothing there, or something that cannot be read; names file and line.
    """
    path = Path(name).expanduser()
    if path.suffix == ".json" and path.is_file():
        yield from _json_rows(path)
    elif path.suffix in (".jsonl", ".json", ".ndjson") and not path.is_dir():
        yield from ((f"{path}:{number}", row) for number, row in read_json_rows(path))
    elif path.suffix == ".parquet" and path.is_file():
        yield from _parquet_rows(path)
    elif path.is_file():
        raise DataError(f"{path}: expected a .json, .jsonl or .parquet file, or a folder")
    elif path.is_dir() or _may_be_a_hub_name(name):
        yield from _dataset_rows(name, path, split)
    else:
        raise DataError(f"{name}: there is no such file or folder")


def _may_be_a_hub_name(name: str) -> bool:
    return not name.startswith((".", "/", "~")) and name.count("/") <= 1


def _json_rows(path: Path) -> Iterator[Row]:
    """Rows as one list, as an object of objects, as the list in an object, or one on a line."""
    rows = _rows_in(_json_value(path))
    if rows is None:
        yield from ((f"{path}:{number}", row) for number, row in read_json_rows(path))
    else:
        yield from ((f"{path}: row {name}", row) for name, row in rows)


def _json_value(path: Path) -> Any:
    """What the whole file says; None for a file of several lines that each say something."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            first, *more = itertools.islice((line for line in file if line.strip()), 2)
        with suppress(ValueError):
            return None if json.loads(first) and more else json.loads(first)
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):  # read_json_rows says what is wrong, and where
        return None


def _rows_in(value: Any) -> Iterable[tuple[Any, Mapping[str, Any]]] | None:
    if not isinstance(value, dict):
        return enumerate(value) if _are_rows(value) else None
    if all(isinstance(row, dict) for row in value.values()):
        return value.items() if value and not set(QUESTION_COLUMNS) & value.keys() else None
    return next((enumerate(value[k]) for k in CONTAINERS if _are_rows(value.get(k))), None)


def _are_rows(value: Any) -> bool:
    """Whether this is a list of objects that are no turns of a conversation."""
    return isinstance(value, list) and all(
        isinstance(row, dict) and not {"role", "from"} & row.keys() for row in value
    )


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows))
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from None


def _dataset_rows(name: str, path: Path, split: str | Sequence[str]) -> Iterator[Row]:
    from datasets import DatasetDict, load_dataset, load_from_disk

    one, wanted = (split, [split]) if isinstance(split, str) else (None, split)
    saved = any((path / file).exists() for file in ("state.json", "dataset_dict.json"))
    try:
        data = load_from_disk(str(path)) if saved else load_dataset(name, split=one)
    except Exception as error:  # errors of many libraries, all meaning the same to a user
        what = "not a folder that datasets can read" if path.is_dir() else "no such file or folder"
        raise DataError(f"{name}: {what} ({' '.join(str(error).split())[:200]})") from None
    if isinstance(data, DatasetDict):
        found = next((name for name in wanted if name in data), None)
        if found is None:
            asked = " or ".join(map(repr, wanted))
            raise DataError(f"{name}: has no split {asked}, but {', '.join(data)}")
        data = data[found]
    yield from ((f"{name}: row {number}", row) for number, row in enumerate(data))


# The names under which test sets bring what is asked, beside those of prompts.
QUESTION_COLUMNS = (
    *PROMPT_COLUMNS,
    *("problem", "question_stem", "goal", "ctx", "sentence", "turns", "conversation"),
    *("conversations",),
)
ASKING = ("user", "human", None)
"""Who asks in a conversation; None where turns have no role."""
CONTAINERS = ("data", "rows", "examples", "instances", "questions", "test")
"""The keys under which a JSON object holds the rows as a list."""


def questions_from_row(row: Mapping[str, Any]) -> Iterator[str]:
    """All that a test set's row asks: every text and every user's turn in `QUESTION_COLUMNS`.

    Capitals in column names do not matter. A conversation's other turns are left out, as are
    columns of passages, options and answers: they are not what the test asks.
    """
    for column, value in row.items():
        if column.lower() in QUESTION_COLUMNS:
            yield from _asked(value)


def _asked(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _asked(part)
    elif isinstance(value, Mapping) and (value.get("role") or value.get("from")) in ASKING:
        yield from _asked(value.get("content") or value.get("value"))
