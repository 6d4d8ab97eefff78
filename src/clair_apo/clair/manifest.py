"""What a run writes down about itself: its settings, its stages, and whether its counts close."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clair_apo.clair.answer_text import ANSWER_VERSION
from clair_apo.clair.clients import ModelClients
from clair_apo.clair.config import GenerateConfig
from clair_apo.clair.costs import Costs, read_costs, write_costs
from clair_apo.clair.filters.gate import GATE_VERSION
from clair_apo.clair.prompt_state import PromptSurvey
from clair_apo.clair.revision.parse import PARSER_VERSION
from clair_apo.clair.stages.pair import TOKENIZER
from clair_apo.clair.stages.run import Stages
from clair_apo.console import say
from clair_apo.errors import ClairApoError, RunError
from clair_apo.files import atomic_writer, first_fault
from clair_apo.records import Record
from clair_apo.run_folder import RunFolder, file_digest, now

# stage by stage, in the order of the data: the settings that decide its rows, and its name in words
_DECIDED_BY = {
    "respond": ({"answers", "strip_thinking"}, "answers and all that is made of them"),
    "strengthen": ({"reviser"}, "the stronger model's answers and pairs"),
    "judge": ({"judge"}, "judgements and pairs"),
    "revise": ({"reviser", "template", "parser"}, "revisions and pairs"),
    "pair": ({"gate"}, "pairs"),
    "verify": ({"verify", "judge"}, "pairs"),
}


class RunManifest:
    """The manifest of a run, kept while it goes through its stages.

    Args:
        config: what the run is to do.
        folder: where it does.
        survey: of the prompts.
    """

    def __init__(self, config: GenerateConfig, folder: RunFolder, survey: PromptSurvey) -> None:
        self.config, self.folder, self.survey = config, folder, survey
        self._before = folder.manifest()
        self.run_id = str(self._before.get("run_id") or uuid.uuid4().hex)

    @property
    def costs_before(self) -> Costs:
        """What each model had cost when the manifest was last written."""
        return read_costs(self._before)

    def begin(self, stages: Stages) -> None:
        """Refuse a folder of another run; else write down what this one is to be.

        Raises:
            RunError: the folder was begun with other prompts, another recipe or target.
        """
        settings = self._settings(stages)
        before, entries = self._before.get("settings", {}), self._before.get("stages", {})
        if "respond" in entries:  # else the folder holds nothing but the prompts
            self._refuse_another_run(before, settings)
        if before.get("prompts") != settings["prompts"]:
            entries.clear()
        for stage in _changed_stages(before, settings, tuple(entries)):
            entries.pop(stage, None)  # its file is of the old settings until it is made again
        self.folder.update_manifest(
            command="generate",
            run_id=self.run_id,
            config=self.config.model_dump(mode="json"),
            settings=settings,
            stages=entries,
            contrast_tokenizer=TOKENIZER,
            costs=write_costs(stages.chats.costs_before),
            cost=stages.chats.cost,
        )
        with atomic_writer(self.folder.file("config.yaml")) as file:
            file.write(self.config.to_yaml())

    @contextmanager
    def stage(
        self, name: str, inputs: tuple[str, ...], files: Mapping[type[Record], str]
    ) -> Iterator[dict[str, Any]]:
        """Yield the entry of a stage to be counted in; it is written down when the block ends."""
        entry: dict[str, Any] = {
            "files": list(files.values()),
            "inputs": {i: file_digest(self.folder.file(i)) for i in inputs},
            "kept": 0,
            "dropped": {},
            "started": now(),
        }
        yield entry
        digests = {file: file_digest(self.folder.file(file)) for file in files.values()}
        self.folder.record_stage(name, entry | {"digests": digests, "ended": now()})

    def note(self, stage: str, **numbers: Any) -> None:
        """Add numbers to the entry of a stage that has ended."""
        entry = self.folder.manifest()["stages"][stage]
        self.folder.record_stage(stage, entry | numbers)

    @contextmanager
    def record_costs_on_failure(self, chats: ModelClients) -> Iterator[None]:
        """Write down what a run has cost also where the block breaks off."""
        try:
            yield
        except (ClairApoError, KeyboardInterrupt):
            with suppress(ClairApoError):  # such as the full disk that ended the run
                costs = write_costs(chats.settle_costs())  # also brings `cost` up to date
                self.folder.update_manifest(costs=costs, cost=chats.cost)
            raise

    def close(self, costs: Costs, **totals: Any) -> None:
        """Write down what the run came to."""
        self.folder.update_manifest(**totals, costs=write_costs(costs))

    def _settings(self, stages: Stages) -> dict[str, Any]:
        """What decides the rows of each stage; compared when a run folder is used again."""
        config, chats = self.config, stages.chats
        settings: dict[str, Any] = {
            "recipe": config.recipe,
            "prompts": self.survey.digest,
            "target": {
                "model": chats.target.identity if chats.asks_target else config.target.model,
                **config.target.sampling.in_key(),
            },
            "answers": ANSWER_VERSION,
            "strip_thinking": config.strip_thinking,
            "parser": PARSER_VERSION,
            "gate": {
                **config.gate.model_dump(mode="json"),
                "tokenizer": config.training_tokenizer if config.gate.max_length else None,
                "version": GATE_VERSION,
            },
            "test_sets": [one.model_dump() for one in self.survey.tests.sets],
            "verify": [config.verify, config.controls.model_dump()],
        }
        if chats.reviser:
            spec = chats.reviser.spec
            settings["reviser"] = {"model": chats.reviser.identity, **spec.sampling.in_key()}
        if stages.template:
            settings["template"] = stages.template.digest
        if chats.judge:
            settings["judge"] = {
                "model": chats.judge.identity,
                "template": stages.judge.digest,
                **chats.judge.spec.sampling.in_key(),
            }
        return settings

    def _refuse_another_run(self, before: dict[str, Any], settings: dict[str, Any]) -> None:
        for what in ("recipe", "prompts", "target"):
            if what in before and before[what] != settings[what]:
                raise RunError(
                    f"{self.folder.path}: was begun with another {what}; name another run_dir, or "
                    "remove the folder (answers are kept in the request store)"
                )


def _changed_stages(
    before: dict[str, Any], settings: dict[str, Any], stages: tuple[str, ...]
) -> tuple[str, ...]:
    """Say what changed since the folder was last used; the stages that it changes."""
    # a setting that an earlier version did not write down had no effect, or another one
    deciding = set[str]().union(*(what for what, _ in _DECIDED_BY.values()))
    changed = {what for what in deciding if before.get(what) != settings.get(what)}
    names = [name for name in _DECIDED_BY if name in stages]
    first = next((n for n, name in enumerate(names) if _DECIDED_BY[name][0] & changed), None)
    if first is None:
        return ()
    say(f"{' and '.join(sorted(changed))} changed: rebuilding {_DECIDED_BY[names[first]][1]}")
    return tuple(names[first:])


def config_of(run: Path, values: object) -> GenerateConfig:
    """The config in a run's manifest.

    Raises:
        RunError: it is of another version of this program.
    """
    try:
        return GenerateConfig.model_validate(values)
    except ValidationError as error:
        raise RunError(
            f"{run}: its config is of another version of this program ({first_fault(error)})"
        ) from None
