"""Suite `gsm8k`: recorded and asked solutions, and files that are wrong."""

import pytest
from scipy import stats

from clair_apo.errors import ConfigError, DataError
from clair_apo.evaluation.suites.base import OtherFormatError
from clair_apo.evaluation.suites.figures import Unavailable
from clair_apo.evaluation.suites.gsm8k import Gsm8k
from tests.helpers.evaluation import FakeContext, Says, asked, recorded, write_rows

SUMS = {"What is 2 + 3?": 5, "What is 4 * 1000?": 4000, "What is 1 - 3?": -2, "And 7?": 7}


def _run(suite, *models, **chats):
    with FakeContext(models, chats) as context:
        return suite.run(context)


def _solved(number, right):
    return {"solution": f"I count 1, 2.\nA: {number}", "is_correct": right}


def _rows():
    rows = [{"question": q, "ground_truth": f"So.\nA: {n:,}"} for q, n in SUMS.items()]
    small, large = ["5", "4", "-2", "8"], ["5", "4,000", "-2", "7"]
    for row, one, two in zip(rows, small, large, strict=True):
        right = row["ground_truth"].split()[-1]
        row |= {"small": _solved(one, one == right), "large": _solved(two, two == right)}
    return rows


@pytest.fixture
def file(tmp_path):
    return write_rows(tmp_path / "solutions.jsonl", _rows())


@pytest.fixture
def data(tmp_path):
    rows = [{"question": q, "answer": f"So it is {n}.\n#### {n:,}"} for q, n in SUMS.items()]
    return write_rows(tmp_path / "test.jsonl", rows)


def test_a_model_is_found_in_the_file_by_its_name(file):
    figures = _run(Gsm8k(), recorded("small", file), recorded("large", file)).figures
    small, large = (figures[name]["accuracy"].interval() for name in ("small", "large"))
    assert (small.mean, small.n, large.mean) == (50, 4, 100)
    wilson = stats.binomtest(2, 4).proportion_ci(method="wilson")
    assert (small.low, small.high) == pytest.approx((100 * wilson.low, 100 * wilson.high))
    difference = figures["large"]["accuracy"].minus(figures["small"]["accuracy"])
    assert (difference.mean, difference.n) == (50, 4)


def test_verdicts_that_are_not_the_readers_are_counted_and_shown(tmp_path):
    rows = _rows()
    rows[0]["small"]["is_correct"] = False
    rows[1]["small"]["is_correct"] = True
    result = _run(Gsm8k(), recorded("small", write_rows(tmp_path / "s.jsonl", rows)))
    figures, counts = result.figures["small"], result.counts["small"]
    assert figures["accuracy"].interval().mean == 50
    assert figures["accuracy_recorded"].interval().mean == 50
    assert (counts["solved_only_here"], counts["solved_only_as_recorded"]) == (1, 1)
    (remark,) = result.remarks
    assert "2 of 4 recorded verdicts" in remark
    assert "read 5, right 5, recorded as wrong" in remark
    assert "read 4, right 4000, recorded as right" in remark


def test_a_model_is_asked(data):
    model = Says(lambda text: "It is\n#### 5" if "2 + 3" in text else "I do not know.")
    result = _run(Gsm8k(data=data), asked("m"), m=model)
    assert result.figures["m"]["accuracy"].interval().mean == 25
    assert "accuracy_recorded" not in result.figures["m"]
    assert result.counts["m"]["without_number"] == 3
    assert "step by step" in model.asked[0].messages[0].content
    assert model.asked[0].sampling.max_tokens == 1024


def test_an_asked_and_a_recorded_model_are_paired_by_question(data, file):
    result = _run(
        Gsm8k(data=data), asked("m"), recorded("small", file), m=Says(lambda text: "#### 5")
    )
    found = result.figures["m"]["accuracy"].minus(result.figures["small"]["accuracy"])
    assert (found.n, found.mean) == (4, -25)
    assert isinstance(result.figures["m"]["accuracy_recorded"], Unavailable)


def test_a_problem_without_answer_leaves_the_mean(data):
    model = Says(lambda text: None if "7" in text else "#### 5")
    result = _run(Gsm8k(data=data), asked("m"), m=model)
    assert result.figures["m"]["accuracy"].interval().n == 3
    assert result.counts["m"]["unanswered"] == 1
    assert any("1 problems have no answer" in remark for remark in result.remarks)


def test_a_name_that_is_not_in_the_file_gets_those_that_are(file):
    with pytest.raises(ConfigError, match=r"solutions\.jsonl:1: .*'tiny'.* 'small', 'large'"):
        _run(Gsm8k(), recorded("tiny", file))


def test_a_model_that_is_asked_needs_data(data, file):
    with pytest.raises(ConfigError, match="data names no file of problems"):
        _run(Gsm8k(), asked("m"))
    with pytest.raises(ConfigError, match="expected GSM8K's problems"):
        Gsm8k(data=file).check()
    Gsm8k(data=data).check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"small": {"is_correct": True}}, r"s\.jsonl:2: small: solution: is missing"),
        ({"ground_truth": "none"}, r"s\.jsonl:2: ground_truth: holds no number"),
        ({"question": "What is 2 + 3?"}, "a second time"),
    ],
)
def test_a_row_that_is_wrong_is_named(tmp_path, change, message):
    rows = _rows()
    rows[1] |= change
    with pytest.raises(DataError, match=message):
        _run(Gsm8k(), recorded("small", write_rows(tmp_path / "s.jsonl", rows)))


def test_answers_of_another_benchmark_are_told_apart(data):
    with pytest.raises(OtherFormatError, match="like GSM8K questions; expected GSM8K sol"):
        _run(Gsm8k(), recorded("m", data))
