"""A prompt on its way through a recipe's stages, and how a stage's files are read back.

Every stage writes its records in the order of the prompts. `read_cases` walks the files of all
stages so far side by side and holds one prompt at a time, however many there are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from clair_apo.clair.filters.contamination import ContaminationIndex
from clair_apo.files import read_jsonl
from clair_apo.records import (
    Dropped,
    DropReason,
    Judgement,
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
    """The answers to choose among, or the one to revise."""
    stronger: Response | None = None
    """A stronger model's own answer."""
    judgement: Judgement | None = None
    revision: Revision | None = None

    def sample(self, number: int | None) -> Response:
        """The response with this sample number."""
        return next(r for r in self.responses if r.sample == number)

    @property
    def to_revise(self) -> Response:
        """The answer that the reviser gets: the best one where a judge chose, else the only one."""
        return self.sample(self.judgement.better) if self.judgement else self.responses[0]

    @property
    def loser(self) -> Response:
        """The answer that stands as it came: the worst one where a judge chose, else the only."""
        return self.sample(self.judgement.worse) if self.judgement else self.responses[0]


class StageOutput(NamedTuple):
    """What a stage made of one case: rows for its file, and the drop if the case ends here."""

    rows: tuple[Record, ...]
    dropped: Dropped | None = None


class Part(NamedTuple):
    """A stage's file, and the field of a `PromptState` that its rows fill."""

    file: str
    kind: type[Record]
    field: str


PARTS = {
    "respond": Part("responses.jsonl", Response, "responses"),
    "strengthen": Part("stronger.jsonl", Response, "stronger"),
    "judge": Part("judgements.jsonl", Judgement, "judgement"),
    "revise": Part("revisions.jsonl", Revision, "revision"),
}


def drop(case: PromptState, stage: Stage, reason: DropReason, detail: str, raw: str) -> StageOutput:
    """The end of a case, with the text that was judged."""
    dropped = Dropped(id=case.prompt.id, stage=stage, reason=reason, detail=detail, raw=raw)
    return StageOutput((), dropped)


def extended(case: PromptState, stage: str, rows: tuple[Any, ...]) -> PromptState:
    """The case with what a stage made of it."""
    made: dict[str, Any] = {PARTS[stage].field: rows if stage == "respond" else rows[0]}
    return replace(case, **made)


def read_cases(folder: RunFolder, parts: tuple[str, ...]) -> Iterator[PromptState]:
    """The cases that came through the given stages, in the order of the prompts.

    Args:
        folder: the run.
        parts: keys of `PARTS`, the stages that have ended.
    """
    streams = {name: _Stream(folder, PARTS[name]) for name in parts}
    for prompt in read_jsonl(folder.file("prompts.jsonl"), Prompt):
        found = {name: stream.take(prompt.id) for name, stream in streams.items()}
        case = _case(prompt, found)
        if case is not None:
            yield case


def _case(prompt: Prompt, found: Mapping[str, tuple[Any, ...]]) -> PromptState | None:
    case = PromptState(prompt)
    for name, rows in found.items():
        if not rows:
            return None
        case = extended(case, name, rows)
    undecided = case.judgement is not None and case.judgement.better is None
    return None if undecided else case


@dataclass
class _Stream:
    """The rows of one stage's file, taken prompt by prompt."""

    folder: RunFolder
    part: Part
    _groups: Iterator[tuple[str, Iterator[Any]]] = field(init=False)
    _next: tuple[str, tuple[Any, ...]] | None = field(init=False)

    def __post_init__(self) -> None:
        rows = read_jsonl(self.folder.file(self.part.file), self.part.kind)
        self._groups = groupby(rows, key=attrgetter("prompt_id"))
        self._advance()

    def take(self, prompt_id: str) -> tuple[Any, ...]:
        if self._next is None or self._next[0] != prompt_id:
            return ()
        rows = self._next[1]
        self._advance()
        return rows

    def _advance(self) -> None:
        group = next(self._groups, None)
        self._next = (group[0], tuple(group[1])) if group else None


class PromptSurvey(NamedTuple):
    """What is known of the prompts before anything is written or asked."""

    prompts: int
    """Those that are used, duplicates among them."""
    given: int
    """Those that bring an answer, of those that are not dropped at once."""
    waiting: int
    """Those that bring none."""
    digest: str
    """Of their ids and given answers: the same for the same prompts in the same order."""
    tests: ContaminationIndex
    """The test sets that they were compared with."""
