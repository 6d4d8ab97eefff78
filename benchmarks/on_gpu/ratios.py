"""TRL's fastest step over ours, from the results of both. Standard library only."""

from typing import Any

OURS = "clair_apo"
TARGETS = {"real": 1.5, "edits": 2.0}
"""Ratios that are aimed at, by kind of pairs."""
TARGET_MFU = 0.4
"""Of ours at 8B."""


def ratios(parts: dict[str, dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Seconds of TRL's fastest over ours by size and kind of pairs, on the same pairs.

    Args:
        parts: results by name; those of steps are called `step/SIZE/CONTENDER`.
    """
    found = {}
    for size in ("1b", "8b"):
        of_size = {
            name.rsplit("/", 1)[1]: result["figures"]
            for name, result in parts.items()
            if name.startswith(f"step/{size}/") and result["status"] == "ok"
        }
        ours = of_size.pop(OURS, None)
        for kind in TARGETS if ours and of_size else ():
            fastest = min(each[kind]["seconds"] for each in of_size.values())
            found[size, kind] = fastest / ours[kind]["seconds"]
    return found


def ratios_in_words(parts: dict[str, dict[str, Any]]) -> str:
    """A line for each ratio and for MFU at 8B, beside their targets; empty where there is none."""
    lines = []
    for (size, kind), ratio in ratios(parts).items():
        aim = TARGETS[kind]
        said = f"- {size}, {kind}: TRL's fastest step takes {ratio:.2f} times ours (target {aim:g})"
        if size == "8b":
            mfu = parts[f"step/8b/{OURS}"]["figures"][kind]["MFU"]
            said += f"; MFU of ours {mfu:.2f} (target {TARGET_MFU:g})"
        lines.append(said)
    return "\n" + "\n".join(lines) + "\n" if lines else ""
