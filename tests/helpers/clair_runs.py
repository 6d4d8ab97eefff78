"""Scripted runs of the generator, for the tests of clair/."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from clair_apo.clair import GenerateConfig, Generated, generate
from clair_apo.llm import ChatModel, ChatRequest, Completion, ModelReply, ModelSpec
from clair_apo.records import Message

TARGET = ModelSpec(model="target", max_tokens=100)
REVISER = ModelSpec(model="reviser", max_tokens=200)


def user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def edit_reply(*edits: tuple[str, str], reasoning: str = "because") -> str:
    body = "".join(
        f"<edit>\n<find>{find}</find>\n<replace>{replace}</replace>\n</edit>\n"
        for find, replace in edits
    )
    return f"<reasoning>\n{reasoning}\n</reasoning>\n<edits>\n{body}</edits>"


def segment_reply(*changes: tuple[int | str, str], reasoning: str = "because") -> str:
    body = "".join(f'<segment n="{number}">{text}</segment>\n' for number, text in changes)
    return f"<reasoning>\n{reasoning}\n</reasoning>\n<segments>\n{body}</segments>"


def full_reply(text: str, reasoning: str = "because") -> str:
    return f"<reasoning>\n{reasoning}\n</reasoning>\n<revision>\n{text}\n</revision>"


def cut(text: str, tokens: int = 7) -> Completion:
    return Completion(text=text, finish_reason="length", prompt_tokens=1, completion_tokens=tokens)


class Replying(ChatModel):
    """A model that answers by the last text it is asked, however often and in whatever order.

    Args:
        replies: (piece of the request, reply); the first piece that occurs decides. A reply that
            is an exception is raised; None fails the one request.
        breaks_after: answers after which the person at the terminal presses Ctrl+C.
    """

    def __init__(
        self,
        replies: Sequence[tuple[str, str | Completion | None]],
        breaks_after: int | None = None,
    ) -> None:
        self.replies, self.breaks_after = replies, breaks_after
        self.requests: list[ChatRequest] = []

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[list[ModelReply]]:
        for request in requests:
            if len(self.requests) == self.breaks_after:
                raise KeyboardInterrupt
            self.requests.append(request)
            asked = "\n".join(message.content for message in request.messages)
            reply = next(reply for piece, reply in self.replies if piece in asked)
            if reply is None:
                yield [ModelReply(request, None, "the server rejects it")]
                continue
            if isinstance(reply, str):
                reply = Completion(
                    text=reply, finish_reason="stop", prompt_tokens=3, completion_tokens=5
                )
            yield [ModelReply(request, reply.to_response(request.model))]


def write_rows(path: Path, rows: Sequence[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_config(folder: Path, data: Path, /, **changes: object) -> GenerateConfig:
    """A config whose reviser replies in `edits`, unless `revision` says otherwise."""
    values: dict = {
        "run_dir": folder / "run",
        "prompts": {"path": str(data)},
        "target": TARGET,
        "reviser": REVISER,
    }
    changes["revision"] = {"format": "edits"} | changes.get("revision", {})
    return GenerateConfig(**(values | changes))


def run(
    config: GenerateConfig, target: Replying, reviser: Replying, judge: Replying | None = None
) -> Generated:
    return generate(config, target_model=target, reviser_model=reviser, judge_model=judge)


def rows_of(folder: Path, name: str) -> list[dict]:
    lines = (folder / "run" / name).read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def jsonl_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "run").glob("*.jsonl"))}
