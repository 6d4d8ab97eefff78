"""Who may import whom, how large a folder may be, and what must not be loaded."""

import ast
import importlib.util
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import clair_apo
from tests import helpers

ROOT = Path(clair_apo.__file__).parent

MOST_MODULES = 21
"""In one folder, its `__init__` included."""

# A package and all that it may import, besides itself. Everything points down.
GROUND = {
    "agreement",
    "alignment",
    "config",
    "console",
    "errors",
    "files",
    "ingest",
    "output_streams",
    "records",
    "stats",
    "text",
    "verification",
}
MAY_IMPORT = {
    "agreement": {"stats"},
    "alignment": set(),
    "config": {"errors", "files"},
    "console": {"output_streams"},
    "errors": set(),
    "files": {"errors", "records"},
    "float32_products": set(),
    "ingest": {"errors", "files", "records"},
    "launch": {"apo", "errors"},
    "models": {"errors"},
    "output_streams": set(),
    "records": set(),
    "run_folder": {"errors", "files"},
    "stats": {"records"},
    "training_process": {"console", "errors", "files", "run_folder"},
    "text": {"config", "errors", "files", "records"},
    "verification": {"records", "stats"},
    "llm": GROUND | {"float32_products", "models"},
    "advice": GROUND | {"llm", "models", "run_folder"},
    "clair": GROUND | {"advice", "llm", "models", "run_folder"},
    "apo": GROUND | {"advice", "float32_products", "models", "run_folder"},
    "evaluation": GROUND
    | {"advice", "apo", "clair", "float32_products", "llm", "models", "run_folder"},
    "lint": GROUND | {"clair"},
    "select": GROUND | {"clair", "run_folder"},
    "rounds": GROUND
    | {"advice", "clair", "evaluation", "llm", "models", "run_folder", "training_process"},
    "experiment": GROUND
    | {"advice", "clair", "evaluation", "llm", "models", "run_folder", "training_process"},
    "report": GROUND | {"evaluation", "experiment", "lint", "rounds", "run_folder"},
}
# The same among the packages inside of one.
MAY_IMPORT_INSIDE = {
    "llm": {"backends": set()},
    "clair": {
        "revision": set(),
        "filters": set(),
        "stages": {"revision", "filters"},
        "planning": {"stages"},
    },
    "apo": {
        "forward": set(),
        "reference": {"forward"},
        "dry_run": {"forward", "watch"},
        "watch": {"forward"},
    },
    "evaluation": {"suites": set()},
}


def _module(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {_module(path): path for path in sorted(ROOT.rglob("*.py"))}


def _imports(module):
    """The modules of the package that one imports, anywhere in it."""
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute here"
            for alias in node.names:
                for name in (f"{node.module}.{alias.name}", node.module):
                    if name in MODULES:
                        yield name
                        break


def _package(module, depth):
    return module.split(".")[depth] if module.count(".") >= depth else ""


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package):
    members = [module for module in MODULES if _package(module, 1) == package]
    assert members
    for module in members:
        others = {_package(name, 1) for name in _imports(module)} - {package}
        assert others <= MAY_IMPORT[package], f"{module} imports {others}"


@pytest.mark.parametrize(
    ("package", "inner"), [(o, i) for o, packages in MAY_IMPORT_INSIDE.items() for i in packages]
)
def test_a_package_in_another_imports_only_what_lies_below_it(package, inner):
    packages = MAY_IMPORT_INSIDE[package]
    members = [name for name in MODULES if name.startswith(f"clair_apo.{package}.{inner}.")]
    assert members
    for module in members:
        named = [n for n in _imports(module) if n.startswith(f"clair_apo.{package}.")]
        others = ({_package(name, 2) for name in named} & set(packages)) - {inner}
        assert others <= packages[inner], f"{module} imports {others}"


def test_every_package_is_in_a_table_or_stands_above_it():
    packages = {path.parent.relative_to(ROOT).parts for path in ROOT.rglob("__init__.py")}
    outer = {path.stem for path in ROOT.glob("*.py")} | {parts[0] for parts in packages if parts}
    assert outer - {"__init__", "__main__", "cli", "demo"} == set(MAY_IMPORT)
    inner = {(o, i) for o, below in MAY_IMPORT_INSIDE.items() for i in below}
    assert {parts for parts in packages if len(parts) > 1} == inner


def test_the_tables_and_the_modules_have_no_circles():
    for table in (MAY_IMPORT, *MAY_IMPORT_INSIDE.values()):
        assert set(TopologicalSorter(table).static_order()) >= set(table)
    imports = {module: set(_imports(module)) - {module} for module in MODULES}
    assert set(TopologicalSorter(imports).static_order()) == set(MODULES)


def test_no_folder_is_so_full_that_nobody_finds_a_file_in_it():
    folders = [folder for folder in ROOT.rglob("*") if folder.is_dir()]
    sizes = {folder: len(list(folder.glob("*.py"))) for folder in folders}
    assert {str(f): n for f, n in sizes.items() if n > MOST_MODULES} == {}


HEAVY = ("torch", "transformers", "trl", "datasets", "scipy")


@pytest.mark.parametrize("module", ["clair_apo", "clair_apo.clair", "clair_apo.report"])
def test_importing_a_package_that_needs_no_model_loads_no_torch(module):
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("package", ["llm", "clair", "apo", "lint", "report"])
def test_what_a_package_exports_is_sorted_documented_and_there(package):
    module = __import__(f"clair_apo.{package}", fromlist=["__all__"])
    assert list(module.__all__) == sorted(module.__all__, key=_as_ruff_sorts)
    for name in module.__all__:
        assert hasattr(module, name)
    assert module.__doc__


def _as_ruff_sorts(name):
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name


def test_the_tree_that_the_documentation_draws_is_that_of_the_code():
    script = helpers.ROOT / "scripts" / "write_tree.py"
    spec = importlib.util.spec_from_file_location("write_tree", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (helpers.ROOT / "docs" / "architecture.md").read_text("utf-8")
    tree = text.split("```text\nclair_apo/\n")[1].split("\n```")[0]
    assert tree == module.tree(), "run python scripts/write_tree.py"
    names = {path.name for path in MODULES.values()} - {"__init__.py"}
    assert all(name in tree for name in names)
