"""The house: who may import whom, and what must not be loaded."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import clair_apo

ROOT = Path(clair_apo.__file__).parent

# A room and all that it may import, besides itself. Everything points down.
GROUND = {
    "alignment",
    "arrow_rows",
    "cells",
    "columns",
    "controls",
    "errors",
    "records",
    "files",
    "rows",
    "config",
    "progress",
    "splits",
    "stats",
    "terminal",
}
MAY_IMPORT = {
    "alignment": set(),
    "arrow_rows": {"errors"},
    "cells": {"errors", "files", "records"},
    "columns": set(),
    "controls": {"records", "stats"},
    "errors": set(),
    "records": set(),
    "files": {"errors", "records"},
    "splits": set(),
    "stats": {"records"},
    "rows": {"arrow_rows", "cells", "errors", "files", "records"},
    "progress": {"terminal"},
    "config": {"errors", "files"},
    "models": {"errors"},
    "runs": {"errors", "files"},
    "shutdown": set(),
    "terminal": set(),
    "llm": GROUND | {"models"},
    "clair": GROUND | {"llm", "models", "runs"},
    "apo": GROUND | {"models", "runs", "shutdown"},
    "report": GROUND | {"runs"},
}


def _rooms_imported(path):
    """The rooms of the package that a file imports, anywhere in it."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute here"
            names = [node.module]
            if node.module == "clair_apo":
                names = [f"clair_apo.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "clair_apo" and len(parts) > 1:
                yield parts[1]


def _files(room):
    single = ROOT / f"{room}.py"
    return [single] if single.exists() else sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_lies_below_it(room):
    files = _files(room)
    assert files
    for path in files:
        others = set(_rooms_imported(path)) - {room}
        assert others <= MAY_IMPORT[room], f"{path.relative_to(ROOT)} imports {others}"


def test_every_room_is_in_the_table_or_stands_above_it():
    found = {path.stem for path in ROOT.glob("*.py")} | {
        path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()
    }
    above = {"__init__", "__main__", "cli", "demo"}
    assert found - above == set(MAY_IMPORT)


def test_the_table_itself_has_no_cycle():
    below = dict(MAY_IMPORT)
    while below:
        floor = {room for room, needs in below.items() if not needs & set(below)}
        assert floor, f"a cycle among {set(below)}"
        below = {room: needs for room, needs in below.items() if room not in floor}


HEAVY = ("torch", "transformers", "trl", "datasets", "scipy")


@pytest.mark.parametrize("module", ["clair_apo", "clair_apo.clair", "clair_apo.report"])
def test_importing_a_room_that_needs_no_model_loads_no_torch(module):
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("room", ["llm", "clair", "apo", "report"])
def test_what_a_room_exports_is_sorted_documented_and_there(room):
    module = __import__(f"clair_apo.{room}", fromlist=["__all__"])
    assert list(module.__all__) == sorted(module.__all__, key=_as_ruff_sorts)
    for name in module.__all__:
        assert hasattr(module, name)
    assert module.__doc__


def _as_ruff_sorts(name):
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name
