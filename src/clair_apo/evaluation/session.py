"""What the suites of an evaluation work with: clients behind the store, budget, progress."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from clair_apo.clair.costs import RunCosts
from clair_apo.clair.setup import open_client
from clair_apo.console import show_progress
from clair_apo.evaluation.checkpoints import Gone
from clair_apo.evaluation.held_out import HeldOut
from clair_apo.evaluation.log_probs import KeptLogProbs, score
from clair_apo.evaluation.recorded import recorded_answers
from clair_apo.evaluation.suites.base import EvaluatedModel, ScoredText, SuiteContext
from clair_apo.evaluation.suites.figures import Unavailable
from clair_apo.llm import (
    Answer,
    CachedChat,
    ChatModel,
    ChatRequest,
    Dialogue,
    ModelSpec,
    RequestStore,
    propagate_errors_to,
)
from clair_apo.llm.backends.vllm_server import ModelServers
from clair_apo.llm.pricing import Meter, require_price
from clair_apo.records import Conversation, PreferencePair, Prompt

T = TypeVar("T")
Chats = Mapping[str, ChatModel]
"""Models of the caller's own, by the `model` of the spec that they are asked in place of."""


class Session(SuiteContext):
    """The context of one evaluation.

    One model in this process is held in memory at a time.

    Args:
        models: all of them, the one in question first.
        held_out: prompts or pairs.
        folder: of the evaluation.
        store: keeps every answer.
        costs: counts what the evaluation costs, with `max_cost`.
        chats: asked in place of what specs name.
        servers: start the models that are served for the evaluation.
        offline: ask nothing.
        dropped: checkpoints whose folders are gone: the path of each, and its model's identity.

    Attributes:
        faults: what ends the evaluation as failed once all is written, such as recorded models
            that no suite could read.
    """

    def __init__(
        self,
        models: Sequence[EvaluatedModel],
        held_out: HeldOut,
        folder: Path,
        store: RequestStore,
        costs: RunCosts,
        chats: Chats,
        servers: ModelServers | None = None,
        *,
        offline: bool = False,
        dropped: Mapping[str, str] | None = None,
    ) -> None:
        self.models = models
        self.prompts: Sequence[Prompt] = held_out.prompts
        self.pairs: Sequence[PreferencePair] = held_out.pairs
        self.folder, self.store, self.costs = folder, store, costs
        self._chats, self._servers = chats, servers
        self._offline, self._dropped = offline, dropped or {}
        self._clients: dict[str, CachedChat] = {}
        self._kept: dict[str, KeptLogProbs] = {}
        self._answered: dict[Any, list[Answer]] = {}
        self.faults: list[str] = []

    def with_models(self, models: Sequence[EvaluatedModel]) -> Self:
        """The same session for some of its models."""
        other = copy.copy(self)
        other.models = models
        return other

    @property
    def meters(self) -> list[Meter]:
        """The counts of every model that was opened."""
        return [client.meter for client in self._clients.values()]

    def answers(
        self,
        model: EvaluatedModel,
        conversations: Sequence[Conversation],
        *,
        max_tokens: int | None = None,
    ) -> list[Answer]:
        """What a model answers to conversations, in their order; from the store where it can.

        Raises:
            OtherFormatError: a recorded model whose files hold no answers to prompts.
            RequestError, BudgetError: the model cannot be asked.
        """
        key = (model.name, max_tokens, tuple(conversations))
        if key not in self._answered:  # several suites look at the same answers
            self._answered[key] = self._answers(model, conversations, max_tokens)
        return self._answered[key]

    def _answers(
        self, model: EvaluatedModel, conversations: Sequence[Conversation], max_tokens: int | None
    ) -> list[Answer]:
        if model.spec is None:
            return recorded_answers(model, conversations)
        client = self.client(model.spec)
        requests = [client.request(turns, max_tokens=max_tokens) for turns in conversations]
        return self.converse(f"answers of {model.name}", client, map(_ask_once, requests))

    def client(self, spec: ModelSpec) -> CachedChat:
        """The client of a model or judge, opened once.

        Raises:
            BudgetError: `max_cost` is set, and the model has no price.
        """
        key = spec.model_dump_json()
        if key not in self._clients:
            if self.costs.ledger.budget.limit is not None:
                require_price("judge", spec)
            self._clients[key] = self._open(spec)
            opened = self._clients.values()
            self.costs.ledger.open((client.identity, client.meter) for client in opened)
        return self._clients[key]

    def _open(self, spec: ModelSpec) -> CachedChat:
        given = self._chats.get(spec.model)
        if spec.model in self._dropped:
            given = Gone(spec.model)
            spec = spec.model_copy(update={"model": self._dropped[spec.model]})
        return open_client(
            spec,
            self.store,
            self.costs.ledger,
            self.folder,
            given,
            offline=self._offline,
            servers=self._servers,
        )

    def converse(self, title: str, client: CachedChat, dialogues: Iterable[Dialogue[T]]) -> list[T]:
        """The results of dialogues with a client, in their order, with a progress display.

        Raises:
            RequestError, BudgetError: the model cannot be asked; what it answered is kept.
        """
        waiting = list(dialogues)
        self._hold_only(client)
        results = client.converse(waiting)
        found = []
        with (
            show_progress(
                title, len(waiting), client.meter, lambda: self.costs.ledger.total
            ) as tell,
            propagate_errors_to(results),
        ):
            for result in results:
                found.append(result)
                tell("done")
        return found

    def log_probs(
        self, model: EvaluatedModel, texts: Sequence[ScoredText]
    ) -> list[list[float]] | Unavailable:
        """The log-probabilities of texts under a model in this process, computed once."""
        if model.spec is None:
            return Unavailable(f"{model.name} is recorded: it gives no log-probabilities")
        client = self.client(model.spec)
        kept = self._kept.setdefault(client.identity, KeptLogProbs(self.folder, client.identity))
        missing = [text for text in texts if kept.find(text) is None]
        if missing and not client.is_in_process:
            return Unavailable(
                f"{model.name} is not in this process: it gives no log-probabilities"
            )
        if missing and self._offline:
            return Unavailable(f"offline: the log-probabilities of {model.name} are not computed")
        if missing:
            self._hold_only(client)
            chat = client.local_model
            with show_progress(f"log-probs under {model.name}", len(missing)) as tell:
                for text in missing:
                    kept.keep(text, score(chat, text))
                    tell("done")
        return [kept.find(text) or [] for text in texts]

    def _hold_only(self, client: CachedChat) -> None:
        for other in self._clients.values():
            if other is not client and not other.shares_server_with(client):
                other.unload()


def _ask_once(request: ChatRequest) -> Dialogue[Answer]:
    answers = yield (request,)
    return answers[0]
