"""The gaps between the sides: effects and shares with the intervals that decide."""

import random

import pytest

from clair_apo.lint import Severity
from tests.helpers.lint_pairs import finding, linted, sound_pairs


def with_lengths(lengths):
    rows = sound_pairs(len(lengths))
    for row, (chosen, rejected) in zip(rows, lengths, strict=True):
        row |= {"chosen": "c" * chosen, "rejected": "r" * rejected}
    return rows


def drawn(count, mean, spread=100, base=1000, seed=0):
    rng = random.Random(seed)
    return [
        (round(rng.gauss(base + mean, spread)), round(rng.gauss(base, spread)))
        for _ in range(count)
    ]


def figures(found):
    return {figure.name: figure.value for figure in found.figures}


def test_cohens_d_and_the_relative_gap_are_those_of_the_lengths(tmp_path):
    found = finding(
        linted(tmp_path, with_lengths([(110, 100), (130, 100), (90, 100), (150, 120)])),
        "length_gap",
    )
    # means 120 and 105; variances (100+100+900+900)/3 = 2000/3 and (25+25+25+225)/3 = 100
    d = 15 / ((2000 / 3 + 100) / 2) ** 0.5
    assert figures(found)["cohens_d"].mean == pytest.approx(d)
    assert figures(found)["relative_gap"].mean == pytest.approx(15 / 105)
    assert figures(found)["chosen_characters"].mean == 120
    assert (found.count, found.n, found.share.mean) == (3, 4, 0.75)


@pytest.mark.parametrize(
    ("mean", "severity"),
    [
        (0, Severity.NOTE),
        (60, Severity.WARNING),  # d = 0.6, 6 %
        (-60, Severity.WARNING),
        (150, Severity.ERROR),  # d = 1.5, 15 %
        (-150, Severity.ERROR),
    ],
)
def test_a_gap_in_length_is_as_bad_as_it_is_large(tmp_path, mean, severity):
    found = finding(linted(tmp_path, with_lengths(drawn(400, mean))), "length_gap")
    assert found.severity is severity
    interval = figures(found)["cohens_d"]
    assert interval.low < mean / 100 < interval.high


def test_an_effect_that_is_a_small_share_of_the_length_is_a_note(tmp_path):
    lengths = drawn(400, 20, spread=10)  # d = 2, but 2 %
    assert finding(linted(tmp_path, with_lengths(lengths)), "length_gap").severity is Severity.NOTE


def test_a_gap_that_chance_explains_is_a_note(tmp_path):
    lengths = [(1000, 700), (900, 1000), (1000, 800), (800, 900)]
    assert finding(linted(tmp_path, with_lengths(lengths)), "length_gap").severity is Severity.NOTE


@pytest.mark.parametrize("lengths", [[(10, 5)], [(10, 5)] * 3])
def test_without_spread_there_is_no_effect_but_a_share(tmp_path, lengths):
    found = finding(linted(tmp_path, with_lengths(lengths)), "length_gap")
    assert "cohens_d" not in figures(found)
    assert found.share.mean == 1


def test_pairs_of_one_prompt_count_as_dependent(tmp_path):
    rows = with_lengths(drawn(200, 30))
    alone = finding(linted(tmp_path, rows), "length_gap").share
    for number, row in enumerate(rows):
        row["prompt"] = rows[number - number % 10]["prompt"]
    together = finding(linted(tmp_path, rows), "length_gap").share
    assert (alone.clusters, together.clusters) == (200, 20)


LIST = "\n- one thing\n- another"


@pytest.mark.parametrize(
    ("chosen", "rejected", "severity"),
    [
        (100, 20, Severity.WARNING),
        (20, 100, Severity.WARNING),
        (30, 12, Severity.NOTE),
        (40, 39, None),
        (0, 0, None),
    ],
)
def test_markup_in_one_side_more_often_is_found(tmp_path, chosen, rejected, severity):
    rows = sound_pairs(200)
    for row in rows[:chosen]:
        row["chosen"] += LIST
    for row in rows[200 - rejected :]:
        row["rejected"] += LIST
    found = finding(linted(tmp_path, rows), "markup_gap_list")
    assert (found and found.severity) == severity
    if found:
        both = max(0, chosen + rejected - 200)
        assert found.count == chosen + rejected - 2 * both
        assert figures(found)["difference"].mean == pytest.approx((chosen - rejected) / 200)
        more = "chosen" if chosen > rejected else "rejected"
        assert {example.detail for example in found.examples} == {f"in {more}"}
        assert all(LIST in getattr(example, more) for example in found.examples)


@pytest.mark.parametrize(
    ("kind", "mark"),
    [("heading", "\n# A title"), ("bold", " **so**"), ("code", "\n```\nx\n```"), ("emoji", " 🎉")],
)
def test_every_kind_of_markup_has_its_finding(tmp_path, kind, mark):
    rows = sound_pairs(60)
    for row in rows[:50]:
        row["chosen"] += mark
    report = linted(tmp_path, rows)
    assert finding(report, f"markup_gap_{kind}").severity is Severity.WARNING
    assert [one.name for one in report.findings if one.name.startswith("markup")] == [
        f"markup_gap_{kind}"
    ]
