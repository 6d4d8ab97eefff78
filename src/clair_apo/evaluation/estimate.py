"""Says what an evaluation will ask and cost: the same walk, with clients that ask nothing.

A request that the store does not answer is counted, and answered by a placeholder, so that what
follows it, such as a judge's question, is counted too.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clair_apo.clair.costs import RunCosts
from clair_apo.evaluation.config import EvaluateConfig
from clair_apo.evaluation.evaluate import run_suite
from clair_apo.evaluation.plan import make_plan
from clair_apo.evaluation.session import Chats, Session
from clair_apo.evaluation.suites.base import EvaluatedModel, ScoredText
from clair_apo.evaluation.suites.figures import Unavailable
from clair_apo.llm import (
    Answer,
    CachedChat,
    ChatRequest,
    Completion,
    Dialogue,
    ModelSpec,
    RequestStore,
)
from clair_apo.llm.pricing import find_price
from clair_apo.llm.token_count import STAND_IN, TokenCounter
from clair_apo.records import Record
from clair_apo.run_folder import RunFolder

T = TypeVar("T")
_WORD = "placeholder"


class SuiteEstimate(Record):
    """What one suite will ask of one model."""

    suite: str
    model: str
    stored: int
    """Requests that the store answers: they cost nothing more."""
    requests: int
    """Requests to be asked."""
    prompt_tokens: int
    """Of the requests to be asked, as the tokeniser of the estimate counts them."""
    completion_tokens: int
    """At most: every answer as long as it may be."""
    usd: float | None
    """At most; None where there is no price."""


class EvaluationEstimate(Record):
    """What an evaluation will ask, and an upper bound of its cost."""

    prompts: int
    tokenizer: str
    """Whose tokens were counted."""
    rows: tuple[SuiteEstimate, ...]
    usd: float | None
    """Of all rows; None where one that asks has no price."""


class _Tally:
    """The requests of one suite to one model."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.stored = self.requests = self.prompt_tokens = self.completion_tokens = 0

    def row(self, suite: str) -> SuiteEstimate:
        price, usd = find_price(self.spec), None
        if price is not None:
            usd = price.cost(
                prompt_tokens=self.prompt_tokens,
                completion_tokens=self.completion_tokens,
                batch=self.spec.mode == "batch",
            )
        return SuiteEstimate(
            suite=suite,
            model=self.spec.model,
            stored=self.stored,
            requests=self.requests,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            usd=usd,
        )


class CountingSession(Session):
    """A session whose clients count what they are asked.

    Args:
        counter: counts tokens.
        session: as a session takes them, as `settings`.
        settings: its settings.
    """

    estimating = True

    def __init__(self, counter: TokenCounter, *session: Any, **settings: Any) -> None:
        super().__init__(*session, **settings)
        self._counter = counter
        self._placeholders: dict[str, Answer] = {}
        self._tallies: dict[str, _Tally] = {}

    def take_rows(self, suite: str) -> list[SuiteEstimate]:
        """What was counted since the last call, of the suite that has ended."""
        rows = [tally.row(suite) for tally in self._tallies.values()]
        self._tallies.clear()
        return rows

    def converse(self, title: str, client: CachedChat, dialogues: Iterable[Dialogue[T]]) -> list[T]:
        """The results of dialogues, with placeholders where the store has no answer."""
        tally = self._tallies.setdefault(client.identity, _Tally(client.spec))
        return [self._result(dialogue, tally) for dialogue in dialogues]

    def log_probs(
        self, model: EvaluatedModel, texts: Sequence[ScoredText]
    ) -> list[list[float]] | Unavailable:
        """None: they ask nothing."""
        return Unavailable("an estimate computes no log-probabilities")

    def _result(self, dialogue: Dialogue[T], tally: _Tally) -> T:
        try:
            requests = next(dialogue)
            while True:
                requests = dialogue.send(tuple(self._answer(one, tally) for one in requests))
        except StopIteration as end:
            result: T = end.value
            return result

    def _answer(self, request: ChatRequest, tally: _Tally) -> Answer:
        if request.key in self._placeholders:
            return self._placeholders[request.key]
        if answer := self.store.answer(request):
            tally.stored += 1
            return answer
        tally.requests += 1
        tally.prompt_tokens += self._counter.conversation(request.messages)
        tally.completion_tokens += request.sampling.max_tokens
        answer = Answer(request, _placeholder(request, len(self._placeholders)))
        self._placeholders[request.key] = answer
        return answer


def _placeholder(request: ChatRequest, number: int) -> Completion:
    """An answer as long as it may be, and unlike every other one."""
    most = request.sampling.max_tokens
    return Completion(
        text=" ".join([f"{_WORD} {number}", *[_WORD] * max(0, most - 2)]),
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=most,
    )


def estimate(
    config: EvaluateConfig, tokenizer: str = STAND_IN, *, chats: Chats | None = None
) -> EvaluationEstimate:
    """Count what an evaluation will ask, with what is in its store already taken off.

    Asks nothing and writes nothing.

    Args:
        config: the evaluation.
        tokenizer: whose tokens to count; `smollm2-135m`, a folder or a hub name.
        chats: models of the caller's own.

    Raises:
        ConfigError, DataError: whatever the user can mend.
        ModelNotFoundError: no such model.
        StoreError: the request store cannot be used.
    """
    given = chats or {}
    plan = make_plan(config, given)
    path, folder = config.store_path, RunFolder(config.run_dir)
    with RequestStore(path if path.exists() else ":memory:") as store:
        costs = RunCosts(folder, store, None)
        kind = partial(CountingSession, TokenCounter(tokenizer))
        session = plan.session(folder, store, costs, given, kind=kind)
        assert isinstance(session, CountingSession)
        rows: list[SuiteEstimate] = []
        for suite in config.suites:
            run_suite(suite, session)
            rows += session.take_rows(suite.key)
    priced = all(row.usd is not None for row in rows if row.requests)
    return EvaluationEstimate(
        prompts=len(plan.held_out.prompts),
        tokenizer=tokenizer,
        rows=tuple(rows),
        usd=sum(row.usd or 0.0 for row in rows) if priced else None,
    )


def estimate_table(estimate: EvaluationEstimate) -> RenderableType:
    """A table of what an evaluation will ask, suite by suite and model by model."""
    title = Text(f"To be asked about {estimate.prompts:,} prompts")
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("suite", "model", "requests", "stored", "tokens in", "tokens out", "USD"):
        table.add_column(name, justify="left" if name in ("suite", "model") else "right")
    for row in estimate.rows:
        counts = (row.requests, row.stored, row.prompt_tokens, row.completion_tokens)
        table.add_row(
            Text(row.suite), Text(row.model), *(f"{count:,}" for count in counts), _usd(row.usd)
        )
    table.add_row("total", "", "", "", "", "", _usd(estimate.usd), style="bold")
    note = (
        f"Tokens in are those of the tokenizer of {estimate.tokenizer!r}; tokens out and USD are "
        "at most: every answer as long as its limit. What a suite asks only after it has read an "
        "answer, such as a second try, is not in it, nor what the harness of lm_eval asks."
    )
    return Group(table, Text(note))


def _usd(usd: float | None) -> str:
    return "no price" if usd is None else f"{usd:,.2f}"
