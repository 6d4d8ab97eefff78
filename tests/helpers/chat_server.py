"""A small OpenAI-compatible server on a loopback port, for tests and benchmarks.

In a test:            with ChatServer(lambda asked: Reply(status=429)) as server: ... server.url
In a process of its own:    python tests/chat_server.py --delay 2      (prints its address)

It answers the same request the same way, always, and counts what it was asked. A reply can be late,
an error with any headers, or none: it can hang, trickle or break off.
"""

import argparse
import asyncio
import hashlib
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus

_ANSWER = re.compile("<answer>\n(Answer [0-9a-f]{12})")


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    number: int
    """0 for the first that this server was asked."""
    times: int
    """1 when this body is asked for the first time, 2 the second time."""
    key: str
    """Digest of the body."""
    body: dict
    headers: dict
    at: float
    """Monotonic time of arrival."""

    @property
    def text(self) -> str:
        """The last message."""
        return self.body["messages"][-1]["content"]


@dataclass(frozen=True)
class Reply:
    """What the server does with one request."""

    text: str = "hello"
    """The answer, where `body` is not given."""
    status: int = 200
    headers: dict = field(default_factory=dict)
    body: dict | str | None = None
    """The whole body in place of a completion."""
    delay_s: float = 0.0
    until: threading.Event | None = None
    """It is answered when this is set, and no earlier."""
    manner: str = "answer"
    """`answer`; `hang`: never; `trickle`: a byte every 50 ms; `break`: close in the middle."""


def completion(asked: Asked, text: str, **changes: object) -> dict:
    """A chat completion whose `id` names the request that it answers."""
    words = sum(len(message["content"].split()) for message in asked.body["messages"])
    tokens = len(text.split())
    return {
        "id": asked.key,
        "object": "chat.completion",
        "model": asked.body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": words,
            "completion_tokens": tokens,
            "total_tokens": words + tokens,
        },
    } | changes


class ChatServer:
    """Serves from a thread while the block runs.

    Attributes:
        asked: every request, in the order of arrival.
        counts: how often each body was asked, by its digest.
        under_way: requests that are not answered yet.
        most_under_way: the most there were at once.
    """

    def __init__(self, reply: Callable[[Asked], Reply] = lambda _: Reply()) -> None:
        self.reply = reply
        self.asked: list[Asked] = []
        self.counts: Counter[str] = Counter()
        self.under_way = self.most_under_way = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        """What `base_url` is set to."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def texts(self) -> list[str]:
        """The last message of each request, in the order of arrival."""
        return [asked.text for asked in self.asked]

    def __enter__(self) -> "ChatServer":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._server.close()
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(
            lambda: _Connection(self), "127.0.0.1", 0, backlog=2048
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def arrived(self, headers: dict, content: bytes) -> Asked:
        """Note a request."""
        key = hashlib.sha256(content).hexdigest()
        self.counts[key] += 1
        asked = Asked(
            len(self.asked),
            self.counts[key],
            key,
            json.loads(content),
            headers,
            time.monotonic(),
        )
        self.asked.append(asked)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        return asked


class _Connection(asyncio.Protocol):
    """One client: HTTP/1.1 with keep-alive, one request at a time."""

    def __init__(self, server: ChatServer) -> None:
        self.server = server
        self.buffer = b""
        self.task: asyncio.Task | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        if self.task:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        asked = self.server.arrived(headers, rest[:length])
        self.task = asyncio.get_running_loop().create_task(self.answer(asked))

    async def answer(self, asked: Asked) -> None:
        try:
            reply = self.server.reply(asked)
            await asyncio.sleep(3600 if reply.manner == "hang" else reply.delay_s)
            while reply.until and not reply.until.is_set():
                await asyncio.sleep(0.01)
            await self.write(reply, _bytes(asked, reply))
        finally:
            self.server.under_way -= 1

    async def write(self, reply: Reply, content: bytes) -> None:
        if reply.manner == "break":
            self.transport.write(content[: len(content) // 2])
            self.transport.close()
        elif reply.manner == "trickle":
            for place in range(len(content)):
                self.transport.write(content[place : place + 1])
                await asyncio.sleep(0.05)
        else:
            self.transport.write(content)


def _bytes(asked: Asked, reply: Reply) -> bytes:
    body = completion(asked, reply.text) if reply.body is None else reply.body
    content = (body if isinstance(body, str) else json.dumps(body)).encode()
    headers = {"Content-Type": "application/json", "Content-Length": len(content)} | reply.headers
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    phrase = HTTPStatus(reply.status).phrase if reply.status in set(HTTPStatus) else "Odd"
    return f"HTTP/1.1 {reply.status} {phrase}\r\n{head}\r\n".encode() + content


def play_both_models(asked: Asked, rejects: bool = False) -> Reply:
    """Answer as a target and as its reviser (the model `reviser`, edits asked for).

    Some rows end early, as in life: empty answers, revisions that change nothing, replies without
    an edit, edits that fit nowhere and, with `rejects`, requests that are rejected. The request
    alone decides.
    """
    dice = int(asked.key[:8], 16) % 24
    if asked.body["model"] != "reviser":
        if dice == 0:  # it ends at once, and its end token is one: else it broke off
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            return Reply(body=completion(asked, "", usage=usage))
        words = " ".join(f"word{asked.key[n]}{n}" for n in range(40))
        return Reply(f"Answer {asked.key[:12]}: {words}.")
    if dice == 1 and rejects:
        return Reply(status=400, body={"error": {"message": "the prompt is rejected"}})
    if dice == 2:
        return Reply("I would rather talk about the weather.")
    shown = _ANSWER.search(asked.body["messages"][0]["content"])
    if shown is None:
        return Reply("yes")  # to a question whether anybody is there
    passage = shown[1]
    found = "no such passage" if dice == 3 else passage
    edit = f"<edit>\n<find>{found}</find>\n<replace>The one {passage}</replace>\n</edit>\n"
    edits = "" if dice == 4 else edit
    return Reply(f"<reasoning>\nit is {dice}\n</reasoning>\n<edits>\n{edits}</edits>")


def main() -> None:
    """Serve until standard input ends; then print what was counted."""
    parser = argparse.ArgumentParser(description="A server that answers after a delay.")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds")
    args = parser.parse_args()
    with ChatServer(lambda asked: replace(play_both_models(asked), delay_s=args.delay)) as server:
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        sys.stdin.read()
        counts = {"asked": len(server.asked), "most_under_way": server.most_under_way}
        sys.stdout.write(json.dumps(counts) + "\n")


if __name__ == "__main__":
    main()
