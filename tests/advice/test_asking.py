"""The advice on pairs: the model is sampled, and a judge compares, unless it can be fooled."""

import json

import pytest

from clair_apo.advice.advise import FILE, ROWS, advise
from clair_apo.advice.ask import CONTROL
from clair_apo.advice.config import AdviseConfig
from clair_apo.errors import ConfigError, DataError, RequestError
from clair_apo.llm import ModelSpec
from tests.helpers.clair_runs import Replying, cut, edit_reply, make_config, write_rows
from tests.helpers.clair_runs import run as generate_pairs
from tests.helpers.judging import JUDGE, RuleJudge, always, longest, prefers
from tests.helpers.scripted_roles import SERVER

MODEL = ModelSpec(model="target", base_url=SERVER)

PAIRS = 12


def plain_pairs(folder, chosen="a good answer", rejected="a bad answer"):
    rows = [
        {"prompt": f"Question {n}?", "chosen": f"{chosen} {n}", "rejected": f"{rejected} {n}"}
        for n in range(PAIRS)
    ]
    return write_rows(folder / "pairs.jsonl", rows)


def advice_on(folder, pairs, judge, sample="a bad answer", **changes):
    values = {"run_dir": folder / "advice", "pairs": str(pairs), "judge": JUDGE, "model": MODEL}
    config = AdviseConfig(**(values | changes))
    model = sample if isinstance(sample, Replying) else Replying([("", sample)])
    return advise(config, model=model, judge_model=judge)


def write_rubric(folder):
    (folder / "rubric.md").write_text("Short is better.")
    return folder / "rubric.md"


def varied(text):
    """A model that says something of its own to each prompt."""
    return Replying([(f"Question {n}?", f"{text} {n}") for n in reversed(range(PAIRS))])


@pytest.mark.parametrize(("sample", "word"), [("a bad one", "zero"), ("a good good one", "down")])
def test_the_model_is_sampled_and_judged_against_both_sides(tmp_path, sample, word):
    count = RuleJudge(
        lambda first, second: (
            "tie"
            if first.count("good") == second.count("good")
            else ("1" if first.count("good") > second.count("good") else "2")
        )
    )
    found = advice_on(tmp_path, plain_pairs(tmp_path), count, varied(sample))
    assert found.advice == word
    assert (found.chosen_share.n, found.consistent.mean) == (PAIRS, 1.0)
    assert found.rejected_share.mean == {"zero": 0.5, "down": 0.0}[word]
    assert found.controls.mean == 1.0
    assert (found.source["model"], found.source["judge"]) == ("target", "judge")


def test_swapping_the_sides_of_the_pairs_turns_the_word(tmp_path):
    pairs = plain_pairs(tmp_path, chosen="a bad answer", rejected="a good answer")
    assert advice_on(tmp_path, pairs, prefers("good"), varied("a good one"), controls=0).advice == (
        "down"
    )


def test_pairs_whose_chosen_answer_is_the_sample_are_undecided(tmp_path):
    judge = always("1")
    found = advice_on(tmp_path, plain_pairs(tmp_path), judge, varied("a good answer"), controls=0)
    assert (found.advice, found.chosen_share.mean, found.comparisons_needed) == (
        "undecided",
        0.5,
        None,
    )


def test_clair_pairs_are_judged_without_sampling_again(tmp_path):
    rows = [{"prompt": f"Question {n}?"} for n in range(PAIRS)]
    config = make_config(tmp_path, write_rows(tmp_path / "data.jsonl", rows))
    target = Replying([(f"Question {n}?", f"old answer {n}") for n in reversed(range(PAIRS))])
    generate_pairs(config, target, Replying([("", edit_reply(("old", "new good")))]))
    judge = prefers("good")
    values = {"run_dir": tmp_path / "advice", "pairs": str(tmp_path / "run" / "pairs.jsonl")}
    found = advise(AdviseConfig(**values, judge=JUDGE), judge_model=judge)
    assert (found.advice, found.rejected_share) == ("zero", None)
    assert len(judge.requests) == 4 * PAIRS  # both orders, and as many controls
    # named, the model is known to be the one that answered
    named = AdviseConfig(**values, judge=JUDGE, model=ModelSpec(model="target"))
    unasked = Replying([])
    assert advise(named, model=unasked, judge_model=prefers("good")).advice == "zero"
    assert unasked.requests == []


def test_pairs_that_do_not_say_whose_samples_they_reject_need_a_model(tmp_path):
    with pytest.raises(ConfigError, match=r"12 of 12 pairs do not say .* set model.model"):
        advice_on(tmp_path, plain_pairs(tmp_path), prefers("good"), model=None)
    assert not (tmp_path / "advice").exists()


def test_the_worst_of_several_samples_does_not_stand_for_the_model(tmp_path):
    origin = {"kind": "response", "model": "target"}
    rows = [
        {
            "prompt": f"Question {n}?",
            "chosen": "good",
            "rejected": "bad",
            "provenance": {"rejected": origin, "judged_by": "judge"},
        }
        for n in range(PAIRS)
    ]
    with pytest.raises(ConfigError, match="12 of 12 pairs do not say"):
        advice_on(tmp_path, write_rows(tmp_path / "p.jsonl", rows), prefers("good"), model=None)


def test_a_judge_that_always_names_the_first_place_is_refused(tmp_path):
    found = advice_on(tmp_path, plain_pairs(tmp_path), always("1"), varied("a bad one"))
    assert (found.advice, found.chosen_share.mean) == ("refused", 0.5)
    assert (found.consistent.mean, found.first_place.mean) == (0.0, 1.0)


def test_a_judge_that_believes_a_text_that_praises_itself_is_refused(tmp_path):
    found = advice_on(tmp_path, plain_pairs(tmp_path), longest(), varied("bad"))
    assert found.chosen_share.low > 0.5
    assert found.controls.mean == 0.0
    assert (found.advice, "fooled" in found.reason) == ("refused", True)


@pytest.mark.parametrize("constant", ["sample", "chosen"])
def test_a_judge_that_prefers_one_text_for_every_prompt_is_refused(tmp_path, constant):
    rows = [
        {
            "prompt": f"Question {n}?",
            "chosen": "the trick" if constant == "chosen" else f"an answer {n}",
            "rejected": "other",
        }
        for n in range(PAIRS)
    ]
    pairs = write_rows(tmp_path / "pairs.jsonl", rows)
    sample = varied("mine") if constant == "chosen" else "the trick"
    found = advice_on(tmp_path, pairs, prefers("trick"), sample, controls=0)
    assert (found.advice, found.consistent.mean) == ("refused", 1.0)
    assert "the same text for 12 of 12 prompts" in found.reason


def test_a_model_that_says_the_same_to_everything_and_loses_is_no_fault_of_the_judge(tmp_path):
    found = advice_on(tmp_path, plain_pairs(tmp_path), prefers("good"), "always this")
    assert found.advice == "zero"


def test_a_judge_that_answers_in_prose_ends_it_and_its_replies_are_kept(tmp_path):
    with pytest.raises(DataError, match="not one of 12 comparisons has a verdict"):
        advice_on(tmp_path, plain_pairs(tmp_path), always("I like the first"), varied("x"))
    assert (tmp_path / "requests.sqlite").exists()
    assert not (tmp_path / "advice" / FILE).exists()


def test_samples_that_were_cut_are_left_out_and_counted(tmp_path):
    sample = Replying([("Question 3?", cut("on and on")), *varied("bad").replies])
    found = advice_on(tmp_path, plain_pairs(tmp_path), prefers("good"), sample)
    assert (found.left_out, found.chosen_share.n) == (1, PAIRS - 1)
    with pytest.raises(DataError, match=r"raise model\.max_tokens"):
        advice_on(
            tmp_path,
            plain_pairs(tmp_path),
            prefers("good"),
            Replying([("", cut("on"))]),
            model=MODEL.model_copy(update={"max_tokens": 7}),
        )


def test_nothing_is_asked_twice_and_the_rows_give_the_same_word_again(tmp_path):
    first = advice_on(tmp_path, plain_pairs(tmp_path), prefers("good"), varied("bad"))
    again = advice_on(tmp_path, plain_pairs(tmp_path), prefers("good"), Replying([]), offline=True)
    assert again == first
    rows = AdviseConfig(run_dir=tmp_path / "b", comparisons=tmp_path / "advice" / ROWS)
    assert advise(rows).chosen_share == first.chosen_share
    with pytest.raises(RequestError, match="offline"):
        advice_on(
            tmp_path,
            plain_pairs(tmp_path),
            prefers("good"),
            Replying([]),
            offline=True,
            controls=3,
            rubric=write_rubric(tmp_path),
        )


def test_only_so_many_pairs_and_controls_are_asked_about(tmp_path):
    judge = prefers("good")
    found = advice_on(
        tmp_path, plain_pairs(tmp_path), judge, varied("a bad one"), max_pairs=5, controls=2
    )
    assert (found.chosen_share.n, found.controls.n) == (5, 2)
    assert len(judge.requests) == 5 * 4 + 2 * 2
    assert sum(CONTROL in request.messages[-1].content for request in judge.requests) == 4


def test_the_rubric_is_shown_to_the_judge_and_beta_decides_the_saturation(tmp_path):
    judge, rubric = prefers("good"), write_rubric(tmp_path)
    found = advice_on(
        tmp_path,
        plain_pairs(tmp_path),
        judge,
        varied("x"),
        rubric=rubric,
        beta=0.02,
    )
    assert all("Short is better." in request.messages[-1].content for request in judge.requests)
    assert found.saturation.half_at_nats == pytest.approx(1.7627 / 0.02, rel=1e-3)
    assert json.loads((tmp_path / "advice" / FILE).read_text())["saturation"]["beta"] == 0.02
