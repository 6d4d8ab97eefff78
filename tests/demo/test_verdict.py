"""What the demo says of the trained model follows its table, not its rewards."""

from typing import Any

import pytest

from clair_apo.demo.verdict import verdict

GOOD = {
    "ended": (0.98, 0.9),
    "repeated_sentence": (0.02, 0.1),
    "characters": (280.0, 300.0),
    "copied": (0.003, 0.003),
    "ends_with_next_step": (0.9, 0.0),
    "no_list": (1.0, 1.0),
    "no_filler": (1.0, 0.95),
}
CHECKS = ("ends_with_next_step", "no_list", "no_filler")


def evaluation(copied_low: float = -0.01, **changed: tuple[float, float]) -> dict[str, Any]:
    """An `evaluation.json`; values are (after, before)."""
    values = GOOD | changed
    content: dict[str, Any] = {"suites": {"health": {}, "checks": {}}}
    for model, which in (("trained", 0), ("base", 1)):
        for suite, own in (("checks", CHECKS), ("health", values.keys() - CHECKS)):
            content["suites"][suite][model] = {name: {"mean": values[name][which]} for name in own}
    difference = {"copied": {"mean": copied_low + 0.01, "low": copied_low}}
    content["suites"]["health"]["differences"] = {"trained - base": difference}
    return content


def test_a_table_in_which_nothing_is_worse_is_called_better_with_its_last_lines() -> None:
    said = verdict(evaluation(), "trained", "base")
    assert said.startswith("BETTER")
    assert "90% of the held-out answers (0% before)" in said


@pytest.mark.parametrize(
    ("figure", "values", "words"),
    [
        ("ended", (0.0, 0.9), "come to an end by themselves (0.90 -> 0.00)"),
        ("repeated_sentence", (0.97, 0.1), "repeat a sentence (0.10 -> 0.97)"),
        ("characters", (138.0, 295.0), "mean length changed by more than 30% (295 -> 138"),
        ("characters", (400.0, 295.0), "mean length changed by more than 30% (295 -> 400"),
        ("ends_with_next_step", (0.4, 0.0), "fewer than 50% of the answers end with the line"),
        ("no_list", (0.8, 0.9), "without a list (0.90 -> 0.80)"),
        ("no_filler", (0.8, 0.9), "without filler (0.90 -> 0.80)"),
    ],
)
def test_each_thing_that_got_worse_is_said_in_words(
    figure: str, values: tuple[float, float], words: str
) -> None:
    said = verdict(evaluation(**{figure: values}), "trained", "base")
    assert said.startswith("NOT BETTER")
    assert words in said
    assert said.count("\n  - ") == 1


def test_more_copied_from_the_prompt_counts_where_chance_does_not_explain_it() -> None:
    assert verdict(evaluation(copied_low=-0.002), "trained", "base").startswith("BETTER")
    assert "copied from the prompt" in verdict(evaluation(copied_low=0.002), "trained", "base")
