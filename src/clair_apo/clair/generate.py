"""Takes prompts through all stages: preference pairs and dropped rows come out.

Each stage reads the files of the earlier ones again and writes its own, prompt by prompt: so a run
that was stopped can be resumed, and a million prompts need no more memory than a thousand. The
request store is the only thing that costs: all else is made again from it whenever a template, the
parser or the gate changes, and the same answers give the same bytes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import IO, Any

from clair_apo.clair.config import GenerateConfig
from clair_apo.clair.dataset import write_parquet_splits, write_splits
from clair_apo.clair.lost_answers import find_losses
from clair_apo.clair.manifest import RunManifest, run_settings
from clair_apo.clair.prompt_state import (
    DROPPED,
    PAIRS,
    PROMPTS,
    StageFile,
    StageOutput,
    read_states,
)
from clair_apo.clair.setup import Models, check_models, open_clients, stage_context
from clair_apo.clair.stages.context import StageContext
from clair_apo.clair.stages.load import PromptSurvey, load_prompts, survey_prompts
from clair_apo.clair.stages.table import StageDef
from clair_apo.console import Usage, say, show_progress
from clair_apo.errors import DataError
from clair_apo.files import atomic_writer, read_jsonl
from clair_apo.llm import ChatModel, Dialogue, RequestStore, propagate_errors_to
from clair_apo.llm.backends.vllm_server import ModelServers
from clair_apo.records import Dropped, Record, Stage
from clair_apo.run_folder import DATASET, RunFolder


class Generated(Record):
    """The counts of a run: prompts in = paired + dropped."""

    prompts: int
    paired: int
    """Prompts that a pair came of; of a chain several pairs do."""
    pairs: int
    dropped: dict[str, int]
    """How many rows each reason took."""
    asked: int
    """Requests that went to a model in this run."""
    reused: int
    """Requests that the store answered."""
    cost: float | None
    """USD that the run has cost, over all its invocations; None where a price is missing."""


def generate(
    config: GenerateConfig,
    *,
    target_model: ChatModel | None = None,
    reviser_model: ChatModel | None = None,
    judge_model: ChatModel | None = None,
    scorer_model: ChatModel | None = None,
    pool_models: Sequence[ChatModel | None] = (),
) -> Generated:
    """Make preference pairs; run again to resume, or to apply a changed template.

    Args:
        config: what to do.
        target_model: asked in place of what `config.target` names.
        reviser_model: asked in place of what `config.reviser` names.
        judge_model: asked in place of what `config.judge` names.
        scorer_model: asked in place of the model that `config.scorer` names.
        pool_models: asked in place of what `config.pool` names, in its order.

    Raises:
        DataError: unusable prompts, or not one pair came of them.
        RunError: the run folder belongs to other prompts or another recipe, another process is at
            work in it, or a model has open batches and is to answer in another mode.
        RequestError: a model cannot be asked; what it answered before is kept.
        BudgetError: `max_cost` would be crossed, or a model has no price to keep it by.
        StoreError: the request store cannot be used.
    """
    models: Models = {
        "target": target_model,
        "reviser": reviser_model,
        "judge": judge_model,
        **{f"pool.{number}": model for number, model in enumerate(pool_models)},
        **dict.fromkeys(("scorer.reward", "scorer.judge"), scorer_model),
    }
    # whatever is unusable is found before anything is written or asked
    context = stage_context(config)
    context.gate.check()
    survey = survey_prompts(config.prompts, config.prompt_shard)
    check_models(config, models, survey.waiting)
    folder = RunFolder(config.folder)
    folder.prepare()
    with ExitStack() as stack:
        store = stack.enter_context(RequestStore(config.store_path))
        losses = find_losses(folder, store)  # before what a killed run left half written goes
        stack.enter_context(folder.locked())
        if lost := losses.sentence(config.store_path):
            say(lost)
        manifest = RunManifest(config, folder, store)
        servers = stack.enter_context(ModelServers(folder.path))
        ledger = manifest.costs.ledger
        clients = open_clients(config, store, ledger, survey.waiting, models, servers)
        context = context.with_clients(clients)
        with manifest.costs.recorded_on_failure():
            settings = run_settings(config, context, survey.digest, survey.tests.sets)
            manifest.begin(settings)
            return _Walk(config, context, folder, manifest).through_all_stages(survey)


class _Walk:
    """One invocation of a run: the walk through its stages, and what it counts."""

    def __init__(
        self,
        config: GenerateConfig,
        context: StageContext,
        folder: RunFolder,
        manifest: RunManifest,
    ) -> None:
        self.config, self.context = config, context
        self.folder, self.manifest = folder, manifest
        self.drops: IO[str]
        self.outcomes: Counter[str] = Counter()

    def through_all_stages(self, survey: PromptSurvey) -> Generated:
        """Load the prompts, take them through every stage, and close the run."""
        with atomic_writer(self.folder.file(DROPPED.name)) as self.drops:
            waiting = self._load(survey)
            ended: tuple[StageFile, ...] = ()
            for stage in self.config.stages:
                waiting = self._run(stage, ended, waiting)
                ended += (stage.output,)
        return self._close(survey.prompts, paired=waiting)

    def _load(self, survey: PromptSurvey) -> int:
        if survey.given:
            say(f"{survey.given} prompts bring an answer, which is taken as it is")
        rows = load_prompts(self.config.prompts, self.config.prompt_shard, survey.tests)
        outputs = (
            StageOutput((), row) if isinstance(row, Dropped) else StageOutput((row,))
            for row in rows
        )
        return self._write(Stage.LOAD.value, (), (PROMPTS,), outputs, survey.prompts)

    def _run(self, stage: StageDef, ended: Sequence[StageFile], total: int) -> int:
        """Take the prompts that came this far through one stage; how many it let through."""
        states = read_states(self.folder, ended)
        dialogues = (stage.run(state, self.context) for state in states)
        client = self.context.client(stage.role)
        outputs = client.converse(dialogues) if client else _without_model(dialogues)
        usage = client.meter if client else None
        kept = self._write(stage.name, (PROMPTS, *ended), stage.files, outputs, total, usage)
        if stage.sum_up:
            last = stage.files[-1]
            rows = read_jsonl(self.folder.file(last.name), last.record)
            self.manifest.note(stage.name, stage.sum_up(rows))
        return kept

    def _write(
        self,
        name: str,
        inputs: Sequence[StageFile],
        files: Sequence[StageFile],
        outputs: Iterable[StageOutput],
        total: int,
        usage: Usage | None = None,
    ) -> int:
        """Write a stage's rows into its files, and its drops beside them; how many it kept."""
        with ExitStack() as stack:
            names = [file.name for file in files]
            entry = stack.enter_context(
                self.manifest.stage(name, [file.name for file in inputs], names)
            )
            writers = {
                file.record: stack.enter_context(atomic_writer(self.folder.file(file.name)))
                for file in files
            }
            tell = stack.enter_context(show_progress(name, total, usage, self._cost))
            stack.enter_context(propagate_errors_to(outputs))
            for output in outputs:
                for row in output.rows:
                    writers[type(row)].write(row.model_dump_json() + "\n")
                if output.dropped:
                    self._drop(output.dropped, entry)
                    tell(output.dropped.reason.value)
                else:
                    entry["kept"] += 1
                    tell("kept")
        return int(entry["kept"])

    def _cost(self) -> float | None:
        return self.manifest.costs.ledger.total

    def _drop(self, row: Dropped, entry: dict[str, Any]) -> None:
        self.drops.write(row.model_dump_json() + "\n")
        entry["dropped"][row.reason.value] = entry["dropped"].get(row.reason.value, 0) + 1
        self.outcomes[row.reason.value] += 1

    def _close(self, prompts: int, paired: int) -> Generated:
        """Write the data set and the totals; the counts must close."""
        dataset = self.folder.file(DATASET)
        splits = write_splits(self.folder.file(PAIRS.name), dataset, self.config.output.test_size)
        write_parquet_splits(dataset, self.config.output.parquet)
        self.manifest.costs.ledger.settle()  # brings the total up to date
        clients = self.context.clients.all()
        result = Generated(
            prompts=prompts,
            paired=paired,
            pairs=splits.train + splits.test,
            dropped=dict(sorted(self.outcomes.items())),
            asked=sum(client.meter.asked for client in clients),
            reused=sum(client.meter.reused for client in clients),
            cost=self.manifest.costs.ledger.total,
        )
        assert prompts == paired + sum(result.dropped.values()), "dropped without a record"
        self.manifest.costs.write(
            counts=result.model_dump(include={"prompts", "paired", "pairs", "dropped"}),
            splits=splits.model_dump(),
        )
        if not paired:
            reasons = ", ".join(f"{reason} {n}" for reason, n in result.dropped.items())
            raise DataError(
                f"not one of {prompts} prompts became a pair ({reasons}); "
                f"{self.folder.file(DROPPED.name)} holds what came back"
            )
        return result


def _without_model(dialogues: Iterable[Dialogue[StageOutput]]) -> Iterator[StageOutput]:
    """The results of dialogues that ask nothing."""
    for dialogue in dialogues:
        try:
            next(dialogue)
        except StopIteration as end:
            yield end.value
