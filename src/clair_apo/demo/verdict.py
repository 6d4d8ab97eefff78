"""What the demo's evaluation says of the trained model, in words: better, or what got worse.

The demo promises answers that keep the last-line rule and are otherwise as healthy as before. Each
promise is one comparison of figures in `evaluation.json`; none is taken from rewards.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

LAST_LINE = 0.5
"""The share of held-out answers that must end with the line."""
LENGTH = 0.3
"""By how much the mean length may change, as a share of the length before."""

COPIED_AT_LEAST = "copied, lower end of the difference"
"""A figure of the trained model: where the paired interval of `copied` begins."""

Figures = Mapping[str, float]
"""Means of one model, by the figure's name."""


class Promise(NamedTuple):
    """Something that must hold of the trained model beside the base."""

    holds: Callable[[Figures, Figures], bool]
    """Called with the figures after and before training."""
    broken: str
    """What is said where it does not hold; `{figure}` names stand for `before -> after`."""


PROMISES = (
    Promise(
        lambda after, before: after["ends_with_next_step"] >= LAST_LINE,
        f"fewer than {LAST_LINE:.0%} of the answers end with the line ({{ends_with_next_step}})",
    ),
    Promise(
        lambda after, before: after["ended"] >= before["ended"],
        "fewer answers come to an end by themselves ({ended})",
    ),
    Promise(
        lambda after, before: after["repeated_sentence"] <= before["repeated_sentence"],
        "more answers repeat a sentence ({repeated_sentence})",
    ),
    Promise(
        lambda after, before: (
            abs(after["characters"] - before["characters"]) <= LENGTH * before["characters"]
        ),
        f"the mean length changed by more than {LENGTH:.0%} ({{characters}} characters)",
    ),
    Promise(
        # few answers share four words with their prompt, mostly a name: a mean alone says little
        lambda after, before: after[COPIED_AT_LEAST] <= 0,
        "more of the answers is copied from the prompt ({copied} of their 4-grams)",
    ),
    Promise(
        lambda after, before: after["no_list"] >= before["no_list"],
        "fewer answers are without a list ({no_list})",
    ),
    Promise(
        lambda after, before: after["no_filler"] >= before["no_filler"],
        "fewer answers are without filler ({no_filler})",
    ),
)


def verdict(content: Mapping[str, Any], after: str, before: str) -> str:
    """Whether the trained model is better by the table, or what is worse, in words.

    Args:
        content: an `evaluation.json` with the suites `health` and `checks`.
        after: the name of the trained model in it.
        before: the name of the base.
    """
    now, then = means(content, after), means(content, before)
    words = {name: f"{_short(then[name])} -> {_short(now[name])}" for name in now.keys() & then}
    difference = content["suites"]["health"]["differences"][f"{after} - {before}"]["copied"]
    now[COPIED_AT_LEAST] = difference["low"]
    broken = [promise for promise in PROMISES if not promise.holds(now, then)]
    if not broken:
        return (
            "BETTER by this table: the last line stands in "
            f"{now['ends_with_next_step']:.0%} of the held-out answers "
            f"({then['ends_with_next_step']:.0%} before), and nothing else got worse."
        )
    faults = "".join(f"\n  - {promise.broken.format_map(words)}" for promise in broken)
    return f"NOT BETTER by this table, whatever the rewards say:{faults}"


def means(content: Mapping[str, Any], model: str) -> dict[str, float]:
    """The means of every figure of a model, over all suites, by the figure's name."""
    return {
        name: entry["mean"]
        for suite in content["suites"].values()
        for name, entry in suite[model].items()
        if "mean" in entry
    }


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2f}"
