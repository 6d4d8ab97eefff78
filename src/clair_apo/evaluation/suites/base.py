"""What a suite is given, and what it gives back."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from pydantic import Field

from clair_apo.config import Section
from clair_apo.errors import ConfigError
from clair_apo.evaluation.suites.figures import Figure, Unavailable
from clair_apo.llm import CachedChat, Dialogue, ModelSpec
from clair_apo.llm.types import Answer
from clair_apo.records import Conversation, PreferencePair, Prompt

T = TypeVar("T")

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""What models and suites may be called: files and keys are named after them."""


@dataclass(frozen=True)
class EvaluatedModel:
    """A model of an evaluation: one that is asked, or files of what one has answered.

    Attributes:
        name: its key in the config.
        spec: how it is asked; None where it is recorded.
        recorded: the files, in the format of the benchmark.
    """

    name: str
    spec: ModelSpec | None
    recorded: tuple[Path, ...] = ()


class OtherFormatError(ConfigError):
    """A recorded model whose files a suite cannot read; the suite is run without that model.

    Args:
        model: the name of the model.
        message: names the file, what it looks like, and what was expected.
    """

    def __init__(self, model: str, message: str) -> None:
        super().__init__(message)
        self.model = model


class ScoredText(NamedTuple):
    """An answer to a conversation, whose tokens a model is to score."""

    conversation: Conversation
    answer: str
    ended: bool = True
    """Whether the token that ends an answer is scored as well."""


class SuiteContext(ABC):
    """What a suite works with; the evaluation's own is `evaluation.session.Session`.

    Attributes:
        models: all of them, the one in question first.
        prompts: held-out prompts, empty where the config names none.
        pairs: held-out pairs, empty where the config names prompts.
        folder: of the evaluation; a suite writes its rows below it.
        estimating: whether requests are only counted; what is not asked of a client, such as
            another program's evaluation, is then left out.
    """

    estimating: bool = False
    models: Sequence[EvaluatedModel]
    prompts: Sequence[Prompt]
    pairs: Sequence[PreferencePair]
    folder: Path

    @abstractmethod
    def answers(
        self,
        model: EvaluatedModel,
        conversations: Sequence[Conversation],
        *,
        max_tokens: int | None = None,
    ) -> list[Answer]:
        """What a model answers to conversations, in their order; from the store where it can.

        Args:
            model: one with a `spec`.
            conversations: what it is asked.
            max_tokens: the limit of an answer in place of the spec's.
        """

    @abstractmethod
    def client(self, spec: ModelSpec) -> CachedChat:
        """The client of a judge, with the evaluation's store, budget and counts."""

    @abstractmethod
    def converse(self, title: str, client: CachedChat, dialogues: Iterable[Dialogue[T]]) -> list[T]:
        """The results of dialogues with a client, in their order, with a progress display."""

    def log_probs(
        self, model: EvaluatedModel, texts: Sequence[ScoredText]
    ) -> list[list[float]] | Unavailable:
        """The log-probability of each token of texts under a model in this process, in nats.

        Args:
            model: one of the evaluation's.
            texts: answers; their tokens are those of the model's own tokeniser.

        Returns:
            One list for each text, or why there are none.
        """
        return Unavailable("log-probabilities need a model in this process")

    def identity(self, model: EvaluatedModel) -> str:
        """What tells the weights of a model from those of others; its name where it is recorded."""
        return self.client(model.spec).identity if model.spec else model.name


@dataclass(frozen=True)
class SuiteResult:
    """What a suite measured.

    Attributes:
        figures: by model and by the figure's name; of every model in the same order.
        remarks: sentences for the reader: what was not measured, what is unusual.
        rows: by model, the rows that the figures are of, as they are written to
            `<suite>/<model>.jsonl`.
        counts: by model, numbers that need no interval, such as unreadable replies.
        fault: why the suite could not measure what it is for, such as a judge of which not one
            reply could be read; the evaluation then ends as failed, once all is written.
    """

    figures: Mapping[str, Mapping[str, Figure]]
    remarks: Sequence[str] = ()
    rows: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    fault: str = ""


class SuiteConfig(Section, ABC):
    """One entry of `suites` in a config: the settings of a suite, and the suite itself."""

    needs_prompts: ClassVar[bool] = True
    """Whether the suite is about `prompts` or `pairs` of the config; else it brings its own."""

    name: str | None = Field(None, pattern=NAME)
    """The key in `evaluation.json`; by default the suite's. It tells two of a kind apart, such as
    two judges."""

    @property
    def key(self) -> str:
        """The key in `evaluation.json`."""
        return self.name or str(getattr(self, "suite"))  # noqa: B009 - every suite's own literal

    def check(self) -> None:
        """Find out what is wrong with the suite's files, before anything is asked or written.

        Raises:
            ConfigError, DataError: whatever the user can mend.
        """

    @abstractmethod
    def run(self, context: SuiteContext) -> SuiteResult:
        """Measure every model.

        Raises:
            ConfigError, DataError: whatever the user can mend, in one line.
            RequestError, BudgetError: a model cannot be asked; what it answered is kept.
        """
