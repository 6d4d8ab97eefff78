"""Which private names of other libraries training leans on, and what happens without one."""

import ast
import importlib
import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

import clair_apo.apo
from clair_apo.apo import trl_compat
from clair_apo.apo.trainer import APOTrainer
from clair_apo.apo.trl_compat import (
    PRIVATE_NAMES,
    TESTED_TRL,
    TRL_METHODS,
    check_trl,
    trl_internals,
)
from clair_apo.errors import TrainingError
from tests.helpers import ROOT

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


@pytest.fixture
def unchecked():
    """The installed TRL was not looked at yet, and will be again after the test."""
    check_trl.cache_clear()
    yield
    check_trl.cache_clear()


def import_what_trl_lacks():
    from trl.data_utils import _gone  # noqa: F401


def import_a_module_that_trl_lacks():
    import trl.gone  # noqa: F401


def read_what_a_trainer_lacks():
    return SimpleNamespace()._is_vlm


@pytest.mark.parametrize(
    ("use", "name"),
    [
        (import_what_trl_lacks, "_gone"),
        (import_a_module_that_trl_lacks, "trl.gone"),
        (read_what_a_trainer_lacks, "_is_vlm"),
    ],
)
def test_a_missing_internal_is_an_error_with_the_installed_version_and_the_tested_range(use, name):
    with pytest.raises(TrainingError) as raised, trl_internals():
        use()
    for part in (f"TRL {version('trl')} lacks", name, *TESTED_TRL, "pip install 'trl=="):
        assert part in str(raised.value)


def test_what_is_missing_elsewhere_keeps_its_own_error():
    with pytest.raises(AttributeError, match="anything"), trl_internals():
        _ = SimpleNamespace().anything
    with pytest.raises(ImportError, match="nothing"), trl_internals():
        from json import nothing  # noqa: F401


@pytest.mark.parametrize("name", TRL_METHODS)
def test_no_trainer_is_made_where_trl_lacks_a_method_that_ours_overrides(
    unchecked, monkeypatch, name
):
    others = {other.rsplit(".", 1)[1]: None for other in TRL_METHODS if other != name}
    monkeypatch.setattr(trl_compat, "DPOTrainer", type("DPOTrainer", (), others))
    with pytest.raises(TrainingError, match=f"there is no {re.escape(name)}"):
        APOTrainer("no-model")


def minor_beside(tested, by):
    major, minor = tested.split(".")
    return f"{major}.{int(minor) + by}.0"


OUTSIDE = [minor_beside(TESTED_TRL[0], -1), minor_beside(TESTED_TRL[1], +1)]


@pytest.mark.parametrize("installed", OUTSIDE)
def test_a_version_that_was_not_tested_is_one_warning(unchecked, monkeypatch, caplog, installed):
    monkeypatch.setattr(trl_compat, "version", lambda package: installed)
    check_trl()
    check_trl()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert installed in caplog.text
    assert trl_compat.tested_range() in caplog.text


@pytest.mark.parametrize("installed", [f"{tested}.7rc1" for tested in sorted(set(TESTED_TRL))])
def test_a_version_that_was_tested_is_none(unchecked, monkeypatch, caplog, installed):
    monkeypatch.setattr(trl_compat, "version", lambda package: installed)
    check_trl()
    assert caplog.records == []


def test_the_package_asks_for_trl_from_the_oldest_tested_minor_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [line for line in project["dependencies"] if line.startswith("trl")]
    assert asked == [f"trl>={TESTED_TRL[0]},<2"]


def test_the_commands_install_the_newest_tested_minor():
    pins = (ROOT / "constraints.txt").read_text("utf-8")
    assert re.search(rf"^trl=={re.escape(TESTED_TRL[1])}\.", pins, re.MULTILINE)
