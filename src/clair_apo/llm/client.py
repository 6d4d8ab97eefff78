"""The one door for other rooms: a model behind the request store.

chat = StoredChat(spec, store)
for result in chat.converse(dialogues): ...

A row is a `Dialogue`. Rows are held in bounded numbers: a window of them with a server, where each
goes on as soon as its own answers are there; waves of them with a model that answers in groups.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TypeVar

from clair_apo.console import say
from clair_apo.errors import RequestError, StoreError
from clair_apo.llm.model_names import is_same_model
from clair_apo.llm.pricing import Account, Budget, Meter
from clair_apo.llm.responses import holds_text, is_completion, usage_of, writable
from clair_apo.llm.scheduler import DialogueRunner, groups_of
from clair_apo.llm.spec import GO_ON, ModelSpec, find_key
from clair_apo.llm.store import RequestStore
from clair_apo.llm.store_schema import StoredAnswer
from clair_apo.llm.types import (
    Answer,
    Answered,
    ChatModel,
    ChatRequest,
    Completion,
    Dialogue,
    RawResponse,
    StreamingChat,
)
from clair_apo.models import ModelSource, find_model
from clair_apo.records import Conversation, Sampling

T = TypeVar("T")

RECORDED = "recorded:"
"""A model name with this beginning stands for recorded answers: it is never asked."""

REQUESTS_AHEAD = 4
"""Requests that wait for an answer, for each that may be under way: there is always a next one."""
TRIES, TRIES_IN_GROUPS = 6, 3
"""How often a request is asked whose answers break off: of a server, and of a model that answers in
groups, where each time may take a day."""
MOST_BROKEN_OFF = 20
"""So many requests may be given up for it one after the other, with no whole answer between them,
before the run ends: then it is the server."""
ROWS_HELD = 64
"""Rows that are held at most, for each request that may be under way: so many can be done before
one that takes long holds them up."""


def check_model(spec: ModelSpec) -> None:
    """Find out what can be known of a model before anything is asked or written.

    Raises:
        ModelNotFoundError: no such folder.
        RequestError: no key for the server.
    """
    if spec.base_url:
        find_key(spec)
    elif spec.mode != "files" and not spec.model.startswith(RECORDED):
        find_model(spec.model, say, spec.revision)


class CachedChat:
    """A chat model of which nothing is asked twice.

    An answer that broke off is none: it is asked for again a few times, and then its row fails.

    The model is connected to (or loaded) at the first request that the store cannot answer.

    Args:
        spec: which model, and how to sample.
        store: where answers are kept.
        model: asked in place of what `spec` names; for tests and models of one's own.
        meter: what is counted, for the progress display and the manifest.
        offline: ask nothing. A request that failed when it was last asked fails again; at the
            first of which the store knows nothing, the run ends.
        run_id: stands in the store beside what this run paid for.
        budget: the money of the run, shared by its models; by default without a limit.
    """

    def __init__(
        self,
        spec: ModelSpec,
        store: RequestStore,
        model: ChatModel | None = None,
        *,
        meter: Meter | None = None,
        offline: bool = False,
        run_id: str = "",
        budget: Budget | None = None,
    ) -> None:
        self.spec = spec
        self.meter = meter or Meter()
        self._account = Account(spec, budget or Budget())
        self.meter.price, self.meter.batch = self._account.price, self._account.batch
        self._unpaid = deque[ChatRequest]()
        self._tries = Counter[str]()
        """Answers to a request that broke off, by its key."""
        self._again = deque[ChatRequest]()
        """Requests whose answer broke off, to be asked once more."""
        self._given_up = 0
        self._another_was_named = False
        self._store = store
        self._given = model
        self._offline = offline
        self._run_id = run_id

    @cached_property
    def identity(self) -> str:
        """What stands in request keys for the model."""
        remote = (
            self.spec.base_url or self.spec.model.startswith(RECORDED) or self._given is not None
        )
        if remote:
            return self.spec.served_identity
        return f"{self._source.identity}/{self.spec.dtype}"

    @cached_property
    def _sampling(self) -> Sampling:
        return self.spec.sampling

    def request(
        self, messages: Conversation, sample: int = 0, max_tokens: int | None = None
    ) -> ChatRequest:
        """The request that asks this model for an answer to `messages`.

        Args:
            messages: the conversation.
            sample: which of several answers to it.
            max_tokens: another limit than the spec's.
        """
        sampling = self._sampling
        if max_tokens is not None:
            sampling = sampling.model_copy(update={"max_tokens": max_tokens})
        return ChatRequest(model=self.identity, messages=messages, sampling=sampling, sample=sample)

    def converse(self, dialogues: Iterable[Dialogue[T]]) -> Iterator[T]:
        """Let every row have its answers, from the store where it can; yield the rows' results.

        Each new answer is in the store before its row sees it. The results come in the order of
        the rows; rows are begun only as fast as results are taken.

        Raises:
            RequestError: the model cannot be asked, or is not to be (`offline`).
            BudgetError: the next request could cost more than the run may still spend.
            StoreError: the store cannot be read or written.
        """
        if self._streams:
            return self._in_a_stream(dialogues)
        return self._in_waves(dialogues)

    # --- models that answer in groups

    def _in_waves(self, dialogues: Iterable[Dialogue[T]]) -> Iterator[T]:
        """Waves are counted from the first row, so that a resumed run plans the same groups."""
        for rows in groups_of(self._wave, dialogues):
            runners = [DialogueRunner(row) for row in rows]
            while waiting := [runner for runner in runners if runner.requests]:
                answers = self._answers({r.key: r for runner in waiting for r in runner.requests})
                for runner in waiting:
                    runner.answers = answers
                    runner.advance()
            yield from (runner.result for runner in runners)

    def _answers(self, requests: dict[str, ChatRequest]) -> dict[str, Answer]:
        answers = {key: a for key, r in requests.items() if (a := self._stored(r))}
        if len(answers) < len(requests):
            model = self._model
            assert isinstance(model, ChatModel)
            self._store.check_room()
            for group in model.plan(list(requests.values())):
                missing = [request for request in group if request.key not in answers]
                while missing:
                    paid = self._account.reserve_first(missing)
                    for answered in model.answer(paid):
                        answers |= {answer.request.key: answer for answer in self._kept(answered)}
                    for request in paid:  # one that had no answer at all costs nothing
                        self._account.settle(request, None)
                    answers |= self._brought_along(missing[len(paid) :])
                    rest = [*self._again, *missing[len(paid) :]]
                    self._again.clear()
                    missing = [r for r in rest if r.key not in answers]
            silent = [request for key, request in requests.items() if key not in answers]
            failed = [Answer(request, None, "the model gave no answer") for request in silent]
            self._store.put_failures(failed)
            answers |= {answer.request.key: answer for answer in failed}
        return answers

    def _brought_along(self, requests: Sequence[ChatRequest]) -> dict[str, Answer]:
        """What a batch from before answered beside what was asked now; the run pays for it too."""
        found = {r.key: answer for r in requests if (answer := self._store.answer(r))}
        for answer in found.values():
            self.meter.count(answer.completion, failed=answer.completion is None)
            self._account.settle(answer.request, answer.completion)
        return found

    # --- servers

    def _in_a_stream(self, dialogues: Iterable[Dialogue[T]]) -> Iterator[T]:
        """Rows side by side, each of which goes on as soon as its own answers are there."""
        rows, held = iter(dialogues), deque[DialogueRunner[T]]()
        waiting: dict[str, list[DialogueRunner[T]]] = {}
        most_waiting = self.spec.max_in_flight * REQUESTS_AHEAD
        most_held = self.spec.max_in_flight * ROWS_HELD
        try:
            while True:
                while held and not held[0].requests:
                    yield held.popleft().result
                has_room = len(waiting) < most_waiting and len(held) < most_held
                if has_room and (row := next(rows, None)) is not None:
                    held.append(DialogueRunner(row))
                    self._ask_for(held[-1], waiting)
                elif waiting:
                    self._collect(waiting)
                else:
                    return
        except RequestError:
            raise  # all that was under way has been collected
        except Exception:  # not Ctrl+C, which ends at once
            self._keep_what_is_under_way(waiting)
            raise
        finally:
            if "_model" in self.__dict__:
                self._server.close()
                del self._model

    def _ask_for(
        self, runner: DialogueRunner[T], waiting: dict[str, list[DialogueRunner[T]]]
    ) -> None:
        """Let a row go on with what the store knows, and ask the server for the rest."""
        while runner.requests:
            for request in runner.missing():
                if answer := self._stored(request):
                    runner.answers[request.key] = answer
                elif request.key in waiting:
                    waiting[request.key].append(runner)
                else:
                    self._store.check_room()
                    waiting[request.key] = [runner]
                    self._unpaid.append(request)
                    self._submit_paid()
            if runner.missing():
                return
            runner.advance()

    def _submit_paid(self) -> None:
        """Send what there is money for; what has to wait for it keeps its turn."""
        while self._unpaid and self._account.reserve(self._unpaid[0]):
            request = self._unpaid.popleft()
            self._server.submit(request, self._tries[request.key] + 1)

    def _collect(self, waiting: dict[str, list[DialogueRunner[T]]]) -> None:
        if len(self._unpaid) == len(waiting):  # nothing is under way that could settle for less
            raise self._account.exhausted(self._unpaid[0])
        answered = self._server.collect()
        answers = self._kept(answered)
        self._server.settle(len(answered))
        if self._given_up >= MOST_BROKEN_OFF:
            self._keep_what_is_under_way(waiting)
            raise RequestError(
                f"{answers[-1].failure}; {self._given_up} requests came to this one after the "
                f"other, and none was answered between them; {GO_ON}"
            )
        self._unpaid.extend(self._again)
        self._again.clear()
        self._submit_paid()
        for answer in answers:
            for runner in waiting.pop(answer.request.key):
                runner.answers[answer.request.key] = answer
                if not runner.missing():
                    runner.advance()
                    self._ask_for(runner, waiting)

    def _keep_what_is_under_way(self, waiting: dict[str, list[DialogueRunner[T]]]) -> None:
        """When a run has to end, nothing more is asked, and what is asked is paid for."""
        if len(waiting) == len(self._unpaid):
            return
        say(f"stopping; waiting for {self.meter.in_flight} requests under way: they are paid for")
        with suppress(StoreError, RequestError):
            self._server.stop()
            while waiting and (answered := self._server.collect()):
                for answer in self._kept(answered):
                    waiting.pop(answer.request.key, None)
                self._server.settle(len(answered))

    # --- both

    def _stored(self, request: ChatRequest) -> Answer | None:
        answer = self._store.answer(request)
        self.meter.reused += answer is not None
        if answer:
            self._look_who_answered(answer)
        if answer is None and self._offline:
            answer = self._store.failed_answer(request)
        return answer

    def _kept(self, answered: Sequence[Answered]) -> list[Answer]:
        """Store responses together, before anything else is done with them.

        Returns:
            What they say; without those that broke off and are to be asked for again.
        """
        answers = [_read(one) for one in answered]
        for answer in answers:
            self._look_who_answered(answer)
        self._store.put_many(_stored_of(answered, answers, whole=True), run_id=self._run_id)
        self._store.put_broken_off(_stored_of(answered, answers, whole=False), run_id=self._run_id)
        final = [
            answer
            for one, answer in zip(answered, answers, strict=True)
            if not self._is_asked_again(one, answer)
        ]
        self._store.put_failures([answer for answer in final if answer.completion is None])
        return final

    def _look_who_answered(self, answer: Answer) -> None:
        """Say once that a server names another model than the one that it was asked for."""
        told = answer.completion.model if answer.completion else None
        if told is None or self._another_was_named or self.spec.model.startswith(RECORDED):
            return
        if told != answer.request.model and not is_same_model(self.spec.model, told):
            self._another_was_named = True
            say(
                f"{self.spec.model!r} was asked, and {told!r} says that it answered: rows that it "
                "answered name it in answered_by"
            )

    def _is_asked_again(self, answered: Answered, answer: Answer) -> bool:
        """Count an answer, and see whether it broke off and there is to be another."""
        request = answered.request
        paid = answer.completion or _paid_in_vain(answered.response)
        self._account.settle(request, paid)
        again = answered.response is not None and answer.completion is None
        if again:
            self._tries[request.key] += 1
            again = self._tries[request.key] < (TRIES if self._streams else TRIES_IN_GROUPS)
        if again:
            self.meter.count_again(paid)
            self._again.append(request)
            return True
        self.meter.count(paid, failed=answer.completion is None)
        broke_off = self._tries.pop(request.key, 0) and answer.completion is None
        self._given_up = self._given_up + 1 if broke_off else 0
        return False

    @property
    def _streams(self) -> bool:
        return self._given is None and self.spec.base_url is not None

    @property
    def _wave(self) -> int:
        return ChatModel.wave if self._given is None else self._given.wave

    @property
    def _server(self) -> StreamingChat:
        model = self._model
        assert not isinstance(model, ChatModel)
        return model

    @cached_property
    def _model(self) -> ChatModel | StreamingChat:
        """The model itself, at the first request that the store cannot answer."""
        if self._offline:
            raise RequestError(
                f"offline: {self._store.path} has no answer of {self.spec.model!r} to one of the "
                "requests; run without offline to ask for it"
            )
        if self._given is not None:
            return self._given
        if self.spec.model.startswith(RECORDED):
            raise RequestError(
                f"{self.spec.model!r} has no recorded answer to this request: the prompts, the "
                "template, the rubric or the sampling settings differ from the recorded ones; "
                "name a live model instead"
            )
        if self.spec.base_url:
            from clair_apo.llm.backends.http import HttpChat

            return HttpChat(self.spec, self.meter)
        from clair_apo.llm.backends.local import LocalChat

        return LocalChat(self._source, dtype=self.spec.dtype, batch_size=self.spec.batch_size)

    @cached_property
    def _source(self) -> ModelSource:
        return find_model(self.spec.model, say, self.spec.revision)


def _read(answered: Answered) -> Answer:
    """What a response says, or why it says nothing."""
    if answered.response is None:
        return Answer(answered.request, None, writable(answered.failure))
    return Answer.of_response(answered.request, answered.response)


def _paid_in_vain(response: RawResponse | None) -> Completion | None:
    """What a response that is no whole answer was paid for; None where that is nothing."""
    if response is None or not is_completion(response):
        return None
    # one without usage and without text was not worked on
    return (
        Completion.of_no_answer(response)
        if any(usage_of(response)) or holds_text(response)
        else None
    )


def _stored_of(
    answered: Sequence[Answered], answers: Sequence[Answer], *, whole: bool
) -> list[StoredAnswer]:
    """Those of the responses to be stored that are whole answers, or that are not."""
    return [
        StoredAnswer(one.request.key, one.request.model, one.response)
        for one, answer in zip(answered, answers, strict=True)
        if one.response is not None
        and is_completion(one.response)
        and whole is (answer.completion is not None)
    ]
