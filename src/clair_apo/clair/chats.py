"""The models of a run, each behind the request store."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from clair_apo.clair.config import GenerateConfig
from clair_apo.clair.prompts import PromptSurvey
from clair_apo.llm import ChatModel, ModelSpec, RequestStore, Spent, StoredChat, check_model
from clair_apo.llm.budget import Budget, require_price
from clair_apo.llm.modes import model_of_mode


class Chats(NamedTuple):
    """Who is asked in a run; nothing is loaded or connected to before its first request."""

    target: StoredChat
    reviser: StoredChat | None
    """The reviser, or the stronger model."""
    judge: StoredChat | None
    asks_target: bool
    """Whether a prompt waits for an answer of the target."""
    budget: Budget
    """What the run has spent and may spend, over all its invocations."""

    def all(self) -> tuple[StoredChat, ...]:
        """Those that there are."""
        return tuple(chat for chat in (self.target, self.reviser, self.judge) if chat)

    def asked(self) -> tuple[StoredChat, ...]:
        """Those that prompts may have to ask."""
        return self.all() if self.asks_target else self.all()[1:]

    @property
    def cost(self) -> float | None:
        """USD that the run has cost, over all its invocations; None where a price is missing."""
        priced = all(chat.meter.price for chat in self.asked())
        return self.budget.spent if priced else None


Models = Mapping[str, ChatModel | None]
"""Models of the caller's own by role: `target`, `reviser`, `judge`."""


def check_models(config: GenerateConfig, given: Models, survey: PromptSurvey) -> None:
    """Find out what can be known of the models before anything is asked or written.

    Raises:
        ModelNotFoundError: no such folder.
        RequestError: no key for a server.
        BudgetError: `max_cost` is set, and a model has no price.
    """
    needed = _specs(config)
    if not _asks_target(config, survey):
        del needed["target"]
    for role, spec in needed.items():
        if spec is not None and given.get(role) is None:
            check_model(spec)
        if spec is not None and config.max_cost is not None:
            require_price(role, spec)


def open_chats(
    config: GenerateConfig,
    survey: PromptSurvey,
    store: RequestStore,
    given: Models,
    run_id: str,
) -> Chats:
    """The models that a recipe asks.

    Args:
        config: names them.
        survey: of the prompts.
        store: keeps what they answer.
        given: models in place of those that the config names.
        run_id: stands in the store beside what is paid for.
    """
    budget = Budget(config.max_cost)

    def chat(role: str, spec: ModelSpec) -> StoredChat:
        later = model_of_mode(spec, store, run_id, config.folder / "batch")
        model = given.get(role) or later
        return StoredChat(spec, store, model, offline=config.offline, run_id=run_id, budget=budget)

    specs = _specs(config)
    chats = Chats(
        target=chat("target", config.target),
        reviser=chat("reviser", specs["reviser"]) if specs["reviser"] else None,
        judge=chat("judge", specs["judge"]) if specs["judge"] else None,
        asks_target=_asks_target(config, survey),
        budget=budget,
    )
    budget.spent = _spent_before(chats.asked(), store.spent(run_id))
    return chats


def _spent_before(chats: Iterable[StoredChat], spent: Mapping[str, Spent]) -> float:
    """USD that earlier invocations of a run have spent, at today's prices.

    Two roles may ask the same model, and the store does not tell them apart: the dearer one counts.
    """
    costs: dict[str, float] = {}
    for chat in chats:
        tokens = spent.get(chat.identity)
        if tokens:
            cost = chat.meter.cost_of(tokens.prompt_tokens, tokens.completion_tokens) or 0.0
            costs[chat.identity] = max(cost, costs.get(chat.identity, 0.0))
    return sum(costs.values())


def _asks_target(config: GenerateConfig, survey: PromptSurvey) -> bool:
    return survey.waiting > 0 and not config.steps.given_only


def _specs(config: GenerateConfig) -> dict[str, ModelSpec | None]:
    steps = config.steps
    return {
        "target": config.target,
        "reviser": config.reviser if steps.asks_reviser else None,
        "judge": config.judge if steps.chooses or config.verify else None,
    }
