"""The path through all stages: prompts in, preference pairs and dropped rows out.

Every stage reads the files of those before it and writes its own, prompt by prompt, so that a
million prompts need no more memory than a thousand. The request store is the only thing that
costs: all else is made again from it whenever a template, the parser or the gate changes, and the
same answers give the same bytes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import IO, Any

from clair_apo.clair.clients import check_models, open_clients
from clair_apo.clair.config import GenerateConfig
from clair_apo.clair.dataset import write_parquet_splits, write_splits
from clair_apo.clair.filters.gate import Gate
from clair_apo.clair.lost_answers import find_losses
from clair_apo.clair.manifest import RunManifest
from clair_apo.clair.prompt_state import PARTS, StageOutput, read_cases
from clair_apo.clair.revision.template import load_rubric
from clair_apo.clair.stages.judge import comparison_numbers, verification_numbers
from clair_apo.clair.stages.load import load_prompts, survey_prompts
from clair_apo.clair.stages.run import VERIFY, Stages, revision_template
from clair_apo.console import Usage, say, show_progress
from clair_apo.errors import DataError
from clair_apo.files import atomic_writer, read_jsonl
from clair_apo.llm import ChatModel, Dialogue, RequestStore, propagate_errors_to
from clair_apo.records import Dropped, Judgement, PreferencePair, Prompt, Record, Verification
from clair_apo.run_folder import DATASET, RunFolder

PROMPTS, PAIRS, DROPPED = "prompts.jsonl", "pairs.jsonl", "dropped.jsonl"
CANDIDATES, VERIFICATIONS = "candidates.jsonl", "verifications.jsonl"


Files = Mapping[type[Record], str]
"""The file that each kind of row goes into."""


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
    cost: float | None
    """USD that the run has cost, over all its invocations; None where a price is missing."""


def generate(
    config: GenerateConfig,
    *,
    target_model: ChatModel | None = None,
    reviser_model: ChatModel | None = None,
    judge_model: ChatModel | None = None,
) -> Generated:
    """Make preference pairs; run again to resume, or to apply a changed template.

    Args:
        config: what to do.
        target_model: asked in place of what `config.target` names.
        reviser_model: asked in place of what `config.reviser` names.
        judge_model: asked in place of what `config.judge` names.

    Raises:
        DataError: unusable prompts, or not one pair came of them.
        RunError: the run folder belongs to other prompts or another recipe, another process is at
            work in it, or a model has open batches and is to answer in another mode.
        RequestError: a model cannot be asked; what it answered before is kept.
        BudgetError: `max_cost` would be crossed, or a model has no price to keep it by.
        StoreError: the request store cannot be used.
    """
    given = {"target": target_model, "reviser": reviser_model, "judge": judge_model}
    template = revision_template(config)
    gate = Gate(config.gate, config.training_tokenizer, config.training_revision)
    gate.check()
    rubric = load_rubric(config.revision.rubric)
    survey = survey_prompts(config.prompts, config.prompt_shard)
    check_models(config, given, survey)
    folder = RunFolder(config.folder)
    folder.prepare()
    with ExitStack() as stack:
        store = stack.enter_context(RequestStore(config.store_path))
        losses = find_losses(folder, store)  # before what a killed run left half written goes
        stack.enter_context(folder.locked())
        if lost := losses.sentence(config.store_path):
            say(lost)
        books = RunManifest(config, folder, survey)
        chats = open_clients(config, survey, store, given, books.run_id, books.costs_before)
        stages = Stages(config, chats, template, rubric, gate)
        with books.record_costs_on_failure(chats):
            return _Walk(stages, folder, books).through_all_stages()


class _Walk:
    """One walk through the stages of a recipe."""

    def __init__(self, stages: Stages, folder: RunFolder, books: RunManifest) -> None:
        self.stages, self.folder, self.books = stages, folder, books
        self.config, self.chats = stages.config, stages.chats
        self.drops: IO[str]
        self.outcomes: Counter[str] = Counter()

    def through_all_stages(self) -> Generated:
        """Load, the recipe's stages, pair, verify; then close the books."""
        self.books.begin(self.stages)
        with atomic_writer(self.folder.file(DROPPED)) as self.drops:
            waiting = self._load()
            done: tuple[str, ...] = ()
            for name in self.config.steps.stages:
                waiting = self._ask(name, done, waiting)
                done += (name,)
            waiting = self._pair(done, waiting)
            if self.config.verify:
                waiting = self._verify(waiting)
        return self._close(pairs=waiting)

    def _load(self) -> int:
        if self.books.survey.given:
            say(f"{self.books.survey.given} prompts bring an answer, which is taken as it is")
        config = self.config
        rows = load_prompts(config.prompts, config.prompt_shard, self.books.survey.tests)
        made = (
            StageOutput((), row) if isinstance(row, Dropped) else StageOutput((row,))
            for row in rows
        )
        return self._write("load", (), {Prompt: PROMPTS}, made, self.books.survey.prompts)

    def _ask(self, name: str, done: tuple[str, ...], total: int) -> int:
        part = PARTS[name]
        cases = read_cases(self.folder, done)
        made = (self.stages.dialogue(name, case) for case in cases)
        chat = self.stages.chat(name)
        results = chat.converse(made) if chat else _without_model(made)
        inputs = (PROMPTS, *(PARTS[before].file for before in done))
        usage = chat.meter if chat else None
        kept = self._write(name, inputs, {part.kind: part.file}, results, total, usage)
        if name == "judge":
            rows = read_jsonl(self.folder.file(part.file), Judgement)
            self.books.note(name, comparisons=comparison_numbers(rows))
        return kept

    def _pair(self, done: tuple[str, ...], total: int) -> int:
        made = (self.stages.pair(case) for case in read_cases(self.folder, done))
        file = CANDIDATES if self.config.verify else PAIRS
        inputs = (PROMPTS, *(PARTS[before].file for before in done))
        return self._write("pair", inputs, {PreferencePair: file}, made, total)

    def _verify(self, total: int) -> int:
        pairs = read_jsonl(self.folder.file(CANDIDATES), PreferencePair)
        chat = self.stages.judge.chat
        made = chat.converse(self.stages.verification(pair) for pair in pairs)
        files: Files = {PreferencePair: PAIRS, Verification: VERIFICATIONS}
        kept = self._write(VERIFY, (CANDIDATES,), files, made, total, chat.meter)
        numbers = verification_numbers(read_jsonl(self.folder.file(VERIFICATIONS), Verification))
        self.books.note(VERIFY, verification=numbers.model_dump())
        if numbers.warning:
            say(numbers.warning)
        return kept

    def _write(
        self,
        name: str,
        inputs: tuple[str, ...],
        files: Files,
        results: Iterable[StageOutput],
        total: int,
        usage: Usage | None = None,
    ) -> int:
        """Run one stage: rows into its files, drops beside them; how many cases it let through."""
        with ExitStack() as stack:
            entry = stack.enter_context(self.books.stage(name, inputs, files))
            writers = {
                kind: stack.enter_context(atomic_writer(self.folder.file(file)))
                for kind, file in files.items()
            }
            tell = stack.enter_context(show_progress(name, total, usage, self._money))
            stack.enter_context(propagate_errors_to(results))
            for made in results:
                for row in made.rows:
                    writers[type(row)].write(row.model_dump_json() + "\n")
                if made.dropped:
                    self._drop(made.dropped, entry)
                    tell(made.dropped.reason.value)
                else:
                    entry["kept"] += 1
                    tell("kept")
        return int(entry["kept"])

    def _money(self) -> float | None:
        return self.chats.cost

    def _drop(self, row: Dropped, entry: dict[str, Any]) -> None:
        self.drops.write(row.model_dump_json() + "\n")
        entry["dropped"][row.reason.value] = entry["dropped"].get(row.reason.value, 0) + 1
        self.outcomes[row.reason.value] += 1

    def _close(self, pairs: int) -> Generated:
        costs = self.chats.settle_costs()  # also brings `cost` up to date
        result = Generated(
            prompts=self.books.survey.prompts,
            pairs=pairs,
            dropped=dict(sorted(self.outcomes.items())),
            asked=sum(chat.meter.asked for chat in self.chats.all()),
            reused=sum(chat.meter.reused for chat in self.chats.all()),
            cost=self.chats.cost,
        )
        assert result.prompts == result.pairs + sum(result.dropped.values()), "a row was lost"
        splits = write_splits(
            self.folder.file(PAIRS), self.folder.file(DATASET), self.config.output.test_size
        )
        write_parquet_splits(self.folder.file(DATASET), self.config.output.parquet)
        self.books.close(
            costs,
            counts=result.model_dump(include={"prompts", "pairs", "dropped"}),
            cost=result.cost,
            splits=splits.model_dump(),
        )
        if not pairs:
            reasons = ", ".join(f"{reason} {n}" for reason, n in result.dropped.items())
            raise DataError(
                f"not one of {result.prompts} prompts became a pair ({reasons}); "
                f"{self.folder.file(DROPPED)} holds what came back"
            )
        return result


def _without_model(dialogues: Iterable[Dialogue[StageOutput]]) -> Iterator[StageOutput]:
    """The results of dialogues that ask nothing."""
    for dialogue in dialogues:
        try:
            next(dialogue)
        except StopIteration as end:
            yield end.value
