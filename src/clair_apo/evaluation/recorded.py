"""Reads answers to prompts that a model gave before: nothing is asked of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from clair_apo.errors import DataError
from clair_apo.evaluation.suites.base import EvaluatedModel, OtherFormatError
from clair_apo.evaluation.suites.benchmark_files import read_rows
from clair_apo.ingest.cells import conversation
from clair_apo.llm import Answer, ChatRequest, Completion
from clair_apo.records import Conversation, Response, Sampling, prompt_id

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
    known: dict[str, Completion | None] = {}
    for path in model.recorded:
        for row in read_rows(path):
            id, completion = _answer_in(row.values, row.where, model.name)
            known.setdefault(id, completion)
    ids = [prompt_id(messages) for messages in conversations]
    if missing := [id for id in ids if id not in known]:
        raise DataError(
            f"{model.recorded[0]}: has no answer to {len(missing)} of {len(ids)} prompts (first "
            f"{missing[0]}); record all of them, or evaluate on those that are recorded"
        )
    return [
        Answer(
            ChatRequest(model=model.name, messages=messages, sampling=_GREEDY),
            known[id],
            "" if known[id] else "the recording has no answer",
        )
        for id, messages in zip(ids, conversations, strict=True)
    ]


def _answer_in(row: Mapping[str, Any], where: str, model: str) -> tuple[str, Completion | None]:
    if "prompt_id" in row and "text" in row:
        try:
            response = Response.model_validate(row)
        except ValidationError as error:
            raise DataError(f"{where}: not a Response ({error.errors()[0]['msg']})") from None
        return response.prompt_id, _completion(response.text, response.finish_reason)
    answer = row.get("answer", False)
    if "prompt" not in row or not (answer is None or isinstance(answer, str)):
        raise OtherFormatError(
            model,
            f"{where}: expected recorded answers, rows with the columns prompt and answer or "
            f"prompt_id and text; found {', '.join(row) or 'nothing'}",
        )
    ending = row.get("finish_reason") or "given"
    if ending not in _ENDINGS:
        raise DataError(f"{where}: finish_reason must be one of {', '.join(_ENDINGS)}")
    messages = conversation(row["prompt"], where, "prompt")
    return prompt_id(messages), None if answer is None else _completion(answer, ending)


def _completion(text: str, ending: Any) -> Completion:
    return Completion(text=text, finish_reason=ending, prompt_tokens=0, completion_tokens=0)
