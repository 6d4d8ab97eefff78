"""Floating-point operations: how many a forward takes, and how many a device does in a second."""

import functools
import time
from typing import Any, NamedTuple, Self

import torch
from transformers import PreTrainedModel

from clair_apo.float32_products import fast_float32_products

RATE_SIZE = 1024
"""Rows and columns of the matrices that are multiplied on a CPU."""
RATE_SIZE_ACCELERATOR = 8192
"""The same elsewhere: smaller products are over before the next one is sent."""
RATE_SECONDS = 0.3


class ModelSize(NamedTuple):
    """What the operations of a model's forward are counted from."""

    inside: int
    """Parameters but for embeddings and head."""
    hidden: int
    layers: int
    vocabulary: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self:
        """The size of a model: adapted or not, its weights in pieces or on the meta device.

        Args:
            model: of a mixture of experts all experts count, though a token meets few of them.
        """
        config: Any = model.config.get_text_config()
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        outside = {id(end.weight): _count(end.weight) for end in ends if end is not None}
        weights = sum(map(_count, model.parameters()))
        return cls(
            inside=weights - sum(outside.values()),
            hidden=config.hidden_size,
            layers=config.num_hidden_layers,
            vocabulary=config.vocab_size,
        )

    def operations(self, tokens: float, labels: float, sequence: float) -> float:
        """Operations of a forward; a backward takes twice as many.

        Args:
            tokens: that go through the layers.
            labels: tokens that the head scores.
            sequence: mean length of a sequence; a token attends to half of it on average.
        """
        layers = 2.0 * self.inside * tokens
        head = 2.0 * self.hidden * self.vocabulary * labels
        # scores and their product with the values
        attention = 2.0 * self.layers * self.hidden * sequence * tokens
        return layers + head + attention


def _count(weight: Any) -> int:
    return int(getattr(weight, "ds_numel", weight.numel()))  # ZeRO-3 leaves none in place


@functools.cache
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure matrix products on a device, in operations a second; takes `RATE_SECONDS`, once.

    Random numbers of training are not drawn.
    """
    size = RATE_SIZE if device.type == "cpu" else RATE_SIZE_ACCELERATOR
    one = torch.rand(size, size, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    with torch.no_grad(), fast_float32_products(device):  # as in training
        (one @ one).sum().item()  # wakes the device
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < RATE_SECONDS:
            (one @ one).sum().item()  # the sum waits until the product is there
            done += 1
    return done * 2.0 * size**3 / (time.perf_counter() - start)
