"""Float32 products on a CPU by oneDNN, where it keeps float32.

torch multiplies by MKL, which keeps to AVX2 on some cores. It calls a faster kernel of oneDNN
where bfloat16 is allowed; whether that kernel keeps float32 all the same is measured once.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch

_RELATIVE_MISS = 1e-5
"""Float32 misses by 2e-7 here, bfloat16 by 2e-3."""


@contextlib.contextmanager
def fast_float32_products(device: torch.device) -> Iterator[None]:
    """Let oneDNN multiply in float32; torch's own setting is back at the end.

    Args:
        device: where the products are; on any but a CPU nothing changes.
    """
    if device.type != "cpu" or not _keeps_float32():
        yield
        return
    with _by_onednn():
        yield


@contextlib.contextmanager
def _by_onednn() -> Iterator[None]:
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined] # torch makes it late
    own = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
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
    with _by_onednn(), torch.autocast("cpu", enabled=False):
        found = left @ right
    return bool((found - exact).norm() <= _RELATIVE_MISS * exact.norm())
