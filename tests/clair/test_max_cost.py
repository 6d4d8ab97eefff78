"""A run with a limit of money, from end to end, against a server that counts what it is asked."""

import json
import re

import pytest
from clair_runs import full_reply, make_config, write_rows

from chat_server import Asked, ChatServer, Reply
from clair_apo.clair import generate
from clair_apo.errors import BudgetError
from clair_apo.files import read_jsonl
from clair_apo.llm import ModelSpec
from clair_apo.llm.prices import Price
from clair_apo.records import PreferencePair

PROMPTS = 8
# a dollar for a completion token: costs can be counted by hand
DOLLAR_A_TOKEN = Price(input=0, output=1_000_000)
ANSWER, REPLY = "an answer of five words", full_reply("a better answer of six words")
TARGET_COST, REVISER_COST = len(ANSWER.split()), len(REPLY.split())
LONGEST = 40
"""Tokens, and so dollars, that an answer may come to."""


def reply(asked: Asked) -> Reply:
    return Reply(REPLY if asked.body["model"] == "reviser" else ANSWER)


@pytest.fixture
def server():
    with ChatServer(reply) as server:
        yield server


@pytest.fixture
def data(tmp_path):
    rows = [{"prompt": f"Question {n}?"} for n in range(PROMPTS)]
    return write_rows(tmp_path / "data.jsonl", rows)


def config_for(tmp_path, data, server, price=DOLLAR_A_TOKEN, **changes):
    def spec(name):
        return ModelSpec(model=name, base_url=server.url, max_tokens=LONGEST, price=price)

    models = {"target": spec("target"), "reviser": spec("reviser")}
    return make_config(tmp_path, data, revision={"format": "full"}, **models | changes)


def test_a_run_that_reaches_its_limit_goes_on_with_a_larger_one(tmp_path, data, server):
    limit = 100
    with pytest.raises(BudgetError) as caught:
        generate(config_for(tmp_path, data, server, max_cost=limit))
    spent = float(re.search(r"\$([\d.]+) of \$100 are spent", str(caught.value))[1])
    asked = [a.body["model"] for a in server.asked]
    assert spent == asked.count("target") * TARGET_COST + asked.count("reviser") * REVISER_COST
    assert limit - LONGEST < spent <= limit

    # the same limit again: what was spent before counts, and nothing more is sent
    before = len(server.asked)
    with pytest.raises(BudgetError, match=re.escape(f"${spent:.4f} of")):
        generate(config_for(tmp_path, data, server, max_cost=limit))
    assert len(server.asked) == before

    whole = PROMPTS * (TARGET_COST + REVISER_COST)
    result = generate(config_for(tmp_path, data, server, max_cost=whole + LONGEST))
    assert (result.pairs, result.asked) == (PROMPTS, 2 * PROMPTS - before)
    assert result.cost == whole
    assert set(server.counts.values()) == {1}, "nothing was paid for twice"


def test_a_model_without_a_price_is_refused_before_anything_is_asked_or_written(
    tmp_path, data, server
):
    config = config_for(tmp_path, data, server, price=None, max_cost=1.0)
    with pytest.raises(BudgetError, match=r"--target\.price"):
        generate(config)
    assert server.asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_a_target_that_is_never_asked_needs_no_price(tmp_path, server):
    rows = [{"prompt": f"Question {n}?", "answer": ANSWER} for n in range(3)]
    data = write_rows(tmp_path / "given.jsonl", rows)
    target = ModelSpec(model="target", base_url=server.url)
    result = generate(config_for(tmp_path, data, server, target=target, max_cost=1_000.0))
    assert result.cost == 3 * REVISER_COST


def test_every_side_of_a_pair_says_what_it_cost_and_the_manifest_what_all_did(
    tmp_path, data, server
):
    generate(config_for(tmp_path, data, server))
    pairs = list(read_jsonl(tmp_path / "run" / "pairs.jsonl", PreferencePair))
    costs = {(p.provenance.chosen.cost, p.provenance.rejected.cost) for p in pairs}
    assert costs == {(REVISER_COST, TARGET_COST)}
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["cost"] == PROMPTS * (TARGET_COST + REVISER_COST)


def test_without_a_price_nothing_claims_to_know_what_it_cost(tmp_path, data, server):
    result = generate(config_for(tmp_path, data, server, price=None))
    assert result.cost is None
    pair = next(read_jsonl(tmp_path / "run" / "pairs.jsonl", PreferencePair))
    assert pair.provenance.chosen.cost is None


def test_two_roles_of_one_model_are_not_counted_twice(tmp_path, data):
    def by_temperature(asked: Asked) -> Reply:
        return Reply(ANSWER if asked.body["temperature"] == 0 else "another one")

    with ChatServer(by_temperature) as server:
        one = ModelSpec(model="m", base_url=server.url, price=DOLLAR_A_TOKEN, temperature=0)
        other = one.model_copy(update={"temperature": 1.0})
        config = config_for(
            tmp_path, data, server, recipe="stronger_preferred", target=one, reviser=other
        )
        first, again = generate(config), generate(config)
    whole = PROMPTS * (len(ANSWER.split()) + len(["another", "one"]))
    assert first.cost == again.cost == whole
