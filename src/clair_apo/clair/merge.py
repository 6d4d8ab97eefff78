"""Joins the shards of a run into the run that one machine would have made.

Rows are copied, not made again: each file is woven from the shards' files in the order of the
data, byte for byte what an unsharded run writes. The stores are joined as well, so that the merged
folder is a run like any other: `clair-apo generate --config OUT/config.yaml` asks nothing.
"""

import json
import uuid
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from clair_apo.clair.config import GenerateConfig
from clair_apo.clair.costs import joined, read_costs, write_costs
from clair_apo.clair.dataset import write_parquet_splits, write_splits
from clair_apo.clair.filters.contamination import ContaminationIndex
from clair_apo.clair.prompt_state import DROPPED, PAIRS, PROMPTS, StageFile
from clair_apo.clair.sharding import ShardRun, read_shards
from clair_apo.clair.stages.load import load_prompts, survey_prompts
from clair_apo.clair.stages.pair import TOKENIZER
from clair_apo.errors import RunError
from clair_apo.files import atomic_writer
from clair_apo.llm import RequestStore
from clair_apo.records import Prompt, Record, Stage
from clair_apo.run_folder import DATASET, RunFolder, file_digest, shard_number


class Merged(Record):
    """The counts of a merged run: prompts = paired + dropped."""

    prompts: int
    paired: int
    """Prompts that a pair came of; of a chain several pairs do."""
    pairs: int
    dropped: dict[str, int]
    shards: int
    answers: int
    """Answers that the merged store took over."""
    conflicts: int
    """Requests that two stores answer differently; the first answer stays."""


class _Order(NamedTuple):
    """The prompts in the order of the data."""

    ids: "array[int]"
    """Of every row that was read: a prompt's id as a number."""
    kept: bytearray
    """1 for a prompt, 0 for one that was dropped as it was read."""

    def prompts(self) -> Iterator[int]:
        return (id for id, kept in zip(self.ids, self.kept, strict=True) if kept)

    def dropped(self) -> Iterator[int]:
        return (id for id, kept in zip(self.ids, self.kept, strict=True) if not kept)


def merge(out: Path, runs: Sequence[Path]) -> Merged:
    """Join all shards of a run into one run folder and one store.

    Args:
        out: the folder of the whole run; made if need be, or filled again by the same shards.
        runs: the shards' folders, in any order; they are left as they are.

    Raises:
        RunError: shards that are missing, doubled, unfinished, of other settings, or of prompts
            that have changed since; names the folder.
        StoreError: a store that cannot be read or written.
    """
    shards = read_shards(out, runs)
    config = shards[0].config.model_copy(update={"run_dir": out, "shard": None})
    folder = RunFolder(out)
    folder.prepare()
    with folder.locked():
        before = folder.manifest()
        _refuse_another_run(folder, before, shards)
        survey = survey_prompts(config.prompts)
        order = _order(config, survey.tests)
        for file in (PROMPTS, *(file for stage in config.stages for file in stage.files)):
            _weave(folder.file(file.name), shards, file, order)
        _weave_drops(folder.file(DROPPED.name), shards, order)
        run_id = str(before.get("run_id") or uuid.uuid4().hex)
        answers, conflicts = _join_stores(config.store_path, shards, run_id)
        counts = _summed([shard.manifest["counts"] for shard in shards])
        counts.setdefault("paired", counts["pairs"])  # shards of before there were chains
        result = Merged(**counts, shards=len(shards), answers=answers, conflicts=conflicts)
        assert result.prompts == len(order.ids), "dropped without a record"
        assert result.prompts == result.paired + sum(result.dropped.values()), (
            "dropped without a record"
        )
        _write_down(folder, config, shards, result, run_id, survey.digest)
    return result


def _refuse_another_run(
    folder: RunFolder, before: Mapping[str, Any], shards: Sequence[ShardRun]
) -> None:
    old, new = before.get("settings", {}), shards[0].manifest["settings"]
    other = [what for what in ("recipe", "target") if what in old and old[what] != new[what]]
    if other or (before and before.get("command") != "merge"):
        raise RunError(
            f"{folder.path}: holds another run; name another folder to merge into, or remove it"
        )


def _order(config: GenerateConfig, tests: ContaminationIndex) -> _Order:
    order = _Order(array("Q"), bytearray())
    for row in load_prompts(config.prompts, tests=tests):
        order.ids.append(int(row.id, 16))
        order.kept.append(isinstance(row, Prompt))
    return order


def _weave(path: Path, shards: Sequence[ShardRun], file: StageFile, order: _Order) -> None:
    """Write one file of all shards' rows: for each prompt, whatever its shard has of it."""
    with ExitStack() as stack, atomic_writer(path) as out:
        rows = [
            _Rows(stack.enter_context(shard.folder.file(file.name).open(encoding="utf-8")), file)
            for shard in shards
        ]
        found = 0
        for id in order.prompts():
            lines = rows[shard_number(id, len(rows)) - 1].take(id)
            out.writelines(lines)
            found += bool(lines)
        _refuse_rest(rows, shards, file)
    if file is PROMPTS and found < sum(order.kept):
        raise RunError(
            f"{path.parent}: the prompts have changed since the shards were made: there are "
            f"{sum(order.kept)}, the shards know {found} of them; run the shards again"
        )


def _weave_drops(path: Path, shards: Sequence[ShardRun], order: _Order) -> None:
    """The drops of one stage after the other, each in the order of the prompts."""
    with ExitStack() as stack, atomic_writer(path) as out:
        files = [
            stack.enter_context(shard.folder.file(DROPPED.name).open(encoding="utf-8"))
            for shard in shards
        ]
        for stage in shards[0].manifest["stages"]:
            rows = [
                _Rows(
                    islice(lines, sum(shard.manifest["stages"][stage]["dropped"].values())), DROPPED
                )
                for lines, shard in zip(files, shards, strict=True)
            ]
            loading = stage == Stage.LOAD
            for id in order.dropped() if loading else order.prompts():
                taken = rows[shard_number(id, len(rows)) - 1]
                # of equal prompts each has a row of its own, where it stood in the data
                out.writelines(taken.take(id, at_most=1) if loading else taken.take(id))
            _refuse_rest(rows, shards, DROPPED)


class _Rows:
    """The lines of a file whose rows are in the order of the prompts."""

    def __init__(self, lines: Iterable[str], file: StageFile) -> None:
        self._lines, self._key = iter(lines), file.key
        self.next_id: int | None = None
        self._advance()

    def take(self, id: int, at_most: int | None = None) -> list[str]:
        """The next lines, if they are of this prompt."""
        taken: list[str] = []
        while self.next_id == id and len(taken) != at_most:
            taken.append(self._line)
            self._advance()
        return taken

    def _advance(self) -> None:
        self._line = next(self._lines, "")
        self.next_id = int(json.loads(self._line)[self._key], 16) if self._line else None


def _refuse_rest(rows: Sequence[_Rows], shards: Sequence[ShardRun], file: StageFile) -> None:
    for row, shard in zip(rows, shards, strict=True):
        if row.next_id is not None:
            raise RunError(
                f"{shard.folder.file(file.name)}: the prompt {row.next_id:016x} is not, or not "
                "there, in the data any more; run the shard again"
            )


def _join_stores(path: Path, shards: Sequence[ShardRun], run_id: str) -> tuple[int, int]:
    answers = conflicts = 0
    with RequestStore(path) as store:
        for shard in shards:
            taken = store.take_over(shard.store, shard.run_id, run_id)
            answers += taken.answers
            conflicts += taken.conflicts
    return answers, conflicts


def _write_down(
    folder: RunFolder,
    config: GenerateConfig,
    shards: Sequence[ShardRun],
    result: Merged,
    run_id: str,
    prompts: str,
) -> None:
    with atomic_writer(folder.file("config.yaml")) as file:
        file.write(config.to_yaml())
    dataset = folder.file(DATASET)
    splits = write_splits(folder.file(PAIRS.name), dataset, config.output.test_size)
    write_parquet_splits(dataset, config.output.parquet)
    costs = [shard.manifest.get("cost") for shard in shards]
    folder.update_manifest(
        command="merge",
        run_id=run_id,
        config=config.model_dump(mode="json"),
        sides=config.recipe_def.words,
        settings=shards[0].manifest["settings"] | {"prompts": prompts},
        stages=_stages(folder, shards),
        contrast_tokenizer=TOKENIZER,
        counts=result.model_dump(include={"prompts", "paired", "pairs", "dropped"}),
        cost=None if None in costs else sum(costs),
        costs=write_costs(joined(read_costs(shard.manifest) for shard in shards)),
        splits=splits.model_dump(),
        shards=[
            {
                "folder": str(shard.folder.path),
                "shard": shard.config.shard,
                "run_id": shard.run_id,
                "counts": shard.manifest["counts"],
                "manifest": file_digest(shard.folder.file("manifest.json")),
            }
            for shard in shards
        ],
        store=result.model_dump(include={"answers", "conflicts"}),
    )


def _stages(folder: RunFolder, shards: Sequence[ShardRun]) -> dict[str, Any]:
    """The entries of the stages: counts summed, times from the first start to the last end."""
    stages = {}
    for name, first in shards[0].manifest["stages"].items():
        entries = [shard.manifest["stages"][name] for shard in shards]
        stages[name] = _summed(entries) | {
            "files": first["files"],
            "digests": {file: file_digest(folder.file(file)) for file in first["files"]},
            "inputs": {file: file_digest(folder.file(file)) for file in first["inputs"]},
            "started": min(entry["started"] for entry in entries),
            "ended": max(entry["ended"] for entry in entries),
        }
    return stages


def _summed(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up numbers by name, also in nested tables; what is no number is left out."""
    sums: dict[str, Any] = {}
    for entry in entries:
        for name, value in entry.items():
            if isinstance(value, int | float):
                sums[name] = sums.get(name, 0) + value
            elif isinstance(value, dict):
                sums[name] = _summed([sums.get(name, {}), value])
    return sums
