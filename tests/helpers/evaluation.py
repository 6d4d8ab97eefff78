"""A light evaluation for the tests of suites: models, and clients that answer by a function."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from clair_apo.evaluation.suites.base import EvaluatedModel, SuiteContext
from clair_apo.llm import (
    Answer,
    CachedChat,
    ChatModel,
    ChatRequest,
    Completion,
    ModelReply,
    ModelSpec,
    RequestStore,
)


class Says(ChatModel):
    """A model that answers each request by a function of its last turn; keeps what it was asked.

    Args:
        answer: gives the text, or a `Completion`, or None for a request that fails.
    """

    def __init__(self, answer: Callable[[str], str | Completion | None]) -> None:
        self._answer = answer
        self.asked: list[ChatRequest] = []

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[list[ModelReply]]:
        for request in requests:
            self.asked.append(request)
            text = self._answer(request.messages[-1].content)
            if isinstance(text, str):
                text = Completion(
                    text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1
                )
            response = None if text is None else text.to_response(request.model)
            yield [ModelReply(request, response, "" if response else "it was busy")]


class FakeContext(SuiteContext):
    """Stands for an evaluation.

    Args:
        models: all of them.
        chats: by the `model` of a spec, what answers in its place.
        folder: of the evaluation.
    """

    def __init__(
        self,
        models: Sequence[EvaluatedModel],
        chats: dict[str, ChatModel] | None = None,
        folder: Path = Path("."),
    ) -> None:
        self.models, self.prompts, self.pairs, self.folder = models, (), (), folder
        self.chats, self.store = chats or {}, RequestStore(":memory:")

    def answers(self, model, conversations, *, max_tokens=None) -> list[Answer]:
        client = self.client(model.spec)
        requests = [client.request(one, max_tokens=max_tokens) for one in conversations]
        return self.converse("answers", client, [_ask(request) for request in requests])

    def client(self, spec: ModelSpec) -> CachedChat:
        return CachedChat(spec, self.store, self.chats[spec.model])

    def converse(self, title, client, dialogues):
        return list(client.converse(dialogues))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.store.__exit__(*_)


def _ask(request):
    (answer,) = yield (request,)
    return answer


def recorded(name: str, *paths: Path) -> EvaluatedModel:
    """A model of which only files are there."""
    return EvaluatedModel(name, None, tuple(paths))


def asked(name: str) -> EvaluatedModel:
    """A model that is asked, under its own name."""
    return EvaluatedModel(name, ModelSpec(model=name, temperature=0))


def write_rows(path: Path, rows: Sequence[object]) -> Path:
    """A JSONL file of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
