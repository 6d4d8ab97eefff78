"""What a model costs: read from the config, else from the shipped table, else not known.

A price belongs to a model at a host: the same name behind another server is another product, and
is never guessed. What runs in this process is free of charge.
"""

import datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import urlsplit

import yaml
from pydantic import Field, model_validator

from clair_apo.config import Section

if TYPE_CHECKING:
    from clair_apo.llm.types import ModelSpec

MILLION = 1_000_000
Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Price(Section):
    """USD per million tokens; the key `price` of a model in a config, or a row of the table."""

    input: Usd
    """A million prompt tokens, live."""
    output: Usd
    """A million completion tokens, live."""
    batch_input: Usd | None = None
    """A million prompt tokens through the Batch API; none: not offered, or not known."""
    batch_output: Usd | None = None
    """A million completion tokens through the Batch API."""
    source: str = "the config"
    """Where the figures were read: an address, a contract."""
    date: datetime.date | None = None
    """When they were read."""

    @model_validator(mode="after")
    def _batch_has_both(self) -> Self:
        if (self.batch_input is None) != (self.batch_output is None):
            raise ValueError("batch_input and batch_output belong together; give both or none")
        return self

    def cost(
        self, *, prompt_tokens: float, completion_tokens: float, batch: bool = False
    ) -> float | None:
        """What so many tokens cost, in USD; None for a batch price that there is not."""
        rates = (self.batch_input, self.batch_output) if batch else (self.input, self.output)
        if rates[0] is None or rates[1] is None:
            return None
        return (prompt_tokens * rates[0] + completion_tokens * rates[1]) / MILLION

    def __str__(self) -> str:
        text = f"${self.input:g} in, ${self.output:g} out per million tokens"
        if self.batch_input is not None:
            text += f"; batch ${self.batch_input:g} in, ${self.batch_output:g} out"
        return f"{text} ({self.source}{f', read {self.date}' if self.date else ''})"


FREE = Price(input=0, output=0, batch_input=0, batch_output=0, source="runs without a server")


def find_price(spec: "ModelSpec") -> Price | None:
    """The price of a model: from its config, free in this process, else listed; None: not known."""
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
