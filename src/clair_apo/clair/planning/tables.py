"""Draws estimate and pilot as tables for the terminal."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clair_apo.clair.planning.estimate import TOKENIZER, CostEstimate, CostRange, ModelEstimate
from clair_apo.clair.planning.pilot import ModelUse, Pilot
from clair_apo.stats import Interval

NO_PRICE = "no price"


def estimate_table(estimate: CostEstimate) -> RenderableType:
    """A table of what a run will ask and cost, model by model, and where its prices are from."""
    table = _table(f"To be asked for {estimate.prompts:,} prompts, recipe {estimate.recipe}")
    for name in ("model", "requests", "stored", "tokens in", "tokens out", "USD live", "USD batch"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model in estimate.models:
        table.add_row(
            model.role,
            f"{model.requests:,}",
            f"{model.stored:,}",
            _count(model.prompt_tokens),
            _count(model.completion_tokens),
            _usd(model.live),
            _usd(model.batch),
        )
    table.add_row("total", "", "", "", "", _usd(estimate.live), _usd(estimate.batch), style="bold")
    return Group(table, Text("\n".join(_notes(estimate))))


def _notes(estimate: CostEstimate) -> Iterator[str]:
    for model in estimate.models:
        yield f"{model.role} {model.model}: {_price(model)}"
    yield (
        f"Tokens counted with the tokenizer of {estimate.tokenizer!r}, and taken for "
        f"{TOKENIZER.low:g} to {TOKENIZER.high:g} of that for each model; the lengths of answers "
        "that are not known yet are assumed, no row is dropped and no reply repeated. An estimate "
        "is no bound: --max_cost is. --pilot 50 measures what is assumed here."
    )


def _price(model: ModelEstimate) -> str:
    if model.price is None:
        return (
            f"no price is known at this server; give its USD per million tokens with "
            f"{model.role}.price.input and {model.role}.price.output"
        )
    return str(model.price)


def pilot_table(pilot: Pilot) -> RenderableType:
    """Tables of what a pilot found and what follows for the rest, with 95 % intervals."""
    shares = _table(f"Pilot of {pilot.prompts:,} prompts (95 % intervals)")
    shares.add_column("of the prompts")
    shares.add_column("share", justify="right")
    shares.add_row("kept", str(pilot.kept))
    if pilot.parsed:
        shares.add_row("replies of the reviser read", str(pilot.parsed))
    for reason, share in pilot.drops.items():
        shares.add_row(f"dropped: {reason}", str(share))
    if pilot.edit_ratio:
        shares.add_row("edit ratio of the pairs", _interval(pilot.edit_ratio, ".3f"))
    uses = _table("Per prompt")
    for name in ("model", "requests", "tokens in", "tokens out", "USD"):
        uses.add_column(name, justify="left" if name == "model" else "right")
    for use in pilot.models:
        uses.add_row(*_use_row(use))
    return Group(shares, Text(), uses, Text("\n".join(_projection(pilot))))


def _use_row(use: ModelUse) -> tuple[str, ...]:
    return (
        f"{use.role}: {use.model}",
        _interval(use.requests, ".2f"),
        _interval(use.prompt_tokens, ".0f"),
        _interval(use.completion_tokens, ".0f"),
        _interval(use.cost, ".5f") if use.cost else NO_PRICE,
    )


def _projection(pilot: Pilot) -> Iterator[str]:
    spent = f"${pilot.spent:.4f}" if pilot.spent is not None else f"unknown ({NO_PRICE})"
    yield f"spent on the pilot: {spent}"
    yield f"the other {pilot.rest:,} prompts: about {_interval(pilot.rest_pairs, ',.0f')} pairs"
    if pilot.rest_cost:
        yield f"they will cost about ${_interval(pilot.rest_cost, ',.2f')}"
    if pilot.rest_seconds is not None:
        yield (
            f"they take {pilot.rest_seconds / 3600:.1f} hours at the pilot's pace; a longer run "
            "keeps more requests in flight and is faster"
        )
    yield "the whole run does not ask the pilot's prompts again"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))


def _count(span: CostRange) -> str:
    low, high = (_short(value) for value in (span.low, span.high))
    return low if low == high else f"{low}-{high}"


def _short(value: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def _usd(span: CostRange | None) -> str:
    if span is None:
        return NO_PRICE
    if 0 < span.high < 0.001:
        return "<0.001"
    digits = 0 if span.high >= 1000 else 2 if span.high >= 1 else 3
    return f"{span.low:,.{digits}f}-{span.high:,.{digits}f}" if span.high else "0"


def _interval(found: Interval, form: str) -> str:
    if found.low is None or found.high is None:
        return f"{found.mean:{form}}"
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]"
