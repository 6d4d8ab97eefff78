"""`evaluate --estimate`: the same walk, in which nothing is asked and nothing is written."""

import pytest

from clair_apo.evaluation import estimate as estimating
from clair_apo.evaluation import evaluate
from clair_apo.evaluation.suites.checks import ChecksSuite
from clair_apo.evaluation.suites.prompt_answers import answer_prompts
from clair_apo.llm import ModelSpec
from clair_apo.records import Message
from tests.helpers.evaluations import SERVER, Ruled, evaluation_config, rules_file
from tests.helpers.scripted_roles import WordCounter

PRICE = {"input": 1.0, "output": 10.0}
JUDGE = ModelSpec(model="judge", base_url=SERVER, max_tokens=5, price=PRICE)


class Judged(ChecksSuite):
    """Asks a judge about every answer."""

    def run(self, context):
        client = context.client(JUDGE)
        found = answer_prompts(context)
        texts = [one.text for answers in found.values() for one in answers]
        questions = [(Message(role="user", content=f"Is it good? {text}"),) for text in texts]
        context.converse("judge", client, [_ask(client.request(q)) for q in questions])
        return super().run(context)


def _ask(request):
    return (yield (request,))[0]


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(estimating, "TokenCounter", WordCounter)
    specs = {
        name: {"model": name, "base_url": SERVER, "max_tokens": 20, "price": PRICE}
        for name in ("trained", "base")
    }
    config = evaluation_config(tmp_path, models=specs)
    judged = Judged.model_construct(checks=rules_file(tmp_path), functions=(), name="judged")
    return config.model_copy(update={"suites": (*config.suites, judged)})


def test_requests_are_counted_once_with_what_follows_them(tmp_path, config):
    found = estimating.estimate(config, "words")
    rows = {(row.suite, row.model): row for row in found.rows}
    assert [key for key, row in rows.items() if row.requests] == [
        ("health", "trained"),
        ("health", "base"),
        ("judged", "judge"),
    ]
    row = rows["health", "trained"]
    # six prompts of five words, and five tokens around each
    assert (row.requests, row.prompt_tokens, row.completion_tokens) == (6, 60, 120)
    assert row.usd == pytest.approx((60 * 1.0 + 120 * 10.0) / 1e6)
    # every placeholder is another one: the judge is asked about each
    assert rows["judged", "judge"].requests == 12
    assert found.usd == pytest.approx(sum(row.usd for row in found.rows))
    assert {path.name for path in tmp_path.iterdir()} == {"held_out.jsonl", "rules.yaml"}


def test_what_the_store_has_is_taken_off(tmp_path, config):
    asked = {name: Ruled(["So."]) for name in ("trained", "base")}
    evaluate(config.model_copy(update={"suites": config.suites[:1]}), chats=asked)
    found = estimating.estimate(config, "words")
    rows = {(row.suite, row.model): row for row in found.rows}
    assert rows["health", "trained"].requests == 0 and rows["health", "trained"].stored == 6
    # the two models have one answer to all prompts, so the judge is asked about one
    assert rows["judged", "judge"].requests == 1


def test_a_model_without_a_price_has_no_bound(tmp_path, config):
    bare = evaluation_config(tmp_path, suites=[{"suite": "health"}])
    assert estimating.estimate(bare, "words").usd is None
