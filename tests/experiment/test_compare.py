"""Means over seeds and differences: numbers that can be worked out by hand."""

import math

import pytest

from clair_apo.evaluation.figure_name import FigureName
from clair_apo.evaluation.suites.figures import RowFigure
from clair_apo.experiment.cells import Cell
from clair_apo.experiment.compare import compare, corrected_confidence, difference
from clair_apo.experiment.measured import LOG_RATIOS, Measured

FIGURE = "checks.all"


def _measured(objective, seed, values, data="clair", **more):
    figures = {FIGURE: RowFigure(dict(zip("abcd", values, strict=True)), unit=True), **more}
    base = {FIGURE: RowFigure(dict.fromkeys("abcd", 0.0), unit=True)}
    return Measured(Cell(data, objective, (), seed), {"last": figures}, base, 1)


ZERO = [_measured("zero", 0, (1, 1, 1, 0)), _measured("zero", 1, (1, 1, 0, 0))]
DPO = [_measured("dpo", 0, (0, 1, 0, 0)), _measured("dpo", 1, (0, 0, 0, 0))]
GROUPS = {("clair", "zero"): ZERO, ("clair", "dpo"): DPO}


def _of(found, objective):
    (one,) = [one for one in found if one.objective == objective]
    return one


def test_the_two_intervals_are_of_different_means():
    found = compare(GROUPS, [FigureName.parse(FIGURE)], ("clair", "dpo"), 0.99)
    one = _of(found, "zero").estimate
    assert one.over_prompts.mean == one.over_seeds.mean == 0.625
    # prompts: 1, 1, 1/2, 0; seeds: 3/4, 1/2
    deviation = math.sqrt(sum((v - 0.625) ** 2 for v in (1, 1, 0.5, 0)) / 3)
    assert one.over_prompts.standard_error == pytest.approx(deviation / 2)
    assert one.over_prompts.n == 4
    assert one.over_seeds.standard_error == pytest.approx(0.125)
    assert one.over_seeds.n == 2
    half = 12.706204736 * 0.125  # t with one degree of freedom
    assert one.over_seeds.high == pytest.approx(0.625 + half)


def test_a_difference_is_paired_by_prompt_and_by_seed():
    found = compare(GROUPS, [FigureName.parse(FIGURE)], ("clair", "dpo"), 0.99)
    one = _of(found, "zero")
    assert one.to_baseline.over_prompts.mean == 0.5
    # by prompt: 1 - 0, 1 - 1/2, 1/2 - 0, 0 - 0
    deviation = math.sqrt(sum((v - 0.5) ** 2 for v in (1, 0.5, 0.5, 0)) / 3)
    assert one.to_baseline.over_prompts.standard_error == pytest.approx(deviation / 2)
    assert one.to_baseline.over_seeds.standard_error == 0, "1/2 with either seed"
    assert one.corrected.high - one.corrected.low > (
        one.to_baseline.over_prompts.high - one.to_baseline.over_prompts.low
    )
    assert not one.is_clear
    assert one.to_base.over_prompts.mean == 0.625
    assert _of(found, "dpo").to_baseline is None, "the baseline itself"


def test_seeds_that_only_one_group_has_are_in_no_difference():
    more = [*ZERO, _measured("zero", 2, (0, 0, 0, 0))]
    assert difference(more, DPO, "last", FIGURE).over_prompts.mean == 0.5
    assert difference(more, DPO, "last", FIGURE).over_seeds.n == 2
    groups = {("clair", "zero"): more, ("clair", "dpo"): DPO}
    one = _of(compare(groups, [FigureName.parse(FIGURE)], ("clair", "dpo"), 0.99), "zero")
    assert one.corrected.mean == one.to_baseline.over_prompts.mean == 0.5
    assert one.estimate.over_seeds.n == 3, "its own mean is over all"


def test_groups_without_a_seed_in_common_are_not_compared():
    others = [_measured("dpo", 7, (0, 1, 0, 0))]
    groups = {("clair", "zero"): ZERO, ("clair", "dpo"): others}
    one = _of(compare(groups, [FigureName.parse(FIGURE)], ("clair", "dpo"), 0.99), "zero")
    assert (one.to_baseline, one.corrected) == (None, None)
    assert one.estimate.over_prompts.mean == 0.625


def test_the_correction_counts_the_comparisons():
    assert corrected_confidence(groups=3, figures=5) == pytest.approx(1 - 0.05 / 10)
    assert corrected_confidence(groups=1, figures=5) == pytest.approx(0.95)


def test_a_group_that_failed_or_lacks_a_figure_is_left_out():
    lonely = {("clair", "zero"): ZERO}
    (one,) = compare(lonely, [FigureName.parse(FIGURE)], ("clair", "dpo"), 0.99)
    assert (one.to_baseline, one.corrected) == (None, None)
    assert compare(lonely, [FigureName.parse("other.figure")], ("clair", "dpo"), 0.99) == ()


def test_nats_of_held_out_pairs_are_shown_and_not_compared():
    nats = {f"{LOG_RATIOS}.chosen": RowFigure({"x#0": 1.5, "x#1": 2.5}, {"x#0": "x", "x#1": "x"})}
    groups = {
        ("clair", name): [_measured(name, 0, (1, 0, 0, 0), **nats)] for name in ("zero", "dpo")
    }
    found = compare(groups, [FigureName.parse(FIGURE)], ("clair", "dpo"), 0.99)
    (one,) = [f for f in found if f.figure.startswith(LOG_RATIOS) and f.objective == "zero"]
    assert (one.estimate.over_prompts.mean, one.to_baseline) == (2.0, None)
    assert one.estimate.over_prompts.clusters == 1
