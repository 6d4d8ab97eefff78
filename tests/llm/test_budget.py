"""The budget: whatever the models answer, the limit is not crossed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clair_apo.errors import BudgetError
from clair_apo.llm.pricing import (
    FREE,
    Budget,
    answer_cost,
    most_prompt_tokens,
    require_price,
    worst_case,
)
from clair_apo.llm.spec import ModelSpec, Price
from clair_apo.llm.types import Completion
from tests.helpers.llm_requests import ask_for, completion

amounts = st.floats(0, 1)


@given(
    limit=st.floats(0, 5),
    before=st.floats(0, 1),
    asked=st.lists(st.tuples(amounts, amounts, st.integers(0, 3)), max_size=40),
)
def test_no_order_of_answers_crosses_the_limit(limit, before, asked):
    budget = Budget(limit, {"before": before})
    under_way = []
    for number, (worst, share, answers) in enumerate(asked):
        if budget.reserve(number, worst):
            under_way.append((number, worst * share))
        for _ in range(min(answers, len(under_way))):
            budget.settle(*under_way.pop(), "m")
        assert budget.spent + budget.reserved <= max(limit, before) + 1e-9
    for key, cost in under_way:
        budget.settle(key, cost, "m")
    assert budget.reserved == 0
    assert budget.spent <= max(limit, before) + 1e-9


def test_what_was_set_aside_is_free_again_for_the_next_request():
    budget = Budget(1.0)
    assert budget.reserve("a", 0.9)
    assert not budget.reserve("b", 0.2)
    budget.settle("a", 0.1, "m")
    assert budget.reserve("b", 0.2)
    budget.release("b")
    assert (budget.spent, budget.reserved) == (0.1, 0)


def test_an_answer_without_usage_counts_at_its_worst():
    budget = Budget(1.0)
    budget.reserve("a", 0.4)
    budget.settle("a", None, "m")
    assert budget.spent == pytest.approx(0.4)


def test_without_a_limit_everything_fits_and_is_counted():
    budget = Budget()
    assert budget.reserve("a", 1e9)
    budget.settle("a", 2.5, "m")
    assert budget.spent == 2.5


def test_earlier_invocations_of_the_run_count():
    assert not Budget(1.0, {"m": 0.5, "old": 0.45}).reserve("a", 0.1)
    assert Budget(1.0, {"m": 0.5, "old": 0.35}).reserve("a", 0.1)


@given(st.text(max_size=200))
def test_the_prompt_bound_is_at_least_a_token_a_byte(text):
    # a byte-level tokeniser that merges nothing makes one token of every byte
    assert most_prompt_tokens(ask_for(text)) >= len(text.encode())


def test_the_worst_case_is_the_whole_prompt_and_the_whole_answer():
    request = ask_for("What is 2 + 2?", max_tokens=100)
    price = Price(input=3, output=15, batch_input=1.5, batch_output=7.5)
    whole = most_prompt_tokens(request) * 3 / 1e6 + 100 * 15 / 1e6
    assert worst_case(price, request) == pytest.approx(whole)
    assert worst_case(price, request, batch=True) == pytest.approx(whole / 2)
    assert worst_case(FREE, request) == 0


def test_an_answer_costs_what_its_usage_says():
    price = Price(input=3, output=15)
    answer = Completion(text="x", finish_reason="stop", prompt_tokens=10, completion_tokens=20)
    assert answer_cost(price, answer) == pytest.approx(10 * 3 / 1e6 + 20 * 15 / 1e6)
    unknown = completion().model_copy(update={"prompt_tokens": 0})
    assert answer_cost(price, unknown) is None


def test_a_model_without_a_price_is_refused_with_the_key_to_set():
    spec = ModelSpec(model="mine", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(BudgetError, match=r"'mine' at http://127.* --reviser\.price"):
        require_price("reviser", spec)
    priced = spec.model_copy(update={"price": Price(input=0, output=0)})
    assert require_price("reviser", priced) == priced.price


def test_a_batch_model_needs_batch_rates():
    spec = ModelSpec(
        model="m", base_url="http://h/v1", price=Price(input=1, output=1), mode="batch"
    )
    with pytest.raises(BudgetError, match=r"reviser\.price\.batch_input"):
        require_price("reviser", spec)


def test_the_error_says_what_was_spent_and_how_to_go_on():
    text = str(Budget(2.0, {"m": 1.9}).exhausted("m", 0.25))
    assert "$1.9000 of $2 are spent" in text and "$0.2500" in text and "--max_cost" in text
