"""What a run is estimated to ask: its real requests, counted before any is sent."""

import pytest

from clair_apo.clair import generate
from clair_apo.clair.planning import estimate as estimating
from clair_apo.clair.planning.estimate import (
    ANSWER,
    NUMBERED,
    REPLY,
    TOKENIZER,
    VERDICT,
    CostRange,
    estimate,
)
from clair_apo.clair.recipes import RECIPES
from clair_apo.clair.setup import offline_context, stage_context
from clair_apo.llm import ModelSpec, RequestStore
from clair_apo.llm.spec import Price
from clair_apo.llm.token_count import AROUND_MESSAGE
from tests.helpers.scripted_roles import WordCounter, asked_of, config_for, models, server_model


@pytest.fixture(autouse=True)
def words(monkeypatch):
    monkeypatch.setattr(estimating, "TokenCounter", WordCounter)


def requests_of(found):
    return {model.role: model.requests for model in found.models if model.requests}


def stored_of(found):
    return {model.role: model.stored for model in found.models if model.stored}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_asks_what_was_estimated_and_nothing_the_second_time(tmp_path, recipe):
    config = config_for(tmp_path, recipe, verify=True, controls={"share": 0.5})
    before = estimate(config)
    assert stored_of(before) == {}
    generate(config, **(roles := models()))
    assert requests_of(before) == asked_of(roles)
    after = estimate(config)
    assert (requests_of(after), stored_of(after)) == ({}, asked_of(roles))


def test_what_a_smaller_run_has_stored_is_taken_off(tmp_path):
    config = config_for(tmp_path, "judge_then_revise", prompts=6)
    some = {"prompts": config.prompts.model_copy(update={"limit": 2})}
    generate(config.model_copy(update=some | {"run_dir": tmp_path / "some"}), **(roles := models()))
    found = estimate(config)
    assert stored_of(found) == asked_of(roles)
    assert requests_of(found) == {role: 2 * count for role, count in asked_of(roles).items()}


def test_an_estimate_asks_nothing_and_leaves_nothing(tmp_path):
    estimate(config_for(tmp_path, "clair"))
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def words_of(config, prompt, *answers):
    """The words of a revision's request, as the template renders it."""
    template = stage_context(config).template
    return len(template.render((), "")[0].content.split()) + len(prompt.split())


def test_tokens_are_those_of_the_real_prompts_and_of_the_assumed_answers(tmp_path):
    config = config_for(tmp_path, "clair", prompts=1)
    target, reviser = estimate(config).models
    shown = len(["Question", "number", "0?"]) + AROUND_MESSAGE
    assert target.prompt_tokens == _scaled(shown, shown)
    cap = config.target.max_tokens
    assert target.completion_tokens == CostRange(low=cap, high=cap)  # assumed answers are longer

    shown += words_of(config, "") + AROUND_MESSAGE
    assert reviser.prompt_tokens == _scaled(shown + min(ANSWER.low, cap), shown + cap)
    limit = config.reviser.max_tokens
    low = min(limit, round(REPLY["full"].low * cap * TOKENIZER.low))
    assert reviser.completion_tokens == CostRange(low=low, high=limit)


def test_an_answer_in_numbered_segments_has_more_tokens_than_the_answer(tmp_path):
    config = config_for(tmp_path, "clair", prompts=1, revision={"format": "segments"})
    reviser = estimate(config).models[1]
    shown = words_of(config, "Question number 0?") + 2 * AROUND_MESSAGE
    cap = config.target.max_tokens
    low, high = NUMBERED.low * min(ANSWER.low, cap), NUMBERED.high * cap
    assert reviser.prompt_tokens == _scaled(shown + low, shown + high)
    reply = REPLY["segments"].low * cap * TOKENIZER.low
    assert reviser.completion_tokens.low == round(min(config.reviser.max_tokens, reply))


def _scaled(low, high):
    return CostRange(low=round(low * TOKENIZER.low), high=round(high * TOKENIZER.high))


def test_answers_that_are_known_are_counted_as_they_are(tmp_path):
    config = config_for(tmp_path, "off_policy_judge", prompts=1)
    (judge,) = [m for m in estimate(config).models if m.role == "judge"]
    lengths = [1, 2, 4]  # words of the given answers, each of which stands in four comparisons
    with RequestStore(":memory:") as store:
        judging = offline_context(config, store, waiting=0).judge.compare((), "", "")
    each = len(judging.messages[0].content.split()) + AROUND_MESSAGE
    # the template names the role of each turn, in brackets
    each += len(["[user]", "Question", "number", "0?"])
    assert judge.prompt_tokens == _scaled(*[6 * each + 4 * sum(lengths)] * 2)
    cap = config.judge.max_tokens
    assert judge.completion_tokens == CostRange(
        low=round(6 * min(cap, VERDICT.low * TOKENIZER.low)),
        high=round(6 * min(cap, VERDICT.high * TOKENIZER.high)),
    )


def priced(**rates):
    return server_model("m", max_tokens=1000, price=Price(**rates))


def test_money_is_the_tokens_at_their_prices_live_and_in_batches(tmp_path):
    cheap = priced(input=1, output=4, batch_input=0.5, batch_output=2)
    dear = priced(input=10, output=30, batch_input=5, batch_output=15)
    found = estimate(config_for(tmp_path, "clair", target=cheap, reviser=dear))
    target, reviser = found.models
    for end in ("low", "high"):
        paid = [
            (getattr(m.prompt_tokens, end) * i + getattr(m.completion_tokens, end) * o) / 1e6
            for m, i, o in ((target, 1, 4), (reviser, 10, 30))
        ]
        assert getattr(found.live, end) == pytest.approx(sum(paid))
        assert getattr(found.batch, end) == pytest.approx(sum(paid) / 2)
    assert found.live.low < found.live.high


def test_a_model_without_a_price_leaves_the_total_unknown(tmp_path):
    found = estimate(config_for(tmp_path, "clair", target=priced(input=1, output=1)))
    assert [model.live is None for model in found.models] == [False, True]
    assert found.live is None and found.batch is None


def test_models_in_this_process_cost_nothing(tmp_path):
    found = estimate(config_for(tmp_path, "clair", target=ModelSpec(model="recorded:x")))
    assert found.models[0].live == CostRange(low=0, high=0)


def test_an_unusable_template_is_told_before_anything_is_counted(tmp_path):
    (tmp_path / "own.jinja").write_text("{{ nothing }}")
    config = config_for(tmp_path, "clair", revision={"template": tmp_path / "own.jinja"})
    with pytest.raises(ValueError, match=r"own\.jinja"):
        estimate(config)


def test_the_estimate_of_a_shard_counts_the_prompts_of_the_shard(tmp_path):
    config = config_for(tmp_path, "clair")
    counts = [
        estimate(config.model_copy(update={"shard": shard})).prompts
        for shard in (None, "1/2", "2/2")
    ]
    assert counts[0] == counts[1] + counts[2]
    assert min(counts) > 0
