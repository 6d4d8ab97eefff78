"""Memory that a step frees on a CPU is held for the next one, where glibc gives it out.

By itself glibc returns large blocks to the system. The next step takes them again, and the system
fills every page with zeros before it may be written. A virtual machine pays the most for that.
"""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from typing import Any

import torch

# parameters of mallopt, numbered in malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = -1
_HELD = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER}
_RETURNED = {_MMAP_MAX: 2**16, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}
"""What glibc itself comes to once 32 MiB are freed in one block; told anything, it adapts no more.
"""


@contextlib.contextmanager
def memory_held(device: torch.device) -> Iterator[None]:
    """Keep freed memory in the process; at the end the system gets what is free.

    Meanwhile the process stays as large as it once was. Where the environment tunes glibc's memory
    (`MALLOC_*`, `GLIBC_TUNABLES`), that is left as it is.

    Args:
        device: where tensors are; on any but a CPU nothing changes.
    """
    libc = _glibc() if device.type == "cpu" and not _is_tuned() else None
    if libc is None:
        yield
        return
    _tell(libc, _HELD)
    try:
        yield
    finally:
        _tell(libc, _RETURNED)
        libc.malloc_trim(0)


def _glibc() -> Any:
    """The C library of this process, or None where it is another's."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def _is_tuned() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return "glibc.malloc" in tunables or any(name.startswith("MALLOC_") for name in os.environ)


def _tell(libc: Any, settings: dict[int, int]) -> None:
    for parameter, value in settings.items():
        libc.mallopt(parameter, value)
