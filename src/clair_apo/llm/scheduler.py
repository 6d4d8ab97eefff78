"""A dialogue under way: what it waits for, what it has been told, and who takes its result."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Generic, TypeVar

from clair_apo.llm.types import Answer, ChatRequest, Dialogue

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
        """Tell the dialogue its answers; nothing may be missing."""
        self._step(tuple(self.answers[request.key] for request in self.requests))

    def _step(self, answers: tuple[Answer, ...] | None) -> None:
        self.answers = {}
        try:
            self.requests = (
                next(self._dialogue) if answers is None else self._dialogue.send(answers)
            )
        except StopIteration as end:
            self.requests, self.result = (), end.value


def groups_of(size: int, items: Iterable[T]) -> Iterator[list[T]]:
    """The items in lists of `size`, the last of which may be shorter; taken as they are needed."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
