"""A model's head, asked inside of the model's own forward: what goes in, and what becomes of it.

A model may scale the states that its head is given, and scale or cap what the head gives. Instead
of a list of names of settings, its own forward runs with a head that keeps its input and gives
numbers that are known; what they have become says what the forward does to them.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from clair_apo.apo.forward.label_logprobs import LogitMap
from clair_apo.errors import TrainingError

_PROBES = (0.0, 1.0, -1.0, 0.25, -4.0, 16.0, -64.0, 2.0**20)
"""Products of a head; as powers of two they are multiplied without rounding."""
_RELATIVE_MISS = 1e-6
"""Models may answer in float32."""


class UnknownHeadError(TrainingError):
    """A model makes of its states something that scored labels do not know."""


class HeadInput(NamedTuple):
    """What a model hands to its head, and what it makes of the products."""

    states: Tensor
    """(1, N, H)."""
    logit_map: LogitMap


_known: WeakKeyDictionary[nn.Module, LogitMap] = WeakKeyDictionary()
"""What models make of the products of each head."""


def head_input(forward: Any, head: Any, inputs: dict[str, Any]) -> HeadInput:
    """Run a model up to its head.

    Args:
        forward: of the model itself; returns an object with `logits`.
        head: its output embeddings, a linear layer.
        inputs: of N tokens, for the forward.

    Raises:
        UnknownHeadError: the forward does not call the head once on all states, or makes of its
            products something else than scaled and capped ones.
    """
    probes = _probes(head)
    with _replaced(head, probes) as given:
        logits = getattr(forward(**inputs), "logits", None)
    if len(given) != 1 or not isinstance(logits, Tensor):
        raise UnknownHeadError(f"the model calls its head {len(given)} times in a forward")
    logit_map = _known.get(head)
    if logit_map is None:
        logit_map = _known[head] = _logit_map(probes, logits)
    return HeadInput(given[0], logit_map)


def _probes(head: Any) -> Tensor:
    """One probe for each token of the vocabulary, (1, 1, V)."""
    size = head.weight.shape[0]
    values = torch.tensor(_PROBES, dtype=torch.float64, device=head.weight.device)
    return values.repeat(-(-size // len(values)))[None, None, :size]


@contextlib.contextmanager
def _replaced(head: Any, probes: Tensor) -> Iterator[list[Tensor]]:
    """Let a head give the probes; what it is given is kept."""
    given: list[Tensor] = []

    def forward(states: Tensor, *more: Any, **named: Any) -> Tensor:
        given.append(states)
        return probes.clone()  # a model may change it in place

    own = head.__dict__.get("forward")
    head.forward = forward
    try:
        yield given
    finally:
        del head.forward
        if own is not None:
            head.forward = own


def _logit_map(probes: Tensor, logits: Tensor) -> LogitMap:
    if logits.requires_grad:
        raise UnknownHeadError("the model trains what it makes of its logits")
    if logits.shape != probes.shape:
        raise UnknownHeadError(
            f"the model makes {tuple(logits.shape)} logits of {tuple(probes.shape)} products"
        )
    found = logits.double()
    first = dict(zip(_PROBES, found[0, 0, : len(_PROBES)].tolist(), strict=False))
    for logit_map in _candidates(first):
        wanted = logit_map(probes.clone())
        if torch.allclose(found, wanted, rtol=_RELATIVE_MISS, atol=_RELATIVE_MISS):
            return logit_map
    raise UnknownHeadError("the model does more to its logits than to scale and to cap them")


def _candidates(found: dict[float, float]) -> Iterator[LogitMap]:
    """What a scale alone, and a scale with a cap, would have to be."""
    yield LogitMap(scale=found[1.0])
    cap = found[2.0**20]
    if cap > 0 and abs(found[0.25]) < cap:
        yield LogitMap(scale=cap * math.atanh(found[0.25] / cap) / 0.25, softcap=cap)
