"""Keeps the manifest of a run: its settings, its stages, its counts and what it cost."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from clair_apo.clair.answer_text import ANSWER_VERSION
from clair_apo.clair.config import GenerateConfig
from clair_apo.clair.costs import RunCosts
from clair_apo.clair.filters.contamination import ComparedSet
from clair_apo.clair.filters.gate import GATE_VERSION
from clair_apo.clair.revision.parse import PARSER_VERSION
from clair_apo.clair.stages.context import StageContext
from clair_apo.clair.stages.pair import TOKENIZER
from clair_apo.clair.stages.table import STAGES, StageDef
from clair_apo.config import Config
from clair_apo.console import say
from clair_apo.errors import RunError
from clair_apo.files import atomic_writer, first_fault
from clair_apo.llm import CachedChat, RequestStore
from clair_apo.run_folder import RunFolder, file_digest, now

T = TypeVar("T", bound=Config)

Settings = dict[str, Any]
"""What decides the rows of the stages: `settings` of the manifest."""


class RunManifest:
    """The manifest of a run, kept while it goes through its stages.

    Args:
        config: what the run is to do.
        folder: where it does.
        store: holds the answers, and the tokens that they took.

    Attributes:
        costs: what the run's models cost.
    """

    def __init__(self, config: GenerateConfig, folder: RunFolder, store: RequestStore) -> None:
        self.config, self.folder = config, folder
        self._before = folder.manifest()
        self.costs = RunCosts(folder, store, config.max_cost)

    def begin(self, settings: Settings) -> None:
        """Refuse a folder of another run; else write down what this one is to be.

        Args:
            settings: as `run_settings` makes them.

        Raises:
            RunError: the folder was begun with other prompts, another recipe or target.
        """
        before, entries = self._before.get("settings", {}), self._before.get("stages", {})
        if "respond" in entries:  # else the folder holds nothing but the prompts
            self._refuse_another_run(before, settings)
        if before.get("prompts") != settings["prompts"]:
            entries.clear()
        void = _void_stages(before, settings, self.config.stages, entries)
        for stage in void:  # its file is of the old settings until it is made again
            del entries[stage]
        self.costs.write(
            command="generate",
            config=self.config.model_dump(mode="json"),
            sides=self.config.recipe_def.words,
            settings=settings,
            stages=entries,
            contrast_tokenizer=TOKENIZER,
        )
        with atomic_writer(self.folder.file("config.yaml")) as file:
            file.write(self.config.to_yaml())

    @contextmanager
    def stage(
        self, name: str, inputs: Sequence[str], files: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """Yield the entry of a stage to be counted in; it is written down when the block ends."""
        entry: dict[str, Any] = {
            "files": list(files),
            "inputs": {i: file_digest(self.folder.file(i)) for i in inputs},
            "kept": 0,
            "dropped": {},
            "started": now(),
        }
        yield entry
        digests = {file: file_digest(self.folder.file(file)) for file in files}
        self.folder.record_stage(name, entry | {"digests": digests, "ended": now()})

    def note(self, stage: str, numbers: Mapping[str, Any]) -> None:
        """Add numbers to the entry of a stage that has ended."""
        entry = self.folder.manifest()["stages"][stage]
        self.folder.record_stage(stage, {**entry, **numbers})

    def _refuse_another_run(self, before: Settings, settings: Settings) -> None:
        for what in ("recipe", "prompts", "target"):
            if what in before and before[what] != settings[what]:
                raise RunError(
                    f"{self.folder.path}: was begun with another {what}; name another run_dir, or "
                    "remove the folder (answers are kept in the request store)"
                )


def run_settings(
    config: GenerateConfig, context: StageContext, prompts: str, test_sets: Sequence[ComparedSet]
) -> Settings:
    """What decides the rows of each stage; compared when a run folder is used again.

    Args:
        config: of the run.
        context: its models, template and judge.
        prompts: the digest of its prompts.
        test_sets: that the prompts were compared with.
    """
    clients = context.clients
    target = clients.target if clients.asks_target else None
    settings: Settings = {
        "recipe": config.recipe,
        "prompts": prompts,
        "target": {
            "model": target.identity if target else config.target.model,
            **config.target.sampling.in_key(),
        },
        "answers": ANSWER_VERSION,
        "strip_thinking": config.strip_thinking,
        "parser": PARSER_VERSION,
        "gate": {
            **context.gate.settings,
            "tokenizer": config.training_tokenizer if config.gate.max_length else None,
            "version": GATE_VERSION,
        },
        "test_sets": [one.model_dump() for one in test_sets],
        "verify": [config.verify, config.controls.model_dump()],
    }
    if config.pairs != "whole":
        settings["pairs"] = config.pairs
    if context.scorer:
        settings["scorer"] = context.scorer.settings
    if clients.pool:
        settings["pool"] = [_asked(client) for client in clients.pool]
    if clients.reviser:
        settings["reviser"] = _asked(clients.reviser)
    if context.template:
        settings["template"] = context.template.digest
        if context.template.format == "edits":
            settings["fold"] = context.fold
    if clients.judge:
        settings["judge"] = {"template": context.judge.digest, **_asked(clients.judge)}
    return settings


def _asked(client: CachedChat) -> Settings:
    return {"model": client.identity, **client.spec.sampling.in_key()}


def _void_stages(
    before: Settings, settings: Settings, stages: Sequence[StageDef], ended: Mapping[str, Any]
) -> list[str]:
    """Say what changed since the folder was last used; name the stages whose rows that makes void.

    Args:
        before: the settings of then; one that an earlier version did not write down had no effect,
            or another one.
        settings: those of now.
        stages: of the run, in their order.
        ended: stages that the folder has rows of, also some that the run has no more.
    """
    order = {stage.name: stage for stage in (*stages, *STAGES.values())}
    found = [order[name] for name in order if name in ended]
    deciding = set[str]().union(*(stage.decided_by for stage in order.values()))
    changed = {what for what in deciding if before.get(what) != settings.get(what)}
    first = next((n for n, stage in enumerate(found) if stage.decided_by & changed), None)
    if first is None:
        return []
    made = found[first].makes
    say(f"{' and '.join(sorted(changed))} changed: rebuilding {made} and all that is made of them")
    return [stage.name for stage in found[first:]]


def config_of(run: Path, values: object, kind: type[T]) -> T:
    """The config in a run's manifest.

    Args:
        run: its folder, for the message.
        values: as the manifest holds them.
        kind: the config of the command that wrote it.

    Raises:
        RunError: it is of another version of this program.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RunError(
            f"{run}: its config is of another version of this program ({first_fault(error)})"
        ) from None
