"""Prices: from the config, from the table, or not known; never guessed."""

import datetime

import pytest
import yaml

from clair_apo.llm.pricing import FREE, find_price
from clair_apo.llm.spec import ModelSpec, Price

OPENAI = "https://api.openai.com/v1"


def test_a_million_tokens_of_each_kind_cost_both_rates():
    price = Price(input=0.4, output=1.6, batch_input=0.2, batch_output=0.8)
    tokens = {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000}
    assert price.cost(**tokens) == pytest.approx(0.4 + 1.6)
    assert price.cost(**tokens, batch=True) == pytest.approx(0.2 + 0.8)


def test_prompt_and_completion_tokens_are_charged_at_their_own_rates():
    price = Price(input=3, output=15)
    assert price.cost(prompt_tokens=1_000, completion_tokens=0) == pytest.approx(3 / 1_000)
    assert price.cost(prompt_tokens=0, completion_tokens=1_000) == pytest.approx(15 / 1_000)


def test_a_price_without_batch_rates_has_no_batch_cost():
    assert Price(input=1, output=1).cost(prompt_tokens=1, completion_tokens=1, batch=True) is None
    with pytest.raises(ValueError, match="batch_input and batch_output belong together"):
        Price(input=1, output=1, batch_input=0.5)


def test_a_price_is_written_with_its_source_and_only_the_rates_that_it_has():
    day = datetime.date(2026, 11, 1)
    live = Price(input=0.5, output=2, source="contract 7", date=day)
    assert str(live) == "$0.5 in, $2 out per million tokens (contract 7, read 2026-11-01)"
    both = Price(input=1, output=2, batch_input=0.5, batch_output=1)
    assert "; batch $0.5 in, $1 out (the config)" in str(both)


@pytest.mark.parametrize("rate", [-1, float("nan"), float("inf")])
def test_a_price_is_a_number_that_can_be_paid(rate):
    with pytest.raises(ValueError, match="input"):
        Price(input=rate, output=1)


def test_a_listed_model_has_its_providers_price_with_source_and_date():
    price = find_price(ModelSpec(model="gpt-4.1-mini", base_url=OPENAI))
    assert price is not None
    assert price.source.startswith("https://") and isinstance(price.date, datetime.date)
    assert price.source in str(price) and str(price.date) in str(price)


def test_the_same_name_behind_another_server_has_no_price():
    for url in ("http://127.0.0.1:8000/v1", "https://models.example.org/v1"):
        assert find_price(ModelSpec(model="gpt-4.1-mini", base_url=url)) is None
    assert find_price(ModelSpec(model="gpt-99", base_url=OPENAI)) is None


def test_the_price_of_the_config_wins_over_the_table():
    own = Price(input=7, output=9, source="contract 12")
    assert find_price(ModelSpec(model="gpt-4.1-mini", base_url=OPENAI, price=own)) == own


def test_a_model_in_this_process_is_free():
    assert find_price(ModelSpec(model="smollm2-135m")) == FREE
    assert FREE.cost(prompt_tokens=10**9, completion_tokens=10**9) == 0


def test_every_row_of_the_table_is_a_price_with_a_page_and_a_day():
    from importlib import resources

    text = resources.files("clair_apo.llm").joinpath("prices.yaml").read_text("utf-8")
    pages = yaml.safe_load(text)
    for page in pages:
        assert page["source"].startswith("https://")
        assert page["date"] > datetime.date(2026, 1, 1)
        for name, rates in page["models"].items():
            found = find_price(ModelSpec(model=name, base_url=f"https://{page['host']}/v1"))
            assert found == Price(source=page["source"], date=page["date"], **rates)
            assert 0 < found.input < found.output
            if found.batch_input is not None:
                assert found.batch_input < found.input and found.batch_output < found.output
