"""The state of a prompt: what the stages have made of it; read back from a run's files.

Every stage writes its rows in the order of the prompts. `read_states` reads the files of several
stages side by side and holds one prompt at a time, however many there are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from clair_apo.files import read_jsonl
from clair_apo.records import (
    Dropped,
    DroppedStep,
    DropReason,
    Judgement,
    PreferencePair,
    Prompt,
    Record,
    Response,
    Revision,
    Stage,
)
from clair_apo.run_folder import RunFolder


@dataclass(frozen=True)
class PromptState:
    """A prompt with what the stages so far have made of it."""

    prompt: Prompt
    responses: tuple[Response, ...] = ()
    """The answers to choose among, or the only one."""
    stronger: Response | None = None
    """A stronger model's own answer."""
    judgement: Judgement | None = None
    revision: Revision | None = None
    pairs: tuple[PreferencePair, ...] = ()
    """One, or those of a chain in the order of its steps."""

    def response(self, sample: int | None) -> Response:
        """The response with this sample number."""
        return next(r for r in self.responses if r.sample == sample)

    @property
    def revised(self) -> Response | None:
        """The response that the revision is of; None where there is no revision."""
        return self.response(self.revision.sample) if self.revision else None

    def with_rows(self, file: "StageFile", rows: Sequence[Record]) -> "PromptState":
        """The state with the rows that a stage wrote into its file, in the field that they fill."""
        assert file.fills is not None
        own: tuple[Any, ...] = tuple(row for row in rows if isinstance(row, file.record))
        if file.fills == "responses":  # each model of a pool adds its own
            return replace(self, responses=(*self.responses, *own))
        changes: dict[str, Any] = {file.fills: own if file.fills == "pairs" else own[0]}
        return replace(self, **changes)


class StageOutput(NamedTuple):
    """What a stage made of one prompt."""

    rows: tuple[Record, ...]
    """For the stage's files."""
    dropped: Dropped | None = None
    """Set where the prompt ends here."""


class StageFile(NamedTuple):
    """A file of a stage: rows in the order of the prompts."""

    name: str
    record: type[Record]
    """What a row is."""
    fills: str | None = None
    """The field of a `PromptState` that the rows fill; None where no later stage reads them."""
    key: str = "prompt_id"
    """The field of a row that holds the prompt's id."""
    optional: bool = False
    """Whether a prompt without rows goes on."""


PROMPTS = StageFile("prompts.jsonl", Prompt, "prompt", key="id")
PAIRS = StageFile("pairs.jsonl", PreferencePair, "pairs", key="id")
CANDIDATES = StageFile("candidates.jsonl", PreferencePair, "pairs", key="id")
"""The pairs that are still to be scored or verified."""
SCORED = StageFile("scored.jsonl", PreferencePair, "pairs", key="id")
"""The pairs with scores that are still to be verified."""
DROPPED_STEPS = StageFile("dropped_steps.jsonl", DroppedStep, key="id")
"""Texts that were left out of chains."""
DROPPED = StageFile("dropped.jsonl", Dropped, key="id")


def drop(
    state: PromptState, stage: Stage, reason: DropReason, detail: str, raw: str
) -> StageOutput:
    """Drop a prompt, with the text that was the cause."""
    dropped = Dropped(id=state.prompt.id, stage=stage, reason=reason, detail=detail, raw=raw)
    return StageOutput((), dropped)


def read_states(folder: RunFolder, files: Sequence[StageFile]) -> Iterator[PromptState]:
    """Read the prompts that came through some stages, in the order of the data.

    Args:
        folder: the run.
        files: of the stages that have ended.
    """
    rows = [_Rows(folder, file) for file in files]
    for prompt in read_jsonl(folder.file(PROMPTS.name), Prompt):
        state = _state(prompt, [(each.file, each.take(prompt.id)) for each in rows])
        if state is not None:
            yield state


def _state(
    prompt: Prompt, found: Sequence[tuple[StageFile, tuple[Record, ...]]]
) -> PromptState | None:
    """What the rows make of a prompt; None where it was dropped on the way."""
    state = PromptState(prompt)
    for file, rows in found:
        if not rows and not file.optional:
            return None
        state = state.with_rows(file, rows)
    undecided = state.judgement is not None and state.judgement.better is None
    return None if undecided else state


class _Rows:
    """The rows of a file, taken prompt by prompt."""

    def __init__(self, folder: RunFolder, file: StageFile) -> None:
        self.file = file
        rows: Iterator[Any] = read_jsonl(folder.file(file.name), file.record)
        self._groups = groupby(rows, key=attrgetter(file.key))
        self._advance()

    def take(self, prompt_id: str) -> tuple[Any, ...]:
        """The rows of a prompt, if they are the next ones."""
        if self._next is None or self._next[0] != prompt_id:
            return ()
        rows = self._next[1]
        self._advance()
        return rows

    def _advance(self) -> None:
        group = next(self._groups, None)
        self._next = (group[0], tuple(group[1])) if group else None
