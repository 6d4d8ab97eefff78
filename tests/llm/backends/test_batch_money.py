"""Batches under a budget: what an earlier process left at the server is paid once, and counted."""

import re

import pytest

from clair_apo.errors import BudgetError
from clair_apo.llm import CachedChat
from clair_apo.llm.backends import batch_api
from clair_apo.llm.backends.batch_api import BatchChat
from clair_apo.llm.pricing import Budget
from clair_apo.llm.spec import Price
from tests.helpers.batch_endpoints import BatchEndpoints
from tests.helpers.llm_requests import answers_of, ask_for

# a dollar for a completion token of a batch: an answer of the test server has two
DOLLAR_A_TOKEN = Price(input=0, output=0, batch_input=0, batch_output=1_000_000)
COST, WORST = 2, 8
"""Dollars that an answer takes, and that it may take: `ask_for` allows so many tokens."""


pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def server(httpserver):
    endpoints = BatchEndpoints()
    endpoints.serve(httpserver, price=DOLLAR_A_TOKEN)
    return endpoints


def questions(count, first=0):
    return [ask_for(f"q{n}", model="big") for n in range(first, first + count)]


def chat_of(server, store, budget):
    model = BatchChat(server.spec, store, "run")
    return CachedChat(server.spec, store, model, run_id="run", budget=budget)


def leave_batch(server, store, requests):
    """Begin a batch, and press Ctrl+C at the first wait."""

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_api.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            answers_of(chat_of(server, store, Budget()), requests)


def test_a_batch_from_before_that_a_lower_limit_has_no_room_for_is_paid_once_and_counted(
    server, store
):
    requests = questions(6)
    leave_batch(server, store, requests)
    budget = Budget(limit=2 * WORST)  # room for two of the six
    chat = chat_of(server, store, budget)
    got = answers_of(chat, requests)
    assert server.asked == {r.key: 1 for r in requests}
    assert budget.spent == chat.meter.cost == len(requests) * COST
    assert budget.reserved == 0
    assert [a.completion for a in got] == [store.answer(r).completion for r in requests]


def test_what_is_at_the_server_already_is_counted_before_anything_is_sent(server, store):
    new, old = questions(3), questions(4, first=3)
    leave_batch(server, store, old)
    # 4 * 2 dollars are as good as spent: there is no room for the 8 that a new request may take
    budget = Budget(limit=10)
    with pytest.raises(BudgetError, match=re.escape("$8.0000 of $10 are spent")):
        answers_of(chat_of(server, store, budget), [*new, *old])
    assert server.asked == {r.key: 1 for r in old}
    assert all(r.key in store for r in old)
