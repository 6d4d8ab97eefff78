"""Whose answers a judge prefers, in both orders, and when its word is no figure."""

import pytest

from clair_apo.evaluation import estimate as estimating
from clair_apo.evaluation import evaluate
from clair_apo.evaluation.suites.win_rate import WinRateSuite
from clair_apo.llm import ModelSpec
from clair_apo.records import Prompt, prompt_id
from tests.helpers.clair_runs import user
from tests.helpers.evaluation import FakeContext, Says, asked, write_rows
from tests.helpers.evaluations import Ruled, evaluation_config, results_of
from tests.helpers.judging import RuleJudge, always, longest, prefers
from tests.helpers.scripted_roles import SERVER, WordCounter

PROMPTS = 24


def good_below(limit):
    """Good answers to the prompts below a number, bad ones to the others; all differ."""

    def answer(question):
        number = int(question.split()[1].rstrip("?"))
        return f"a {'good' if number < limit else 'bad'} answer {number} of {limit}"

    return Says(answer)


def context_of(judge, **models):
    context = FakeContext([asked(name) for name in models], {**models, "judge": judge})
    context.prompts = tuple(
        Prompt(id=prompt_id(user(text)), messages=user(text), source="here")
        for text in (f"Question {n}?" for n in range(PROMPTS))
    )
    return context


def measured(judge, suite=None, **models):
    with context_of(judge, **models) as context:
        return WinRateSuite(judge=ModelSpec(model="judge"), **(suite or {})).run(context)


def test_each_side_has_what_it_wins_and_their_difference_is_paired():
    found = measured(prefers("good"), trained=good_below(18), base=good_below(6))
    trained, base = (found.figures[name]["win_rate"] for name in ("trained", "base"))
    # 12 prompts are won, the other 12 are ties
    assert trained.interval().mean == pytest.approx(0.75)
    assert base.interval().mean == pytest.approx(0.25)
    assert trained.minus(base).mean == pytest.approx(0.5)
    assert trained.interval().n == PROMPTS
    own = found.figures["trained"]
    assert own["ties"].interval().mean == pytest.approx(0.5)
    assert own["consistent"].interval().mean == 1.0
    assert own["kappa"].interval().mean == 1.0
    assert any(line.startswith("trained wins 75.0 % [") for line in found.remarks)
    assert len(found.rows["trained"]) == PROMPTS
    assert found.counts["base"] == {"comparisons": PROMPTS, "unreadable": 0, "equal_answers": 0}


def test_the_first_model_has_the_mean_over_several_others():
    models = {"trained": good_below(24), "base": good_below(0), "rival": good_below(24)}
    found = measured(prefers("good"), **models)
    rates = {name: own["win_rate"].interval().mean for name, own in found.figures.items()}
    # the rival says what the first model says
    assert rates == {"trained": pytest.approx(0.75), "base": 0.0, "rival": 0.5}
    assert found.figures["trained"]["win_rate"].minus(
        found.figures["base"]["win_rate"]
    ).mean == pytest.approx(0.75)


def test_equal_answers_are_ties_about_which_nobody_is_asked():
    judge = prefers("good")
    found = measured(judge, {"controls": 0}, trained=good_below(9), base=good_below(9))
    assert found.figures["trained"]["win_rate"].interval().mean == 0.5
    assert found.counts["trained"]["equal_answers"] == PROMPTS
    assert judge.requests == []


def test_given_answers_are_what_every_model_is_compared_with(tmp_path):
    rows = [{"prompt": f"Question {n}?", "answer": f"a good one {n}"} for n in range(PROMPTS)]
    suite = {"against": write_rows(tmp_path / "given.jsonl", rows)}
    found = measured(prefers("good"), suite, trained=good_below(24), base=good_below(6))
    assert "never decides" in found.figures["trained"]["win_rate"].reason
    assert found.figures["base"]["win_rate"].interval().mean == pytest.approx(0.125)
    assert {row["opponent"] for row in found.rows["base"]} == {"given answers"}


@pytest.mark.parametrize(
    ("judge", "why"),
    [
        (always("1"), "both orders"),
        (always("tie"), "never decides"),
        (always("I like both"), "no verdict in any of 24"),
        (longest(), "fooled: it prefers a real answer"),
    ],
)
def test_a_judge_whose_word_is_no_evidence_says_so_in_place_of_a_figure(judge, why):
    long = Says(lambda question: f"{question} and quite a bit more of it")
    found = measured(judge, trained=long, base=Says(lambda question: question))
    for name in ("trained", "base"):
        for figure in ("win_rate", "length_controlled_win_rate"):
            assert why in found.figures[name][figure].reason
    assert any("trained has no win rate" in line for line in found.remarks)


def test_a_judge_that_prefers_a_constant_text_is_fooled():
    found = measured(
        prefers("trick"), {"controls": 0}, trained=Says(lambda _: "the trick"), base=good_below(9)
    )
    assert "the same text to 24 of 24 prompts" in found.figures["trained"]["win_rate"].reason


def test_the_length_controlled_rate_takes_from_a_judge_what_it_gives_for_length():
    def rule(first, second):
        if "praises" in first + second or "best possible" in first + second:
            return "1" if "best possible" in second else "2"
        return "1" if len(first) > len(second) else "2"

    def sized(seed):
        def answer(question):
            number = int(question.split()[1].rstrip("?"))
            return "x" * (40 + (number * seed) % 23 + (20 if seed == 5 and number % 3 else 0))

        return Says(answer)

    found = measured(RuleJudge(rule), trained=sized(5), base=sized(7))
    own = found.figures["trained"]
    raw, controlled = own["win_rate"].interval(), own["length_controlled_win_rate"].interval()
    assert raw.mean > 0.6
    assert abs(controlled.mean - 0.5) < raw.mean - 0.5
    assert controlled.low <= controlled.mean <= controlled.high
    assert any("two effects, length and model" in line for line in found.remarks)


def test_first_place_is_told_where_a_judge_favours_it():
    # says "1" unless the second answer is good and the first is not
    judge = RuleJudge(lambda one, other: "2" if "good" in other and "good" not in one else "1")
    found = measured(judge, {"controls": 0}, trained=good_below(20), base=good_below(2))
    own = found.figures["trained"]
    # 18 prompts are decided; the other 6 go to the first place in both orders
    assert own["first_place"].interval().mean == pytest.approx((18 * 0.5 + 6) / 24)
    assert own["ties"].interval().mean == 0, "two orders that disagree are no tie"
    assert own["consistent"].interval().mean == pytest.approx(18 / 24)
    assert own["win_rate"].interval().mean == pytest.approx((18 + 3) / 24)
    assert own["kappa"].interval().mean < 1


@pytest.fixture
def config(tmp_path):
    suite = {"suite": "win_rate", "controls": 2}
    judge = {"model": "judge", "base_url": SERVER, "max_tokens": 5}
    return evaluation_config(tmp_path, suites=[suite | {"judge": judge}])


def test_an_evaluation_writes_win_rates_and_their_paired_difference(tmp_path, config):
    chats = {
        "trained": Ruled([f"a good answer {n}" for n in range(6)]),
        "base": Ruled([f"a {'good' if n < 2 else 'bad'} one {n}" for n in range(6)]),
        "judge": prefers("good"),
    }
    evaluate(config, chats=chats)
    found = results_of(tmp_path)["suites"]["win_rate"]
    assert found["trained"]["win_rate"]["mean"] == pytest.approx(5 / 6)
    assert found["differences"]["trained - base"]["win_rate"]["mean"] == pytest.approx(4 / 6)


def test_an_estimate_counts_both_orders_of_every_comparison_and_the_controls(config, monkeypatch):
    monkeypatch.setattr(estimating, "TokenCounter", WordCounter)
    rows = {row.model: row.requests for row in estimating.estimate(config, "words").rows}
    assert rows["judge"] == 2 * 6 + 2 * 2
