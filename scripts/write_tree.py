"""Write the tree of modules into docs/architecture.md, each with what its docstring says first.

Command: python scripts/write_tree.py
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGE = ROOT / "src" / "clair_apo"


def tree(package: Path = PACKAGE) -> str:
    """The tree as lines: modules first, then packages, by name."""
    return "\n".join(_lines(package, "  "))


def _lines(folder: Path, indent: str) -> Iterator[str]:
    modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    width = max(len(path.name) for path in modules) + 2
    for path in modules:
        yield f"{indent}{path.name:<{width}}{_sentence(path)}"
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield ""
        yield f"{indent}{inner.name}/    {_sentence(inner / '__init__.py')}"
        if any(path.name != "__init__.py" for path in inner.glob("*.py")):
            yield from _lines(inner, f"{indent}  ")


def _sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    line = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[^.])\.$|\.\n", line)[0].removesuffix(".")


def main() -> None:
    """Write the page."""
    text = PAGE.read_text("utf-8")
    before, rest = text.split("```text\nclair_apo/\n", 1)
    after = rest.split("```", 1)[1]
    PAGE.write_text(f"{before}```text\nclair_apo/\n{tree()}\n```{after}", "utf-8")


if __name__ == "__main__":
    main()
