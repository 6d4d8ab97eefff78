"""The ways of a pair through a model, each forced and counted: none falls to the next unseen."""

import contextlib
from collections.abc import Iterator
from typing import Any

from clair_apo.apo.forward import attention
from clair_apo.apo.forward.attention import FLEX_ATTENTION as FLEX
from clair_apo.apo.forward.attention import PER_BRANCH as BRANCHES
from clair_apo.apo.forward.layout_check import PADDED

PATHS = (FLEX, BRANCHES, PADDED)


class Calls:
    """How often FlexAttention was called."""

    flex = 0


@contextlib.contextmanager
def only(path: str) -> Iterator[Calls]:
    """Attention over trees takes this path, and no other.

    Args:
        path: one of `PATHS`; `padded` makes no trees, so it changes nothing.
    """
    calls = Calls()
    flexes, forward = attention._flexes, attention._flex_attention

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.flex += 1
        return forward(*args, **kwargs)

    attention._flexes = lambda device: path == FLEX  # type: ignore[assignment]
    attention._flex_attention = counted
    try:
        yield calls
    finally:
        attention._flexes, attention._flex_attention = flexes, forward


def faults_of(path: str, calls: Calls) -> list[str]:
    """What is wrong with the path that was really taken."""
    if path == FLEX and not calls.flex:
        return ["FlexAttention was not called"]
    if path != FLEX and calls.flex:
        return [f"FlexAttention was called {calls.flex} times"]
    return []
