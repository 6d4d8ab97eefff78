"""The results of all parts in one JSON file, and the Markdown table drawn from it.

Standard library only.
"""

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Result = dict[str, Any]
"""Of one part: `status` (`ok`, `failed` or `skipped`), `seconds`, and `figures` or `error`."""

OF_A_MACHINE = ("device", "name", "devices", "torch")
"""What must be the same for results to stand in one file."""


class Results:
    """The results so far; each is written as soon as it is there.

    Args:
        path: of the JSON; results that it holds are kept.
        machine: what the parts run on.

    Raises:
        SystemExit: the file holds results of another machine, or cannot be read.
    """

    def __init__(self, path: Path, machine: dict[str, Any]) -> None:
        self.path = path
        self.parts: dict[str, Result] = {}
        if path.exists():
            try:
                earlier = json.loads(path.read_text("utf-8"))
                self.parts, before = earlier["parts"], earlier["machine"]
            except (ValueError, KeyError) as error:
                raise SystemExit(f"{path} cannot be read ({error}); choose another --out") from None
            for key in OF_A_MACHINE:
                if before.get(key) != machine.get(key):
                    raise SystemExit(
                        f"{path} holds results of another machine ({key} {before.get(key)!r}, here "
                        f"{machine.get(key)!r}); choose another --out"
                    )
        self.machine = machine
        self._save()

    def add(self, name: str, result: Result) -> None:
        """Keep the result of a part, at once."""
        self.parts[name] = result | {"at": time.strftime("%Y-%m-%d %H:%M:%S")}
        self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"machine": self.machine, "parts": self.parts}
        beside = self.path.with_suffix(".tmp")
        beside.write_text(json.dumps(whole, indent=1), encoding="utf-8")
        os.replace(beside, self.path)

    def failed(self) -> dict[str, str]:
        """Parts that failed, each with the last line of its error."""
        found = {n: r for n, r in self.parts.items() if r["status"] == "failed"}
        return {name: _last_line(result["error"]) for name, result in found.items()}

    def left(self, names: Iterable[str]) -> list[str]:
        """Parts without a result."""
        return [name for name in names if name not in self.parts]


def markdown(results: Results, names: list[str]) -> str:
    """The table that the documentation includes: a line for each figure, and what failed."""
    machine = results.machine
    what = ", ".join(f"{key} {value}" for key, value in machine.items() if key != "device")
    lines = [f"Machine: {what}.", ""]
    if machine["device"] == "cpu":
        lines += [
            "**This is a trial run of the program on a CPU, at toy size. It shows which parts run, "
            "and none of its numbers is a figure of a GPU.**",
            "",
        ]
    lines += ["| part | result | seconds | figures |", "|---|---|---:|---|"]
    for name in names:
        result = results.parts.get(name)
        if result is None:
            lines.append(f"| `{name}` | not run yet | | |")
            continue
        said = _figures(result.get("figures", {})) or _cell(_last_line(result.get("error", "")))
        lines.append(f"| `{name}` | {result['status']} | {result['seconds']:.0f} | {said} |")
    ended = results.failed()
    lines += ["", "Failed: " + (", ".join(f"`{name}`" for name in ended) or "nothing") + "."]
    return "\n".join(lines) + "\n"


def _figures(figures: dict[str, Any]) -> str:
    """Figures in one cell; those of several settings one below the other."""
    nested = {key: value for key, value in figures.items() if isinstance(value, dict)}
    flat = ", ".join(f"{k} {_short(v)}" for k, v in figures.items() if k not in nested)
    inner = [f"{name}: {_figures(value)}" for name, value in nested.items()]
    return "<br>".join(filter(None, [_cell(flat), *inner]))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, list):
        return "[" + " ".join(map(_short, value)) + "]"
    return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""
