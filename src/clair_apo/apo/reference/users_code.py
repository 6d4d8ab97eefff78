"""Tells code of the user's own from code of Python and installed packages."""

import functools
import inspect
import sys
import types
from pathlib import Path
from typing import Any

_LIBRARIES = {"clair_apo", "torch", "transformers", "peft", "trl", "accelerate", "deepspeed"}
FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    functools.partial,
    type,
)
"""Types of values that are code, not data."""


def calls_users_code(function: Any) -> bool:
    """Whether a function is the user's own, or wraps one that is.

    Args:
        function: a function, a method, a partial or an object that can be called; data and modules
            of torch are none.
    """
    waiting, seen = [function], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        module = module_of(one)
        if module is not None and not is_library(module):
            return True
        waiting += _inside(one)
    return False


def module_of(function: Any) -> str | None:
    """Where a function's code stands; None for what is no Python function.

    Its globals say so: `functools.wraps` gives it the `__module__` of what it wraps.
    """
    function = getattr(function, "__func__", function)
    if isinstance(function, types.FunctionType):
        return str(function.__globals__.get("__name__", ""))
    if isinstance(function, functools.partial | types.BuiltinFunctionType | type | None):
        return None
    called = inspect.getattr_static(type(function), "__call__", None)
    return module_of(called) if isinstance(called, types.FunctionType) else None


def _inside(function: Any) -> list[Any]:
    """The functions that a function calls by holding them."""
    if isinstance(function, functools.partial):
        return [part for part in (function.func, *function.args) if callable(part)]
    plain = getattr(function, "__func__", function)
    held = [getattr(plain, "__wrapped__", None), *vars(plain).values()] if _has_dict(plain) else []
    held += [_content(cell) for cell in getattr(plain, "__closure__", None) or ()]
    return [part for part in held if isinstance(part, FUNCTIONS) and not isinstance(part, type)]


def _has_dict(value: Any) -> bool:
    return hasattr(value, "__dict__")


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


@functools.cache
def is_library(module: str) -> bool:
    """Whether code is part of Python or of an installed package, and so known by its name."""
    root = module.split(".")[0]
    if root in _LIBRARIES or root in sys.stdlib_module_names:
        return root != "__main__"
    path = getattr(sys.modules.get(module), "__file__", None) or ""
    return any(part in ("site-packages", "dist-packages") for part in Path(path).parts)
