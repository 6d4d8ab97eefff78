"""A run with a limit of money, from end to end, against a server that counts what it is asked."""

import io
import json
import re

import pytest
from rich.console import Console

from clair_apo import console
from clair_apo.clair import generate
from clair_apo.errors import BudgetError
from clair_apo.files import read_jsonl
from clair_apo.llm import ModelSpec
from clair_apo.llm.spec import Price
from clair_apo.records import PreferencePair
from tests.helpers.chat_server import Asked, ChatServer, Reply
from tests.helpers.clair_runs import full_reply, make_config, write_rows

PROMPTS = 8
# a dollar for a completion token: costs can be counted by hand
DOLLAR_A_TOKEN = Price(input=0, output=1_000_000)
ANSWER, REPLY = "an answer of five words", full_reply("a better answer of six words")
TARGET_COST, REVISER_COST = len(ANSWER.split()), len(REPLY.split())
LONGEST = 40
"""Tokens, and so dollars, that an answer may come to."""


def reply(asked: Asked) -> Reply:
    return Reply(ANSWER if asked.body["model"] == "target" else REPLY)


@pytest.fixture
def server():
    with ChatServer(reply) as server:
        yield server


@pytest.fixture
def data(tmp_path):
    rows = [{"prompt": f"Question {n}?"} for n in range(PROMPTS)]
    return write_rows(tmp_path / "data.jsonl", rows)


def spec(name, server, price=DOLLAR_A_TOKEN):
    return ModelSpec(model=name, base_url=server.url, max_tokens=LONGEST, price=price)


def manifest_of(tmp_path):
    return json.loads((tmp_path / "run" / "manifest.json").read_text())


def config_for(tmp_path, data, server, price=DOLLAR_A_TOKEN, **changes):
    models = {name: spec(name, server, price) for name in ("target", "reviser")}
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
    manifest = manifest_of(tmp_path)
    assert manifest["cost"] == PROMPTS * (TARGET_COST + REVISER_COST)
    assert {model: cost["usd"] for model, cost in manifest["costs"].items()} == {
        "target": PROMPTS * TARGET_COST,
        "reviser": PROMPTS * REVISER_COST,
    }


def test_what_another_reviser_cost_before_counts_against_the_limit(tmp_path, data, server):
    first = generate(config_for(tmp_path, data, server)).cost
    assert first == PROMPTS * (TARGET_COST + REVISER_COST)
    asked = len(server.asked)

    other = {"reviser": spec("another reviser", server)}
    with pytest.raises(BudgetError, match=re.escape(f"${first:.4f} of")):
        generate(config_for(tmp_path, data, server, max_cost=first + LONGEST - 1, **other))
    assert len(server.asked) == asked
    assert manifest_of(tmp_path)["cost"] == first

    whole = first + PROMPTS * REVISER_COST
    result = generate(config_for(tmp_path, data, server, max_cost=whole + LONGEST, **other))
    assert result.cost == manifest_of(tmp_path)["cost"] == whole
    # and back again: the store answers everything
    again = generate(config_for(tmp_path, data, server))
    assert (again.asked, again.cost) == (0, whole)


def test_what_a_run_spent_before_it_broke_off_counts_though_another_model_goes_on(
    tmp_path, data, server
):
    answers = PROMPTS * TARGET_COST
    with pytest.raises(BudgetError):
        generate(config_for(tmp_path, data, server, max_cost=answers + 2 * LONGEST))
    revised = [asked.body["model"] for asked in server.asked].count("reviser")
    assert revised > 0
    assert manifest_of(tmp_path)["cost"] == answers + revised * REVISER_COST
    result = generate(config_for(tmp_path, data, server, reviser=spec("another", server)))
    assert result.cost == answers + (revised + PROMPTS) * REVISER_COST


def test_a_model_without_a_price_leaves_the_cost_unknown_also_when_it_is_asked_no_more(
    tmp_path, data, server, capsys
):
    unpriced = spec("unpriced", server, price=None)
    assert generate(config_for(tmp_path, data, server, reviser=unpriced)).cost is None
    result = generate(config_for(tmp_path, data, server, max_cost=10_000))
    assert (result.asked, result.cost) == (PROMPTS, None)
    assert "max_cost leaves out what unpriced cost" in " ".join(capsys.readouterr().err.split())


def test_the_money_that_is_shown_is_that_of_all_models_and_invocations(
    tmp_path, data, server, monkeypatch
):
    text = io.StringIO()
    monkeypatch.setattr(console, "CONSOLE", Console(file=text, width=200))
    generate(config_for(tmp_path, data, server))
    generate(config_for(tmp_path, data, server, reviser=spec("another", server)))
    shown = re.findall(r"(respond|revise): .*\$([\d.]+) so far", text.getvalue())
    answers, replies = PROMPTS * TARGET_COST, PROMPTS * REVISER_COST
    assert [(stage, float(usd)) for stage, usd in shown] == [
        ("respond", answers),
        ("revise", answers + replies),
        ("respond", answers + replies),  # nothing new was asked
        ("revise", answers + 2 * replies),
    ]


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
