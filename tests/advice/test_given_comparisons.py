"""The advice on given judgements: known cases, and files that are none."""

import json
import random
from pathlib import Path

import pytest
from scipy.stats import t as student

from clair_apo.advice.advise import FILE, advise, read_advice
from clair_apo.advice.config import AdviseConfig
from clair_apo.errors import DataError
from tests.helpers.clair_runs import write_rows
from tests.test_cli import refused, run


def rows_of(shares, consistent=True, **more):
    flags = consistent if isinstance(consistent, list) else [consistent] * len(shares)
    return [
        {"prompt_id": f"p{n}", "chosen_share": share, "consistent": flag} | more
        for n, (share, flag) in enumerate(zip(shares, flags, strict=True))
    ]


def advice_on(folder: Path, rows, **changes):
    path = write_rows(folder / "comparisons.jsonl", rows)
    return advise(AdviseConfig(run_dir=folder / "advice", comparisons=path, **changes))


def spread(mean, n, seed=0):
    """Soft shares as a judge's probabilities give them: most near 0 or 1."""
    draw = random.Random(seed)
    wins = [1.0 if k < round(n * mean) else 0.0 for k in range(n)]
    draw.shuffle(wins)
    return [abs(win - 0.01) for win in wins]


@pytest.mark.parametrize(
    ("share", "word"), [(0.026, "down"), (0.226, "down"), (0.513, "undecided"), (0.705, "zero")]
)
def test_known_shares_of_805_comparisons_give_their_word_and_swapped_roles_the_other(
    tmp_path, share, word
):
    shares = spread(share, 805)
    swapped = {"down": "zero", "zero": "down", "undecided": "undecided"}[word]
    assert advice_on(tmp_path, rows_of(shares)).advice == word
    assert advice_on(tmp_path, rows_of([1 - one for one in shares])).advice == swapped


def test_near_parity_some_four_thousand_comparisons_are_needed(tmp_path):
    # mean 0.5126 and SD 0.41, as of the model whose published interval is 51.3 +- 2.9
    shares = [0.5126 + 0.41 * (1 if n % 2 else -1) for n in range(804)]
    found = advice_on(tmp_path, rows_of(shares))
    assert found.advice == "undecided"
    assert found.comparisons_needed == pytest.approx((1.96 * 0.41 / 0.0126) ** 2, rel=0.01)
    assert 3_900 < found.comparisons_needed < 4_200
    assert found.comparisons_missing == found.comparisons_needed - 804
    assert f"{found.comparisons_missing:,} more" in found.reason


def test_the_interval_is_students_over_clusters_of_prompts(tmp_path):
    rows = rows_of([1.0, 0.5, 1.0, 0.0, 1.0, 1.0])
    for row in rows[3:]:
        row["prompt_id"] = "the same"
    found = advice_on(tmp_path, rows).chosen_share
    deviations = [one - 0.75 for one in (1.0, 0.5, 1.0)], 2.0 - 3 * 0.75
    squares = sum(one**2 for one in deviations[0]) + deviations[1] ** 2
    error = (4 / 3 * squares) ** 0.5 / 6
    assert (found.n, found.clusters, found.mean) == (6, 4, 0.75)
    assert found.standard_error == pytest.approx(error)
    assert found.low == pytest.approx(0.75 - student.ppf(0.975, 3) * error)
    assert found.high == 1.0


def test_ties_alone_are_undecided_and_no_number_of_comparisons_is_named(tmp_path):
    found = advice_on(tmp_path, rows_of([0.5] * 20))
    assert (found.advice, found.comparisons_needed) == ("undecided", None)


@pytest.mark.parametrize(("n", "word"), [(1, "undecided"), (3, "undecided"), (4, "zero")])
def test_a_few_wins_in_a_row_are_no_evidence(tmp_path, n, word):
    found = advice_on(tmp_path, rows_of([1.0] * n))
    assert found.advice == word
    assert found.comparisons_missing == 0 or word == "undecided"


def test_many_rows_of_one_prompt_are_no_evidence(tmp_path):
    rows = [row | {"prompt_id": "one"} for row in rows_of([1.0, 0.9] * 30)]
    found = advice_on(tmp_path, rows)
    assert found.advice == "undecided"
    assert (found.chosen_share.n, found.chosen_share.clusters) == (60, 1)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_judge_whose_orders_never_agree_is_refused(tmp_path, share):
    found = advice_on(tmp_path, rows_of([share] * 12, consistent=False, first_place=1.0))
    assert found.advice == "refused"
    assert found.first_place.mean == 1.0
    assert "both orders" in found.reason


def test_a_coin_is_refused(tmp_path):
    draw = random.Random(1)
    rows = []
    for n in range(400):
        one, other = draw.random() < 0.5, draw.random() < 0.5
        rows += [
            {"prompt_id": str(n), "chosen_share": (one + other) / 2, "consistent": one == other}
        ]
    assert advice_on(tmp_path, rows).advice == "refused"


def test_a_noisy_judge_without_bias_is_evidence(tmp_path):
    # 6 of 10 are consistent, 5 of these for chosen
    shares, flags = [1.0] * 5 + [0.0] + [0.5] * 4, [True] * 6 + [False] * 4
    found = advice_on(tmp_path, rows_of(shares * 6, consistent=flags * 6))
    assert found.consistent.low < 0.5 < found.consistent.mean
    assert found.advice == "zero"


def test_length_and_place_are_told_beside(tmp_path):
    sized = {"chosen_characters": 300, "sample_characters": 100, "first_place": 0.5}
    alike = {"chosen_characters": 100, "sample_characters": 105, "first_place": 1.0}
    rows = [row | sized for row in rows_of([1.0, 1.0, 1.0])]
    rows += [row | alike | {"prompt_id": f"q{n}"} for n, row in enumerate(rows_of([0.5, 0.0]))]
    found = advice_on(tmp_path, rows)
    assert (found.longer_share.n, found.longer_share.mean) == (5, pytest.approx(4.5 / 5))
    assert (found.like_length_share.n, found.like_length_share.mean) == (2, 0.25)
    assert found.first_place.mean == pytest.approx((3 * 0.5 + 2) / 5)


def test_numbers_as_ids_and_more_columns_are_taken(tmp_path):
    rows = [row | {"prompt_id": n, "judge": "x"} for n, row in enumerate(rows_of([0.37, 1, 0]))]
    assert advice_on(tmp_path, rows).chosen_share.mean == pytest.approx(1.37 / 3)


def test_what_is_written_reads_back_as_it_was(tmp_path):
    found = advice_on(tmp_path, rows_of(spread(0.9, 40)))
    assert read_advice(tmp_path / "advice") == read_advice(tmp_path / "advice" / FILE) == found


def line(**changes):
    row = {"prompt_id": "a", "chosen_share": 0.5, "consistent": True} | changes
    return json.dumps({key: value for key, value in row.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "holds no comparisons"),
        ("not json", "c.jsonl:1"),
        (line(chosen_share=1.2), "c.jsonl:1: not a JudgedSample: chosen_share"),
        (line(chosen_share=-0.1), "chosen_share"),
        (line(chosen_share=float("nan")), "chosen_share"),
        (line(chosen_share="0.5"), "chosen_share"),
        (line(chosen_share=True), "chosen_share"),
        (line(consistent="yes"), "consistent"),
        (line(consistent=None), "consistent"),
        (line(prompt_id=None), "prompt_id"),
        (line() + "\n" + line(chosen_share=7), "c.jsonl:2"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_by_line(tmp_path, text, expected):
    path = tmp_path / "c.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=r"^[^\n]+$") as caught:
        advise(AdviseConfig(run_dir=tmp_path / "advice", comparisons=path))
    assert expected in str(caught.value)
    assert not (tmp_path / "advice").exists()


def test_the_command_writes_and_prints_the_advice(tmp_path):
    write_rows(tmp_path / "c.jsonl", rows_of([1.0] * 10))
    result = run("advise", "--comparisons", "c.jsonl", "--run_dir", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "advice: zero" in result.stdout
    assert json.loads((tmp_path / "out" / "advise.json").read_text())["advice"] == "zero"


def test_the_command_refuses_what_it_cannot_use_in_one_line(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"prompt_id": "a"}\n')
    where = ("--run_dir", "out")
    assert "c.jsonl:1" in refused("advise", "--comparisons", "c.jsonl", *where, cwd=tmp_path)
    assert "cannot be read" in refused("advise", "--comparisons", "no", *where, cwd=tmp_path)
    assert "set one of comparisons" in refused("advise", *where, cwd=tmp_path)
    assert "set judge.model" in refused("advise", "--pairs", "p.jsonl", *where, cwd=tmp_path)
