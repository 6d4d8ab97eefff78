"""What each model of a run folder has cost, whatever mode and price come after."""

import json

import pytest

from clair_apo.clair import generate
from clair_apo.clair.costs import ModelCost, joined, read_costs, settled, write_costs
from clair_apo.llm import Meter, Spent
from clair_apo.llm.spec import Price
from tests.helpers.scripted_roles import (
    COMPLETION_TOKENS,
    Reviser,
    config_for,
    models,
    server_model,
)

PRICE = Price(input=2, output=10, batch_input=1, batch_output=5)
LIVE, BATCH = Meter(price=PRICE), Meter(price=PRICE, batch=True)
IN, OUT = 3_000_000, 1_000_000
LIVE_USD, BATCH_USD = 3 * 2 + 1 * 10, 3 * 1 + 1 * 5
"""What so many tokens cost, by hand."""


def spent(times):
    return {"m": Spent(times, times * IN, times * OUT)}


def usd_of(costs):
    return {model: cost.usd for model, cost in costs.items()}


def test_a_first_look_prices_what_the_store_holds():
    assert usd_of(settled({}, spent(2), [("m", LIVE)])) == {"m": 2 * LIVE_USD}


@pytest.mark.parametrize(
    ("first", "second", "first_usd", "second_usd"),
    [(LIVE, BATCH, LIVE_USD, BATCH_USD), (BATCH, LIVE, BATCH_USD, LIVE_USD)],
)
def test_in_another_mode_each_answer_keeps_what_it_cost(first, second, first_usd, second_usd):
    begun = settled({}, {}, [("m", first)])
    # one answer, and the run is killed; the next invocation has the other mode
    taken_up = settled(begun, spent(1), [("m", second)])
    assert usd_of(taken_up) == {"m": first_usd}
    ended = settled(taken_up, spent(2), [("m", second)])
    assert usd_of(ended) == {"m": first_usd + second_usd}
    assert usd_of(settled(ended, spent(2), [("m", second)])) == usd_of(ended)


def test_a_model_that_is_asked_no_more_is_carried_over_with_what_came_late():
    begun = settled({}, {}, [("m", BATCH)])
    later = settled(begun, spent(1), [("other", LIVE)])
    assert usd_of(later) == {"m": BATCH_USD, "other": 0}
    # an open batch of it was read by `clair-apo batches`
    assert usd_of(settled(later, spent(2), [("other", LIVE)])) == {"m": 2 * BATCH_USD, "other": 0}


def test_a_corrected_price_counts_for_earlier_answers_where_it_is_higher():
    before = settled({}, spent(1), [("m", LIVE)])
    double = Meter(price=Price(input=4, output=20))
    half = Meter(price=Price(input=1, output=5))
    assert usd_of(settled(before, spent(1), [("m", double)])) == {"m": 2 * LIVE_USD}
    assert usd_of(settled(before, spent(1), [("m", half)])) == {"m": LIVE_USD}


def test_a_model_without_a_price_has_no_entry_until_it_has_one():
    assert settled({}, spent(1), [("m", Meter())]) == {}
    before = settled({}, spent(1), [("m", LIVE)])
    assert usd_of(settled(before, spent(1), [("m", Meter())])) == {"m": LIVE_USD}


def test_of_two_roles_that_ask_one_model_the_dearer_counts():
    cheap = Meter(price=Price(input=1, output=20))
    costs = settled({}, spent(1), [("m", LIVE), ("m", cheap)])
    assert usd_of(costs) == {"m": 3 * 2 + 1 * 20}


def test_a_store_that_was_changed_for_an_empty_one_forgets_nothing():
    before = settled({}, spent(2), [("m", LIVE)])
    moved = settled(before, {}, [("m", LIVE)])
    assert usd_of(moved) == {"m": 2 * LIVE_USD}
    assert usd_of(settled(moved, spent(1), [("m", LIVE)])) == {"m": 3 * LIVE_USD}


def test_the_costs_of_shards_add_up():
    parts = [settled({}, spent(n), [("m", LIVE)]) for n in (1, 2)]
    parts.append(settled({}, {}, [("other", BATCH)]))
    both = joined(parts)
    assert usd_of(both) == {"m": 3 * LIVE_USD, "other": 0}
    assert usd_of(settled(both, spent(3), [("m", LIVE)])) == usd_of(both)


def test_costs_come_back_from_a_manifest_unchanged():
    costs = settled({}, spent(1), [("m", LIVE), ("other", BATCH)])
    manifest = json.loads(json.dumps({"costs": write_costs(costs)}))
    assert read_costs(manifest) == costs
    assert isinstance(costs["m"], ModelCost)


@pytest.mark.parametrize("manifest", [{}, {"costs": {"m": 3.5}}, {"costs": None}])
def test_a_manifest_of_another_version_leaves_the_store_to_tell(manifest):
    assert read_costs(manifest) == {}


class KilledError(BaseException):
    """Stands for the end of the process."""


class Dying(Reviser):
    """Answers two requests."""

    def text(self, request):
        if len(self.requests) > 2:
            raise KilledError
        return super().text(request)


def test_a_run_that_was_killed_and_goes_on_at_half_the_price_has_cost_both(tmp_path):
    half = Price(input=0, output=1_000_000, batch_input=0, batch_output=500_000)
    free = server_model("target", price=Price(input=0, output=0))

    def config(mode):
        reviser = server_model("reviser", price=half, mode=mode)
        return config_for(tmp_path, "clair", prompts=6, target=free, reviser=reviser)

    with pytest.raises(KilledError):
        generate(config("live"), **models() | {"reviser_model": Dying()})
    result = generate(config("batch"), **models())
    assert result.cost == 2 * COMPLETION_TOKENS + 4 * COMPLETION_TOKENS / 2
    assert generate(config("live"), **models()).cost == result.cost
