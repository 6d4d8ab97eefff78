"""A local server with the documented endpoints of the OpenAI Batch API.

POST /files, GET /files/{id}/content, POST /batches, GET /batches, GET /batches/{id},
POST /batches/{id}/cancel, all below a base URL. A batch moves one step each time it is looked at:
validating, in_progress, completed (or what was planned for it).
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from werkzeug import Request, Response

from clair_apo.llm import ModelSpec

WAYS = {
    "completed": ("validating", "in_progress", "finalizing", "completed"),
    "expired": ("validating", "in_progress", "expired"),
    "failed": ("validating", "failed"),
}


def chat_completion(body):
    """What this server answers: the question again."""
    text = f"re: {body['messages'][-1]['content']}"
    return {
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def answered(line, reply=chat_completion):
    """An output line as documented."""
    response = {"status_code": 200, "request_id": "r", "body": reply(line["body"])}
    return {"id": "b", "custom_id": line["custom_id"], "response": response, "error": None}


def rejected(line, status=400, message="too long"):
    """A line of the error file: the request got another status."""
    body = {"error": {"message": message, "type": "invalid_request_error"}}
    response = {"status_code": status, "request_id": "r", "body": body}
    return {"id": "b", "custom_id": line["custom_id"], "response": response, "error": None}


def not_executed(line, code="batch_expired"):
    """A line of the error file: the request was never executed."""
    error = {"code": code, "message": "This request could not be executed."}
    return {"id": "b", "custom_id": line["custom_id"], "response": None, "error": error}


def silent(line):
    """No line at all."""
    return None


@dataclass
class Outcome:
    """What becomes of a batch: its last state, and what each input line is answered."""

    end: str = "completed"
    line: Callable[[dict], dict | None] = answered
    errors: list[dict] = field(default_factory=list)


@dataclass
class FakeBatch:
    """A batch at the server."""

    id: str
    created: int
    input_file_id: str
    metadata: dict
    lines: list[dict]
    outcome: Outcome
    way: list[str]
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def status(self):
        return self.way[0]


class BatchEndpoints:
    """The state behind one base URL.

    Attributes:
        outcomes: planned for the coming batches, in order; then all complete.
        most_queued: so many requests may be under way together (enqueued tokens at OpenAI).
        asked: how often each `custom_id` was in a batch that was begun.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, FakeBatch] = {}
        self.outcomes: list[Outcome] = []
        self.most_queued = 10**9
        self.asked: Counter[str] = Counter()
        self.calls: list[str] = []
        self.largest: list[int] = []
        self.refusals: list[Response] = []

    def serve(self, httpserver, **settings):
        """Answer at a real server, and keep a spec of it as `spec`; `settings` go into that."""
        httpserver.expect_request(re.compile("/v1/")).respond_with_handler(
            lambda request: self.handle(request)
        )
        url = httpserver.url_for("/v1")
        self.spec = ModelSpec(**{"model": "big", "base_url": url, "mode": "batch"} | settings)

    def handle(self, request: Request) -> Response:
        """Answer one call."""
        path = re.sub(r"^.*?/v1(?=/)", "", request.path)
        self.calls.append(f"{request.method} {path}")
        if self.refusals:
            return self.refusals.pop(0)
        match request.method, path.strip("/").split("/"):
            case "POST", ["files"]:
                return self._upload(request)
            case "GET", ["files", id, "content"]:
                return Response(self.files[id]) if id in self.files else _no_such(id)
            case "POST", ["batches"]:
                return self.create(request.get_json())
            case "GET", ["batches"]:
                return self._list(request)
            case "GET", ["batches", id]:
                return self._look(id) if id in self.batches else _no_such(id)
            case "POST", ["batches", id, "cancel"]:
                return self.cancel(id) if id in self.batches else _no_such(id)
        return Response(f"no endpoint {path}", 404)

    def _upload(self, request):
        assert request.form["purpose"] == "batch"
        sent = request.files["file"]
        assert sent.filename.endswith(".jsonl")
        name = f"file-{len(self.files)}"
        self.files[name] = sent.read()
        return _json(
            {
                "id": name,
                "object": "file",
                "bytes": len(self.files[name]),
                "created_at": 0,
                "filename": sent.filename,
                "purpose": "batch",
                "status": "processed",
            }
        )

    def create(self, body):
        assert body["endpoint"] == "/v1/chat/completions"
        assert body["completion_window"] == "24h"
        assert all(len(v) <= 512 for v in (body.get("metadata") or {}).values())
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        assert all(line["method"] == "POST" and line["url"] == body["endpoint"] for line in lines)
        ids = [line["custom_id"] for line in lines]
        assert len(set(ids)) == len(ids)
        self.largest.append(len(lines))
        outcome = self.outcomes.pop(0) if self.outcomes else Outcome()
        if self._queued() + len(lines) > self.most_queued:
            outcome = Outcome("failed", errors=[{"code": "token_limit_exceeded", "line": None}])
        else:
            self.asked.update(ids)
        batch = FakeBatch(
            id=f"batch-{len(self.batches)}",
            created=1000 + len(self.batches),
            input_file_id=body["input_file_id"],
            metadata=body.get("metadata") or {},
            lines=lines,
            outcome=outcome,
            way=list(WAYS.get(outcome.end, WAYS["completed"])),
        )
        self.batches[batch.id] = batch
        return _json(self._shown(batch))

    def _queued(self):
        ended = ("completed", "failed", "expired", "cancelled")
        return sum(
            len(b.lines)
            for b in self.batches.values()
            if b.status not in ended and b.outcome.end != "failed"
        )

    def _list(self, request):
        newest_first = list(reversed(self.batches.values()))
        after = request.args.get("after")
        first = 1 + [b.id for b in newest_first].index(after) if after else 0
        # pages of two, whatever was asked for: a client must follow `has_more`
        page = newest_first[first : first + 2]
        return _json(
            {
                "object": "list",
                "data": [self._shown(b) for b in page],
                "has_more": first + 2 < len(newest_first),
                "first_id": page[0].id if page else None,
                "last_id": page[-1].id if page else None,
            }
        )

    def _look(self, id):
        batch = self.batches[id]
        if len(batch.way) > 1 and batch.outcome.end != "stays":
            batch.way.pop(0)
            self._write_results(batch)
        return _json(self._shown(batch))

    def cancel(self, id):
        batch = self.batches[id]
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return _json({"error": {"message": f"Cannot cancel a {batch.status} batch"}}, 409)
        batch.way = ["cancelling", "cancelled"]
        batch.outcome.end = "cancelled"
        return _json(self._shown(batch))

    def _write_results(self, batch):
        if batch.status not in ("completed", "expired", "cancelled"):
            return
        made = [line for line in map(batch.outcome.line, batch.lines) if line]
        good = [x for x in made if (x["response"] or {}).get("status_code") == 200]
        bad = [x for x in made if x not in good]
        for kind, lines in (("output", good), ("error", bad)):
            if lines:
                name = f"file-{kind}-{batch.id}"
                # as they come: in another order than they were asked in
                text = "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in reversed(lines))
                self.files[name] = text.encode()
                setattr(batch, f"{kind}_file_id", name)

    def _shown(self, batch):
        failed = batch.status == "failed"
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "created_at": batch.created,
            "input_file_id": batch.input_file_id,
            "output_file_id": batch.output_file_id,
            "error_file_id": batch.error_file_id,
            "status": batch.status,
            "errors": {"object": "list", "data": batch.outcome.errors} if failed else None,
            "metadata": batch.metadata,
            "request_counts": {"total": len(batch.lines), "completed": 0, "failed": 0},
        }


def _json(value, status=200):
    return Response(json.dumps(value), status, content_type="application/json")


def _no_such(id):
    return _json({"error": {"message": f"No such object: {id}", "code": None}}, 404)
