"""Keeps what each model of a run has cost, over all its invocations: `costs` of the manifest.

An entry holds the money, the tokens that it covers and the rates in force since. What came into
the store later, until a kill or out of a batch, is added at those rates. So neither another model
nor another mode lets a run forget what it spent. A run's manifest owns its `CostLedger`.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pydantic import TypeAdapter, ValidationError

from clair_apo.console import say
from clair_apo.errors import ClairApoError
from clair_apo.llm import Meter, RequestStore, Spent
from clair_apo.llm.pricing import Budget
from clair_apo.llm.spec import MILLION
from clair_apo.records import Record
from clair_apo.run_folder import RunFolder


class ModelCost(Record):
    """What one model has cost."""

    usd: float
    prompt_tokens: int
    """Those that `usd` covers, as of completion tokens."""
    completion_tokens: int
    input: float
    """USD for a million later prompt tokens."""
    output: float
    """USD for a million later completion tokens."""
    batch: bool
    """Whether these two are rates of the Batch API."""

    def grown(self, spent: Spent) -> float:
        """USD, with the answers that came into the store since."""
        prompt = max(0, spent.prompt_tokens - self.prompt_tokens)
        completion = max(0, spent.completion_tokens - self.completion_tokens)
        return self.usd + (prompt * self.input + completion * self.output) / MILLION

    def corrected(self, now: "ModelCost") -> bool:
        """Whether `now` corrects the rates: they differ, and the mode does not."""
        rates = (self.input, self.output) != (now.input, now.output)
        return rates and self.batch == now.batch


Costs = dict[str, ModelCost]
"""By the model's identity."""
_COSTS = TypeAdapter(Costs)


def read_costs(manifest: Mapping[str, Any]) -> Costs:
    """Read the costs in a manifest; none where another version wrote them: the store prices anew.

    The store has the tokens of all answers, so all that is lost is what other rates were.
    """
    try:
        return _COSTS.validate_python(manifest.get("costs", {}))
    except ValidationError:
        return {}


def write_costs(costs: Costs) -> dict[str, Any]:
    """Spell costs for a manifest."""
    return {model: cost.model_dump() for model, cost in costs.items()}


class CostLedger:
    """What the models of a run have cost and may cost, over all its invocations.

    Args:
        store: holds the tokens of all answers.
        run_id: marks there what the run paid for.
        before: what was written down in earlier invocations.
        max_cost: USD that the run may cost; None for no limit.

    Attributes:
        budget: what the run has spent and may spend; its models report to it.
    """

    def __init__(
        self,
        store: RequestStore,
        run_id: str = "",
        before: Costs | None = None,
        max_cost: float | None = None,
    ) -> None:
        self.run_id, self.budget = run_id, Budget(max_cost)
        self._store, self._before = store, before or {}
        self._meters: list[tuple[str, Meter]] = []
        self._unpriced: frozenset[str] = frozenset()

    def open(self, asked: Iterable[tuple[str, Meter]]) -> None:
        """Count earlier invocations at the rates of that time; what comes now counts at today's.

        Args:
            asked: the models that are asked in this invocation, by identity.
        """
        self._meters = list(asked)
        self._before = self.settle()
        self._unpriced = frozenset(self._store.spent(self.run_id).keys() - self._before.keys())
        if self._unpriced and self.budget.limit is not None:
            left_out = " and ".join(sorted(self._unpriced))
            say(f"max_cost leaves out what {left_out} cost: no price was known")

    def settle(self) -> Costs:
        """Count what the store holds; what each model has cost, also one not asked any more."""
        costs = settled(self._before, self._store.spent(self.run_id), self._meters)
        # only the budget knows what answers without usage may have cost
        known = self.budget.costs
        costs = {
            model: cost.model_copy(update={"usd": max(cost.usd, known.get(model, 0.0))})
            for model, cost in costs.items()
        }
        self.budget.count({model: cost.usd for model, cost in costs.items()})
        return costs

    @property
    def total(self) -> float | None:
        """USD that the run has cost, over all its invocations; None where a price is missing."""
        missing = self._unpriced or any(meter.cost is None for _, meter in self._meters)
        return None if missing else self.budget.spent


class RunCosts:
    """The money of a run, kept in the manifest of its folder.

    Args:
        folder: of the run.
        store: holds the tokens of all answers.
        max_cost: USD that the run may cost; None for no limit.

    Attributes:
        run_id: marks in the store what the run pays for; the same in all its invocations.
        ledger: what the run's models cost.
    """

    def __init__(self, folder: RunFolder, store: RequestStore, max_cost: float | None) -> None:
        before = folder.manifest()
        self.run_id = str(before.get("run_id") or uuid.uuid4().hex)
        self.ledger = CostLedger(store, self.run_id, read_costs(before), max_cost)
        self._folder = folder

    def write(self, **entries: Any) -> None:
        """Write down what the run has cost so far, with other entries of the manifest."""
        costs = write_costs(self.ledger.settle())  # also brings the total up to date
        self._folder.update_manifest(
            run_id=self.run_id, **entries, cost=self.ledger.total, costs=costs
        )

    @contextmanager
    def recorded_on_failure(self) -> Iterator[None]:
        """Write down what a run has cost also where the block breaks off."""
        try:
            yield
        except (ClairApoError, KeyboardInterrupt):
            with suppress(ClairApoError):  # such as the full disk that ended the run
                self.write()
            raise


def settled(before: Costs, spent: Mapping[str, Spent], asked: Iterable[tuple[str, Meter]]) -> Costs:
    """Count what each model has cost by now.

    Args:
        before: what was written down.
        spent: what the store holds of the run.
        asked: the models that are asked now, by identity; two roles may ask the same one, and the
            store does not tell them apart: the dearer one counts.
    """
    rates: Costs = {}
    for model, meter in asked:
        if found := _rates(meter):
            rates[model] = _dearer(rates[model], found) if model in rates else found
    return {
        model: _settled(before.get(model), spent.get(model, Spent(0, 0, 0)), rates.get(model))
        for model in sorted({*before, *rates})
    }


def joined(parts: Iterable[Costs]) -> Costs:
    """Add up the costs of several runs."""
    total: Costs = {}
    for costs in parts:
        for model, cost in costs.items():
            total[model] = _sum(total[model], cost) if model in total else cost
    return total


def _settled(before: ModelCost | None, spent: Spent, rates: ModelCost | None) -> ModelCost:
    usd = before.grown(spent) if before else 0.0
    later = rates or before
    assert later is not None
    if rates and (before is None or before.corrected(rates)):
        usd = max(usd, rates.grown(spent))
    tokens = {
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
    }
    return later.model_copy(update={"usd": usd, **tokens})


def _rates(meter: Meter) -> ModelCost | None:
    """An entry of nothing yet, at a model's rates; None where there is no price."""
    prompt, completion = meter.cost_of(MILLION, 0), meter.cost_of(0, MILLION)
    if prompt is None or completion is None:
        return None
    return ModelCost(
        usd=0.0,
        prompt_tokens=0,
        completion_tokens=0,
        input=prompt,
        output=completion,
        batch=meter.batch,
    )


def _dearer(one: ModelCost, other: ModelCost) -> ModelCost:
    return one.model_copy(
        update={
            "input": max(one.input, other.input),
            "output": max(one.output, other.output),
            "batch": one.batch and other.batch,
        }
    )


def _sum(one: ModelCost, other: ModelCost) -> ModelCost:
    return _dearer(one, other).model_copy(
        update={
            "usd": one.usd + other.usd,
            "prompt_tokens": one.prompt_tokens + other.prompt_tokens,
            "completion_tokens": one.completion_tokens + other.completion_tokens,
        }
    )
