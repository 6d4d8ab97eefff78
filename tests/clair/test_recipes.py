"""The recipes: which text is chosen and which rejected, and that a judge's word decides."""

import json
import re

import pytest

from clair_apo.clair import RECIPES, GenerateConfig
from clair_apo.clair.stages.context import ControlsConfig
from clair_apo.errors import ConfigError
from clair_apo.llm import ChatModel, Completion, ModelReply, ModelSpec
from tests.helpers.clair_runs import (
    REVISER,
    TARGET,
    Replying,
    edit_reply,
    make_config,
    rows_of,
    run,
    write_rows,
)

JUDGE = ModelSpec(model="judge", max_tokens=50)
PROMPTS = [{"prompt": f"Question {name}?"} for name in ("one", "two")]


def answers(prefix=""):
    """A target whose answers name the question and the sample."""
    return Sampled(lambda question, sample: f"{prefix}{question} answer {sample}, old")


class Sampled(ChatModel):
    """Answers by question and sample number."""

    def __init__(self, say):
        self.say, self.requests = say, []

    def answer(self, requests):
        self.requests += requests
        yield [
            ModelReply(r, _said(self.say(_name(r), r.sample)).to_response(r.model))
            for r in requests
        ]


def _name(request):
    return re.search(r"Question (\w+)", request.messages[-1].content)[1]


def _said(text):
    return Completion(text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1)


class Judging(ChatModel):
    """A judge with a rule: `prefers(first, second)` is 1, 2 or "tie"; for claims, yes or no."""

    def __init__(self, prefers, confirms=lambda better, worse: "yes"):
        self.prefers, self.confirms, self.requests = prefers, confirms, []

    def answer(self, requests):
        for request in requests:
            self.requests.append(request)
            text = request.messages[0].content
            first, second = re.findall(r"(?s)<answer_\d>\n(.*?)\n</answer_\d>", text)
            rule = self.confirms if "Somebody claims" in text else self.prefers
            verdict = f"So be it. <verdict>{rule(first, second)}</verdict>"
            yield [ModelReply(request, _said(verdict).to_response("judge"))]


def higher_sample(first, second):
    return 1 if _sample(first) > _sample(second) else 2


def lower_sample(first, second):
    return 3 - higher_sample(first, second)


def _sample(text):
    return int(re.search(r"answer (\d)", text)[1])


@pytest.fixture
def two(tmp_path):
    return write_rows(tmp_path / "prompts.jsonl", PROMPTS)


def _sides(tmp_path):
    return [
        (row["chosen"][0]["content"], row["rejected"][0]["content"])
        for row in rows_of(tmp_path, "pairs.jsonl")
    ]


def test_the_stronger_models_own_answer_is_chosen(tmp_path, two):
    config = make_config(tmp_path, two, recipe="stronger_preferred")
    assert run(config, answers(), answers("a strong ")).pairs == 2
    assert _sides(tmp_path) == [
        ("a strong one answer 0, old", "one answer 0, old"),
        ("a strong two answer 0, old", "two answer 0, old"),
    ]
    provenance = rows_of(tmp_path, "pairs.jsonl")[0]["provenance"]
    assert (provenance["chosen"]["model"], provenance["rejected"]["model"]) == (
        "reviser",
        "target",
    )
    assert provenance["format"] is None


def test_an_unusable_answer_of_the_stronger_model_is_dropped_at_its_own_stage(tmp_path, two):
    config = make_config(tmp_path, two, recipe="stronger_preferred")
    strong = Sampled(lambda question, sample: "" if question == "one" else "a strong answer")
    assert run(config, answers(), strong).dropped == {"empty": 1}
    (dropped,) = rows_of(tmp_path, "dropped.jsonl")
    assert (dropped["stage"], dropped["reason"]) == ("strengthen", "empty")


@pytest.mark.parametrize(("prefers", "preferred"), [(higher_sample, 1), (lower_sample, 0)])
def test_the_judges_word_and_nothing_else_decides(tmp_path, two, prefers, preferred):
    config = make_config(tmp_path, two, recipe="on_policy_judge", judge=JUDGE, reviser=None)
    done = run(config, answers(), None, Judging(prefers))
    assert done.pairs == 2
    other = 1 - preferred
    assert _sides(tmp_path) == [
        (f"{name} answer {preferred}, old", f"{name} answer {other}, old")
        for name in ("one", "two")
    ]
    provenance = rows_of(tmp_path, "pairs.jsonl")[0]["provenance"]
    assert provenance["judged_by"] == "judge"
    assert len(provenance["judge_keys"]) == 2, "both orders"


@pytest.mark.parametrize(
    ("prefers", "number"),
    [
        (lambda first, second: 1, "inconsistent"),
        (lambda first, second: "tie", "ties"),
        (lambda first, second: "neither", "unreadable"),
    ],
)
def test_a_judge_that_does_not_decide_drops_the_row_and_is_counted(tmp_path, two, prefers, number):
    def mostly(first, second):
        return higher_sample(first, second) if "two" in first else prefers(first, second)

    config = make_config(tmp_path, two, recipe="on_policy_judge", judge=JUDGE, reviser=None)
    done = run(config, answers(), None, Judging(mostly))
    assert (done.pairs, done.dropped) == (1, {"judge_rejected": 1})
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    numbers = manifest["stages"]["judge"]["comparisons"]
    assert numbers["comparisons"] == 2
    assert numbers["consistent"] == 1
    assert numbers[number] == 1
    undecided, decided = rows_of(tmp_path, "judgements.jsonl")
    assert (undecided["better"], decided["better"]) == (None, 1)
    assert len(undecided["votes"]) == 2


def test_equal_answers_are_no_pair_and_no_judge_is_paid_to_say_so(tmp_path, two):
    config = make_config(tmp_path, two, recipe="on_policy_judge", judge=JUDGE, reviser=None)
    judge = Judging(higher_sample)
    target = Sampled(lambda question, sample: f"answer {sample if question == 'one' else 0}")
    done = run(config, target, None, judge)
    assert (done.pairs, done.dropped) == (1, {"no_op": 1})
    assert len(judge.requests) == 2, "the differing answers in both orders"


def test_two_equal_answers_of_three_are_a_tie_that_no_judge_is_asked_about(tmp_path, two):
    config = make_config(
        tmp_path, two, recipe="on_policy_judge", judge=JUDGE, reviser=None, samples=3
    )
    judge = Judging(higher_sample)
    target = Sampled(lambda question, sample: f"{question} answer {min(sample, 1)}")
    done = run(config, target, None, judge)
    # of samples 0, 1, 2 the last two are equal: 0 beside them is one question, in both orders
    assert (done.pairs, len(judge.requests)) == (2, 2 * 2)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    numbers = manifest["stages"]["judge"]["comparisons"]
    counted = [numbers[name] for name in ("comparisons", "consistent", "ties", "inconsistent")]
    assert counted == [2 * 3, 2 * 2, 2 * 1, 0]
    for row in rows_of(tmp_path, "judgements.jsonl"):
        verdicts = {(vote["first"], vote["second"]): vote["verdict"] for vote in row["votes"]}
        assert verdicts[1, 2] == verdicts[2, 1] == "tie"
        assert verdicts[0, 2] == "second" and verdicts[2, 0] == "first"
        assert len(row["request_keys"]) == 2
        assert row["completion_tokens"] == 2, "each answer has one token, and is paid for once"
    assert _sides(tmp_path)[0] == ("one answer 1", "one answer 0")


def test_scores_of_the_data_decide_and_ties_are_dropped_without_asking_anybody(tmp_path):
    rows = [
        {
            "prompt": "Q1?",
            "completions": [
                {"response": "middling", "overall_score": 5.0, "model": "m1"},
                {"response": "worst", "overall_score": "1.5", "model": "m2"},
                {"response": "best", "overall_score": 9, "model": "m3"},
            ],
        },
        {"prompt": "Q2?", "chosen": "a", "rejected": "b", "score_chosen": 3, "score_rejected": 3},
        {
            "prompt": "Q3?",
            "chosen": "good",
            "rejected": "bad",
            "score_chosen": 4,
            "score_rejected": 3,
        },
        {"prompt": "Q4?", "completions": ["a", "b"]},
    ]
    prompts = write_rows(tmp_path / "prompts.jsonl", rows)
    config = make_config(tmp_path, prompts, recipe="off_policy_judge", reviser=None)
    done = run(config, Replying([]), None)
    assert (done.prompts, done.asked, done.dropped) == (4, 0, {"judge_rejected": 2})
    assert _sides(tmp_path) == [("best", "worst"), ("good", "bad")]
    pair = rows_of(tmp_path, "pairs.jsonl")[0]
    assert pair["provenance"]["judged_by"] == "scores"
    assert pair["provenance"]["chosen"]["model"] == "m3"
    details = {row["id"]: row["detail"] for row in rows_of(tmp_path, "dropped.jsonl")}
    assert sorted(details.values()) == [
        "0 of 2 answers have a score; name a judge",
        "all answers have the score 3",
    ]


def test_given_answers_are_judged_where_a_judge_is_named_whatever_their_scores(tmp_path):
    rows = [{"prompt": "Q?", "chosen": "answer 0", "rejected": "answer 1", "score_chosen": 9}]
    prompts = write_rows(tmp_path / "prompts.jsonl", rows)
    config = make_config(tmp_path, prompts, recipe="off_policy_judge", judge=JUDGE, reviser=None)
    run(config, Replying([]), None, Judging(higher_sample))
    assert _sides(tmp_path) == [("answer 1", "answer 0")]


def test_a_prompt_without_two_given_answers_is_dropped_off_policy(tmp_path):
    rows = [{"prompt": "Q1?", "response": "only one"}, {"prompt": "Q2?"}, {"prompt": "Q3?"}]
    rows[2] |= {"chosen": "answer 0", "rejected": "answer 1"}
    prompts = write_rows(tmp_path / "prompts.jsonl", rows)
    config = make_config(tmp_path, prompts, recipe="off_policy_judge", judge=JUDGE, reviser=None)
    done = run(config, Replying([]), None, Judging(higher_sample))
    assert (done.pairs, done.dropped) == (1, {"empty": 2})
    details = [row["detail"] for row in rows_of(tmp_path, "dropped.jsonl")]
    assert details == [f"the data brings {n} answers, the recipe needs 2" for n in (1, 0)]


def test_the_best_answer_is_revised_and_the_worst_one_rejected(tmp_path, two):
    config = make_config(tmp_path, two, recipe="judge_then_revise", judge=JUDGE, samples=3)
    judge = Judging(higher_sample)
    reviser = Replying([("answer 2, old", edit_reply(("old", "new")))])
    done = run(config, answers(), reviser, judge)
    assert done.pairs == 2
    assert len(judge.requests) == 2 * 3 * 2, "every two of three answers, in both orders"
    assert _sides(tmp_path) == [
        (f"{name} answer 2, new", f"{name} answer 0, old") for name in ("one", "two")
    ]


def test_a_worsened_answer_is_rejected_in_favour_of_the_answer_itself(tmp_path, two):
    config = make_config(tmp_path, two, recipe="worsen")
    reviser = Replying([("", edit_reply(("old", "older")))])
    assert run(config, answers(), reviser).pairs == 2
    assert _sides(tmp_path)[0] == ("one answer 0, old", "one answer 0, older")
    assert "Make the answer worse" in reviser.requests[0].messages[0].content
    assert rows_of(tmp_path, "pairs.jsonl")[0]["provenance"]["direction"] == "worsen"


def test_a_rubric_reaches_the_reviser_and_the_judge(tmp_path, two):
    rubric = tmp_path / "rubric.md"
    rubric.write_text("Never apologise.")
    config = make_config(
        tmp_path,
        two,
        recipe="judge_then_revise",
        judge=JUDGE,
        revision={"rubric": rubric, "keep_length": True},
    )
    judge, reviser = Judging(higher_sample), Replying([("", edit_reply(("old", "new")))])
    run(config, answers(), reviser, judge)
    for request in (judge.requests[0], reviser.requests[0]):
        assert "<rubric>\nNever apologise.\n</rubric>" in request.messages[0].content
    assert "about as long as it is" in reviser.requests[0].messages[0].content


def test_recipes_over_the_same_prompts_have_rows_with_the_same_ids(tmp_path, two):
    ids = []
    for recipe in ("clair", "worsen", "on_policy_judge"):
        config = make_config(
            tmp_path, two, recipe=recipe, judge=JUDGE, run_dir=tmp_path / recipe / "run"
        )
        reviser = Replying([("", edit_reply(("old", "new")))])
        run(config, answers(), reviser, Judging(higher_sample))
        ids.append([row["id"] for row in rows_of(tmp_path / recipe, "pairs.jsonl")])
    assert ids[0] == ids[1] == ids[2]


MISSING = {
    "clair": ({"reviser": None}, "needs a reviser: set reviser.model"),
    "stronger_preferred": ({"reviser": None}, "needs a reviser"),
    "on_policy_judge": ({}, "needs a judge: set judge.model"),
    "judge_then_revise": ({}, "needs a judge"),
}


@pytest.mark.parametrize("recipe", MISSING)
def test_a_recipe_without_its_model_is_refused_by_the_key_to_set(recipe):
    changes, message = MISSING[recipe]
    values = {"run_dir": "r", "prompts": {"path": "p"}, "target": TARGET, "reviser": REVISER}
    with pytest.raises(ValueError, match=message):
        GenerateConfig(**(values | {"recipe": recipe} | changes))


def test_on_the_command_line_the_missing_model_is_named_too(tmp_path):
    args = ["--run_dir", "r", "--prompts.path", "p", "--target.model", "t"]
    with pytest.raises(ConfigError, match=r"recipe 'clair' needs a reviser: set reviser\.model"):
        GenerateConfig.from_command_line(args)
    given = GenerateConfig.from_command_line([*args, "--reviser.model", "r"])
    assert given.reviser.model == "r"


def test_the_help_of_generate_names_every_recipe(capsys):
    with pytest.raises(SystemExit):
        GenerateConfig.from_command_line(["--help"])
    text = capsys.readouterr().out
    assert [name for name in RECIPES if f"`{name}`" not in text] == []


@pytest.mark.parametrize(("recipe", "direction"), [("clair", "worsen"), ("worsen", "improve")])
def test_a_direction_against_the_recipe_is_refused_by_the_right_recipe(recipe, direction):
    other = {"clair": "worsen", "worsen": "clair"}[recipe]
    with pytest.raises(ValueError, match=f"is the recipe '{other}'"):
        GenerateConfig(
            run_dir="r",
            recipe=recipe,
            prompts={"path": "p"},
            target=TARGET,
            reviser=REVISER,
            revision={"direction": direction},
        )


class TestVerification:
    """A judge that confirms, and controls that it must reject."""

    def config(self, tmp_path, prompts, **verify):
        return make_config(
            tmp_path, prompts, judge=JUDGE, verify=True, controls={"share": 1.0} | verify
        )

    def run(self, tmp_path, prompts, confirms, **verify):
        judge = Judging(None, confirms)
        reviser = Replying([("", edit_reply(("old", "new")))])
        done = run(self.config(tmp_path, prompts, **verify), answers(), reviser, judge)
        return done, judge

    def numbers(self, tmp_path):
        manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
        return manifest["stages"]["verify"]["verification"]

    def test_confirmed_pairs_stay_and_swapped_claims_are_rejected(self, tmp_path, two):
        done, judge = self.run(tmp_path, two, lambda better, _: "yes" if "new" in better else "no")
        assert done.pairs == 2
        assert len(judge.requests) == 4
        assert self.numbers(tmp_path) == {
            "claims": 2,
            "confirmed": 2,
            "controls": 2,
            "controls_rejected": 2,
        }

    def test_a_pair_that_is_not_confirmed_is_dropped(self, tmp_path, two):
        done, _ = self.run(
            tmp_path, two, lambda better, _: "yes" if "one answer 0, new" in better else "no"
        )
        assert (done.pairs, done.dropped) == (1, {"judge_rejected": 1})
        (dropped,) = rows_of(tmp_path, "dropped.jsonl")
        assert dropped["stage"] == "verify"
        assert len(rows_of(tmp_path, "candidates.jsonl")) == 2

    def test_a_judge_that_says_yes_to_everything_is_found_out_by_the_controls(self, tmp_path, two):
        with pytest.raises(ValueError, match="not one of 2 prompts became a pair"):
            self.run(tmp_path, two, lambda *_: "yes")
        assert self.numbers(tmp_path)["controls_rejected"] == 0
        assert self.numbers(tmp_path)["confirmed"] == 2

    def test_without_controls_nobody_is_asked_the_swapped_claim(self, tmp_path, two):
        done, judge = self.run(tmp_path, two, lambda *_: "yes", share=0.0)
        assert (done.pairs, len(judge.requests)) == (2, 2)

    def test_the_seed_draws_about_the_asked_share_of_controls(self):
        ids = [f"{n:016x}" for n in range(2000)]
        draws = [ControlsConfig(share=0.1, seed=seed) for seed in (0, 1)]
        drawn = [{i for i in ids if controls.holds(i)} for controls in draws]
        # 200 expected, standard deviation 13.4
        assert all(150 < len(d) < 250 for d in drawn)
        assert drawn[0] != drawn[1]

    def test_verification_without_a_judge_is_refused(self):
        with pytest.raises(ValueError, match="verify needs a judge"):
            GenerateConfig(
                run_dir="r",
                prompts={"path": "p"},
                target=TARGET,
                reviser=REVISER,
                verify=True,
            )
