"""Scores of answers and of both sides of pairs: by a reward model, a judge with a scale, checks."""

import json

import pytest
from pydantic import ValidationError

from clair_apo.clair import GenerateConfig, generate
from clair_apo.errors import DataError
from clair_apo.llm import Answer, ChatRequest, Completion, FunctionChat, Sampling
from clair_apo.llm.judge import read_score
from clair_apo.records import Message
from clair_apo.run_folder import RunFolder
from tests.helpers.clair_runs import Replying, edit_reply, make_config, rows_of, write_rows
from tests.helpers.scripted_roles import config_for, models, server_model
from tests.helpers.tiny_chat import save_tiny_chat
from tests.helpers.tiny_reward import save_tiny_reward

REWARD = {"reward": {"model": "rm", "base_url": "http://127.0.0.1:9/v1"}}


def by_length(request: ChatRequest) -> str:
    return str(float(len(request.messages[-1].content)))


class Counting(FunctionChat):
    def __init__(self, function):
        self.asked = []
        super().__init__(lambda request: self.asked.append(request) or function(request))


def scores_of(folder):
    rows = [row["provenance"] for row in rows_of(folder, "pairs.jsonl")]
    return [(row["chosen"]["score"], row["rejected"]["score"]) for row in rows]


def texts_of(folder):
    return [
        (row["chosen"][0]["content"], row["rejected"][0]["content"])
        for row in rows_of(folder, "pairs.jsonl")
    ]


def test_both_sides_of_a_clair_pair_bear_their_scores(tmp_path):
    config = config_for(tmp_path, "clair", judge=None, scorer=REWARD)
    done = generate(config, **models(), scorer_model=(scorer := Counting(by_length)))
    assert done.pairs == 6
    for scores, texts in zip(scores_of(tmp_path), texts_of(tmp_path), strict=True):
        assert scores == tuple(float(len(text)) for text in texts)
    provenance = rows_of(tmp_path, "pairs.jsonl")[0]["provenance"]
    assert provenance["scored_by"] == "rm/score"
    assert provenance["score_keys"] == [r.key for r in scorer.asked[:2]]
    assert list(RunFolder(tmp_path / "run").manifest()["stages"])[-2:] == ["pair", "score"]


def test_a_reward_model_chooses_and_the_pair_s_scores_are_not_asked_again(tmp_path):
    config = config_for(tmp_path, "on_policy_judge", judge=None, scorer=REWARD)
    done = generate(config, **models(), scorer_model=(scorer := Counting(by_length)))
    assert done.pairs == 6
    assert len(scorer.asked) == 18  # three answers of each prompt, and no side once more
    for chosen, rejected in texts_of(tmp_path):
        assert len(chosen) > len(rejected)
    assert all(chosen > rejected for chosen, rejected in scores_of(tmp_path))
    judged = rows_of(tmp_path, "judgements.jsonl")[0]
    assert [one["sample"] for one in judged["scores"]] == [0, 1, 2]
    assert (judged["model"], judged["votes"]) == ("rm/score", [])


def test_a_gap_takes_the_answer_whose_score_is_nearest_to_so_much_below_the_best(tmp_path):
    scorer = REWARD | {"gap": 12.0}  # " Really so." has 11 characters
    config = config_for(tmp_path, "on_policy_judge", judge=None, scorer=scorer)
    generate(config, **models(), scorer_model=Counting(by_length))
    assert {chosen - rejected for chosen, rejected in scores_of(tmp_path)} == {11.0}
    (tmp_path / "b").mkdir()
    whole = config_for(tmp_path / "b", "on_policy_judge", judge=None, scorer=REWARD)
    generate(whole, **models(), scorer_model=Counting(by_length))
    assert {chosen - rejected for chosen, rejected in scores_of(tmp_path / "b")} == {22.0}


def test_judge_then_revise_scores_the_revision_too(tmp_path):
    config = config_for(tmp_path, "judge_then_revise", judge=None, scorer=REWARD)
    generate(config, **models(), scorer_model=(scorer := Counting(by_length)))
    assert len(scorer.asked) == 6 * 4
    for scores, texts in zip(scores_of(tmp_path), texts_of(tmp_path), strict=True):
        assert scores == tuple(float(len(text)) for text in texts)


def test_a_judge_with_a_scale_is_asked_with_the_rubric_and_read_strictly(tmp_path):
    rubric = tmp_path / "rubric.md"
    rubric.write_text("Answers are long.")
    judge = server_model("grader")
    revision = {"format": "full", "rubric": rubric}
    config = config_for(
        tmp_path,
        "on_policy_judge",
        judge=None,
        scorer={"judge": judge, "scale": (0, 100)},
        revision=revision,
    )

    def grade(request):
        answer = request.messages[-1].content.partition("<answer>\n")[2]
        return f"Long enough. <score>{len(answer.partition(chr(10))[0])}</score>"

    generate(config, **models(), scorer_model=(scorer := Counting(grade)))
    asked = scorer.asked[0].messages[0].content
    assert "Answers are long." in asked
    assert "from 0 (worst) to 100 (best)" in asked
    assert {chosen - rejected for chosen, rejected in scores_of(tmp_path)} == {22.0}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Good. <score>7</score>", 7),
        ("<think><score>1</score></think>Good. <score> 7/10 </score>", 7),
        ("<score>7.5</score>", 7.5),
        ("<score>7/100</score>", None),
        ("<score>7/10</score> <score>7</score>", 7),
        ("<score>7</score> or <score>8</score>", None),
        ("<score>11</score>", None),
        ("<score>-1</score>", None),
        ("<score>high</score>", None),
        ("seven", None),
    ],
)
def test_a_number_counts_only_where_it_is_one_and_on_the_scale(text, score):
    asked = ChatRequest(
        model="m",
        messages=(Message(role="user", content="?"),),
        sampling=Sampling(max_tokens=9, temperature=0, top_p=1),
    )
    done = Completion(text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1)
    assert read_score(Answer(asked, done), (1, 10)) == score


def test_answers_without_a_score_are_left_out_and_one_alone_drops_the_prompt(tmp_path):
    def grade(request):
        text = request.messages[-1].content
        good = "Really so. Really so." in text or "number 1" in text
        return "<score>9</score>" if good else "I cannot say."

    config = config_for(
        tmp_path, "on_policy_judge", judge=None, scorer={"judge": server_model("grader")}
    )
    with pytest.raises(DataError, match="not_scored 5"):
        generate(config, **models(), scorer_model=Counting(grade))
    dropped = rows_of(tmp_path, "dropped.jsonl")
    detail = next(row["detail"] for row in dropped if row["reason"] == "not_scored")
    assert detail == ("1 of 3 answers have a score (the reply holds no number from 1 to 10)")


def test_a_side_without_a_score_drops_the_pair_with_the_reason_of_the_scorer(tmp_path):
    data = write_rows(tmp_path / "d.jsonl", [{"prompt": "One?"}, {"prompt": "Two?"}])
    config = make_config(tmp_path, data, scorer=REWARD)
    target = Replying([("One?", "The first is old."), ("Two?", "The second is old.")])
    reviser = Replying([("is old", edit_reply(("is old", "is new")))])
    scorer = Replying([("second is new", None), ("", "1.5")])
    done = generate(config, target_model=target, reviser_model=reviser, scorer_model=scorer)
    assert (done.paired, done.dropped) == (1, {"not_scored": 1})
    (dropped,) = rows_of(tmp_path, "dropped.jsonl")
    assert dropped["detail"] == "the chosen answer has no score: the server rejects it"
    assert dropped["stage"] == "score"


@pytest.mark.parametrize("text", ["nan", "-inf", "about two"])
def test_a_function_that_gives_no_finite_number_gives_no_score(tmp_path, text):
    def score(request):
        return text if "number 1?" in request.messages[0].content else by_length(request)

    config = config_for(tmp_path, "on_policy_judge", judge=None, scorer=REWARD)
    done = generate(config, **models(), scorer_model=FunctionChat(score))
    assert (done.pairs, done.dropped) == (5, {"not_scored": 1})
    (dropped,) = rows_of(tmp_path, "dropped.jsonl")
    assert dropped["detail"] == "0 of 3 answers have a score (rm/score gives no finite number)"


def test_checks_score_the_sides_of_every_recipe_and_ask_nobody(tmp_path):
    checks = tmp_path / "checks.yaml"
    checks.write_text("checks:\n- {name: why, contains_any: [why]}\n- {name: any, max_words: 99}\n")
    config = config_for(tmp_path, "clair", judge=None, scorer={"checks": checks})
    done = generate(config, **models())
    assert done.asked == 12
    assert set(scores_of(tmp_path)) == {(1.0, 0.5)}


def test_scored_pairs_are_verified_after_and_their_whole_cost_is_theirs(tmp_path):
    price = {"price": {"input": 100.0, "output": 0.0}}
    priced = {role: server_model(role, **price) for role in ("target", "reviser", "judge")}
    reward = {"reward": REWARD["reward"] | price}
    config = config_for(tmp_path, "clair", verify=True, scorer=reward, **priced)
    two = Completion(text="2", finish_reason="stop", prompt_tokens=50, completion_tokens=0)
    done = generate(config, **models(), scorer_model=Replying([("", two)]))
    rows = [row["provenance"] for row in rows_of(tmp_path, "pairs.jsonl")]
    assert {row["score_cost"] for row in rows} == {0.01}
    assert sum(row["cost"] for row in rows) == pytest.approx(done.cost)
    assert (tmp_path / "run" / "scored.jsonl").exists()


def test_another_scorer_rebuilds_scores_and_asks_only_for_them(tmp_path, capsys):
    config = config_for(tmp_path, "clair", judge=None, scorer=REWARD)
    generate(config, **models(), scorer_model=Counting(by_length))
    other = {"reward": REWARD["reward"] | {"model": "rm2"}}
    changed = config_for(tmp_path, "clair", judge=None, scorer=other)
    done = generate(changed, **models(), scorer_model=Counting(by_length))
    assert done.asked == 12
    assert "scorer changed: rebuilding scores" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("scorer", "words"),
    [
        ({}, "there is none"),
        (REWARD | {"checks": "c.yaml"}, "there is reward and checks"),
        (REWARD | {"scale": (5, 5)}, "expected the worst number"),
        (REWARD | {"gap": 1.0}, "take gap out"),
    ],
)
def test_a_scorer_that_cannot_be_is_refused(tmp_path, scorer, words):
    with pytest.raises(ValidationError, match=words):
        config_for(tmp_path, "clair", judge=None, scorer=scorer)


def test_a_run_with_a_reward_model_in_this_process_asks_nothing_the_second_time(tmp_path):
    model = save_tiny_chat(tmp_path / "chat")
    reward = save_tiny_reward(tmp_path / "reward")
    data = write_rows(tmp_path / "d.jsonl", [{"prompt": f"w{n} w2"} for n in range(3, 7)])
    config = GenerateConfig(
        run_dir=tmp_path / "run",
        recipe="on_policy_judge",
        samples=3,
        prompts={"path": str(data)},
        target={"model": str(model), "max_tokens": 30, "temperature": 1.0},
        scorer={"reward": {"model": str(reward)}},
        output={"test_size": 0},
    )
    done = generate(config)
    assert done.pairs
    assert all(chosen > rejected for chosen, rejected in scores_of(tmp_path))
    again = generate(config)
    assert (again.asked, again.pairs) == (0, done.pairs)
    written = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert written["settings"]["scorer"]["model"].endswith("/fp32/score")
