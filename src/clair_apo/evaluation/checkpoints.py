"""Evaluates all checkpoints of a run: finds them, sums them up, and drops those that are done.

The checkpoints are not one question but many, so the best of them looks better than it is. It is
named only where the config says by which figure, and every interval of it is corrected for the
number of checkpoints K (Bonferroni: coverage 1 - 0.05 / K).

A dropped checkpoint is known by its identity, which `checkpoints.json` keeps: its answers are in
the request store, and its log-probabilities in the evaluation's folder.
"""

import glob
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from clair_apo.console import say
from clair_apo.errors import ConfigError, RequestError, RunError
from clair_apo.evaluation.figure_name import FigureName
from clair_apo.evaluation.results import difference_numbers, figure_numbers
from clair_apo.evaluation.suites.base import SuiteResult
from clair_apo.evaluation.suites.figures import Figure, mean_figure
from clair_apo.llm import ChatModel, ChatRequest, ModelReply
from clair_apo.records import Record
from clair_apo.run_folder import write_json

FILE = "checkpoints.json"
CONFIDENCE = 0.95


class Checkpoint(NamedTuple):
    """A checkpoint of a run."""

    name: str
    """Of its folder, such as `checkpoint-500`."""
    path: str
    """As the pattern in the config spells it."""
    step: int


class DroppedCheckpoint(Record):
    """A checkpoint whose folder was deleted when it was evaluated."""

    path: str
    step: int
    identity: str
    """Its model's name in request keys."""


Dropped = dict[str, DroppedCheckpoint]
"""By the checkpoint's name."""
_DROPPED = TypeAdapter(Dropped)


def read_dropped(folder: Path) -> Dropped:
    """The checkpoints that an evaluation has dropped.

    Raises:
        RunError: the file that lists them cannot be read.
    """
    path = folder / FILE
    try:
        return _DROPPED.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{path}: cannot be read ({reason}); use another run_dir") from None


def still_gone(dropped: Dropped) -> Dropped:
    """Those whose folders are not there; a later training may have written one anew."""
    return {name: one for name, one in dropped.items() if not Path(one.path).is_dir()}


def find_checkpoints(pattern: str, dropped: Dropped) -> list[Checkpoint]:
    """The complete checkpoints that a pattern names, and those of it that were dropped, by step.

    Args:
        pattern: of folders, such as `runs/x/checkpoint-*`; a step's number ends each name.
        dropped: those that this evaluation has dropped.

    Raises:
        ConfigError: there is none, or two have one name.
    """
    from clair_apo.apo.checkpoints import incomplete_reason

    found = {
        one.path: Checkpoint(name, one.path, one.step)
        for name, one in dropped.items()
        if fnmatch(one.path, pattern)
    }
    for path in glob.glob(str(Path(pattern).expanduser())):
        step = step_of(path)
        if step is None or not Path(path).is_dir():
            continue
        if fault := incomplete_reason(Path(path)):
            say(f"{path} is passed over: {fault}")
            continue
        found[path] = Checkpoint(Path(path).name, path, step)
    if not found:
        raise ConfigError(f"models.each: {pattern} names no complete checkpoint")
    names = [one.name for one in found.values()]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"models.each: {pattern} names {twice[0]} in two folders; evaluate one")
    return sorted(found.values(), key=lambda one: one.step)


def step_of(name: str) -> int | None:
    """The step of a checkpoint, with which its name ends; None where it ends with no number."""
    found = re.search(r"-(\d+)$", name)
    return int(found[1]) if found else None


def drop(folder: Path, checkpoint: Checkpoint, identity: str) -> None:
    """Delete the folder of a checkpoint, once it is written down by which identity it is known.

    A folder without the note of our training is left where it is.

    Args:
        folder: of the evaluation.
        checkpoint: the one that is evaluated.
        identity: its model's name in request keys.
    """
    from clair_apo.apo.checkpoints import NOTE, incomplete_reason

    path = Path(checkpoint.path)
    if not (path / NOTE).is_file() or path.is_symlink() or incomplete_reason(path):
        say(f"{path} is not deleted: it is no complete checkpoint of clair-apo train")
        return
    known = read_dropped(folder)
    known[checkpoint.name] = DroppedCheckpoint(
        path=checkpoint.path, step=checkpoint.step, identity=identity
    )
    write_json(folder / FILE, _DROPPED.dump_python(known))
    path.rename(_leaving(checkpoint.path))  # at once, so that a kill leaves no half checkpoint
    shutil.rmtree(_leaving(checkpoint.path))
    say(f"deleted {path}: it is evaluated, and its answers are kept")


def delete_rest(dropped: Dropped) -> None:
    """Delete what a process that was killed while it dropped checkpoints has left of them."""
    for one in dropped.values():
        shutil.rmtree(_leaving(one.path), ignore_errors=True)


def _leaving(path: str) -> Path:
    return Path(f"{path}.dropped")


class Gone(ChatModel):
    """Stands for a checkpoint that was dropped, and has no more answers than those it gave.

    Args:
        path: where it was.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[list[ModelReply]]:
        """Refuse.

        Raises:
            RequestError: always.
        """
        raise RequestError(
            f"{self._path} was deleted when it was evaluated, and {len(requests)} requests to it "
            "have no stored answer: with other prompts, limits or tasks than then it is not there "
            "to be asked"
        )


def checkpoint_numbers(
    results: Mapping[str, SuiteResult],
    checkpoints: Sequence[Checkpoint],
    others: Sequence[str],
    best_by: str | None,
) -> dict[str, dict[str, Any]]:
    """What the checkpoints come to in each suite: last, mean and, where a rule is given, best.

    Args:
        results: of the suites.
        checkpoints: by step.
        others: the names of the models that are no checkpoints.
        best_by: `<suite>.<figure>`, with a minus sign before it where the lowest is best.

    Returns:
        By suite: `names`, `last`, `mean` and `best`, each but the first with `figures` and
        `differences`.

    Raises:
        ConfigError: no checkpoint has the figure of `best_by`.
    """
    names = [one.name for one in checkpoints]
    best = _best(results, names, best_by) if best_by else None
    return {
        key: _of_suite(result.figures, names, others, best, best_by)
        for key, result in results.items()
    }


def _of_suite(
    figures: Mapping[str, Mapping[str, Figure]],
    names: Sequence[str],
    others: Sequence[str],
    best: str | None,
    best_by: str | None,
) -> dict[str, Any]:
    measured = [figures[name] for name in names if name in figures]
    compared = {name: figures[name] for name in others if name in figures}
    found: dict[str, Any] = {"names": list(names)}
    if not measured:
        return found
    found["last"] = {"name": names[-1], **_numbers("last", measured[-1], compared, CONFIDENCE)}
    found["mean"] = {"of": len(names), **_numbers("mean", _mean(measured), compared, CONFIDENCE)}
    if best is not None and best in figures:
        confidence = 1 - (1 - CONFIDENCE) / len(names)
        rule = f"the {'lowest' if str(best_by).startswith('-') else 'largest'} of {len(names)} in "
        found["best"] = {
            "name": best,
            "rule": rule + str(best_by).removeprefix("-"),
            "correction": "Bonferroni",
            "confidence": confidence,
            **_numbers("best", figures[best], compared, confidence),
        }
    return found


def _numbers(
    name: str,
    figures: Mapping[str, Figure],
    compared: Mapping[str, Mapping[str, Figure]],
    confidence: float,
) -> dict[str, Any]:
    return {
        "figures": figure_numbers(figures, confidence),
        "differences": {
            f"{name} - {other}": difference_numbers(figures, of, confidence)
            for other, of in compared.items()
        },
    }


def _best(results: Mapping[str, SuiteResult], names: Sequence[str], best_by: str) -> str:
    suite, figure, sign = FigureName.parse(best_by)
    entries = {
        name: figure_numbers(results[suite].figures.get(name, {})).get(figure, {}) for name in names
    }
    means = {name: sign * entry["mean"] for name, entry in entries.items() if "mean" in entry}
    if not means:
        raise ConfigError(f"best_by: no checkpoint has the figure {figure!r} of suite {suite!r}")
    return max(means, key=lambda name: means[name])


def _mean(measured: Sequence[Mapping[str, Figure]]) -> dict[str, Figure]:
    """The mean of every figure over checkpoints, row by row on the rows that all have."""
    first = measured[0]
    return {name: mean_figure([of[name] for of in measured if name in of]) for name in first}
