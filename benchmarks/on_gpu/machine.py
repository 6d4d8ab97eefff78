"""What the parts run on, and how fast it multiplies matrices. Needs torch alone."""

import importlib.metadata
import platform
import time
from typing import Any

import torch


def describe(device: str) -> dict[str, Any]:
    """Device, memory and versions; what a file of results belongs to."""
    found: dict[str, Any] = {"device": device, "torch": torch.__version__}
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info()
        found |= {
            "name": gpu.name,
            "devices": torch.cuda.device_count(),
            "GiB": round(total / 2**30, 1),
            "GiB free": round(free / 2**30, 1),
            "CUDA": torch.version.cuda,
        }
    else:
        flags = torch.backends.cpu.get_cpu_capability()
        found |= {"name": f"CPU ({flags}, {torch.get_num_threads()} threads)", "devices": 1}
    for package in ("transformers", "trl", "accelerate", "triton", "flash_attn"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not there"
    return found | {"python": platform.python_version()}


def product_rate(device: str, dtype: torch.dtype, size: int, seconds: float) -> float:
    """Operations a second of square products of random numbers, after a warm-up."""
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    for _ in range(3):
        one @ other
    synchronize(device)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(5):
            one @ other
        synchronize(device)
        done += 5
    return done * 2.0 * size**3 / (time.perf_counter() - start)


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def run(device: str, *, toy: bool) -> dict[str, Any]:
    """TFLOP/s of matrix products in fp32 and bf16."""
    size, seconds = (128, 0.1) if toy else (8192, 1.5)
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    return {
        f"{name} TFLOP/s": product_rate(device, dtype, size, seconds) / 1e12
        for name, dtype in kinds.items()
    }
