"""The JSONL files of batches: what the OpenAI Batch API and `vllm run-batch` read and write.

A line of the input names a request by its key (`custom_id`); a line of the output or the error
file answers it, in any order.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from clair_apo.files import atomic_writer
from clair_apo.llm.secrets import NO_SECRETS, Mask
from clair_apo.llm.types import ChatRequest, RawResponse
from clair_apo.records import canonical_json, digest

ENDPOINT: Final = "/v1/chat/completions"
_PASSING_STATUS = (408, 409, 425, 429)
_PASSING_CODES = ("batch_expired", "batch_cancelled", "request_timeout")


@dataclass(frozen=True)
class BatchFile:
    """Requests that travel in one file, by their keys."""

    requests: Mapping[str, ChatRequest]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the keys in their order."""
        return digest(list(self.requests))

    def halves(self) -> list["BatchFile"]:
        """The same requests in two files; a single request stays in one."""
        pairs = list(self.requests.items())
        middle = len(pairs) // 2
        return [BatchFile(dict(half)) for half in (pairs[:middle], pairs[middle:]) if half]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of one request, from a line of an output or error file."""

    key: str
    response: RawResponse | None
    failure: str = ""
    passing: bool = False
    """It was not the request's fault: it may be answered in another batch."""


def batch_files_of(
    requests: Mapping[str, ChatRequest], model: str, *, most_requests: int, most_bytes: int
) -> Iterator[BatchFile]:
    """Spread requests over as few files as the limits allow, in their order.

    Args:
        requests: by key.
        model: the name that the server knows.
        most_requests: in one file.
        most_bytes: size of a file; a larger request has a file of its own.
    """
    part: dict[str, ChatRequest] = {}
    size = 0
    for key, request in requests.items():
        length = len(_line(key, request, model).encode())
        if part and (len(part) == most_requests or size + length > most_bytes):
            yield BatchFile(part)
            part, size = {}, 0
        part[key] = request
        size += length
    if part:
        yield BatchFile(part)


def write_batch_file(path: Path, file: BatchFile, model: str) -> None:
    """Write the input file of a batch, whole or not at all."""
    with atomic_writer(path) as writer:
        writer.writelines(_line(key, request, model) for key, request in file.requests.items())


def read_keys(path: Path) -> list[str]:
    """The keys of the requests in an input file."""
    return [line["custom_id"] for line in _objects(path) if isinstance(line.get("custom_id"), str)]


def read_results(path: Path, mask: Mask = NO_SECRETS) -> Iterator[BatchResult]:
    """What an output or error file answers; a line that is torn or foreign answers nothing.

    Args:
        path: the file.
        mask: hides the secrets that the server was sent.
    """
    for line in _objects(path, mask):
        if isinstance(line.get("custom_id"), str):
            yield _result(line["custom_id"], line.get("response"), line.get("error"))


def _line(key: str, request: ChatRequest, model: str) -> str:
    body = request.body(model)
    line = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}
    return canonical_json(line) + "\n"


def _objects(path: Path, mask: Mask = NO_SECRETS) -> Iterator[dict[str, Any]]:
    # by bytes: an answer may hold a character at which `splitlines` would break the line
    with path.open("rb") as file:
        for raw in file:
            try:
                line = mask.value(json.loads(raw))
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict):
                yield line


def _result(key: str, response: Any, error: Any) -> BatchResult:
    answer = response if isinstance(response, dict) else {}
    status, body = answer.get("status_code"), answer.get("body")
    if status == 200 and isinstance(body, dict) and not error:
        return BatchResult(key, body)
    why = error or (body.get("error") if isinstance(body, dict) else None) or body or "no answer"
    code = why.get("code") if isinstance(why, dict) else None
    message = why.get("message") if isinstance(why, dict) else why
    shown = " ".join(str(message or code or canonical_json(why)).split())[:300]
    passing = code in _PASSING_CODES
    if isinstance(status, int):
        passing = passing or status in _PASSING_STATUS or status >= 500
        shown = f"{status}: {shown}"
    return BatchResult(key, None, shown, passing)


def missing(requests: Mapping[str, ChatRequest], known: Iterable[str]) -> dict[str, ChatRequest]:
    """The requests that are not among the known keys, in their order."""
    there = frozenset(known)
    return {key: request for key, request in requests.items() if key not in there}
