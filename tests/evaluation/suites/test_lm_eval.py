"""Suite `lm_eval`: the harness on local data, with our intervals over its samples."""

import json

import pytest

from clair_apo.errors import ConfigError, DataError
from clair_apo.evaluation.suites.base import EvaluatedModel
from clair_apo.evaluation.suites.figures import RowFigure, Unavailable
from clair_apo.evaluation.suites.lm_eval import LmEval, figures_of
from clair_apo.llm import Answer, Completion, ModelSpec
from clair_apo.models import find_model
from tests.helpers.tiny_chat import save_tiny_chat

CHOICE = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""
WORDS = """
task: tiny_words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
generation_kwargs: {{until: ["w9"], max_gen_toks: 5}}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{word}}}}"
metric_list: [{{metric: exact_match}}]
"""
ROWS = [
    {"question": f"w{n} w{n + 1}", "choices": ["w3", "w4"], "answer": n % 2, "word": f"w{n}"}
    for n in range(6)
]


class Context:
    """Stands for the evaluation: a folder, models, and answers from a list."""

    estimating = False

    def __init__(self, folder, models, texts=()):
        self.folder, self.models, self.texts = folder, models, texts
        self.asked = []

    def identity(self, model):
        return find_model(model.spec.model).identity

    def answers(self, model, conversations, *, max_tokens=None):
        self.asked += [(turns[-1].content, max_tokens) for turns in conversations]
        done = [
            Completion(text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1)
            for text in self.texts
        ]
        return [Answer(None, one) for one in done]


@pytest.fixture
def tasks(tmp_path):
    """A folder with two tasks, whose data lies beside them."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "choice.yaml").write_text(CHOICE.format(data=data))
    (folder / "words.yaml").write_text(WORDS.format(data=data))
    return folder


def _model(name, folder, seed=0):
    save_tiny_chat(folder, seed=seed, template=None if name == "bare" else _TEMPLATE)
    return EvaluatedModel(name, ModelSpec(model=str(folder), temperature=0.0))


_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def test_two_models_are_scored_on_local_data_and_compared_by_document(tasks, tmp_path):
    models = [_model("one", tmp_path / "one"), _model("two", tmp_path / "two", seed=1)]
    context = Context(tmp_path / "out", models)
    suite = LmEval(tasks=("tiny_choice", "tiny_words"), include_path=tasks)
    result = suite.run(context)
    for model in models:
        assert set(result.figures[model.name]) == {"tiny_choice/acc", "tiny_words/exact_match"}
    accuracy = result.figures["one"]["tiny_choice/acc"]
    assert accuracy.interval().n == 6
    rows = [row for row in result.rows["one"] if row["task"] == "tiny_choice"]
    assert accuracy.interval().mean == pytest.approx(sum(row["metrics"]["acc"] for row in rows) / 6)
    difference = accuracy.minus(result.figures["two"]["tiny_choice/acc"])
    assert difference.n == 6


def test_a_second_run_takes_the_rows_that_were_kept(tasks, tmp_path, monkeypatch):
    context = Context(tmp_path / "out", [_model("one", tmp_path / "one")])
    suite = LmEval(tasks=("tiny_choice",), include_path=tasks)
    first = suite.run(context)
    monkeypatch.setattr(
        "clair_apo.evaluation.suites.harness.simple_evaluate",
        lambda **_: pytest.fail("the harness was called again"),
    )
    assert suite.run(context).rows == first.rows
    with pytest.raises(pytest.fail.Exception, match="called again"):
        suite.model_copy(update={"limit": 3}).run(context)


def test_a_server_is_asked_through_the_store_and_its_answers_end_at_the_stop_text(tasks, tmp_path):
    served = EvaluatedModel("served", ModelSpec(model="m", base_url="http://127.0.0.1:1/v1"))
    texts = [f"w{n}w9 and more" for n in range(5)] + ["w1"]
    context = Context(tmp_path / "out", [served], texts)
    result = LmEval(tasks=("tiny_words",), include_path=tasks).run(context)
    assert context.asked == [(row["question"], 5) for row in ROWS]
    assert result.figures["served"]["tiny_words/exact_match"].interval().mean == pytest.approx(
        5 / 6
    )


def test_a_server_cannot_compare_log_likelihoods(tasks, tmp_path):
    served = EvaluatedModel("served", ModelSpec(model="m", base_url="http://127.0.0.1:1/v1"))
    context = Context(tmp_path / "out", [served])
    with pytest.raises(ConfigError, match=r"'tiny_choice' compares log-likelihoods.*'served'"):
        LmEval(tasks=("tiny_choice",), include_path=tasks).run(context)


def test_a_recorded_model_has_no_figure_and_says_why(tasks, tmp_path):
    recorded = EvaluatedModel("recorded", None, (tmp_path / "answers.jsonl",))
    context = Context(tmp_path / "out", [_model("one", tmp_path / "one"), recorded])
    result = LmEval(tasks=("tiny_choice",), include_path=tasks).run(context)
    assert isinstance(result.figures["recorded"]["tiny_choice/acc"], Unavailable)


def test_an_unknown_task_and_missing_data_are_one_line_each(tasks, tmp_path):
    context = Context(tmp_path / "out", [_model("one", tmp_path / "one")])
    with pytest.raises(ConfigError, match=r"tasks: unknown task 'tiny_choices'; did you mean"):
        LmEval(tasks=("tiny_choices",), include_path=tasks).run(context)
    with pytest.raises(ConfigError, match="is no folder"):
        LmEval(tasks=("tiny_choice",), include_path=tmp_path / "none").run(context)
    (tasks / "rows.jsonl").unlink()
    with pytest.raises(DataError, match="local data in a task file of your own"):
        LmEval(tasks=("tiny_choice",), include_path=tasks).run(context)


def test_a_metric_over_the_corpus_has_no_mean():
    rows = [
        {"task": "t", "doc": n, "filter": "strict", "metrics": {"f1": [n, 1], "acc": n / 2}}
        for n in range(2)
    ]
    figures = figures_of(rows)
    assert isinstance(figures["t/f1,strict"], Unavailable)
    assert figures["t/acc,strict"] == RowFigure({"t/0": 0.0, "t/1": 0.5}, unit=True)
