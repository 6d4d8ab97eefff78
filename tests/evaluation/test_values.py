"""The values behind figures are kept row by row, for comparisons of a later day."""

import pytest

from clair_apo.errors import RunError
from clair_apo.evaluation import evaluate
from clair_apo.evaluation.figure_name import FigureName
from clair_apo.evaluation.suites.base import SuiteResult
from clair_apo.evaluation.suites.figures import RowFigure, StatisticFigure
from clair_apo.evaluation.values import read_values, write_values
from tests.helpers.evaluations import Ruled, evaluation_config, results_of

ANSWERS = {
    "trained": Ruled(["Take a walk.\n\nNext step: ask."]),
    "base": Ruled(["One.", "Fine.\n\nNext step: ask."]),
}


def test_an_evaluation_writes_the_values_of_its_figures(tmp_path):
    config = evaluation_config(tmp_path)
    evaluate(config, chats=ANSWERS)
    found, content = read_values(config.run_dir), results_of(tmp_path)
    base = found["base"]["checks.all"]
    assert sorted(base.values.values()) == [0, 0, 0, 1, 1, 1]
    entry = content["suites"]["checks"]["base"]["all"]
    assert base.interval().model_dump() == entry
    difference = found["trained"]["checks.all"].minus(base).model_dump()
    assert difference == content["suites"]["checks"]["differences"]["trained - base"]["all"]
    assert "health.distinct_1" not in found["base"], "it is no mean over rows"


def test_the_share_of_rules_is_a_figure_beside_all_of_them(tmp_path):
    config = evaluation_config(tmp_path)
    evaluate(config, chats=ANSWERS)
    found = read_values(config.run_dir)["base"]
    rules = [v for name, v in found.items() if name.startswith("checks.")][:-2]
    (first, *_) = rules[0].values
    expected = sum(rule.values[first] for rule in rules) / len(rules)
    assert found["checks.share"].values[first] == pytest.approx(expected)


def test_clusters_and_factors_come_back_as_they_were(tmp_path):
    figure = RowFigure({"a": 1.0, "b": 0.5}, {"a": "x", "b": "x"}, unit=True, factor=100)
    other = StatisticFigure(["a"], lambda ids: 1.0)
    write_values(tmp_path, {"s": SuiteResult({"m": {"f": figure, "g": other}})})
    assert read_values(tmp_path) == {"m": {"s.f": figure}}


def test_a_damaged_file_is_refused_with_its_name(tmp_path):
    with pytest.raises(RunError, match=r"values\.jsonl: cannot be read"):
        read_values(tmp_path)
    (tmp_path / "values.jsonl").write_text('{"model": "m"}\n')
    with pytest.raises(RunError, match="run the evaluation again"):
        read_values(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.b", ("a", "b", 1)), ("-a.b", ("a", "b", -1)), ("a.b.c", ("a", "b.c", 1))],
)
def test_a_figure_is_named_by_its_suite_with_a_sign(text, expected):
    assert FigureName.parse(text) == expected
    assert FigureName.parse(text).name == text.removeprefix("-")


@pytest.mark.parametrize("text", ["a", ".b", "a.", "-"])
def test_what_names_no_figure_is_refused(text):
    with pytest.raises(ValueError, match=r"expected <suite>\.<figure>"):
        FigureName.parse(text)
