"""Reads the shards of a run, and checks that they are all of one run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clair_apo.clair.config import GenerateConfig
from clair_apo.clair.manifest import config_of
from clair_apo.errors import RunError
from clair_apo.records import Stage
from clair_apo.run_folder import RunFolder

# these may differ from machine to machine: they decide no row
_OF_THE_MACHINE = {
    *("run_dir", "store", "shard", "offline", "max_cost"),
    *("base_url", "mode", "serve", "api_key_env", "timeout_s", "max_in_flight", "batch_size"),
    *("requests_per_minute", "tokens_per_minute"),
}


@dataclass(frozen=True)
class ShardRun:
    """A shard whose run has ended."""

    folder: RunFolder
    config: GenerateConfig
    manifest: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """Marks in its store what it paid for."""
        return str(self.manifest["run_id"])

    @property
    def store(self) -> Path:
        """Its request store: in its folder, wherever that is now, or where the config says."""
        path = self.config.store_path
        beside = self.folder.file(path.name)
        return beside if self.config.store is None or not path.exists() else path

    @property
    def number(self) -> int:
        """Which part of the prompts it has, from 1."""
        assert self.config.prompt_shard is not None
        return self.config.prompt_shard.number

    @property
    def count(self) -> int:
        """How many parts there are."""
        assert self.config.prompt_shard is not None
        return self.config.prompt_shard.count


def read_shards(out: Path, paths: Sequence[Path]) -> list[ShardRun]:
    """Read the shards in their order, and check that they are all the shards of one run.

    Raises:
        RunError: names the folder, and what is wrong with it.
    """
    if not paths:
        raise RunError("there is nothing to merge: name the shards' folders")
    shards = [_read_shard(path) for path in paths]
    first = shards[0]
    for shard in shards[1:]:
        _refuse_mismatch(first, shard)
    by_number: dict[int, ShardRun] = {}
    for shard in shards:
        other = by_number.setdefault(shard.number, shard)
        if other is not shard:
            raise RunError(
                f"{shard.folder.path} and {other.folder.path} are both shard "
                f"{shard.config.shard}; name one of them"
            )
    missing = [f"{n}/{first.count}" for n in range(1, first.count + 1) if n not in by_number]
    if missing:
        raise RunError(
            f"{out}: shards {', '.join(missing)} are missing; run them, or name their folders"
        )
    return [by_number[number] for number in sorted(by_number)]


def _read_shard(path: Path) -> ShardRun:
    folder = RunFolder(path)
    manifest = folder.manifest()
    if "config" not in manifest:
        raise RunError(f"{path}: is no run folder of generate")
    config = config_of(path, manifest["config"], GenerateConfig)
    if config.prompt_shard is None:
        raise RunError(f"{path}: is no shard; only runs with --shard i/n can be merged")
    stages = [Stage.LOAD.value, *(stage.name for stage in config.stages)]
    unfinished = [stage for stage in stages if stage not in manifest.get("stages", {})]
    if unfinished or "counts" not in manifest:
        raise RunError(f"{path}: its run has not ended; run shard {config.shard} again first")
    if changed := next(folder.changed_files(), None):
        raise RunError(
            f"{folder.file(changed)}: is not as the run wrote it: damaged, or changed by hand; run "
            f"shard {config.shard} again, which makes it from the store"
        )
    # in the order in which the run walked through them
    ordered = {stage: manifest["stages"][stage] for stage in stages}
    return ShardRun(folder, config, manifest | {"stages": ordered})


def _refuse_mismatch(first: ShardRun, shard: ShardRun) -> None:
    if shard.count != first.count:
        raise RunError(
            f"{shard.folder.path}: is shard {shard.config.shard}, and {first.folder.path} is "
            f"shard {first.config.shard}: they are parts of different divisions"
        )
    ours, theirs = (dict(_deciding(run)) for run in (first, shard))
    for what in sorted(ours.keys() | theirs.keys()):
        if ours.get(what) != theirs.get(what):
            raise RunError(
                f"{shard.folder.path}: has another {what} than {first.folder.path}; run one of "
                "them again with the other's config"
            )


def _deciding(run: ShardRun) -> Iterator[tuple[str, Any]]:
    """Whatever decides the rows of a run, by dotted name."""
    yield from _leaves(run.config.model_dump(mode="json"))
    settings = {k: v for k, v in run.manifest["settings"].items() if k != "prompts"}
    yield from _leaves(settings, "settings.")


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        elif key not in _OF_THE_MACHINE:
            yield f"{prefix}{key}", value
