"""Suite `alpaca_eval`: rates by hand, files in the wrong order, and a judge in both orders."""

import json
import math

import numpy as np
import pytest

from clair_apo.errors import ConfigError, DataError
from clair_apo.evaluation.suites.alpaca_eval import AlpacaEval
from clair_apo.evaluation.suites.alpaca_files import read_gamed
from clair_apo.evaluation.suites.base import OtherFormatError
from clair_apo.evaluation.suites.figures import Unavailable
from clair_apo.evaluation.suites.length_control import fit_length_control
from tests.helpers.evaluation import FakeContext, Says, asked, recorded
from tests.helpers.tiny_alpaca import (
    COUNT,
    DIFFICULTY,
    PREFERENCES,
    annotations,
    write_difficulty,
    write_gamed,
    write_gamed_as_published,
    write_json,
    write_outputs,
    write_weights,
)


def _run(suite, *models, **chats):
    with FakeContext(models, chats) as context:
        return suite.run(context)


@pytest.fixture
def model(tmp_path):
    return recorded("m", write_json(tmp_path / "annotations.json", annotations()))


@pytest.fixture
def files(tmp_path):
    """All that the length-controlled win rate needs."""
    return {
        "data": write_outputs(tmp_path / "model_outputs.json"),
        "difficulty": write_difficulty(tmp_path / "difficulty.csv"),
        "gamed": write_gamed(tmp_path / "gamed.csv"),
    }


def test_the_win_rate_is_the_mean_preference_less_one(model):
    result = _run(AlpacaEval(), model)
    found = result.figures["m"]["win_rate"].interval()
    shares = np.asarray(PREFERENCES) - 1
    assert (found.n, found.clusters) == (COUNT, COUNT)
    assert found.mean == pytest.approx(100 * shares.mean())
    assert found.standard_error == pytest.approx(100 * shares.std(ddof=1) / math.sqrt(COUNT))


def test_the_discrete_win_rate_rounds_first_and_a_tie_is_half(model):
    result = _run(AlpacaEval(), model)
    # 1.9, 2.0, 1.7, 1.6 and 1.8 are won, 1.5 is a tie
    assert result.figures["m"]["discrete_win_rate"].interval().mean == pytest.approx(
        100 * 5.5 / COUNT
    )
    counts = result.counts["m"]
    assert (counts["wins"], counts["losses"], counts["ties"]) == (5, 6, 1)
    assert counts["mean_characters_of_baseline"] == 255


def test_a_preference_of_0_is_a_tie_of_old_files(tmp_path):
    rows = annotations([0.0] * COUNT)
    result = _run(AlpacaEval(), recorded("m", write_json(tmp_path / "a.json", rows)))
    assert result.figures["m"]["win_rate"].interval().mean == 50
    assert result.counts["m"]["ties"] == COUNT


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_preferences_that_are_none_leave_the_rates_and_are_counted(tmp_path, nothing):
    rows = annotations([nothing, *PREFERENCES[1:]])
    result = _run(AlpacaEval(), recorded("m", write_json(tmp_path / "a.json", rows)))
    found = result.figures["m"]["win_rate"].interval()
    assert found.n == COUNT - 1
    assert found.mean == pytest.approx(100 * (np.mean(PREFERENCES[1:]) - 1))
    assert result.counts["m"]["without_preference"] == 1
    assert any("1 of 12 comparisons have no preference" in remark for remark in result.remarks)


def test_no_preference_at_all_gives_no_figure(tmp_path, files):
    rows = annotations([float("nan")] * COUNT)
    figures = _run(
        AlpacaEval(**files), recorded("m", write_json(tmp_path / "a.json", rows))
    ).figures["m"]
    assert figures["win_rate"] == Unavailable("none of 12 comparisons has a preference")
    assert isinstance(figures["discrete_win_rate"], Unavailable)
    assert "at least 5 verdicts" in figures["length_controlled_win_rate"].reason


def test_two_models_are_compared_on_the_same_instructions(tmp_path, model):
    rows = annotations([1.5] * COUNT, generator="other")[::-1]
    second = recorded("second", write_json(tmp_path / "b.json", rows))
    figures = _run(AlpacaEval(), model, second).figures
    found = figures["m"]["win_rate"].minus(figures["second"]["win_rate"])
    shares = np.asarray(PREFERENCES) - 1.5
    assert found.mean == pytest.approx(100 * shares.mean())
    assert found.standard_error == pytest.approx(100 * shares.std(ddof=1) / math.sqrt(COUNT))


@pytest.mark.parametrize("missing", ["difficulty", "gamed"])
def test_without_a_file_the_figure_says_which_one_is_missing(model, files, missing):
    del files[missing]
    if missing == "difficulty":
        del files["gamed"]
    figures = _run(AlpacaEval(**files), model).figures["m"]
    assert figures["length_controlled_win_rate"].reason.startswith(f"{missing} names no file")
    assert figures["win_rate"].interval().n == COUNT


@pytest.fixture
def regular(tmp_path):
    """A model whose preferences follow length and difficulty."""
    rows = annotations()
    lengths = np.asarray([len(row["output_1"]) - len(row["output_2"]) for row in rows])
    shares = 1 / (1 + np.exp(np.tanh(lengths / lengths.std(ddof=1)) - 0.8 * DIFFICULTY - 0.6))
    wobble = np.where(np.arange(COUNT) % 2, 0.05, -0.05)
    preferences = np.clip(1 + shares + wobble, 1, 2).tolist()
    return recorded("m", write_json(tmp_path / "regular.json", annotations(preferences)))


def test_the_length_controlled_rate_is_the_fit_of_the_regression(regular, files):
    figures = _run(AlpacaEval(**files), regular).figures["m"]
    rows = json.loads(regular.recorded[0].read_text())
    expected = fit_length_control(
        [row["preference"] - 1 for row in rows],
        [len(row["output_1"]) - len(row["output_2"]) for row in rows],
        DIFFICULTY,
        read_gamed(files["gamed"], dict(enumerate(DIFFICULTY))),
    )
    statistic = figures["length_controlled_win_rate"]
    found = statistic.statistic(statistic.rows)
    assert found == pytest.approx(100 * expected.win_rate())
    assert abs(found - 50) > 5
    assert found != pytest.approx(figures["win_rate"].interval().mean, abs=0.5)


def test_a_penalty_that_leaves_no_effect_gives_no_figure(model, files):
    figures = _run(AlpacaEval(**files), model).figures["m"]
    assert "no effect of the model" in figures["length_controlled_win_rate"].reason


def test_the_interval_of_a_fit_is_wider_than_the_published_one(regular, files):
    result = _run(AlpacaEval(**files), regular)
    figure = result.figures["m"]["length_controlled_win_rate"]
    figure = type(figure)(figure.rows, figure.statistic, draws=100)
    found = figure.interval()
    told = next(remark for remark in result.remarks if "leaves that out" in remark)
    narrow = float(told.rsplit(" ", 1)[1])
    assert found.low < found.mean < found.high
    assert found.standard_error > narrow > 0


def test_gamed_rows_as_published_and_with_lengths_are_the_same(tmp_path, files):
    table = dict(enumerate(DIFFICULTY))
    lengths = read_gamed(files["gamed"], table)
    published = read_gamed(write_gamed_as_published(tmp_path / "df_gamed.csv"), table)
    for name in ("length_terms", "difficulty", "preferences"):
        assert getattr(lengths, name) == pytest.approx(getattr(published, name))


def test_published_weights_predict_the_rate_at_equal_length(tmp_path, model, files):
    weights = write_weights(tmp_path / "w.csv", other=(0, 0, 0), m=(-1.2, 0.8, 0.3))
    figures = _run(AlpacaEval(**files, weights=weights), model).figures["m"]
    found = figures["length_controlled_published"].interval()
    predicted = 100 / (1 + np.exp(-(0.8 * DIFFICULTY + 0.3)))
    assert found.mean == pytest.approx(predicted.mean())
    assert found.standard_error == pytest.approx(predicted.std(ddof=1) / math.sqrt(COUNT))


def test_weights_are_found_by_the_name_in_the_annotations(tmp_path, model, files):
    by_generator = write_weights(tmp_path / "w.csv", **{"tiny-model": (0, 0, 0)})
    figures = _run(AlpacaEval(**files, weights=by_generator), model).figures["m"]
    assert figures["length_controlled_published"].interval().mean == 50
    unknown = write_weights(tmp_path / "w.csv", other=(0, 0, 0))
    figures = _run(AlpacaEval(**files, weights=unknown), model).figures["m"]
    assert "no row 'm' or 'tiny-model'" in figures["length_controlled_published"].reason


def test_a_missing_row_or_another_order_does_not_shift_the_difficulties(tmp_path, files):
    weights = write_weights(tmp_path / "w.csv", m=(-1.2, 0.8, 0.3))
    rows = annotations()
    for kept in (rows[1:], rows[::-1]):
        model = recorded("m", write_json(tmp_path / "a.json", kept))
        result = _run(AlpacaEval(**files, weights=weights), model)
        places = [rows.index(row) for row in kept]
        predicted = 100 / (1 + np.exp(-(0.8 * DIFFICULTY[places] + 0.3)))
        found = result.figures["m"]["length_controlled_published"].interval()
        assert found.mean == pytest.approx(predicted.mean())
        told = any("1 of `data`'s instructions have no answer" in one for one in result.remarks)
        assert told == (len(kept) == 11)


def test_rows_in_an_unknown_order_have_no_difficulties(model, files):
    del files["data"]
    figures = _run(AlpacaEval(**files), model).figures["m"]
    assert "not AlpacaEval's 805 in their order" in figures["length_controlled_win_rate"].reason
    assert figures["win_rate"].interval().n == COUNT


def test_an_instruction_that_the_baseline_was_not_asked_is_named(tmp_path, files):
    rows = annotations()
    rows[3]["instruction"] = "Something else."
    model = recorded("m", write_json(tmp_path / "a.json", rows))
    with pytest.raises(DataError, match=r"'Something else\.' is not among those of `data`"):
        _run(AlpacaEval(**files), model)


def test_a_model_is_asked_and_judged_in_both_orders(tmp_path, files):
    """The judge prefers answers that begin with m, and else the first."""

    def verdict(text):
        one = text.index("mine") if "mine" in text else None
        two = text.index("bbbb")
        return f"<verdict>{'tie' if one is None else 1 if one < two else 2}</verdict>"

    model = Says(lambda text: "mine" if int(text[-3:-1]) % 2 else "other")
    judge = Says(verdict)
    suite = AlpacaEval(data=files["data"], judge={"model": "judge"})
    result = _run(suite, asked("m"), m=model, judge=judge)
    figures = result.figures["m"]
    assert figures["win_rate"].interval().mean == pytest.approx(75)  # half won, half tied
    assert figures["consistent"].interval().mean == 100
    assert figures["first_place"].interval().mean == 50
    assert len(judge.asked) == 2 * COUNT
    assert model.asked[0].sampling.max_tokens == 2048
    assert any("not AlpacaEval's annotator" in remark for remark in result.remarks)


def test_a_judge_that_always_takes_the_first_is_no_evidence(files):
    suite = AlpacaEval(data=files["data"].parent, judge={"model": "judge"})
    chats = {"m": Says(lambda text: "x"), "judge": Says(lambda text: "<verdict>1</verdict>")}
    figures = _run(suite, asked("m"), **chats).figures["m"]
    assert figures["win_rate"].interval().mean == 50
    assert figures["consistent"].interval().mean == 0
    assert figures["first_place"].interval().mean == 100


def test_a_judge_that_answers_in_prose_gives_no_figure(files):
    suite = AlpacaEval(data=files["data"], judge={"model": "judge"})
    chats = {"m": Says(lambda text: "x"), "judge": Says(lambda text: "Both are lovely.")}
    result = _run(suite, asked("m"), **chats)
    assert result.figures["m"]["win_rate"] == Unavailable("none of 12 comparisons has a preference")
    assert result.counts["m"]["without_preference"] == COUNT


def test_recorded_and_asked_models_have_the_same_figures(model, files):
    suite = AlpacaEval(data=files["data"], judge={"model": "judge"})
    chats = {"n": Says(lambda text: "x"), "judge": Says(lambda text: "<verdict>1</verdict>")}
    figures = _run(suite, asked("n"), model, **chats).figures
    assert list(figures["n"]) == list(figures["m"])
    assert isinstance(figures["m"]["consistent"], Unavailable)


def test_a_model_that_is_asked_needs_data_and_judge(files):
    with pytest.raises(ConfigError, match=r"models\.m is asked, which needs data"):
        _run(AlpacaEval(judge={"model": "j"}), asked("m"))
    with pytest.raises(ConfigError, match="needs judge"):
        _run(AlpacaEval(data=files["data"]), asked("m"))


def test_gamed_rows_without_difficulties_are_refused(files):
    with pytest.raises(ConfigError, match="gamed needs difficulty"):
        AlpacaEval(gamed=files["gamed"]).check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preference": "x"}, r"a\.json: row 3: preference"),
        ({"preference": 2.5}, r"a\.json: row 3: preference: expected 1 \(baseline\) to 2"),
        ({"output_2": None}, r"a\.json: row 3: output_2"),
        ({"instruction": "Write about the number 0."}, r"row 3: this instruction .* second time"),
    ],
)
def test_an_annotation_that_is_wrong_is_named(tmp_path, change, message):
    rows = annotations()
    rows[2] |= change
    with pytest.raises(DataError, match=message):
        _run(AlpacaEval(), recorded("m", write_json(tmp_path / "a.json", rows)))


def test_an_annotation_without_preference_is_named(tmp_path):
    rows = annotations()
    del rows[1]["preference"]
    with pytest.raises(DataError, match=r"a\.json: row 2: preference: is missing"):
        _run(AlpacaEval(), recorded("m", write_json(tmp_path / "a.json", rows)))


def test_outputs_alone_are_no_annotations(files):
    with pytest.raises(OtherFormatError, match="like AlpacaEval outputs; expected AlpacaEval ann"):
        _run(AlpacaEval(), recorded("m", files["data"]))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("difficulty", "0,-1.5", "0,", r"csv:2: instruction_difficulty: is missing"),
        ("difficulty", "0,-1.5", "0,much", r"csv:2: instruction_difficulty: expected a number"),
        ("difficulty", "0,-1.5", "0,nan", r"csv:2: instruction_difficulty: expected a number"),
        ("difficulty", "0,-1.5", "x,1", r"csv:2: index: expected a whole number, found 'x'"),
        ("difficulty", "instruction_difficulty", "hard", r"csv:2: instruction_difficulty: is miss"),
        ("gamed", "concise,0,", "concise,77,", r"csv:2: instruction 77 has no difficulty"),
        ("gamed", ",0.2\n", ",1.2\n", r"csv:2: preference_minus_one: expected a number"),
    ],
)
def test_a_table_that_is_wrong_is_named(files, name, old, new, message):
    text = files[name].read_text()
    assert old in text
    files[name].write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        AlpacaEval(**files).check()


def test_outputs_that_are_wrong_are_named(tmp_path):
    other = write_json(tmp_path / "x.json", [{"prompt": "a", "answer": "b"}])
    with pytest.raises(ConfigError, match="expected a baseline's outputs"):
        AlpacaEval(data=other).check()
    twice = write_json(tmp_path / "y.json", [{"instruction": "a", "output": "b"}] * 2)
    with pytest.raises(DataError, match="row 2: this instruction stands there a second time"):
        AlpacaEval(data=twice).check()
