"""The request store in front of one model: finds answers, keeps new ones, counts what they cost."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from clair_apo.console import say
from clair_apo.llm.model_names import is_same_model
from clair_apo.llm.pricing import Account, Meter
from clair_apo.llm.responses import has_text, is_completion, usage_of, writable
from clair_apo.llm.spec import RECORDED, ModelSpec
from clair_apo.llm.store import RequestStore
from clair_apo.llm.store_schema import StoredAnswer
from clair_apo.llm.types import Answer, ChatRequest, Completion, ModelReply, RawResponse

TRIES, TRIES_IN_GROUPS = 6, 3
"""How often a request is asked whose answers break off: of a server, and of a model that answers in
groups, where each time may take a day."""


class Kept(NamedTuple):
    """What replies of a model come to, once they are stored."""

    answers: list[Answer]
    """The final ones, those without a completion included."""
    again: list[ChatRequest]
    """Requests whose answer broke off, to be asked once more."""


class AnswerCache:
    """The answers of one model, from the store and for the store.

    Args:
        spec: the model.
        store: where answers are kept.
        meter: counts what is asked and what is reused.
        account: pays for the requests.
        run_id: stands in the store beside what this run paid for.
        offline: whether a request that failed when it was last asked fails again.
        most_tries: how often a request is asked whose answers break off.

    Attributes:
        given_up: requests that were given up because their answers broke off, counted since the
            last whole answer.
    """

    def __init__(
        self,
        spec: ModelSpec,
        store: RequestStore,
        meter: Meter,
        account: Account,
        *,
        run_id: str,
        offline: bool,
        most_tries: int,
    ) -> None:
        self.store, self.meter, self.account = store, meter, account
        self.given_up = 0
        self._spec, self._run_id, self._offline = spec, run_id, offline
        self._most_tries = most_tries
        self._tries = Counter[str]()  # answers to a request that broke off, by its key
        self._warned_of_another_model = False

    def find(self, request: ChatRequest) -> Answer | None:
        """The stored answer to a request; None where the model is to be asked."""
        answer = self.store.answer(request)
        self.meter.reused += answer is not None
        if answer:
            self._warn_of_another_model(answer)
        if answer is None and self._offline:
            answer = self.store.failed_answer(request)
        return answer

    def find_new(self, requests: Sequence[ChatRequest]) -> list[Answer]:
        """Answers that a batch from before brought into the store; this run pays for them."""
        found = [answer for request in requests if (answer := self.store.answer(request))]
        for answer in found:
            self.meter.count(answer.completion, failed=answer.completion is None)
            self.account.settle(answer.request, answer.completion)
        return found

    def keep(self, replies: Sequence[ModelReply]) -> Kept:
        """Store replies together, before anything else is done with them."""
        answers = [_read(reply) for reply in replies]
        for answer in answers:
            self._warn_of_another_model(answer)
        self.store.put_many(_to_store(replies, answers, whole=True), run_id=self._run_id)
        self.store.put_broken_off(_to_store(replies, answers, whole=False), run_id=self._run_id)
        kept = Kept([], [])
        for reply, answer in zip(replies, answers, strict=True):
            if self._is_asked_again(reply, answer):
                kept.again.append(answer.request)
            else:
                kept.answers.append(answer)
        self.store.put_failures([answer for answer in kept.answers if answer.completion is None])
        return kept

    def fail(self, requests: Sequence[ChatRequest], failure: str) -> list[Answer]:
        """Note that requests came to nothing, and why."""
        failed = [Answer(request, None, failure) for request in requests]
        self.store.put_failures(failed)
        return failed

    def attempt(self, request: ChatRequest) -> int:
        """Which attempt the next one is, from 1."""
        return self._tries[request.key] + 1

    def _is_asked_again(self, reply: ModelReply, answer: Answer) -> bool:
        """Count a reply; whether it broke off and is asked for once more."""
        key, broke_off = reply.request.key, answer.completion is None and reply.response is not None
        paid = answer.completion or _paid_in_vain(reply.response)
        self.account.settle(reply.request, paid)
        if broke_off:
            self._tries[key] += 1
            if self._tries[key] < self._most_tries:
                self.meter.count_again(paid)
                return True
        self.meter.count(paid, failed=answer.completion is None)
        given_up = self._tries.pop(key, 0) and answer.completion is None
        self.given_up = self.given_up + 1 if given_up else 0
        return False

    def _warn_of_another_model(self, answer: Answer) -> None:
        """Say once that a server names another model than the one that it was asked for."""
        named = answer.completion.model if answer.completion else None
        if named is None or self._warned_of_another_model or self._spec.model.startswith(RECORDED):
            return
        if named != answer.request.model and not is_same_model(self._spec.model, named):
            self._warned_of_another_model = True
            say(
                f"{self._spec.model!r} was asked, and {named!r} says that it answered: rows that "
                "it answered name it in answered_by"
            )


def _read(reply: ModelReply) -> Answer:
    """What a response says, or why it says nothing."""
    if reply.response is None:
        return Answer(reply.request, None, writable(reply.failure))
    return Answer.of_response(reply.request, reply.response)


def _paid_in_vain(response: RawResponse | None) -> Completion | None:
    """What a response that is no whole answer was paid for; None where that is nothing."""
    if response is None or not is_completion(response):
        return None
    # one without usage and without text was not worked on
    if any(usage_of(response)) or has_text(response):
        return Completion.of_no_answer(response)
    return None


def _to_store(
    replies: Sequence[ModelReply], answers: Sequence[Answer], *, whole: bool
) -> list[StoredAnswer]:
    """Those of the responses to be stored that are whole answers, or that are not."""
    return [
        StoredAnswer(reply.request.key, reply.request.model, reply.response)
        for reply, answer in zip(replies, answers, strict=True)
        if reply.response is not None
        and is_completion(reply.response)
        and whole is (answer.completion is not None)
    ]
