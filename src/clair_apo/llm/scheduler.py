"""How dialogues reach a model: in waves, or side by side.

WaveScheduler: a model that answers in groups. Waves of rows, each planned as a whole.
StreamScheduler: a server. A window of rows, each of which goes on as soon as it has its answers.

Both take answers from the `AnswerCache` first, and hold a bounded number of rows.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Generic, TypeVar

from clair_apo.console import say
from clair_apo.errors import RequestError, StoreError
from clair_apo.llm.answer_cache import AnswerCache
from clair_apo.llm.spec import GO_ON
from clair_apo.llm.types import Answer, ChatModel, ChatRequest, Dialogue, StreamingChat

REQUESTS_AHEAD = 4
"""Requests that wait for an answer, for each that may be under way: there is always a next one."""
ROWS_HELD = 64
"""Rows that are held at most, for each request that may be under way: so many can be done before
one that takes long holds them up."""
MOST_BROKEN_OFF = 20
"""So many requests may be given up because their answers broke off, one after the other and with no
whole answer between them, before the run ends: then it is the server."""

T = TypeVar("T")


@contextmanager
def propagate_errors_to(results: Iterable[T]) -> Iterator[None]:
    """A block that takes the results of `converse`; an error in it is raised there as well.

    So the answers that are under way when a row cannot be written are waited for and kept.
    """
    try:
        yield
    except Exception as error:
        if isinstance(results, Generator):
            results.throw(error)
        raise


def groups_of(size: int, items: Iterable[T]) -> Iterator[list[T]]:
    """The items in lists of `size`, the last of which may be shorter; taken as they are needed."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group


class DialogueRunner(Generic[T]):
    """A dialogue under way.

    Args:
        dialogue: is begun at once.

    Attributes:
        answers: those that its requests have so far, by key.
    """

    requests: tuple[ChatRequest, ...]
    """What it waits for; empty once it has ended with a `result`."""
    result: T

    def __init__(self, dialogue: Dialogue[T]) -> None:
        self._dialogue = dialogue
        self.answers: dict[str, Answer] = {}
        self._step(None)

    def missing(self) -> list[ChatRequest]:
        """The requests without an answer, each once."""
        unique = {request.key: request for request in self.requests}
        return [request for key, request in unique.items() if key not in self.answers]

    def advance(self) -> None:
        """Send the dialogue its answers; nothing may be missing."""
        self._step(tuple(self.answers[request.key] for request in self.requests))

    def _step(self, answers: tuple[Answer, ...] | None) -> None:
        self.answers = {}
        try:
            self.requests = (
                next(self._dialogue) if answers is None else self._dialogue.send(answers)
            )
        except StopIteration as end:
            self.requests, self.result = (), end.value


class WaveScheduler:
    """Leads dialogues through a model that answers in groups.

    Args:
        model: returns the model; called where the store lacks an answer.
        cache: the answers of the model.
        wave: rows that are planned together.
    """

    def __init__(self, model: Callable[[], ChatModel], cache: AnswerCache, wave: int) -> None:
        self._model, self._cache, self._wave = model, cache, wave

    def run(self, dialogues: Iterable[Dialogue[T]]) -> Iterator[T]:
        """Yield the dialogues' results in their order.

        Waves are counted from the first row, so that a resumed run plans the same groups.
        """
        for rows in groups_of(self._wave, dialogues):
            runners = [DialogueRunner(row) for row in rows]
            while waiting := [runner for runner in runners if runner.requests]:
                answers = self._answers({r.key: r for runner in waiting for r in runner.requests})
                for runner in waiting:
                    runner.answers = answers
                    runner.advance()
            yield from (runner.result for runner in runners)

    def _answers(self, requests: dict[str, ChatRequest]) -> dict[str, Answer]:
        answers = {key: a for key, r in requests.items() if (a := self._cache.find(r))}
        if len(answers) == len(requests):
            return answers
        model = self._model()
        self._cache.store.check_room()
        for group in model.plan(list(requests.values())):
            self._ask(model, [request for request in group if request.key not in answers], answers)
        silent = [request for key, request in requests.items() if key not in answers]
        return answers | _by_key(self._cache.fail(silent, "the model gave no answer"))

    def _ask(
        self, model: ChatModel, missing: Sequence[ChatRequest], answers: dict[str, Answer]
    ) -> None:
        """Add a group's answers to `answers`; asks as much at a time as there is money for."""
        while missing:
            paid = self._cache.account.reserve_first(missing)
            unpaid = missing[len(paid) :]
            again: list[ChatRequest] = []
            for replies in model.answer(paid):
                kept = self._cache.keep(replies)
                answers.update(_by_key(kept.answers))
                again += kept.again
            for request in paid:  # one that had no answer at all costs nothing
                self._cache.account.settle(request, None)
            answers.update(_by_key(self._cache.find_new(unpaid)))
            missing = [r for r in (*again, *unpaid) if r.key not in answers]


def _by_key(answers: Iterable[Answer]) -> dict[str, Answer]:
    return {answer.request.key: answer for answer in answers}


class StreamScheduler(Generic[T]):
    """Leads dialogues side by side through a server, once.

    Args:
        connect: connects to the server; called where the store lacks the first answer.
        cache: the answers of the server's model.
        max_in_flight: requests that may be under way.
    """

    def __init__(
        self, connect: Callable[[], StreamingChat], cache: AnswerCache, max_in_flight: int
    ) -> None:
        self._connect, self._cache = connect, cache
        self._most_waiting = max_in_flight * REQUESTS_AHEAD
        self._most_held = max_in_flight * ROWS_HELD
        self._connected: StreamingChat | None = None
        self._waiting: dict[str, list[DialogueRunner[T]]] = {}
        """The rows that wait for a request's answer, by its key."""
        self._unpaid = deque[ChatRequest]()
        """Those of the waiting requests that are not sent: there is no money for them yet."""

    def run(self, dialogues: Iterable[Dialogue[T]]) -> Iterator[T]:
        """Yield the dialogues' results in their order; the server is left at the end."""
        try:
            yield from self._results(dialogues)
        except RequestError:
            raise  # all that was under way has been collected
        except Exception:  # not Ctrl+C, which ends at once
            self._keep_what_is_under_way()
            raise
        finally:
            if self._connected is not None:
                self._connected.close()

    def _results(self, dialogues: Iterable[Dialogue[T]]) -> Iterator[T]:
        rows, held = iter(dialogues), deque[DialogueRunner[T]]()
        while True:
            while held and not held[0].requests:
                yield held.popleft().result
            has_room = len(self._waiting) < self._most_waiting and len(held) < self._most_held
            if has_room and (row := next(rows, None)) is not None:
                held.append(DialogueRunner(row))
                self._ask_for(held[-1])
            elif self._waiting:
                self._collect()
            else:
                return

    def _server(self) -> StreamingChat:
        if self._connected is None:
            self._connected = self._connect()
        return self._connected

    def _ask_for(self, runner: DialogueRunner[T]) -> None:
        """Let a row go on with what the store knows, and ask the server for the rest."""
        while runner.requests:
            for request in runner.missing():
                if answer := self._cache.find(request):
                    runner.answers[request.key] = answer
                elif request.key in self._waiting:
                    self._waiting[request.key].append(runner)
                else:
                    self._cache.store.check_room()
                    self._waiting[request.key] = [runner]
                    self._unpaid.append(request)
                    self._submit_paid()
            if runner.missing():
                return
            runner.advance()

    def _submit_paid(self) -> None:
        """Send what there is money for; what has to wait for it keeps its turn."""
        while self._unpaid and self._cache.account.reserve(self._unpaid[0]):
            request = self._unpaid.popleft()
            self._server().submit(request, self._cache.attempt(request))

    def _collect(self) -> None:
        """Wait for answers, and let the rows go on that waited for them."""
        if len(self._unpaid) == len(self._waiting):  # nothing is under way that could cost less
            raise self._cache.account.exhausted(self._unpaid[0])
        replies = self._server().collect()
        kept = self._cache.keep(replies)
        self._server().settle(len(replies))
        if self._cache.given_up >= MOST_BROKEN_OFF:
            self._keep_what_is_under_way()
            raise RequestError(
                f"{kept.answers[-1].failure}; {self._cache.given_up} requests came to this one "
                f"after the other, and none was answered between them; {GO_ON}"
            )
        self._unpaid.extend(kept.again)
        self._submit_paid()
        for answer in kept.answers:
            for runner in self._waiting.pop(answer.request.key):
                runner.answers[answer.request.key] = answer
                if not runner.missing():
                    runner.advance()
                    self._ask_for(runner)

    def _keep_what_is_under_way(self) -> None:
        """When a run has to end, nothing more is asked, and what is asked is paid for."""
        if self._connected is None or len(self._waiting) == len(self._unpaid):
            return
        in_flight = self._cache.meter.in_flight
        say(f"stopping; waiting for {in_flight} requests under way: they are paid for")
        with suppress(StoreError, RequestError):
            self._connected.stop()
            while self._waiting and (replies := self._connected.collect()):
                for answer in self._cache.keep(replies).answers:
                    self._waiting.pop(answer.request.key, None)
                self._connected.settle(len(replies))
