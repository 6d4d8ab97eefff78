"""The path through all stages: prompts in, preference pairs and dropped rows out.

Every stage reads what the one before gave, writes one file of the run folder, and notes in the
manifest what went in and out. The request store is the only thing that costs: all else is made
again from it whenever a template, the parser or the gate changes.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from clair_apo.clair.config import GenerateConfig
from clair_apo.clair.contrast import TOKENIZER
from clair_apo.clair.gate import GATE_VERSION
from clair_apo.clair.pairs import make_pairs
from clair_apo.clair.parse import PARSER_VERSION
from clair_apo.clair.prompts import load_prompts
from clair_apo.clair.respond import respond
from clair_apo.clair.revise import revise
from clair_apo.clair.templates import RevisionTemplate, load_template
from clair_apo.errors import DataError, RunError
from clair_apo.llm import ChatModel, RequestStore, StoredChat, check_model
from clair_apo.progress import progress_bar, say
from clair_apo.records import (
    Dropped,
    PreferencePair,
    Prompt,
    Record,
    Response,
    Revision,
    atomic_writer,
    digest,
    write_jsonl,
)
from clair_apo.runs import RunFolder, file_digest, now

R = TypeVar("R", bound=Record)


class Generated(Record):
    """What a run came to: prompts in = pairs + dropped."""

    prompts: int
    pairs: int
    dropped: dict[str, int]
    """How many rows each reason took."""
    asked: int
    """Requests that went to a model in this run."""
    reused: int
    """Requests that the store answered."""


def generate(
    config: GenerateConfig,
    *,
    target_model: ChatModel | None = None,
    reviser_model: ChatModel | None = None,
) -> Generated:
    """Make preference pairs; run again to resume, or to apply a changed template.

    Args:
        config: what to do.
        target_model: asked in place of what `config.target` names.
        reviser_model: asked in place of what `config.reviser` names.

    Raises:
        DataError: unusable prompts, or not one pair came of them.
        RunError: the run folder belongs to other prompts or another recipe.
        RequestError: a model cannot be asked; what it answered before is kept.
        StoreError: the request store cannot be used.
    """
    template = load_template(
        config.revision.format,
        template=config.revision.template,
        rubric=config.revision.rubric,
    )
    loaded = list(load_prompts(config.prompts))
    asks_target = any(isinstance(row, Prompt) and row.response is None for row in loaded)
    if asks_target and target_model is None:
        check_model(config.target)
    if reviser_model is None:
        check_model(config.reviser)
    with RequestStore(config.store_path) as store:
        target = StoredChat(config.target, store, target_model)
        reviser = StoredChat(config.reviser, store, reviser_model)
        run = _Run(config, template, loaded, target, reviser)
        return run.through_all_stages()


class _Run:
    """One walk through the stages of the recipe `clair`."""

    def __init__(
        self,
        config: GenerateConfig,
        template: RevisionTemplate,
        loaded: Sequence[Prompt | Dropped],
        target: StoredChat,
        reviser: StoredChat,
    ) -> None:
        self.config, self.template, self.loaded = config, template, loaded
        self.target, self.reviser = target, reviser
        self.folder = RunFolder(config.run_dir)
        self.dropped: list[Dropped] = []
        self.settings = _stage_settings(config, template, loaded, target, reviser)

    def through_all_stages(self) -> Generated:
        """Load, respond, revise, pair; then close the books."""
        self._begin()
        prompts = self._stage("load", "prompts.jsonl", (), lambda _: self.loaded, Prompt)
        by_id = {prompt.id: prompt for prompt in prompts}
        to_answer = sum(prompt.response is None for prompt in prompts)
        if to_answer < len(prompts):
            say(f"{len(prompts) - to_answer} prompts bring an answer, which is taken as it is")
        responses = self._stage(
            "respond",
            "responses.jsonl",
            ("prompts.jsonl",),
            lambda advance: respond(prompts, self.target, advance),
            Response,
            total=to_answer,
        )
        revisions = self._stage(
            "revise",
            "revisions.jsonl",
            ("prompts.jsonl", "responses.jsonl"),
            lambda advance: revise(by_id, responses, self.reviser, self.template, advance),
            Revision,
            total=len(responses),
        )
        answers = {response.prompt_id: response for response in responses}
        pairs = self._stage(
            "pair",
            "pairs.jsonl",
            ("prompts.jsonl", "responses.jsonl", "revisions.jsonl"),
            lambda _: make_pairs(by_id, answers, revisions, self.template.digest),
            PreferencePair,
        )
        return self._close(pairs)

    def _begin(self) -> None:
        """Refuse a folder of another run; else write down what this one is to be."""
        manifest = self.folder.manifest()
        before, stages = manifest.get("settings", {}), manifest.get("stages", {})
        if "respond" in stages:  # else the folder holds nothing but the prompts
            self._refuse_another_run(before)
        self.folder.prepare()
        for stage in self._changed_stages(before):
            stages.pop(stage, None)  # its file is of the old settings until it is made again
        self.folder.update_manifest(
            command="generate",
            config=self.config.model_dump(mode="json"),
            settings=self.settings,
            stages=stages,
            contrast_tokenizer=TOKENIZER,
        )
        with atomic_writer(self.folder.file("config.yaml")) as file:
            file.write(self.config.to_yaml())

    def _refuse_another_run(self, before: dict[str, Any]) -> None:
        for what in ("recipe", "prompts", "target"):
            if what in before and before[what] != self.settings[what]:
                raise RunError(
                    f"{self.folder.path}: was begun with another {what}; name another run_dir, or "
                    "remove the folder (answers are kept in the request store)"
                )

    def _changed_stages(self, before: dict[str, Any]) -> tuple[str, ...]:
        """Say what changed since the folder was last used; the stages that it changes."""
        changed = [
            w for w in ("reviser", "template", "parser") if _differs(before, self.settings, w)
        ]
        if changed:
            say(f"{' and '.join(changed)} changed: rebuilding revisions and pairs")
            return ("revise", "pair")
        if _differs(before, self.settings, "gate"):
            say("gate changed: rebuilding pairs")
            return ("pair",)
        return ()

    def _stage(
        self,
        name: str,
        file: str,
        inputs: tuple[str, ...],
        rows: Callable[[Callable[[int], None]], Iterable[R | Dropped]],
        kind: type[R],
        total: int = 0,
    ) -> list[R]:
        """Run one stage: keep its rows, collect what it dropped, write both down."""
        started = now()
        with progress_bar(name, total) as advance:
            made = list(rows(advance))
        kept = [row for row in made if isinstance(row, kind)]
        dropped = [row for row in made if isinstance(row, Dropped)]
        self.dropped += dropped
        write_jsonl(self.folder.file(file), kept)
        entry = {
            "file": file,
            "inputs": {i: file_digest(self.folder.file(i)) for i in inputs},
            "kept": len(kept),
            "dropped": dict(Counter(row.reason.value for row in dropped)),
            "started": started,
            "ended": now(),
        }
        self.folder.record_stage(name, entry)
        return kept

    def _close(self, pairs: Sequence[PreferencePair]) -> Generated:
        order: dict[str, int] = {}
        for number, row in enumerate(self.loaded):
            order.setdefault(row.id, number)
        self.dropped.sort(key=lambda row: order[row.id])
        write_jsonl(self.folder.file("dropped.jsonl"), self.dropped)
        result = Generated(
            prompts=len(self.loaded),
            pairs=len(pairs),
            dropped=dict(sorted(Counter(row.reason.value for row in self.dropped).items())),
            asked=self.target.asked + self.reviser.asked,
            reused=self.target.reused + self.reviser.reused,
        )
        assert result.prompts == result.pairs + len(self.dropped), "a row was lost"
        self.folder.update_manifest(counts=result.model_dump(exclude={"asked", "reused"}))
        if not pairs:
            reasons = ", ".join(f"{reason} {n}" for reason, n in result.dropped.items())
            raise DataError(
                f"not one of {result.prompts} prompts became a pair ({reasons}); "
                f"{self.folder.file('dropped.jsonl')} holds what came back"
            )
        return result


def _stage_settings(
    config: GenerateConfig,
    template: RevisionTemplate,
    loaded: Sequence[Prompt | Dropped],
    target: StoredChat,
    reviser: StoredChat,
) -> dict[str, Any]:
    """What decides each stage's rows; compared when a run folder is used again."""
    given = {row.id: row.response for row in loaded if isinstance(row, Prompt)}
    return {
        "recipe": config.recipe,
        "prompts": digest([[row.id for row in loaded], given]),
        "target": {"model": target.identity, **config.target.sampling.model_dump()},
        "reviser": {"model": reviser.identity, **config.reviser.sampling.model_dump()},
        "template": template.digest,
        "parser": PARSER_VERSION,
        "gate": GATE_VERSION,
    }


def _differs(before: dict[str, Any], after: dict[str, Any], what: str) -> bool:
    return what in before and before[what] != after[what]
