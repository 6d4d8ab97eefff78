"""Reads answers to prompts that a model gave before: nothing is asked of it."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clair_apo.errors import DataError
from clair_apo.evaluation.suites.base import EvaluatedModel, OtherFormatError
from clair_apo.ingest.cells import conversation
from clair_apo.ingest.rows import read_rows
from clair_apo.llm import Answer, ChatRequest, Completion
from clair_apo.records import Conversation, Response, Sampling, prompt_id

MAX_BYTES = 2**30
"""Of a compressed file, once it is unpacked."""
_GREEDY = Sampling(max_tokens=1, temperature=0.0, top_p=1.0)
_ENDINGS = ("stop", "length", "content_filter", "given", "other")


def recorded_answers(model: EvaluatedModel, conversations: Sequence[Conversation]) -> list[Answer]:
    """The recorded answers of a model to conversations, in their order.

    Args:
        model: one with `recorded` files: rows `{"prompt": text or messages, "answer": text}`, with
            a `finish_reason` where it is known, or the `responses.jsonl` of a run.
        conversations: the prompts.

    Raises:
        OtherFormatError: the files hold something else.
        DataError: a file cannot be read, or there is a prompt without an answer.
    """
    known: dict[str, Completion] = {}
    for path in model.recorded:
        for where, row in _rows(path):
            id, completion = _answer_in(row, where, model.name)
            known.setdefault(id, completion)
    ids = [prompt_id(messages) for messages in conversations]
    if missing := [id for id in ids if id not in known]:
        raise DataError(
            f"{model.recorded[0]}: has no answer to {len(missing)} of {len(ids)} prompts (first "
            f"{missing[0]}); record all of them, or evaluate on those that are recorded"
        )
    return [
        Answer(ChatRequest(model=model.name, messages=messages, sampling=_GREEDY), known[id])
        for id, messages in zip(ids, conversations, strict=True)
    ]


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.suffix != ".gz":
        yield from read_rows(str(path))
        return
    try:
        with gzip.open(path, "rb") as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if len(text) > MAX_BYTES:
        raise DataError(f"{path}: is larger than {MAX_BYTES} bytes once it is unpacked; part it")
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{number}: not JSON ({error})") from None
            yield f"{path}:{number}", row


def _answer_in(row: Mapping[str, Any], where: str, model: str) -> tuple[str, Completion]:
    if isinstance(row, dict) and "prompt_id" in row and "text" in row:
        try:
            response = Response.model_validate(row)
        except ValidationError as error:
            raise DataError(f"{where}: not a Response ({error.errors()[0]['msg']})") from None
        return response.prompt_id, _completion(response.text, response.finish_reason)
    if not (isinstance(row, dict) and "prompt" in row and isinstance(row.get("answer"), str)):
        columns = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise OtherFormatError(
            model,
            f"{where}: expected recorded answers, rows with the columns prompt and answer or "
            f"prompt_id and text; found {columns or 'nothing'}",
        )
    ending = row.get("finish_reason") or "given"
    if ending not in _ENDINGS:
        raise DataError(f"{where}: finish_reason must be one of {', '.join(_ENDINGS)}")
    messages = conversation(row["prompt"], where, "prompt")
    return prompt_id(messages), _completion(row["answer"], ending)


def _completion(text: str, ending: Any) -> Completion:
    return Completion(text=text, finish_reason=ending, prompt_tokens=0, completion_tokens=0)
