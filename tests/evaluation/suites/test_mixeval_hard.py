"""Suite `mixeval_hard`: scores by hand, two judges, and files that are wrong."""

import datetime
import json

import pytest
from pydantic import ValidationError

from clair_apo.errors import ConfigError, DataError
from clair_apo.evaluation.suites.base import OtherFormatError
from clair_apo.evaluation.suites.figures import RowFigure, Unavailable
from clair_apo.evaluation.suites.mixeval_hard import MixEvalHard
from clair_apo.llm import ModelSpec
from clair_apo.stats import mean_interval, paired_interval
from tests.helpers.evaluation import FakeContext, Says, asked, recorded, write_rows
from tests.helpers.tiny_mixeval import FREE, judged_rows, write_data

SCORES, LETTERS = [1.0, 0.5, 0.0, 1.0, 0.2], ["B", "A", "A", "B", "C"]
RIGHT = [1, 0, 1, 1, 0]
# free-form rows 0 and 1 are one item, choice rows 0 and 1 another
CLUSTERS = ["f0", "f0", "f2", "f3", "f4", "c0", "c0", "c2", "c3", "c4"]


def _run(suite, *models, **chats):
    with FakeContext(models, chats) as context:
        return suite.run(context)


@pytest.fixture
def first(tmp_path):
    return recorded("first", write_rows(tmp_path / "first.jsonl", judged_rows(SCORES, LETTERS)))


def _grades(text):
    """A judge that finds Rembrandt, and letters in answers of one letter."""
    answer = text.rsplit("\nAnswer: ", 1)[1].rsplit("\n", 1)[0]
    if text.endswith("Grade:"):
        return f"It says so. [[{1.0 if 'Rembrandt' in answer or '42' in answer else 0.3}]]"
    return f"The answer gives a letter. [[{answer}]]"


def test_the_mean_is_over_rows_and_its_error_over_items(first):
    result = _run(MixEvalHard(), first)
    found = result.figures["first"]["overall"].interval()
    expected = mean_interval([*SCORES, *RIGHT], clusters=CLUSTERS).times(100)
    assert (found.n, found.clusters) == (10, 8)
    assert found.mean == pytest.approx(expected.mean) == pytest.approx(57.0)
    assert found.standard_error == pytest.approx(expected.standard_error)
    assert found.standard_error_naive == pytest.approx(expected.standard_error_naive)


def test_the_mean_over_items_gives_each_item_one_voice(first):
    found = _run(MixEvalHard(), first).figures["first"]["overall_items"].interval()
    of_items = [0.75, 0.0, 1.0, 0.2, 0.5, 1, 1, 0]
    assert found.n == 8
    assert found.mean == pytest.approx(100 * sum(of_items) / 8)


def test_halves_and_benchmarks_have_figures_of_their_own(first):
    figures = _run(MixEvalHard(), first).figures["first"]
    means = {
        name: figure.interval().mean
        for name, figure in figures.items()
        if isinstance(figure, RowFigure)
    }
    assert means == pytest.approx(
        {
            "overall": 57,
            "overall_items": 100 * 4.45 / 8,
            "free_form": 54,
            "multiple_choice": 60,
            "free_form/TriviaQA": 75,
            "free_form/DROP": 0,
            "free_form/GSM8k": 100,
            "free_form/AGIEval": 20,
            "multiple_choice/MMLU": 100 / 3,
            "multiple_choice/BoolQ": 100,
            "multiple_choice/AGIEval": 100,
            "multiple_choice_by_rule": 60,
        }
    )


def test_two_models_are_compared_on_the_same_rows(tmp_path, first):
    others, letters = [0.0, 0.0, 1.0, 0.5, 0.4], ["A", "A", "B", "B", "B"]
    rows = judged_rows(others, letters)
    second = recorded("second", write_rows(tmp_path / "second.jsonl", rows[::-1]))
    figures = _run(MixEvalHard(), first, second).figures
    found = figures["first"]["overall"].minus(figures["second"]["overall"])
    right = [float(letter == target) for letter, target in zip(letters, "BBABB", strict=True)]
    expected = paired_interval([*SCORES, *RIGHT], [*others, *right], clusters=CLUSTERS).times(100)
    assert (found.n, found.clusters) == (10, 8)
    assert found.mean == pytest.approx(expected.mean)
    assert found.standard_error == pytest.approx(expected.standard_error)


def test_rows_of_another_version_are_not_paired_by_their_number(tmp_path, first):
    rows = [row | {"prompt": row["prompt"] + "?"} for row in judged_rows(SCORES, LETTERS)]
    second = recorded("second", write_rows(tmp_path / "second.jsonl", rows))
    figures = _run(MixEvalHard(), first, second).figures
    with pytest.raises(DataError, match="no row in common"):
        figures["first"]["overall"].minus(figures["second"]["overall"])


def test_letters_that_were_drawn_at_random_count_as_recorded_and_are_told(tmp_path):
    rows = judged_rows(SCORES, LETTERS)
    rows[5] |= {"judge_response": "It names no option.", "judge_option": "B"}
    result = _run(MixEvalHard(), recorded("m", write_rows(tmp_path / "r.jsonl", rows)))
    assert result.figures["m"]["overall"].interval().mean == pytest.approx(57.0)
    assert result.counts["m"]["letters_at_random"] == 1
    assert any("1 recorded letters" in remark and "random" in remark for remark in result.remarks)


def test_answers_without_judgement_are_read_by_rule_and_free_form_has_no_figure(tmp_path):
    rows = [
        {k: v for k, v in row.items() if not k.startswith("judge_")}
        for row in judged_rows(SCORES, LETTERS)
    ]
    result = _run(MixEvalHard(), recorded("m", write_rows(tmp_path / "r.jsonl", rows)))
    figures = result.figures["m"]
    assert figures["multiple_choice"].interval().mean == pytest.approx(60)
    for name in ("overall", "overall_items", "free_form", "free_form/DROP"):
        assert figures[name] == Unavailable("free-form answers need a judge")
    assert any("by rule" in remark for remark in result.remarks)
    assert result.counts["m"]["unjudged"] == 5


def test_a_model_is_asked_and_judged(tmp_path):
    answers = {"Night Watch": "By Rembrandt.", "times": "6 * 7 = 42", "red": "B", "wet": "A"}

    def says(text):
        return next((answer for part, answer in answers.items() if part in text), "C")

    model, judge = Says(says), Says(_grades)
    suite = MixEvalHard(data=write_data(tmp_path), judge={"model": "judge"})
    result = _run(suite, asked("m"), m=model, judge=judge)
    figures = result.figures["m"]
    assert figures["free_form"].interval().mean == pytest.approx(100 * (3 + 0.3 + 0.3) / 5)
    assert figures["multiple_choice"].interval().mean == pytest.approx(60)
    assert len(model.asked) == 8  # equal rows are one request
    assert len(judge.asked) == 8
    assert all(request.sampling.max_tokens == 512 for request in model.asked)
    assert "rejudged" not in figures


def test_all_models_answer_before_the_judge_is_asked(tmp_path):
    """So that where one model is loaded at a time, the judge is loaded once."""
    order = []

    def noting(name, answer):
        return Says(lambda text: order.append(name) or answer(text))

    chats = {name: noting(name, lambda text: "B") for name in ("m", "base")}
    suite = MixEvalHard(data=write_data(tmp_path), judge={"model": "judge"})
    _run(suite, asked("m"), asked("base"), **chats, judge=noting("judge", _grades))
    assert list(dict.fromkeys(order)) == ["m", "base", "judge"]
    assert order == sorted(order, key=["m", "base", "judge"].index)


def test_what_a_model_is_asked_is_the_protocol(tmp_path):
    model = Says(lambda text: "B")
    _run(MixEvalHard(data=write_data(tmp_path)), asked("m"), m=model)
    asked_texts = [request.messages[-1].content for request in model.asked]
    assert all(len(request.messages) == 1 for request in model.asked)
    painter, goals, times = asked_texts[:3]
    assert painter.startswith("Question: Who painted")
    assert "briefly" in painter and "step" not in painter
    assert "Two fell, then one more.\nHow many goals fell?" in goals
    assert "step by step" in times and "none" not in times
    red = next(text for text in asked_texts if "red" in text)
    assert "\nA. grass\nB. blood\nC. milk\n" in red
    assert red.endswith("only.")


def test_the_judge_sees_all_references_and_neither_passage_nor_right_letter(tmp_path):
    judge = Says(_grades)
    suite = MixEvalHard(data=write_data(tmp_path), judge=ModelSpec(model="judge"))
    _run(suite, asked("m"), m=Says(lambda text: "B"), judge=judge)
    texts = [request.messages[-1].content for request in judge.asked]
    assert "<answer 1> Rembrandt; <answer 2> Rembrandt van Rijn" in texts[0]
    assert not any("then one more" in text for text in texts)
    red = next(text for text in texts if "Which of these is red?" in text)
    assert red.endswith("A. grass\nB. blood\nC. milk\nAnswer: B\nReading:")


def test_the_judge_is_cold_unless_it_is_told_otherwise():
    for judge in ({"model": "j"}, ModelSpec(model="j")):
        spec = MixEvalHard(judge=judge).judge
        assert (spec.temperature, spec.max_tokens) == (0, 999)
    warm = MixEvalHard(judge={"model": "j", "temperature": 0.5, "max_tokens": 50}).judge
    assert (warm.temperature, warm.max_tokens) == (0.5, 50)
    again = MixEvalHard.model_validate(MixEvalHard(judge={"model": "j"}).model_dump(mode="json"))
    assert again.judge.temperature == 0


def test_the_judges_temperature_is_printed(first):
    judge = Says(_grades)
    result = _run(MixEvalHard(judge={"model": "judge"}), first, judge=judge)
    assert any("judge in this process, temperature 0," in remark for remark in result.remarks)


def test_unreadable_replies_leave_the_mean_and_are_bounded(tmp_path):
    def grades(text):
        return "I cannot say." if "Night Watch" in text else _grades(text)

    suite = MixEvalHard(data=write_data(tmp_path), judge={"model": "judge"})
    result = _run(suite, asked("m"), m=Says(lambda text: "B"), judge=Says(grades))
    found = result.figures["m"]["free_form"].interval()
    assert (found.n, found.mean) == (3, pytest.approx(30))
    assert result.counts["m"]["unreadable"] == 2
    # 0.9 points of free-form, four of five letters right (water: the answer B is wrong), of ten
    assert any("between 49.0 and 69.0" in remark for remark in result.remarks)


def test_a_judge_that_answers_in_prose_gives_no_figure(tmp_path):
    suite = MixEvalHard(data=write_data(tmp_path), judge={"model": "judge"})
    prose = Says(lambda text: "What a fine answer this is!")
    result = _run(suite, asked("m"), m=Says(lambda text: "B"), judge=prose)
    for name in ("free_form", "multiple_choice", "overall"):
        assert isinstance(result.figures["m"][name], Unavailable)
        assert "5 replies could be read" in result.figures["m"][name].reason
    assert result.counts["m"]["unreadable"] == 10


def test_a_question_without_answer_leaves_the_mean(tmp_path):
    model = Says(lambda text: None if "wet" in text else "B")
    result = _run(MixEvalHard(data=write_data(tmp_path)), asked("m"), m=model)
    assert result.figures["m"]["multiple_choice"].interval().n == 4
    assert result.counts["m"]["unanswered"] == 1


def test_todays_judge_is_compared_with_the_recorded_one_on_the_same_answers(first):
    def harsher(text):
        return "No. [[0.1]]" if text.endswith("Grade:") else _grades(text)

    result = _run(MixEvalHard(judge={"model": "judge"}), first, judge=Says(harsher))
    figures = result.figures["first"]
    assert figures["overall"].interval().mean == pytest.approx(57)  # as recorded
    assert figures["rejudged"].interval().mean == pytest.approx(100 * (5 * 0.1 + 3) / 10)
    drift = figures["judge_drift"].interval()
    assert (drift.n, drift.clusters) == (10, 8)
    assert drift.mean == pytest.approx(100 * (0.5 - sum(SCORES)) / 10)
    assert figures["judge_drift_multiple_choice"].interval().mean == 0
    assert figures["judge_kappa"].interval().mean == 1
    assert "same score" in figures["judge_correlation"].reason


def test_scores_that_follow_the_recorded_ones_correlate(first):
    replies = {f"Answer: answer {id}\n": score / 2 for id, score in zip(FREE, SCORES, strict=True)}

    def half(text):
        if not text.endswith("Grade:"):
            return "[[B]]"
        return f"[[{next(v for k, v in replies.items() if k in text)}]]"

    figures = _run(MixEvalHard(judge={"model": "judge"}), first, judge=Says(half)).figures["first"]
    found = figures["judge_correlation"].interval()
    assert (found.n, found.mean) == (5, pytest.approx(1))
    assert figures["judge_kappa"].interval().mean < 1


def test_a_difference_between_two_judges_is_told(tmp_path, first):
    suite = MixEvalHard(data=write_data(tmp_path), judge={"model": "judge"})
    chats = {"m": Says(lambda text: "B"), "judge": Says(_grades)}
    result = _run(suite, asked("m"), first, **chats)
    assert any("rejudged" in remark and "first" in remark for remark in result.remarks)
    assert list(result.figures["m"]) == list(result.figures["first"])
    assert "judged before" in result.figures["m"]["judge_kappa"].reason
    found = result.figures["m"]["rejudged"].minus(result.figures["first"]["rejudged"])
    assert found.n == 10


def test_a_version_may_be_written_as_a_date():
    assert MixEvalHard(version=datetime.date(2024, 8, 11)).version == "2024-08-11"


def test_a_model_that_is_asked_needs_the_data(tmp_path):
    with pytest.raises(ConfigError, match=r"models\.m is asked"):
        _run(MixEvalHard(), asked("m"))
    with pytest.raises(ConfigError, match=r"there is no .*mixeval-2024-08-11"):
        MixEvalHard(data=write_data(tmp_path), version="2024-08-11").check()


def test_the_two_files_may_lie_in_the_folder_itself(tmp_path):
    inner = write_data(tmp_path) / "mixeval-2024-06-01" / "mixeval-hard"
    MixEvalHard(data=inner, version="mine").check()
    (inner / "free-form.json").unlink()
    with pytest.raises(ConfigError, match="there is no"):
        MixEvalHard(data=inner, version="mine").check()


@pytest.mark.parametrize(
    ("half", "field", "message"),
    [
        ("free-form", "target", r"free-form\.json: row '2': target: is missing"),
        ("multiple-choice", "options", r"row '2': options: expected 2 to 26 options, found 0"),
        ("multiple-choice", "problem_type", "problem_type: is missing"),
    ],
)
def test_an_item_without_a_field_is_named(tmp_path, half, field, message):
    inner = write_data(tmp_path) / "mixeval-2024-06-01" / "mixeval-hard"
    content = json.loads((inner / f"{half}.json").read_text())
    del content["2"][field]
    (inner / f"{half}.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        MixEvalHard(data=tmp_path).check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"judge_score": None}, r"r\.jsonl:1: judge_score: is missing"),
        ({"judge_score": 1.5}, r"r\.jsonl:1: judge_score"),
        ({"response": None}, r"r\.jsonl:1: response"),
        ({"id": "1"}, "a second time"),
    ],
)
def test_a_recorded_row_that_is_wrong_is_named(tmp_path, change, message):
    rows = judged_rows(SCORES, LETTERS)
    rows[0] |= change
    with pytest.raises(DataError, match=message):
        _run(MixEvalHard(), recorded("m", write_rows(tmp_path / "r.jsonl", rows)))


def test_the_right_option_must_be_one_of_the_options(tmp_path):
    rows = judged_rows(SCORES, LETTERS)
    rows[5] |= {"target": [7]}
    with pytest.raises(DataError, match=r"r\.jsonl:6: target: expected the number of an option"):
        _run(MixEvalHard(), recorded("m", write_rows(tmp_path / "r.jsonl", rows)))


def test_answers_of_another_benchmark_are_told_apart(tmp_path):
    rows = [{"instruction": "x", "output_1": "a", "output_2": "b", "preference": 1.0}]
    model = recorded("m", write_rows(tmp_path / "r.jsonl", rows))
    with pytest.raises(OtherFormatError, match=r"r\.jsonl: looks like AlpacaEval annotations; "):
        _run(MixEvalHard(), model)


def test_an_unknown_field_is_refused():
    with pytest.raises(ValidationError):
        MixEvalHard(temperature=1)
