"""Models that cost money: what is sent never comes to more than the budget, and nothing is lost."""

import pytest

from clair_apo.errors import BudgetError
from clair_apo.llm import CachedChat, ModelSpec, RequestStore, ScriptedChat
from clair_apo.llm.pricing import Budget, worst_case
from clair_apo.llm.spec import Price
from clair_apo.records import Message
from tests.helpers.chat_server import ChatServer, Reply
from tests.helpers.llm_requests import answers_of, completion

# a dollar for a completion token, nothing for the prompt: costs can be counted by hand
DOLLAR_A_TOKEN = Price(input=0, output=1_000_000)
LONGEST = 10
"""Tokens, and so dollars, that an answer may come to."""
WORDS = "one two three"
"""An answer of three tokens, and so of three dollars."""


@pytest.fixture
def store(tmp_path):
    with RequestStore(tmp_path / "s.sqlite") as store:
        yield store


def paid(store, budget, model=None, url=None, **changes):
    spec = ModelSpec(model="m", base_url=url, max_tokens=LONGEST, price=DOLLAR_A_TOKEN, **changes)
    return CachedChat(spec, store, model, budget=budget)


def requests(chat, count):
    return [chat.request((Message(role="user", content=f"q{n}"),)) for n in range(count)]


def test_a_request_that_could_cross_the_limit_is_not_sent_to_a_model_of_groups(store):
    budget = Budget(limit=16)
    model = ScriptedChat([completion(WORDS, tokens=3)] * 9)
    chat = paid(store, budget, model)
    # 3 + 3 spent leave room for one more answer of 10; 3 + 3 + 3 do not
    with pytest.raises(BudgetError, match=r"\$9\.0000 of \$16 are spent.* may cost up to \$10"):
        answers_of(chat, requests(chat, 9))
    assert len(model.requests) == len(store) == 3
    assert budget.spent == chat.meter.cost == 9
    assert budget.reserved == 0


def test_what_the_store_answers_costs_nothing_again(store):
    chat = paid(store, Budget(limit=16), ScriptedChat([completion(WORDS, tokens=3)] * 3))
    asked = requests(chat, 3)
    answers_of(chat, asked)
    again = paid(store, poor := Budget(limit=1), ScriptedChat([]))
    assert len(answers_of(again, asked)) == 3
    assert (poor.spent, again.meter.cost) == (0, 0)


def test_a_request_that_fails_gives_its_money_back(store):
    rejected = Reply(status=400, body={"error": {"message": "no"}})
    with ChatServer(lambda asked: rejected if "q" in asked.text else Reply()) as server:
        chat = paid(store, budget := Budget(limit=LONGEST), url=server.url)
        assert all(a.completion is None for a in answers_of(chat, requests(chat, 3)))
    assert sum("q" in text for text in server.texts) == 3
    assert (budget.spent, budget.reserved) == (0, 0)


@pytest.mark.parametrize("in_flight", [1, 16])
def test_a_server_is_sent_no_more_than_the_money_suffices_for(store, in_flight):
    with ChatServer(lambda _: Reply(WORDS, delay_s=0.002)) as server:
        budget = Budget(limit=100)
        chat = paid(store, budget, url=server.url, max_in_flight=in_flight)
        with pytest.raises(BudgetError, match="raise --max_cost and run the same command"):
            answers_of(chat, requests(chat, 60))
        # as many three-dollar answers as leave no room for one of ten
        assert len(server.asked) == len(store) == (100 - LONGEST) // 3 + 1
        assert budget.spent == 3 * len(store)
        assert server.most_under_way * LONGEST <= 100

        richer = paid(store, Budget(1_000, budget.costs), url=server.url)
        assert len(answers_of(richer, requests(chat, 60))) == 60
        assert len(server.asked) == 60 and set(server.counts.values()) == {1}


def test_money_that_suffices_for_the_answers_but_not_for_the_worst_suffices(store):
    with ChatServer(lambda _: Reply(WORDS, delay_s=0.002)) as server:
        budget = Budget(limit=3 * 20 + LONGEST)
        chat = paid(store, budget, url=server.url, max_in_flight=16)
        assert len(answers_of(chat, requests(chat, 20))) == 20
    assert budget.spent == 60


def test_a_server_that_tells_no_usage_is_counted_at_its_worst(store):
    silent = {"choices": [{"message": {"role": "assistant", "content": "hi"}}]}
    with ChatServer(lambda _: Reply(body=silent)) as server:
        chat = paid(store, budget := Budget(limit=2 * LONGEST), url=server.url)
        with pytest.raises(BudgetError):
            answers_of(chat, requests(chat, 3))
    assert budget.spent == 2 * LONGEST


def test_without_a_limit_a_model_without_a_price_is_asked(store):
    with ChatServer(lambda _: Reply(WORDS)) as server:
        spec = ModelSpec(model="m", base_url=server.url, max_tokens=LONGEST)
        chat = CachedChat(spec, store)
        assert len(answers_of(chat, requests(chat, 3))) == 3
    assert chat.meter.cost is None


def test_the_worst_case_is_above_what_any_answer_cost(store):
    with ChatServer(lambda _: Reply(WORDS)) as server:
        price = Price(input=2_000_000, output=1_000_000)
        spec = ModelSpec(model="m", base_url=server.url, max_tokens=LONGEST, price=price)
        chat = CachedChat(spec, store, budget=(budget := Budget()))
        (request,) = requests(chat, 1)
        answers_of(chat, [request])
    # the server counts one word of prompt and three of answer
    assert budget.spent == 2 * 1 + 3
    assert budget.spent < worst_case(price, request)
