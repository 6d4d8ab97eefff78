"""The models of a run, each behind the request store."""

from collections.abc import Mapping
from typing import NamedTuple

from clair_apo.clair.config import GenerateConfig
from clair_apo.clair.costs import Costs, settled
from clair_apo.clair.prompt_state import PromptSurvey
from clair_apo.console import say
from clair_apo.errors import RunError
from clair_apo.llm import CachedChat, ChatModel, ModelSpec, RequestStore, check_model
from clair_apo.llm.backends.select import model_of_mode, stranded_batches
from clair_apo.llm.pricing import Budget, require_price


class ModelClients(NamedTuple):
    """Who is asked in a run; nothing is loaded or connected to before its first request."""

    target: CachedChat
    reviser: CachedChat | None
    """The reviser, or the stronger model."""
    judge: CachedChat | None
    asks_target: bool
    """Whether a prompt waits for an answer of the target."""
    budget: Budget
    """What the run has spent and may spend, over all its invocations."""
    store: RequestStore
    """Keeps what they answer."""
    run_id: str
    """Stands in the store beside what is paid for."""
    costs_before: Costs
    """What each model had cost in earlier invocations."""
    unpriced: frozenset[str] = frozenset()
    """Models that were asked earlier, and of which no price is known."""

    def all(self) -> tuple[CachedChat, ...]:
        """Those that there are."""
        return tuple(chat for chat in (self.target, self.reviser, self.judge) if chat)

    def asked(self) -> tuple[CachedChat, ...]:
        """Those that prompts may have to ask."""
        return self.all() if self.asks_target else self.all()[1:]

    @property
    def cost(self) -> float | None:
        """USD that the run has cost, over all its invocations; None where a price is missing."""
        unpriced = any(chat.meter.cost is None for chat in self.asked())
        return None if unpriced or self.unpriced else self.budget.spent

    def settle_costs(self) -> Costs:
        """Count what the store holds; what each model has cost, also one not asked any more."""
        costs = settled(
            self.costs_before,
            self.store.spent(self.run_id),
            [(chat.identity, chat.meter) for chat in self.asked()],
        )
        # only the budget knows what answers without usage may have cost
        known = self.budget.costs
        costs = {
            model: cost.model_copy(update={"usd": max(cost.usd, known.get(model, 0.0))})
            for model, cost in costs.items()
        }
        self.budget.count({model: cost.usd for model, cost in costs.items()})
        return costs


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


def open_clients(
    config: GenerateConfig,
    survey: PromptSurvey,
    store: RequestStore,
    given: Models,
    run_id: str,
    costs_before: Costs,
) -> ModelClients:
    """The models that a recipe asks.

    Args:
        config: names them.
        survey: of the prompts.
        store: keeps what they answer.
        given: models in place of those that the config names.
        run_id: stands in the store beside what is paid for.
        costs_before: what the run's manifest says that each model has cost.

    Raises:
        RunError: a model that is not asked in batches any more has open ones.
    """
    budget = Budget(config.max_cost)

    def chat(role: str, spec: ModelSpec) -> CachedChat:
        later = model_of_mode(spec, store, run_id, config.folder / "batch")
        model = given.get(role) or later
        return CachedChat(spec, store, model, offline=config.offline, run_id=run_id, budget=budget)

    specs = _specs(config)
    chats = ModelClients(
        target=chat("target", config.target),
        reviser=chat("reviser", specs["reviser"]) if specs["reviser"] else None,
        judge=chat("judge", specs["judge"]) if specs["judge"] else None,
        asks_target=_asks_target(config, survey),
        budget=budget,
        store=store,
        run_id=run_id,
        costs_before=costs_before,
    )
    if not config.offline:
        _refuse_stranded_batches(config, chats)
    costs = chats.settle_costs()  # at the rates of then; what comes now is counted at today's
    unpriced = store.spent(run_id).keys() - costs.keys()
    if unpriced and config.max_cost is not None:
        say(f"max_cost leaves out what {' and '.join(sorted(unpriced))} cost: no price was known")
    return chats._replace(costs_before=costs, unpriced=frozenset(unpriced))


def _refuse_stranded_batches(config: GenerateConfig, chats: ModelClients) -> None:
    """Ask nobody else for what is at a server in batches, and paid for."""
    specs = [chat.spec for chat in chats.asked()]
    stranded = stranded_batches(specs, chats.store, chats.run_id)
    if stranded:
        first, run = stranded[0], config.folder
        raise RunError(
            f"{sum(len(batch.keys) for batch in stranded)} requests to {first.model!r} are at "
            f"{first.host} in open batches, and would be paid a second time: with the mode and "
            "base_url that the model has now nobody waits for them. Run with mode batch and that "
            f"server to collect them; or end them with `clair-apo batches {run} --cancel all`, and "
            f"look with `clair-apo batches {run}` until they are read (`--forget ID` for one that "
            "the server does not have)"
        )


def _asks_target(config: GenerateConfig, survey: PromptSurvey) -> bool:
    return survey.waiting > 0 and not config.steps.given_only


def _specs(config: GenerateConfig) -> dict[str, ModelSpec | None]:
    steps = config.steps
    return {
        "target": config.target,
        "reviser": config.reviser if steps.asks_reviser else None,
        "judge": config.judge if steps.chooses or config.verify else None,
    }
