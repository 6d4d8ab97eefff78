"""Which private names of other libraries training leans on, and that they are still there."""

import ast
import importlib
import inspect
from importlib.metadata import version
from pathlib import Path

import pytest

import clair_apo.apo
from clair_apo.apo.trl_compat import PRIVATE_NAMES

FILES = sorted(Path(clair_apo.apo.__file__).parent.rglob("*.py"))
BY_NAME = ("getattr", "setattr", "hasattr")


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def is_set_on_self(node):
    return isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"


def names_of_ours(tree):
    """What a file defines: functions, variables, fields, and what it sets on itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and is_set_on_self(node):
            yield node.attr


def names_used(tree):
    """The private names that a file reads off anything, imports, keeps in a namespace, or asks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and not node.module.startswith("clair_apo"):
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in BY_NAME and isinstance(node.args[1], ast.Constant):
                yield from filter(is_private, [node.args[1].value])
            if node.func.id == "SimpleNamespace":
                yield from (word.arg for word in node.keywords if is_private(word.arg))


def test_the_list_holds_exactly_the_private_names_of_other_libraries_that_training_uses():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in FILES]
    listed = {name.rsplit(".", 1)[1] for name in PRIVATE_NAMES}
    defined = {name for tree in trees for name in names_of_ours(tree)}
    used = {name for tree in trees for name in names_used(tree)}
    assert used - defined <= listed
    assert listed <= used | defined, "overridden, where it is not called"


def owner_of(path):
    """A module, or a class in one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, name = path.rsplit(".", 1)
        return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_every_private_name_we_use_is_still_there(name):
    path, attribute = name.rsplit(".", 1)
    owner = owner_of(path)
    there = hasattr(owner, attribute) or any(
        written in inspect.getsource(owner)
        for written in (f"self.{attribute} = ", f'__setattr__("{attribute}", ')
    )
    package = name.split(".")[0]
    assert there, f"{package} {version(package)} has no {name} any more"
