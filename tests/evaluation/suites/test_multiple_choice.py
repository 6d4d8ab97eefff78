"""The suite `multiple_choice`: the likeliest option, by its sum and by its mean over tokens."""

import json

import pytest

from clair_apo.errors import DataError
from clair_apo.evaluation.suites.figures import Unavailable
from clair_apo.evaluation.suites.multiple_choice import MultipleChoice
from tests.helpers.evaluation import FakeContext, asked
from tests.helpers.evaluation import write_rows as write

ROWS = [
    {"question": "Is snow white?", "options": ["yes", "no"], "answer": 0},
    {"question": "Is ice hot?", "options": ["very much so", "no"], "answer": 1},
]
LOG_PROBS = {"yes": [-1.0], "no": [-2.0], "very much so": [-1.0, -1.0, -1.0]}


class Scores(FakeContext):
    """Log-probabilities by option; none for the model `server`."""

    def log_probs(self, model, texts):
        assert all(text.conversation[-1].role == "user" and not text.ended for text in texts)
        if model.name == "server":
            return Unavailable("it is not in this process")
        return [LOG_PROBS[text.answer] for text in texts]


def _suite(folder, rows=ROWS):
    return MultipleChoice(data=write(folder / "questions.jsonl", rows))


def test_the_option_with_the_highest_log_probability_is_the_answer(tmp_path):
    suite = _suite(tmp_path)
    result = suite.run(Scores([asked("tiny"), asked("server")], {}))
    figures = result.figures["tiny"]
    assert list(figures["accuracy"].values.values()) == [1.0, 1.0], "-2 is above -3"
    assert list(figures["accuracy_by_token"].values.values()) == [1.0, 0.0], "-1 is above -2"
    assert result.figures["server"]["accuracy"] == Unavailable("it is not in this process")
    assert result.remarks == ["by chance 0.50"]
    assert result.rows["tiny"][1]["log_probs"] == {"very much so": -3.0, "no": -2.0}
    assert result.rows["tiny"][1]["answer"] == "no"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "q", "options": ["a"], "answer": 0}, "two or more different options"),
        ({"question": "q", "options": ["a", "a"], "answer": 0}, "two or more different options"),
        ({"question": "q", "options": ["a", "b"], "answer": 2}, "numbered 0 to 1"),
        ({"question": "q", "options": ["a", "b"], "answer": -1}, "numbered 0 to 1"),
        ({"question": "q", "options": ["a", "b"]}, "answer"),
    ],
)
def test_a_row_that_is_no_question_is_named_with_its_line(tmp_path, row, words):
    with pytest.raises(DataError, match=words) as caught:
        _suite(tmp_path, [ROWS[0], row]).check()
    assert "questions.jsonl:2: " in str(caught.value)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="no question in it"):
        _suite(tmp_path, []).check()


def test_rows_are_written_as_json(tmp_path):
    result = _suite(tmp_path).run(Scores([asked("tiny")], {}))
    assert json.loads(json.dumps(list(result.rows["tiny"])))[0]["question"] == "Is snow white?"
