"""The one door for other rooms: a model behind the request store.

chat = StoredChat(spec, store)
for answer in chat.ask([chat.request(messages)]): ...
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from clair_apo.errors import RequestError
from clair_apo.llm.chat import Answered, ChatModel, ChatRequest, Completion, ModelSpec
from clair_apo.llm.store import RequestStore
from clair_apo.llm.tables import StoredAnswer
from clair_apo.models import ModelSource, find_model
from clair_apo.progress import say
from clair_apo.records import Conversation

RECORDED = "recorded:"
"""A model name with this beginning stands for recorded answers: it is never asked."""


def check_model(spec: ModelSpec) -> None:
    """Find out what can be known of a model before anything is asked or written.

    Raises:
        ModelNotFoundError: no such folder.
        RequestError: no key for the server.
    """
    if spec.base_url:
        from clair_apo.llm.http import find_key

        find_key(spec)
    elif not spec.model.startswith(RECORDED):
        find_model(spec.model, say)


@dataclass(frozen=True)
class Answer:
    """A request with its completion, or with the reason why there is none."""

    request: ChatRequest
    completion: Completion | None
    failure: str = ""


class StoredChat:
    """A chat model of which nothing is asked twice.

    The model is connected to (or loaded) at the first request that the store cannot answer.

    Args:
        spec: which model, and how to sample.
        store: where answers are kept.
        model: asked in place of what `spec` names; for tests and models of one's own.

    Attributes:
        asked: requests that went to the model.
        reused: requests that the store answered.
    """

    def __init__(
        self, spec: ModelSpec, store: RequestStore, model: ChatModel | None = None
    ) -> None:
        self.spec = spec
        self.asked = 0
        self.reused = 0
        self._store = store
        self._given = model

    @cached_property
    def identity(self) -> str:
        """What stands in request keys for the model."""
        remote = (
            self.spec.base_url or self.spec.model.startswith(RECORDED) or self._given is not None
        )
        return self.spec.model if remote else f"{self._source.identity}/{self.spec.dtype}"

    def request(self, messages: Conversation, sample: int = 0) -> ChatRequest:
        """The request that asks this model for an answer to `messages`."""
        return ChatRequest(
            model=self.identity, messages=messages, sampling=self.spec.sampling, sample=sample
        )

    def ask(
        self, requests: Sequence[ChatRequest], advance: Callable[[int], None] | None = None
    ) -> Iterator[Answer]:
        """Answer the requests in their order, from the store where it can.

        Each new answer is in the store before anything else is done with it.

        Args:
            requests: what to ask; equal requests are asked once.
            advance: told how many more requests are done, for a progress bar.

        Raises:
            RequestError: the model cannot be asked.
            StoreError: the store cannot be read or written.
        """
        failures = dict(self._ask_missing(requests, advance or (lambda _: None)))
        for request in requests:
            response = self._store.get(request.key)
            if response is None:
                yield Answer(request, None, failures.get(request.key, "the model gave no answer"))
            else:
                yield Answer(request, Completion.from_response(response))

    def _ask_missing(
        self, requests: Sequence[ChatRequest], advance: Callable[[int], None]
    ) -> Iterator[tuple[str, str]]:
        unique = {request.key: request for request in requests}
        missing = [r for key, r in unique.items() if self._store.get(key) is None]
        self.reused += len(requests) - len(missing)
        advance(len(requests) - len(missing))
        if not missing:
            return
        for answered in self._model.answer(missing):
            self.asked += 1
            failure = answered.failure or self._keep(answered)
            if failure:
                yield answered.request.key, failure
            advance(1)

    def _keep(self, answered: Answered) -> str:
        """Store a response; the reason why not where it holds no answer."""
        assert answered.response is not None
        try:
            Completion.from_response(answered.response)
        except ValueError as error:
            return str(error)
        request = answered.request
        self._store.put_many([StoredAnswer(request.key, request.model, answered.response)])
        return ""

    @cached_property
    def _model(self) -> ChatModel:
        if self._given is not None:
            return self._given
        if self.spec.model.startswith(RECORDED):
            raise RequestError(
                f"{self.spec.model!r} has no recorded answer to this request: the prompts, the "
                "template, the rubric or the sampling settings differ from the recorded ones; "
                "name a live model instead"
            )
        if self.spec.base_url:
            from clair_apo.llm.http import HttpChat

            return HttpChat(self.spec)
        from clair_apo.llm.local import LocalChat

        return LocalChat(self._source, dtype=self.spec.dtype, batch_size=self.spec.batch_size)

    @cached_property
    def _source(self) -> ModelSource:
        return find_model(self.spec.model, say)
