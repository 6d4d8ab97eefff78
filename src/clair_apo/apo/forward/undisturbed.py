"""Tries a model as it is in training, and leaves no trace of it.

Modes, gradients and weights are afterwards what they were; random numbers are kept by
`noise.random_numbers_kept`.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from clair_apo.apo.trl_compat import is_in_pieces

STARTING_VALUE = 0.02
"""The size of what stands in for weights that start at zero."""


@contextlib.contextmanager
def undisturbed(model: Any, hooked: Iterable[nn.Module]) -> Iterator[None]:
    """Compute as in evaluation; afterwards modes, gradients and weights are as they were.

    Args:
        model: in training or not.
        hooked: modules whose hooks are to act as they do in training.
    """
    training = [(module, module.training) for module in model.modules()]
    grads = [(weight, weight.grad) for weight in model.parameters()]
    model.eval()
    for module in hooked:
        module.training = True
    for weight, _ in grads:
        weight.grad = None
    try:
        with _adapters_visible(model):
            yield
    finally:
        for module, was in training:
            module.training = was
        for weight, grad in grads:
            weight.grad = grad


@contextlib.contextmanager
def _adapters_visible(model: Any) -> Iterator[None]:
    """Give weights that start at zero small values: a new adapter does nothing before it learns.

    Weights that are spread over processes are left alone.
    """
    generator = torch.Generator().manual_seed(0)
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        for weight in model.parameters():
            if not weight.requires_grad or not _is_plain(weight) or weight.any():
                continue
            kept.append((weight.data, weight.data.clone()))
            noise = torch.rand(weight.shape, generator=generator) - 0.5
            weight.data.copy_(2 * STARTING_VALUE * noise)
        yield
    finally:
        for data, before in kept:
            data.copy_(before)


def _is_plain(weight: Tensor) -> bool:
    whole = not weight.is_meta and not is_in_pieces(weight)
    return weight.is_floating_point() and weight.numel() > 0 and whole
