"""What a training run logged: curves over its steps, read from its folder.

Reads `trainer_state.json`, and from `manifest.json` what the `train` stage wrote; knows nothing of
models or trainers.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clair_apo.errors import RunError
from clair_apo.run_folder import RunFolder

STATE = "trainer_state.json"
CHECKPOINT = "checkpoint"
"""The folder of a run in which `clair-apo train` is told to write, by the shipped configs."""


class Curve(NamedTuple):
    """One metric over the steps at which it was logged."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


class TrainingRun(NamedTuple):
    """What a training folder says of its run."""

    folder: Path
    name: str
    logs: tuple[Mapping[str, Any], ...]
    """Every log in order, those of evaluations too."""
    facts: Mapping[str, Any]
    """The manifest's entry of the stage; empty where a trainer was used without `train`."""

    def curve(self, metric: str) -> Curve:
        """A metric over its steps; empty where it was never logged. NaN and infinity are left out.

        Args:
            metric: its name in the logs; that of an evaluation begins with `eval_`.
        """
        points = [
            (int(log["step"]), float(log[metric]))
            for log in self.logs
            if isinstance(log.get(metric), int | float) and math.isfinite(log[metric])
        ]
        return Curve(*zip(*points, strict=True)) if points else Curve((), ())

    def last(self, metric: str) -> float | None:
        """The last value of a metric."""
        values = self.curve(metric).values
        return values[-1] if values else None


def find_training(folder: Path) -> Path | None:
    """Where a finished training wrote: the folder itself or its `checkpoint`; None if nowhere."""
    places = (folder, folder / CHECKPOINT)
    return next((place for place in places if (place / STATE).is_file()), None)


def read_training(folder: Path) -> TrainingRun:
    """Read a training folder.

    Raises:
        RunError: there is no training in it, or its state cannot be read.
    """
    found = find_training(folder)
    if found is None:
        raise RunError(
            f"{folder}: no {STATE}; run `clair-apo train` to its end first, with this output_dir"
        )
    try:
        state = json.loads((found / STATE).read_text(encoding="utf-8"))
        logs = tuple(log for log in state["log_history"] if isinstance(log.get("step"), int))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{found / STATE}: cannot be read ({error})") from None
    whole = found.resolve()
    name = whole.parent.name if whole.name == CHECKPOINT else whole.name
    name = os.fsencode(name).decode(errors="replace")  # it need not be UTF-8
    return TrainingRun(found, name, logs, _facts(found))


def _facts(folder: Path) -> Mapping[str, Any]:
    """What `train` wrote of this folder; an earlier version wrote it into the run folder above."""
    own = _stage(folder)
    if own:
        return own
    above = _stage(folder.resolve().parent)
    return above if Path(str(above.get("output_dir", ""))).name == folder.resolve().name else {}


def _stage(folder: Path) -> Mapping[str, Any]:
    stage = RunFolder(folder).manifest().get("stages", {}).get("train")
    return stage if isinstance(stage, dict) else {}
