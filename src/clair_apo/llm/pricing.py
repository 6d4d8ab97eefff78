"""Prices of models, the budget of a run, and the counts of what was asked.

    find_price       from the config, else from the shipped table, else not known
    Budget, Account  what a run and one of its models may still spend
    worst_case       what a request can cost at most
    Meter            requests and tokens of one model in one run

A price belongs to a model at a host: the same name behind another server is another product, and
is never guessed. What runs in this process is free of charge.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import takewhile
from typing import Any
from urllib.parse import urlsplit

import yaml

from clair_apo.errors import BudgetError
from clair_apo.llm.spec import ModelSpec, Price
from clair_apo.llm.types import ChatRequest, Completion

FREE = Price(input=0, output=0, batch_input=0, batch_output=0, source="runs without a server")
"""The price of a model in this process."""
TOKENS_PER_MESSAGE = 32
"""More than the tokens that any chat template known to us adds to one message."""
TOKENS_PER_PROMPT = 64
"""More than the tokens of a template's own system message and the opening of the answer."""


def find_price(spec: ModelSpec) -> Price | None:
    """The price of a model; None where it is not known."""
    if spec.price is not None:
        return spec.price
    if spec.base_url is None:
        return FREE
    return _table().get((urlsplit(spec.base_url).hostname or "", spec.model))


@cache
def _table() -> dict[tuple[str, str], Price]:
    text = resources.files(__package__).joinpath("prices.yaml").read_text("utf-8")
    pages: list[dict[str, Any]] = yaml.safe_load(text)
    return {
        (page["host"], name): Price(source=page["source"], date=page["date"], **rates)
        for page in pages
        for name, rates in page["models"].items()
    }


class Budget:
    """The money of a run, over all its models: what is spent, and what may be.

    Args:
        limit: USD; None for no limit.
        costs: USD that earlier invocations of the same run have spent, by the model's identity.

    Attributes:
        costs: USD that answers have cost by model, those of earlier invocations included.
        spent: the same over all models.
        reserved: USD that requests under way may cost at most.
    """

    def __init__(
        self, limit: float | None = None, costs: Mapping[str, float] | None = None
    ) -> None:
        self.limit = limit
        self.costs: dict[str, float] = {}
        self.spent = 0.0
        self.count(costs or {})
        self.reserved = 0.0
        self._worst: dict[Hashable, float] = {}

    def count(self, costs: Mapping[str, float]) -> None:
        """Set what some models have cost by now, in USD by identity."""
        self.costs |= costs
        self.spent = sum(self.costs.values())

    def reserve(self, key: Hashable, worst: float) -> bool:
        """Set money aside for a request; False where it could cross the limit.

        False is not the end while other requests are under way: most settle for less.
        """
        if self.limit is not None and self.spent + self.reserved + worst > self.limit:
            return False
        self._worst[key] = worst
        self.reserved += worst
        return True

    def settle(self, key: Hashable, cost: float | None, model: str) -> None:
        """Replace what was set aside by what the answer cost.

        Args:
            key: what `reserve` was called with.
            cost: USD; None where the server did not say, which counts as the worst case.
            model: identity of the model that answered.
        """
        worst = self.release(key)
        taken = worst if cost is None else cost
        self.costs[model] = self.costs.get(model, 0.0) + taken
        self.spent += taken

    def release(self, key: Hashable) -> float:
        """Give back what was set aside for a request that brought no answer; returns how much."""
        worst = self._worst.pop(key, 0.0)
        # from 0 again whenever nothing is under way: rounding does not add up over a run
        self.reserved = self.reserved - worst if self._worst else 0.0
        return worst

    def exhausted(self, model: str, worst: float) -> BudgetError:
        """The error of a run whose next request does not fit any more."""
        assert self.limit is not None
        return BudgetError(
            f"stopped before max_cost: ${self.spent:.4f} of ${self.limit:g} are spent, and the "
            f"next request to {model!r} may cost up to ${worst:.4f}; what was answered is kept: "
            "raise --max_cost and run the same command to go on"
        )


class Account:
    """The share of one model in a run's budget.

    Args:
        spec: the model; one without a price takes nothing.
        budget: shared by the models of the run.
    """

    def __init__(self, spec: ModelSpec, budget: Budget) -> None:
        self.price = find_price(spec)
        self.batch = spec.mode == "batch"
        self._model, self._budget = spec.model, budget

    def reserve(self, request: ChatRequest) -> bool:
        """Set aside what a request may cost; False where the run may not spend it now."""
        return self._budget.reserve(request.key, self._worst(request))

    def reserve_first(self, requests: Sequence[ChatRequest]) -> list[ChatRequest]:
        """Set aside what the first of some requests may cost, as many as there is money for.

        Raises:
            BudgetError: there is not enough for one.
        """
        paid = list(takewhile(self.reserve, requests))
        if not paid:
            raise self.exhausted(requests[0])
        return paid

    def settle(self, request: ChatRequest, completion: Completion | None) -> None:
        """Take what an answer cost; nothing for a request without one."""
        if completion is None or self.price is None:
            self._budget.release(request.key)
        else:
            cost = answer_cost(self.price, completion, batch=self.batch)
            self._budget.settle(request.key, cost, request.model)

    def exhausted(self, request: ChatRequest) -> BudgetError:
        """The error of a run that may not spend what this request may cost."""
        return self._budget.exhausted(self._model, self._worst(request))

    def _worst(self, request: ChatRequest) -> float:
        worst = worst_case(self.price, request, batch=self.batch) if self.price else None
        return worst or 0.0  # without a limit, a price may be missing: see `require_price`


def worst_case(price: Price, request: ChatRequest, *, batch: bool = False) -> float | None:
    """The most that a request can cost, in USD; None where there is no batch price."""
    return price.cost(
        prompt_tokens=most_prompt_tokens(request),
        completion_tokens=request.sampling.max_tokens,
        batch=batch,
    )


def most_prompt_tokens(request: ChatRequest) -> int:
    """A bound on the prompt's tokens under any tokeniser that falls back to bytes.

    Such a tokeniser makes at most one token of a byte; in English text it makes a fourth of that.
    """
    text = sum(len(message.content.encode()) for message in request.messages)
    return text + TOKENS_PER_MESSAGE * len(request.messages) + TOKENS_PER_PROMPT


def answer_cost(price: Price, completion: Completion, *, batch: bool = False) -> float | None:
    """The cost of an answer in USD; None where the server gave no usage, or there is no price."""
    if not completion.prompt_tokens:
        return None
    return price.cost(
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        batch=batch,
    )


def require_price(role: str, spec: ModelSpec) -> Price:
    """The price of a model that a limited budget is to pay.

    Args:
        role: the model's section in the config, for the error.
        spec: the model.

    Raises:
        BudgetError: there is none, or none for its mode.
    """
    price = find_price(spec)
    if price is None:
        raise BudgetError(
            f"max_cost needs a price, and none is known for {spec.model!r} at {spec.base_url}; "
            f'give its USD per million tokens: --{role}.price \'{{"input": 1.0, "output": 4.0}}\' '
            "(0 for a server of your own)"
        )
    if spec.mode == "batch" and price.batch_input is None:
        raise BudgetError(
            f"max_cost needs a price, and none is known for {spec.model!r} through the Batch API; "
            f"give {role}.price.batch_input and {role}.price.batch_output"
        )
    return price


@dataclass
class Meter:
    """Counts of one model in one run; plain numbers that another thread may read at any time."""

    asked: int = 0
    """Requests that the model answered, or rejected, in this run."""
    reused: int = 0
    """Requests that the store answered."""
    failed: int = 0
    """Requests that have no answer."""
    retried: int = 0
    """Attempts that were not a request's first."""
    prompt_tokens: int = 0
    """Prompt tokens of the answers that were paid for in this run."""
    completion_tokens: int = 0
    """Completion tokens of these answers."""
    in_flight: int = 0
    """Requests that were sent and are not stored yet."""
    limit: int = 0
    """The number of requests that may be in flight now."""
    waits_until: float = 0.0
    """When the server is asked again, in seconds since 1970, where it asked for a pause."""
    price: Price | None = None
    """Price of the model; None where it is not known."""
    batch: bool = False
    """Whether answers cost what the Batch API takes."""

    @property
    def cost(self) -> float | None:
        """USD that the answers of this invocation cost; None where there is no price."""
        return self.cost_of(self.prompt_tokens, self.completion_tokens)

    def cost_of(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """USD that so many tokens of the model cost; None where there is no price."""
        if self.price is None:
            return None
        return self.price.cost(
            prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, batch=self.batch
        )

    def count(self, paid: Completion | None, *, failed: bool = False) -> None:
        """Count one request that went to the model.

        Args:
            paid: what came back; None where nothing did.
            failed: what came back holds no answer.
        """
        self.asked += 1
        self.failed += failed or paid is None
        self._pay(paid)

    def count_again(self, paid: Completion | None) -> None:
        """Count an attempt that brought no whole answer and is not a request's last."""
        self.retried += 1
        self._pay(paid)

    def _pay(self, paid: Completion | None) -> None:
        if paid is not None:
            self.prompt_tokens += paid.prompt_tokens
            self.completion_tokens += paid.completion_tokens
