"""Says at which log-ratio the terms of the objectives lose their gradient, for a beta.

A term s(beta * x) of a log-ratio x has the gradient beta * d(beta * x) with d(r) = s(r) (1 - s(r)).
d is 1/4 at 0, half of that where |r| = 1.763, and a tenth where |r| = 3.637.
"""

import math
import statistics
from collections.abc import Sequence

from clair_apo.records import Record

HALF = math.log((1 + math.sqrt(0.5)) / (1 - math.sqrt(0.5)))
"""1.763: the reward at which a term's gradient is half of what it is at 0."""
TENTH = math.log((1 + math.sqrt(0.9)) / (1 - math.sqrt(0.9)))
"""3.637: the reward at which it is a tenth."""


class Saturation(Record):
    """What a beta implies for how far an answer's summed log-probability can move.

    All lengths are nats of the log-ratio, summed over the tokens of an answer.
    """

    beta: float
    half_at_nats: float
    """The log-ratio at which a term's gradient is half of what it is at the start, where all
    log-ratios are 0."""
    tenth_at_nats: float
    """The log-ratio at which it is a tenth."""
    chosen_nats: float | None = None
    """What chosen answers have to gain until they are certain: the mean of -log p under the
    reference; None where that is not known."""
    deciding_nats: float | None = None
    """What their deciding tokens have to gain: the part of it that tokens hold which the reference
    does not take itself."""
    beta_for_deciding: float | None = None
    """The beta at which the gradient is still half of its first value when the deciding tokens are
    certain."""
    sentence: str
    """The same in words."""


def saturation_of(
    beta: float,
    chosen_logps: Sequence[float] = (),
    deciding_logps: Sequence[float] = (),
) -> Saturation:
    """Say what a beta implies for pairs.

    Args:
        beta: above 0.
        chosen_logps: log-probabilities of chosen answers under the reference, each summed over its
            tokens.
        deciding_logps: the same summed over the deciding tokens alone: those that the reference
            would not have taken itself.

    Raises:
        ValueError: beta is not above 0.
    """
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")
    half = HALF / beta
    chosen = -statistics.fmean(chosen_logps) if chosen_logps else None
    deciding = -statistics.fmean(deciding_logps) if deciding_logps else None
    return Saturation(
        beta=beta,
        half_at_nats=half,
        tenth_at_nats=TENTH / beta,
        chosen_nats=chosen,
        deciding_nats=deciding,
        beta_for_deciding=HALF / deciding if deciding else None,
        sentence=_sentence(beta, half, deciding),
    )


def _sentence(beta: float, half: float, deciding: float | None) -> str:
    text = (
        f"with beta {beta:g} a term of the objective has half of its gradient left when the summed "
        f"log-probability of an answer has moved by {half:.1f} nats"
    )
    if not deciding:
        return text
    text += (
        f"; the tokens of the chosen answers that the model would not take itself have "
        f"{deciding:.1f} nats to gain"
    )
    if deciding <= half:
        return f"{text}: they can be learned before half is gone"
    return (
        f"{text}: more than half is gone before they are learned, and sooner where other tokens "
        f"take part of the sum; a beta of {HALF / deciding:.2g} or less leaves half until then"
    )
