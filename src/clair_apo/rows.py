"""Foreign rows, from wherever they lie: JSONL, Parquet, a folder of `datasets`, the hub.

The only place where the column names of other people's data are known.
"""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clair_apo.errors import DataError
from clair_apo.files import first_fault, read_json_rows
from clair_apo.records import Conversation, GivenAnswer, Message, Prompt, prompt_id

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


def split_names(name: str) -> tuple[str, ...]:
    """The splits of a folder or hub data set; none for a file, and for what cannot be read."""
    path = Path(name).expanduser()
    if path.is_file() or not (path.is_dir() or _may_be_a_hub_name(name)):
        return ()
    from datasets import get_dataset_split_names

    try:
        if (path / "dataset_dict.json").exists():  # saved by `datasets`
            return tuple(json.loads((path / "dataset_dict.json").read_text())["splits"])
        return tuple(get_dataset_split_names(str(path) if path.is_dir() else name))
    except Exception:  # errors of many libraries; reading the rows says what is wrong
        return ()


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


# The names under which other projects' data brings the same things, best known first.
PROMPT_COLUMNS = ("messages", "prompt", "instruction", "question", "query", "task", "text", "input")
RESPONSE_COLUMNS = ("response", "output", "answer", "completion", "student_solution")
SEVERAL_RESPONSES_COLUMNS = ("responses", "completions", "answers", "outputs")
SCORE_KEYS = ("score", "overall_score", "rating")


def prompt_from_row(row: Mapping[str, Any], where: str, column: str | None = None) -> Prompt:
    """Map a foreign row to a `Prompt`.

    A conversation that ends with an assistant's turn brings that turn as the given answer. An
    `instruction` with an `input` is one prompt, as in Alpaca's data: the input follows below it.
    Several answers, with scores where the data has them, come as a list (`completions`, as in
    UltraFeedback) or as `chosen` and `rejected` (with `score_chosen` and `score_rejected`).

    Args:
        row: the row as it was read.
        where: file and line, for errors and for `Prompt.source`.
        column: the column that holds the prompt; by default the first of `PROMPT_COLUMNS`.

    Raises:
        DataError: missing column, empty prompt, or a conversation that is none.
    """
    name = column or next((c for c in PROMPT_COLUMNS if row.get(c) is not None), None)
    if name is None or row.get(name) is None:
        wanted = (
            f"column {column!r}" if column else f"one of the columns {', '.join(PROMPT_COLUMNS)}"
        )
        raise DataError(f"{where}: expected {wanted}, found {', '.join(row) or 'none'}")
    messages = conversation(_with_input(row, name), where, name)
    given = _given_answers(row, where, name)
    if messages[-1].role == "assistant":
        given = (GivenAnswer(text=messages[-1].content),)
        messages = messages[:-1]
    if not messages or messages[-1].role != "user":
        raise DataError(f"{where}: {name!r} must end with the user's turn")
    if not messages[-1].content.strip():
        raise DataError(f"{where}: {name!r} is an empty prompt; remove the row or fill it in")
    return Prompt(id=prompt_id(messages), messages=messages, source=where, given=given)


def _with_input(row: Mapping[str, Any], name: str) -> Any:
    value, more = row[name], row.get("input")
    alpaca = name == "instruction" and isinstance(value, str) and isinstance(more, str)
    return f"{value}\n\n{more}" if alpaca and str(more).strip() else value


def _given_answers(
    row: Mapping[str, Any], where: str, prompt_column: str
) -> tuple[GivenAnswer, ...]:
    columns = [c for c, value in row.items() if value is not None and c != prompt_column]
    several = next((c for c in SEVERAL_RESPONSES_COLUMNS if c in columns), None)
    if several and isinstance(row[several], list | tuple):
        return tuple(_listed_answer(value, where, several) for value in row[several])
    if "chosen" in columns and "rejected" in columns:
        return tuple(
            _answer(row[side], row.get(f"score_{side}"), where, side)
            for side in ("chosen", "rejected")
        )
    name = next((c for c in RESPONSE_COLUMNS if c in columns), None)
    return (_answer(row[name], row.get("score"), where, name),) if name else ()


def _listed_answer(value: Any, where: str, column: str) -> GivenAnswer:
    if not isinstance(value, Mapping):
        return _answer(value, None, where, column)
    text = next((value[k] for k in (*RESPONSE_COLUMNS, "text", "content") if k in value), None)
    score = next((value[k] for k in SCORE_KEYS if value.get(k) is not None), None)
    answer = _answer(text, score, where, column)
    return answer.model_copy(update={"model": value.get("model")})


def _answer(value: Any, score: Any, where: str, column: str) -> GivenAnswer:
    if isinstance(value, int | float):  # the answers of arithmetic data
        value = str(value)
    text = conversation(value, where, column, role="assistant")[-1].content
    return GivenAnswer(text=text, score=_number(score))


def _number(value: Any) -> float | None:
    try:  # UltraFeedback writes some of its scores as text, "N/A" among them
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def conversation(value: Any, where: str, column: str, role: str = "user") -> Conversation:
    """A foreign prompt or answer as messages: plain text becomes one turn of `role`.

    Raises:
        DataError: `value` is neither text nor a list of messages.
    """
    turns = [{"role": role, "content": value}] if isinstance(value, str) else value
    if not isinstance(turns, list | tuple) or not turns:
        raise DataError(f"{where}: {column!r} must be text or a list of messages")
    try:
        return tuple(Message.model_validate(_without_nones(turn)) for turn in turns)
    except ValidationError as error:
        raise DataError(
            f"{where}: {column!r} must be text or messages with role and content "
            f"({first_fault(error)})"
        ) from None


def _without_nones(turn: Any) -> Any:
    # Arrow gives every turn of a column the keys of all the others, filled with None
    return {k: v for k, v in turn.items() if v is not None} if isinstance(turn, dict) else turn


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
