"""Anything in groups of a size. `itertools.batched` does this from Python 3.12 on."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def groups_of(size: int, items: Iterable[T]) -> Iterator[list[T]]:
    """The items in lists of `size`, the last of which may be shorter; taken as they are needed."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
