"""Reads rows of foreign data, and maps them to prompts, answers and questions of test sets.

Rows come from JSON, JSONL, Parquet, a folder of `datasets` or the hub. The column names of other
people's data are known here only.
"""

import itertools
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from clair_apo.errors import DataError
from clair_apo.files import read_json_rows
from clair_apo.ingest.arrow_rows import Row, dataset_rows, parquet_rows
from clair_apo.ingest.cells import conversation, is_missing, shown
from clair_apo.records import Conversation, DatasetAnswer, Prompt, prompt_id

# Column names of other projects' data, the best known first.
PROMPT_COLUMNS = ("messages", "prompt", "instruction", "question", "query", "task", "text", "input")
RESPONSE_COLUMNS = ("response", "output", "answer", "completion", "student_solution")
SEVERAL_RESPONSES_COLUMNS = ("responses", "completions", "answers", "outputs")
SIDES = ("chosen", "rejected")
SCORE_KEYS = ("score", "overall_score", "rating")
# Column names of questions in test sets.
QUESTION_COLUMNS = (
    *PROMPT_COLUMNS,
    *("problem", "question_stem", "goal", "ctx", "sentence", "turns", "conversation"),
    *("conversations",),
)
ASKING = ("user", "human", None)
"""Who asks in a conversation; None where turns have no role."""
CONTAINERS = ("data", "rows", "examples", "instances", "questions", "test")
"""The keys under which a JSON object holds the rows as a list."""


def read_rows(
    name: str, split: str | Sequence[str] = "train", wanted: Collection[str] | None = None
) -> Iterator[Row]:
    """Read the rows of a file, a folder or a hub data set, one at a time.

    A value of Parquet or Arrow is converted when a row is asked for it, and not before.

    Args:
        name: a JSON, JSONL or Parquet file, a folder saved by `datasets` or full of such files, or
            a data set's name on the hub (untested: no hub here).
        split: of a folder or hub data set that has several; of a sequence the first that it has.
        wanted: the columns, in lower case, that are read of Parquet and Arrow; by default all.

    Raises:
        DataError: nothing there, or something that cannot be read; names file and line. A value
            that cannot be read is named, with its column, when its row is asked for it.
    """
    path = Path(name).expanduser()
    if path.suffix == ".json" and path.is_file():
        yield from _json_rows(path)
    elif path.suffix in (".jsonl", ".json", ".ndjson") and not path.is_dir():
        yield from ((f"{path}:{number}", row) for number, row in read_json_rows(path))
    elif path.suffix == ".parquet" and path.is_file():
        yield from parquet_rows(path, wanted)
    elif path.is_file():
        raise DataError(f"{path}: expected a .json, .jsonl or .parquet file, or a folder")
    elif path.is_dir() or _may_be_a_hub_name(name):
        yield from dataset_rows(name, path, split, wanted)
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


def prompt_columns(column: str | None = None) -> set[str]:
    """The columns that `prompt_from_row` may read, in lower case.

    Args:
        column: the one that is to hold the prompt.
    """
    names = (*PROMPT_COLUMNS, *RESPONSE_COLUMNS, *SEVERAL_RESPONSES_COLUMNS, *SIDES)
    scores = ("score", *(f"score_{side}" for side in SIDES))
    return {*names, *scores, *([column.lower()] if column else ())}


def prompt_from_row(
    row: Mapping[str, Any], where: str, column: str | None = None, *, with_given: bool = True
) -> Prompt:
    """Map a foreign row to a `Prompt`.

    A conversation that ends with an assistant's turn brings that turn as the given answer. An
    `instruction` with an `input` is one prompt, as in Alpaca's data: the input follows below it.
    Several answers, with scores where the data has them, come as a list (`completions`, as in
    UltraFeedback) or as `chosen` and `rejected` (with `score_chosen` and `score_rejected`). Where
    answers are whole conversations, as in UltraFeedback's binarized form, the last turn is the
    answer and those before it are what it replies to: they must agree with the prompt, and are the
    prompt where no column holds one. Null and NaN are no values.

    Args:
        row: the row as it was read.
        where: file and line, for errors and for `Prompt.source`.
        column: the column that holds the prompt; by default the first of `PROMPT_COLUMNS`.
        with_given: whether the answers that the row brings are wanted.

    Raises:
        DataError: missing column, empty prompt, a conversation that is none, or answers to another
            prompt; names the column and the value.
    """
    name = _prompt_column(row, column)
    try:
        answers = _given_answers(row, where, name)
    except DataError:
        if with_given:
            raise
        answers = _Answers()
    if name is None and not answers.replies_to:
        raise _missing(row, where, column)
    messages = answers.replies_to
    if name is not None:
        messages = conversation(_with_input(row, name), where, name)
        if messages[-1].role == "assistant":
            last = DatasetAnswer(text=messages[-1].content)
            answers = answers if answers.several else answers._replace(given=(last,))
            messages = messages[:-1]
        messages = _in_context(messages, answers, where, name)
    place = name or SIDES[0]
    if not messages or messages[-1].role != "user":
        raise DataError(f"{where}: {place!r} must end with the user's turn")
    if not messages[-1].content.strip():
        raise DataError(f"{where}: {place!r} is an empty prompt; remove the row or fill it in")
    given = answers.given if with_given else ()
    return Prompt(id=prompt_id(messages), messages=messages, source=where, given=given)


class _Answers(NamedTuple):
    """The answers in a row, and what they reply to."""

    given: tuple[DatasetAnswer, ...] = ()
    column: str = ""
    """The first column that holds them."""
    several: bool = False
    """Whether they are alternatives to choose among."""
    replies_to: Conversation = ()
    """The turns before them, where they are whole conversations."""


def _prompt_column(row: Mapping[str, Any], column: str | None) -> str | None:
    names = (column,) if column else PROMPT_COLUMNS
    name = next((c for c in names if not is_missing(row.get(c))), None)
    # what an instruction is about is no prompt without it
    return None if name == "input" and column is None and "instruction" in row else name


def _missing(row: Mapping[str, Any], where: str, column: str | None) -> DataError:
    names = (column,) if column else PROMPT_COLUMNS
    name = next((c for c in names if c in row), None)
    if name is not None:
        return DataError(
            f"{where}: column {name!r} is {shown(row.get(name))}; remove the row or fill it in"
        )
    wanted = f"column {column!r}" if column else f"one of the columns {', '.join(PROMPT_COLUMNS)}"
    return DataError(f"{where}: expected {wanted}, found {', '.join(row) or 'none'}")


def _with_input(row: Mapping[str, Any], name: str) -> Any:
    value = row[name]
    if name != "instruction" or not isinstance(value, str):
        return value
    more = row.get("input")
    return f"{value}\n\n{more}" if isinstance(more, str) and more.strip() else value


def _in_context(messages: Conversation, answers: _Answers, where: str, column: str) -> Conversation:
    """The prompt with the turns that the answers reply to, where they know more of them."""
    context = answers.replies_to
    if not context:
        return messages
    asked, told = _comparable(messages), _comparable(context)
    if asked[-len(told) :] == told:
        return messages
    begins = told[1:] if told[0][0] == "system" != asked[0][0] else told
    if told[-len(asked) :] == asked or begins[: len(asked)] == asked:
        return context  # with a system turn, or with turns before or after the one in `column`
    raise DataError(
        f"{where}: {answers.column!r} replies to another prompt than {column!r} holds; name the "
        "column of the prompt with prompts.column, or mend the row"
    )


def _comparable(turns: Conversation) -> tuple[tuple[str, str], ...]:
    """Turns as far as they tell one conversation from another: blanks around a text do not."""
    return tuple((turn.role, turn.content.strip()) for turn in turns)


def _given_answers(row: Mapping[str, Any], where: str, prompt_column: str | None) -> _Answers:
    def has(name: str) -> bool:
        return name != prompt_column and name in row and not is_missing(row.get(name))

    several = next((c for c in SEVERAL_RESPONSES_COLUMNS if has(c)), None)
    if several and isinstance(row[several], list | tuple):
        listed = (_listed_answer(value, where, several) for value in row[several])
        return _together(
            [answer for answer in listed if answer], where, [several] * len(row[several])
        )
    sides = [side for side in SIDES if has(side)]
    if len(sides) == 2 or prompt_column is None:
        found = [_answer(row[side], row.get(f"score_{side}"), where, side) for side in sides]
        answers = _together(found, where, sides)
        return answers if len(sides) == 2 else answers._replace(given=())
    name = next((c for c in RESPONSE_COLUMNS if has(c)), None)
    if name is None:
        return _Answers()
    one = _answer(row[name], row.get("score"), where, name)
    return _together([one], where, [name])._replace(several=False)


class _Answer(NamedTuple):
    given: DatasetAnswer
    replies_to: Conversation


def _together(found: Sequence[_Answer], where: str, columns: Sequence[str]) -> _Answers:
    contexts = {_comparable(answer.replies_to) for answer in found if answer.replies_to}
    if len(contexts) > 1:
        names = " and ".join(map(repr, dict.fromkeys(columns)))
        raise DataError(f"{where}: the answers in {names} reply to different conversations")
    return _Answers(
        given=tuple(answer.given for answer in found),
        column=columns[0] if columns else "",
        several=True,
        replies_to=next((answer.replies_to for answer in found if answer.replies_to), ()),
    )


def _listed_answer(value: Any, where: str, column: str) -> _Answer | None:
    """One of several answers; None where it is missing."""
    if is_missing(value):
        return None
    if not isinstance(value, Mapping):
        return _answer(value, None, where, column)
    keys = [key for key in (*RESPONSE_COLUMNS, "text", "content") if key in value]
    text = next((value[key] for key in keys if not is_missing(value[key])), None)
    if text is None and keys:
        return None
    score = next((value[key] for key in SCORE_KEYS if not is_missing(value.get(key))), None)
    answer = _answer(text, score, where, column)
    model = value.get("model")
    known = model if isinstance(model, str) and _is_writable(model) else None
    return answer._replace(given=answer.given.model_copy(update={"model": known}))


def _answer(value: Any, score: Any, where: str, column: str) -> _Answer:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = _digits(value)  # the answers of arithmetic data
    turns = conversation(value, where, column, role="assistant")
    if turns[-1].role != "assistant":
        raise DataError(f"{where}: {column!r} must end with the assistant's turn")
    return _Answer(DatasetAnswer(text=turns[-1].content, score=_number(score)), turns[:-1])


def _digits(value: float) -> Any:
    """A number as text; infinity as it is, which is no text."""
    try:
        return str(value) if isinstance(value, int) or math.isfinite(value) else value
    except ValueError:  # thousands of digits, which Python does not write
        return value


def _is_writable(text: str) -> bool:
    return text.encode(errors="replace").decode() == text


def _number(value: Any) -> float | None:
    try:  # UltraFeedback writes some of its scores as text, "N/A" among them
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def questions_from_row(row: Mapping[str, Any]) -> Iterator[str]:
    """All that a test set's row asks: every text and every user's turn in `QUESTION_COLUMNS`.

    Capitals in column names do not matter. A conversation's other turns are left out, as are
    columns of passages, options and answers: they are not what the test asks.
    """
    for column in row:
        if column.lower() in QUESTION_COLUMNS:
            yield from _asked(row[column])


def _asked(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.encode(errors="replace").decode()  # JSON can spell halves of characters
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _asked(part)
    elif isinstance(value, Mapping) and (value.get("role") or value.get("from")) in ASKING:
        yield from _asked(value.get("content") or value.get("value"))
