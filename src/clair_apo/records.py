"""The vocabulary: what a prompt, a response, a revision, a preference pair and a dropped row are.

Every record is frozen and typed, is one JSON line in a file, and comes back from it unchanged.
Knows nothing of models or training.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from clair_apo.errors import DataError

FinishReason = Literal["stop", "length", "content_filter", "given", "other"]
RevisionFormat = Literal["full", "edits"]


def _writable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair (\\ud800 to \\udfff) is no character") from None
    return text


Text = Annotated[str, AfterValidator(_writable)]
"""Text from outside: JSON can spell what no UTF-8 file can hold, and that is refused."""


class Record(BaseModel):
    """The base of every record: frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


Conversation = tuple[Message, ...]


class Prompt(Record):
    """What the target model is asked: a conversation that ends with the user's turn."""

    id: str
    """First 16 hex digits of the SHA-256 of the messages: the same prompt has the same id."""
    messages: Conversation
    source: str
    """File and line, or data set and row, that it came from."""
    response: Text | None = None
    """The answer to be revised, where the data brings it; None where the target model answers."""


class Response(Record):
    """The target model's own answer to a prompt."""

    prompt_id: str
    text: str
    model: str
    finish_reason: FinishReason
    prompt_tokens: int = 0
    completion_tokens: int = 0
    request_key: str | None = None
    """Key in the request store; None where the data brought the answer."""


class Revision(Record):
    """A reviser's minimal revision of a response."""

    prompt_id: str
    text: str
    rationale: str
    format: RevisionFormat
    model: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    request_key: str


class Contrast(Record):
    """How far apart the two answers of a pair are."""

    jaccard: float
    """Shared tokens over all tokens, as sets: 1.0 where both use the same words."""
    levenshtein: int
    """Single-character edits that lead from rejected to chosen."""
    rejected_characters: int
    chosen_characters: int


class Provenance(Record):
    """Where a pair is from, so that it can be made again."""

    source: str
    target_model: str
    reviser_model: str
    format: RevisionFormat
    template_digest: str
    response_key: str | None
    revision_key: str


class PreferencePair(Record):
    """Two answers to one prompt, the better one named; the row of `pairs.jsonl`."""

    id: str
    """The prompt's id."""
    recipe: str
    prompt: Conversation
    chosen: Conversation
    rejected: Conversation
    rationale: str
    contrast: Contrast
    provenance: Provenance

    def to_trl_row(self) -> dict[str, list[dict[str, str]]]:
        """The conversational preference row that TRL's trainers take."""
        sides = {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}
        return {name: [m.model_dump() for m in turns] for name, turns in sides.items()}


class Stage(StrEnum):
    """The stages in which a prompt can be lost."""

    LOAD = "load"
    RESPOND = "respond"
    JUDGE = "judge"
    REVISE = "revise"
    PAIR = "pair"
    VERIFY = "verify"


class DropReason(StrEnum):
    """Why a prompt became no pair; a closed list."""

    DUPLICATE = "duplicate"
    """The same prompt stood in the data before."""
    CONTAMINATED = "contaminated"
    """The prompt shares an n-gram with a test set."""
    EMPTY = "empty"
    """The answer or the revision has no text."""
    CUT = "cut"
    """The answer or the revision ran into its token limit, or a filter broke it off."""
    REFUSED = "refused"
    """The reviser declined."""
    UNPARSED = "unparsed"
    """The reviser's reply does not have the asked form."""
    EDIT_NOT_FOUND = "edit_not_found"
    """An edit names text that stands in the answer not at all, or more than once."""
    NO_OP = "no_op"
    """The two sides are equal."""
    OVER_EDITED = "over_edited"
    """More of the answer was edited than `gate.max_edit_ratio` allows."""
    LENGTH_RATIO = "length_ratio"
    """One side is longer or shorter than `gate.length_ratio` allows."""
    LANGUAGE_CHANGED = "language_changed"
    """The two sides are in different languages."""
    MENTIONS_REVISION = "mentions_revision"
    """The revision speaks of being one."""
    IDENTICAL_AFTER_TRUNCATION = "identical_after_truncation"
    """The two sides are the same tokens, or none, within the training length."""
    JUDGE_REJECTED = "judge_rejected"
    """A judge found no winner, or not the expected one."""
    REQUEST_FAILED = "request_failed"
    """The server rejected this one request for good."""


class Dropped(Record):
    """A prompt that became no pair, and why; the row of `dropped.jsonl`."""

    id: str
    stage: Stage
    reason: DropReason
    detail: str
    """One sentence for a person."""
    raw: str
    """The text that was judged, unchanged."""


R = TypeVar("R", bound=Record)


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces. Digests are made of it."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def prompt_id(messages: Sequence[Message]) -> str:
    """The id of a prompt: a digest of its messages and nothing else."""
    return digest([m.model_dump() for m in messages])[:16]


def read_jsonl(path: Path, kind: type[R]) -> Iterator[R]:
    """Read records of one kind from a JSONL file, one at a time.

    Raises:
        DataError: names file, line and what was expected.
    """
    for number, line in _numbered_lines(path):
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            raise DataError(
                f"{path}:{number}: not a {kind.__name__}: {first_fault(error)}"
            ) from None


def read_json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read foreign JSONL as (line number, object).

    Raises:
        DataError: names file and line where a line is not a JSON object in UTF-8.
    """
    for number, line in _numbered_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", str(error))
            raise DataError(f"{path}:{number}: not JSON ({reason})") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        yield number, row


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    # Windows editors begin a UTF-8 file with a byte order mark
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}:{number}: not UTF-8 text") from None


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[str]]:
    """A text file that appears under its name whole, when the block ends, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_jsonl(path: Path, records: Iterable[Record]) -> int:
    """Write records as JSONL, whole or not at all; returns how many."""
    count = 0
    with atomic_writer(path) as file:
        for record in records:
            file.write(record.model_dump_json() + "\n")
            count += 1
    return count


def first_fault(error: ValidationError) -> str:
    """The first fault of a pydantic error as `key: what is wrong`."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"]) or "the line"
    return f"{where}: {fault['msg']}"


# The names under which other projects' data brings the same things, best known first.
PROMPT_COLUMNS = ("messages", "prompt", "instruction", "question", "query", "task", "text", "input")
RESPONSE_COLUMNS = ("response", "output", "answer", "completion", "student_solution")


def prompt_from_row(row: Mapping[str, Any], where: str, column: str | None = None) -> Prompt:
    """Map a foreign row to a `Prompt`; the only place where prompt column names are known.

    A conversation that ends with an assistant's turn brings that turn as the given response. An
    `instruction` with an `input` is one prompt, as in Alpaca's data: the input follows below it.

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
    response = _given_response(row, where, name)
    if messages[-1].role == "assistant":
        response, messages = messages[-1].content, messages[:-1]
    if not messages or messages[-1].role != "user":
        raise DataError(f"{where}: {name!r} must end with the user's turn")
    if not messages[-1].content.strip():
        raise DataError(f"{where}: {name!r} is an empty prompt; remove the row or fill it in")
    return Prompt(id=prompt_id(messages), messages=messages, source=where, response=response)


def _with_input(row: Mapping[str, Any], name: str) -> Any:
    value, more = row[name], row.get("input")
    alpaca = name == "instruction" and isinstance(value, str) and isinstance(more, str)
    return f"{value}\n\n{more}" if alpaca and str(more).strip() else value


def _given_response(row: Mapping[str, Any], where: str, prompt_column: str) -> str | None:
    name = next(
        (c for c in RESPONSE_COLUMNS if row.get(c) is not None and c != prompt_column), None
    )
    if name is None:
        return None
    value = row[name]
    if isinstance(value, int | float):  # the answers of arithmetic data
        value = str(value)
    return conversation(value, where, name, role="assistant")[-1].content


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
