"""An evaluation as a whole: figures, differences, files, resuming, money, and what is refused."""

import json

import pytest
import yaml

from clair_apo.errors import (
    BudgetError,
    ConfigError,
    DataError,
    ModelNotFoundError,
    RequestError,
    RunError,
)
from clair_apo.evaluation import EvaluateConfig, evaluate
from clair_apo.stats import mean_interval, paired_interval, proportion_interval
from clair_apo.text.checks import Check
from tests.helpers.clair_runs import write_rows
from tests.helpers.evaluations import (
    SERVER,
    Ruled,
    evaluation_config,
    prompt_file,
    results_of,
    rows_of,
    rules_file,
)
from tests.helpers.tiny_chat import save_tiny_chat

TRAINED = ["Take a walk.\n\nNext step: ask."]
BASE = ["One two three four five six one two three four five six...", "Fine.\n\nNext step: ask."]


def models():
    return {"trained": Ruled(TRAINED), "base": Ruled(BASE)}


def test_figures_stand_beside_their_intervals_and_differences_are_paired(tmp_path):
    evaluate(evaluation_config(tmp_path), chats=models())
    content = results_of(tmp_path)
    assert content["models"] == ["trained", "base"]
    health, checks = content["suites"]["health"], content["suites"]["checks"]
    ends = [0, 1] * 3
    expected = proportion_interval(ends).model_dump()
    assert health["base"]["ended"] == expected
    assert health["trained"]["ended"]["mean"] == 1
    differences = health["differences"]["trained - base"]
    assert differences["ended"] == paired_interval([1] * 6, ends).model_dump()
    lengths = [len(text.removesuffix("...")) for text in BASE] * 3
    assert health["base"]["characters"] == mean_interval(lengths).model_dump()
    # of 11 bigrams 4 stood there before, 'one two' not: its case differs; of 3 none did
    assert health["base"]["rep_2"]["mean"] == pytest.approx((4 / 11 + 0) / 2)
    assert checks["base"]["next_step"]["mean"] == 0.5
    assert checks["base"]["all"]["mean"] == 0.5
    assert checks["differences"]["trained - base"]["all"]["mean"] == 0.5
    assert checks["trained"]["all"]["n"] == checks["trained"]["all"]["clusters"] == 6


def test_rows_answers_and_tables_are_written_beside_the_numbers(tmp_path):
    config = evaluation_config(tmp_path)
    found = evaluate(config, chats=models())
    assert found.content == results_of(tmp_path)
    rows = rows_of(tmp_path, "checks", "base.jsonl")
    assert [row["checks"]["next_step"] for row in rows] == [False, True] * 3
    answers = rows_of(tmp_path, "answers", "trained.jsonl")
    assert answers[0]["answer"] == TRAINED[0]
    table = (config.run_dir / "evaluation.md").read_text("utf-8")
    assert "| ended | 1.00 [0.61, 1.00] | 0.50 [0.19, 0.81] |" in table
    resolved = yaml.safe_load((config.run_dir / "config.yaml").read_text("utf-8"))
    assert EvaluateConfig(**resolved) == config
    assert resolved["models"]["trained"]["temperature"] == 0


def test_recorded_answers_are_read_back_as_they_were_written(tmp_path):
    config = evaluation_config(tmp_path)
    evaluate(config, chats=models())
    before = results_of(tmp_path)["suites"]["checks"]
    recorded = {"recorded": [str(config.run_dir / "answers" / "base.jsonl")]}
    again = evaluation_config(tmp_path, models=dict(config.models) | {"base": recorded})
    evaluate(again, chats=models())
    after = results_of(tmp_path)["suites"]
    assert after["checks"] == before
    assert after["health"]["base"]["ended"]["mean"] == 0.5
    assert "unavailable" in after["health"]["base"]["tokens"]


def test_a_second_suite_and_a_second_run_ask_the_model_again_for_nothing(tmp_path):
    first = evaluate(evaluation_config(tmp_path, suites=[{"suite": "health"}]), chats=models())
    assert first.asked == 12
    nobody = {"trained": Ruled([], breaks_after=0), "base": Ruled([], breaks_after=0)}
    second = evaluate(evaluation_config(tmp_path), chats=nobody)
    assert second.asked == 0 and second.reused >= 12
    offline = evaluate(evaluation_config(tmp_path, offline=True), chats=nobody)
    assert offline.content == second.content


def test_an_evaluation_that_was_stopped_goes_on_where_it_was(tmp_path):
    stopped = {"trained": Ruled(TRAINED, breaks_after=4), "base": Ruled(BASE)}
    with pytest.raises(KeyboardInterrupt):
        evaluate(evaluation_config(tmp_path), chats=stopped)
    rest = models()
    evaluate(evaluation_config(tmp_path), chats=rest)
    assert len(rest["trained"].requests) == 2


def test_prompts_without_an_answer_count_nowhere_and_are_named(tmp_path):
    chats = models() | {"base": Ruled([None, "Fine."])}
    config = evaluation_config(tmp_path)
    evaluate(config, chats=chats)
    recorded = {"recorded": [str(config.run_dir / "answers" / "base.jsonl")]}
    found = results_of(tmp_path)["suites"]["checks"]["base"]
    again = evaluation_config(tmp_path, models={"base": recorded})
    assert evaluate(again).content["suites"]["checks"]["base"] == found
    evaluate(config, chats=chats)
    suite = results_of(tmp_path)["suites"]["checks"]
    assert suite["base"]["all"]["n"] == 3
    assert suite["differences"]["trained - base"]["all"]["n"] == 3
    assert suite["counts"]["base"] == {"failed": 3}
    assert any("base has no answer to 3 of 6" in remark for remark in suite["remarks"])


def test_rules_from_python_stand_beside_those_of_a_file(tmp_path):
    from clair_apo.evaluation.suites.checks import ChecksSuite

    polite = Check("polite", lambda prompt, answer: "walk" in answer and "question" in prompt)
    suite = ChecksSuite(checks=rules_file(tmp_path), functions=(polite,))
    evaluate(evaluation_config(tmp_path, suites=[suite]), chats=models())
    assert results_of(tmp_path)["suites"]["checks"]["trained"]["polite"]["mean"] == 1


def test_held_out_pairs_are_those_of_the_training(tmp_path):
    from clair_apo.run_folder import is_held_out

    rows = [
        {"prompt": f"Question number {n}", "chosen": "Yes.", "rejected": "No."} for n in range(40)
    ]
    pairs = {"path": str(write_rows(tmp_path / "pairs.jsonl", rows)), "held_out": 0.3}
    config = evaluation_config(tmp_path, prompts=None, pairs=pairs)
    evaluate(config, chats=models())
    ids = [row["id"] for row in rows_of(tmp_path, "answers", "trained.jsonl")]
    assert 0 < len(ids) < 40 and all(is_held_out(id, 0.3) for id in ids)
    everything = evaluation_config(tmp_path, prompts=None, pairs=pairs | {"held_out": 1})
    evaluate(everything, chats=models())
    assert len(rows_of(tmp_path, "answers", "trained.jsonl")) == 40


def test_a_budget_stops_the_evaluation_and_raising_it_goes_on(tmp_path):
    price = {"input": 1.0, "output": 1000.0}
    spec = {"model": "trained", "base_url": SERVER, "price": price, "max_tokens": 20}
    config = {"models": {"trained": spec}, "suites": [{"suite": "health"}]}
    with pytest.raises(BudgetError, match="raise --max_cost"):
        evaluate(evaluation_config(tmp_path, **config, max_cost=0.05), chats=models())
    rest = models()
    found = evaluate(evaluation_config(tmp_path, **config, max_cost=5.0), chats=rest)
    assert 0 < len(rest["trained"].requests) < 6
    tokens = 6 * len(TRAINED[0].split())
    assert found.cost == pytest.approx((6 * 5 * 1.0 + tokens * 1000.0) / 1e6)


def test_offline_without_answers_ends_in_one_line(tmp_path):
    with pytest.raises(RequestError, match="offline: "):
        evaluate(evaluation_config(tmp_path, offline=True), chats=models())


def test_a_run_folder_of_another_command_is_refused(tmp_path):
    from clair_apo.run_folder import RunFolder

    config = evaluation_config(tmp_path)
    RunFolder(config.run_dir).prepare()
    RunFolder(config.run_dir).update_manifest(command="generate")
    with pytest.raises(RunError, match="run folder of generate"):
        evaluate(config, chats=models())


def test_a_model_without_a_chat_template_is_refused_before_anything_is_written(tmp_path):
    bare = save_tiny_chat(tmp_path / "bare", template=None)
    config = evaluation_config(tmp_path, models={"trained": {"model": str(bare)}})
    with pytest.raises(ModelNotFoundError, match=r"models\.trained: .* no chat template"):
        evaluate(config)
    assert not config.run_dir.exists()


ENDLESS = "checks:\n  - {name: slow, matches: '(a|aa)+$'}\n"
REFUSED = {
    "no prompts are left": (
        lambda folder: {
            "prompts": {
                "path": str(prompt_file(folder)),
                "contamination": [str(prompt_file(folder))],
                "ngram": 5,
            }
        },
        DataError,
        "no prompt is left of 6",
    ),
    "missing prompts": (
        lambda folder: {"prompts": {"path": str(folder / "nothing.jsonl")}},
        DataError,
        "nothing.jsonl",
    ),
    "missing rules": (
        lambda folder: {"suites": [{"suite": "checks", "checks": str(folder / "no.yaml")}]},
        ConfigError,
        "no.yaml: cannot be read",
    ),
    "missing recording": (
        lambda folder: {"models": {"a": {"recorded": [str(folder / "gone.jsonl")]}}},
        DataError,
        "gone.jsonl",
    ),
    "a recording of something else": (
        lambda folder: {
            "models": {
                "a": {"recorded": [str(write_rows(folder / "x.jsonl", [{"preference": 1.5}]))]}
            }
        },
        ConfigError,
        "x.jsonl:1: expected recorded answers.*found preference",
    ),
    "an endless expression": (
        lambda folder: {
            "suites": [{"suite": "checks", "checks": str(rules_file(folder, ENDLESS, "slow.yaml"))}]
        },
        DataError,
        "check 'slow': its regular expression did not come to an end",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused_in_one_line(tmp_path, what, monkeypatch):
    monkeypatch.setattr("clair_apo.text.checks.SECONDS", 0.05)
    changes, error, words = REFUSED[what]
    chats = models() | {"trained": Ruled(["a" * 200 + "b"])}
    with pytest.raises(error, match=words) as caught:
        evaluate(evaluation_config(tmp_path, **changes(tmp_path)), chats=chats)
    assert "\n" not in str(caught.value)


def test_a_judge_that_answers_in_prose_ends_it_when_all_is_written(tmp_path):
    suites = [
        {"suite": "win_rate", "judge": {"model": "judge", "base_url": SERVER}},
        {"suite": "health"},
    ]
    chats = {**models(), "judge": Ruled(["Both are lovely, thank you."])}
    with pytest.raises(ConfigError, match=r"suites\.win_rate: the judge gave no verdict that can"):
        evaluate(evaluation_config(tmp_path, suites=suites), chats=chats)
    found = results_of(tmp_path)["suites"]
    assert "unavailable" in found["win_rate"]["trained"]["win_rate"]
    assert found["health"]["trained"]["ended"]["mean"] == 1


def test_preferences_that_are_all_missing_end_it_when_all_is_written(tmp_path):
    keys = ("instruction", "output_1", "output_2", "generator_2")
    rows = [{**dict.fromkeys(keys, f"text {n}"), "preference": float("nan")} for n in range(3)]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    given = {"given": {"recorded": [str(tmp_path / "annotations.json")]}}
    config = {"models": given, "suites": [{"suite": "alpaca_eval"}]}
    with pytest.raises(ConfigError, match=r"alpaca_eval: none of 3 comparisons has a preference"):
        evaluate(evaluation_config(tmp_path, **config))
    assert results_of(tmp_path)["suites"]["alpaca_eval"]["counts"]["given"]["rows"] == 3


def test_a_recording_that_one_of_two_suites_reads_is_left_out_of_the_other(tmp_path):
    from clair_apo.evaluation.suites.base import OtherFormatError
    from clair_apo.evaluation.suites.checks import ChecksSuite

    class Elsewhere(ChecksSuite):
        def run(self, context):
            if any(model.name == "given" for model in context.models):
                raise OtherFormatError("given", "given.jsonl: is of another benchmark")
            return super().run(context)

    given = write_rows(
        tmp_path / "given.jsonl",
        [{"prompt": f"Please answer question number {n}", "answer": "So."} for n in range(6)],
    )
    asked = {"model": "trained", "base_url": SERVER}
    models_ = {"trained": asked, "given": {"recorded": [str(given)]}}
    suites = [{"suite": "health"}, Elsewhere.model_construct(checks=rules_file(tmp_path))]
    config = evaluation_config(tmp_path, models=models_)
    config = config.model_copy(update={"suites": (config.suites[0], suites[1])})
    evaluate(config, chats=models())
    found = results_of(tmp_path)["suites"]
    assert "given" in found["health"] and "given" not in found["checks"]
    assert found["checks"]["remarks"] == ["given is left out: given.jsonl: is of another benchmark"]
