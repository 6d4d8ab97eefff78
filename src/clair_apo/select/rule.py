"""The rule by which pairs are kept."""

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from clair_apo.errors import ConfigError
from clair_apo.files import first_fault
from clair_apo.records import Record

By = Literal["score_margin", "logratio_margin", "jaccard", "edit_ratio"]
"""The number of a pair that decides.

`score_margin`: the score of chosen minus that of rejected. `logratio_margin`: the log-probability
of chosen minus that of rejected under the reference, in nats, summed over the answers.
`jaccard`: tokens that both sides share, over all their tokens. `edit_ratio`: character edits over
the longer side's length.
"""


class Rule(Record):
    """Which pairs are kept."""

    by: By
    keep: Literal["top", "bottom"] = "top"
    """The end that is kept: the largest numbers, or the smallest."""
    share: float | None = Field(None, gt=0, le=1)
    """So large a share of the pairs that have a number."""
    count: int | None = Field(None, gt=0)
    """So many pairs."""
    quota: int | None = Field(None, gt=0)
    """So many pairs of each source."""
    min: float | None = Field(None, allow_inf_nan=False)
    """No pair whose number is smaller."""
    max: float | None = Field(None, allow_inf_nan=False)
    """No pair whose number is larger."""

    @model_validator(mode="after")
    def _keeps_something_and_leaves_something(self) -> Self:
        limits = [name for name in ("share", "count", "quota") if getattr(self, name) is not None]
        if len(limits) > 1:
            raise ValueError(f"{' and '.join(limits)} exclude each other: give one of them")
        if not limits and self.min is None and self.max is None:
            raise ValueError("give a share, a count, a quota, or a threshold (min, max)")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min is {self.min:g}, and max is {self.max:g}: no number is between")
        return self


def rule_of(**values: Any) -> Rule:
    """The rule that options give.

    Raises:
        ConfigError: they exclude each other, or keep everything.
    """
    try:
        return Rule(**values)
    except ValidationError as error:
        fault = first_fault(error).removeprefix("the line: ")
        raise ConfigError(f"command line: {fault}") from None
