"""Float32 products on a CPU by oneDNN, where it keeps float32.

torch multiplies by MKL, which keeps to AVX2 on some cores. It calls a faster kernel of oneDNN
where bfloat16 is allowed; whether that kernel keeps float32 all the same is measured once.

Attention of a single query, which is each step of an answer but the first, is left to torch:
oneDNN takes seven times as long for it.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

SDPA = "sdpa"
_BY_TORCH = AttentionInterface()[SDPA]
_RELATIVE_MISS = 1e-5
"""Float32 misses by 2e-7 here, bfloat16 by 2e-3."""


@contextlib.contextmanager
def fast_float32_products(device: torch.device) -> Iterator[None]:
    """Let oneDNN multiply in float32; all settings are as before at the end.

    They are those of the process: no other thread should work meanwhile.

    Args:
        device: where the products are; on any but a CPU nothing changes.
    """
    if device.type != "cpu" or not _keeps_float32():
        yield
        return
    own = AttentionInterface()[SDPA]
    AttentionInterface.register(SDPA, attention)
    try:
        with _precision("bf16"):
            yield
    finally:
        AttentionInterface.register(SDPA, own)


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any
) -> Any:
    """Attend as transformers does under the name `sdpa`, a single query without oneDNN.

    Args:
        module: the layer.
        query: (B, H, n, D).
        key: (B, K, m, D).
        value: (B, K, m, D).
        args: as transformers hands them over: the mask first.
        options: the same.
    """
    with _precision("ieee") if query.shape[2] == 1 else contextlib.nullcontext():
        return _BY_TORCH(module, query, key, value, *args, **options)


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined] # torch makes it late
    own = matmul.fp32_precision
    matmul.fp32_precision = name
    try:
        yield
    finally:
        matmul.fp32_precision = own


@functools.cache
def _keeps_float32() -> bool:
    """Whether products are exact to float32 where bfloat16 is allowed."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 256, 256, generator=generator, dtype=torch.float32, device="cpu")
    exact = left.double() @ right.double()
    with _precision("bf16"), torch.autocast("cpu", enabled=False):
        found = left @ right
    return bool((found - exact).norm() <= _RELATIVE_MISS * exact.norm())
