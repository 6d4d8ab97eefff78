"""Keeping some pairs by a number: ends, thresholds, quotas, and what is written."""

import datetime
import io
import json

import pytest
from datasets import Dataset
from rich.console import Console

from clair_apo.clair import generate
from clair_apo.errors import ConfigError, DataError
from clair_apo.select import Rule, select, selection_table
from clair_apo.select.rule import rule_of
from tests.helpers.clair_runs import write_rows
from tests.helpers.scripted_roles import config_for, models


def pair(number, margin, source="a"):
    return {
        "prompt": f"Question {number}?",
        "chosen": f"The good answer {number}.",
        "rejected": f"The bad answer {number}.",
        "score_chosen": margin,
        "score_rejected": 0.0,
        "source": source,
    }


@pytest.fixture
def ten(tmp_path):
    rows = [pair(n, float(n), "ab"[n % 2]) for n in (4, 2, 9, 7, 0, 1, 8, 3, 6, 5)]
    return write_rows(tmp_path / "pairs.jsonl", rows), rows


def rows_in(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def kept(out):
    return [row["score_chosen"] for row in rows_in(out / "selected.jsonl")]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"count": 3}, [9, 7, 8]),
        ({"count": 3, "keep": "bottom"}, [2, 0, 1]),
        ({"share": 0.2}, [9, 8]),
        ({"min": 7}, [9, 7, 8]),
        ({"max": 1}, [0, 1]),
        ({"min": 3, "max": 5}, [4, 3, 5]),
        ({"max": 6, "count": 2}, [6, 5]),
        ({"quota": 1}, [9, 8]),
        ({"quota": 2, "keep": "bottom"}, [2, 0, 1, 3]),
    ],
)
def test_a_rule_keeps_its_pairs_in_the_order_of_the_data(tmp_path, ten, rule, expected):
    path, _ = ten
    found = select(str(path), Rule(by="score_margin", **rule), tmp_path / "out")
    assert kept(tmp_path / "out") == expected
    assert (found.n, found.kept, sum(found.left_out.values())) == (
        10,
        len(expected),
        10 - len(expected),
    )


def test_rows_stay_as_they_are_and_those_left_out_say_why(tmp_path, ten):
    path, rows = ten
    select(str(path), Rule(by="score_margin", count=9), tmp_path / "out")
    assert rows_in(tmp_path / "out" / "selected.jsonl") == [
        row for row in rows if row["score_chosen"] != 0
    ]
    (left_out,) = rows_in(tmp_path / "out" / "left_out.jsonl")
    assert left_out["value"] == 0
    assert left_out["reason"] == "not in the top 9"
    assert left_out["row"]["prompt"] == "Question 0?"
    manifest = json.loads((tmp_path / "out" / "select.json").read_text())
    assert manifest["rule"]["count"] == 9
    assert manifest["after"]["minimum"] == 1


def test_equal_numbers_are_parted_alike_whatever_the_order_of_the_data(tmp_path):
    rows = [pair(n, 1.0) for n in range(8)]
    found = []
    for name, order in (("one", rows), ("two", rows[::-1])):
        path = write_rows(tmp_path / f"{name}.jsonl", order)
        select(str(path), Rule(by="score_margin", count=3), tmp_path / name)
        found.append({row["prompt"] for row in rows_in(tmp_path / name / "selected.jsonl")})
    assert found[0] == found[1]


def test_a_pair_without_the_number_is_left_out_and_counted(tmp_path, ten):
    _, rows = ten
    path = write_rows(tmp_path / "gaps.jsonl", [*rows[:3], rows[3] | {"score_rejected": None}])
    found = select(str(path), Rule(by="score_margin", min=-100), tmp_path / "out")
    assert found.left_out == {"no value": 1}
    assert found.before.mean.n == 3


def test_pairs_none_of_which_has_the_number_end_in_one_line_with_the_way_out(tmp_path):
    path = write_rows(tmp_path / "p.jsonl", [{"prompt": "Q?", "chosen": "A", "rejected": "B"}])
    with pytest.raises(DataError, match="not one of 1 pairs has a score_margin: make them with a"):
        select(str(path), Rule(by="score_margin", count=1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("score", ["high", float("inf"), [1]])
def test_a_score_that_is_no_number_names_its_line(tmp_path, score):
    path = write_rows(tmp_path / "p.jsonl", [pair(1, 1.0), pair(2, score)])
    with pytest.raises(DataError, match=r":2: the scores"):
        select(str(path), Rule(by="score_margin", count=1), tmp_path / "out")


def test_contrast_is_that_of_the_sides(tmp_path):
    rows = [
        {"prompt": "Q?", "chosen": "one two three", "rejected": "one two four"},
        {"prompt": "R?", "chosen": "one two three", "rejected": "nine eight seven"},
    ]
    path = write_rows(tmp_path / "p.jsonl", rows)
    select(str(path), Rule(by="jaccard", count=1), tmp_path / "j")
    select(str(path), Rule(by="edit_ratio", count=1, keep="bottom"), tmp_path / "e")
    for out in ("j", "e"):
        assert [row["prompt"] for row in rows_in(tmp_path / out / "selected.jsonl")] == ["Q?"]


def test_the_scores_of_a_run_decide_and_its_pairs_stay_pairs(tmp_path):
    checks = tmp_path / "checks.yaml"
    checks.write_text(
        "checks:\n- {name: why, contains_any: [why]}\n- {name: odd, lacks: '[024]'}\n"
    )
    generate(config_for(tmp_path, "clair", judge=None, scorer={"checks": checks}), **models())
    found = select(str(tmp_path / "run"), Rule(by="score_margin", min=0.4), tmp_path / "out")
    assert found.kept == 6
    lines = (tmp_path / "run" / "pairs.jsonl").read_text().splitlines()
    assert rows_in(tmp_path / "out" / "selected.jsonl") == [json.loads(line) for line in lines]


def test_log_ratio_margins_are_looked_up_by_the_row(tmp_path, ten):
    from clair_apo.select.values import read_pairs

    path, _ = ten
    digests = [row.digest for row in read_pairs(str(path), "train")]
    margins = {digest: float(number) for number, digest in enumerate(digests)}
    rule = Rule(by="logratio_margin", count=2, keep="bottom")
    select(str(path), rule, tmp_path / "out", margins=margins, reference="train.yaml")
    assert kept(tmp_path / "out") == [4, 2]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "give a share, a count, a quota, or a threshold"),
        ({"share": 0.5, "count": 3}, "share and count exclude each other"),
        ({"min": 2.0, "max": 1.0}, "no number is between"),
        ({"share": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_in_one_line(values, words):
    with pytest.raises(ConfigError, match=words):
        rule_of(by="jaccard", **values)


def test_the_table_fits_into_80_columns_and_says_why_pairs_were_left_out(tmp_path, ten):
    path, _ = ten
    found = select(str(path), Rule(by="score_margin", quota=2), tmp_path / "out")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(selection_table(found))
    text = console.export_text()
    assert "score_margin: 4 of 10 pairs kept" in text
    assert [line.split()[:3] for line in text.splitlines()[2:4]] == [
        ["all", "10", "4.5"],
        ["kept", "4", "7.5"],
    ]
    assert "left out: 6 beyond the 2 of its source" in text
    assert "kept of a: 2" in text


def test_a_column_that_json_does_not_know_is_written_as_text(tmp_path):
    rows = [pair(n, float(n)) | {"day": datetime.date(2026, 12, n)} for n in (1, 2)]
    Dataset.from_list(rows).to_parquet(tmp_path / "pairs.parquet")
    select(str(tmp_path / "pairs.parquet"), Rule(by="score_margin", count=1), tmp_path / "out")
    (row,) = rows_in(tmp_path / "out" / "selected.jsonl")
    assert row["day"] == "2026-12-02"
