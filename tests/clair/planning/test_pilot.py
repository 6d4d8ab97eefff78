"""A pilot makes real pairs, is not paid for twice, and says what it knows of the rest."""

import json

import pytest
from rapidfuzz.distance import Levenshtein

from clair_apo.clair import generate
from clair_apo.clair.planning.pilot import Pilot, pilot, pilot_config
from clair_apo.clair.recipes import RECIPES
from clair_apo.errors import BudgetError, ConfigError, RunError
from clair_apo.files import read_jsonl
from clair_apo.llm.spec import Price
from clair_apo.records import PreferencePair, Prompt
from clair_apo.stats import share_interval
from tests.helpers.scripted_roles import (
    COMPLETION_TOKENS,
    PROMPT_TOKENS,
    Reviser,
    Target,
    asked_of,
    config_for,
    models,
    server_model,
)

PROMPTS, SAMPLED = 12, 4


def ids_of(folder):
    return {prompt.id for prompt in read_jsonl(folder / "prompts.jsonl", Prompt)}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_whole_run_asks_only_what_the_pilot_did_not(tmp_path, recipe):
    config = config_for(tmp_path, recipe, prompts=PROMPTS)
    found = pilot(config, SAMPLED, **(first := models()))
    assert (found.prompts, found.rest) == (SAMPLED, PROMPTS - SAMPLED)
    generate(config, **(second := models()))
    each = {role: count // SAMPLED for role, count in asked_of(first).items()}
    assert asked_of(second) == {role: n * (PROMPTS - SAMPLED) for role, n in each.items()}
    assert ids_of(tmp_path / "run-pilot") < ids_of(tmp_path / "run")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_pilot_of_another_size_asks_only_for_the_prompts_that_are_new(tmp_path, recipe):
    config = config_for(tmp_path, recipe, prompts=PROMPTS)
    pilot(config, SAMPLED, **(first := models()))
    larger = pilot(config, 2 * SAMPLED, **(second := models()))
    assert (larger.prompts, larger.rest) == (2 * SAMPLED, PROMPTS - 2 * SAMPLED)
    assert asked_of(second) == asked_of(first), "as many prompts are new as there were"
    smaller = pilot(config, SAMPLED, **(third := models()))
    assert (smaller.prompts, asked_of(third)) == (SAMPLED, {})


def test_a_pilot_of_another_size_that_breaks_off_leaves_no_entry_of_the_old_rows(tmp_path):
    config = config_for(tmp_path, "clair", prompts=PROMPTS)
    pilot(config, SAMPLED, **models())
    with pytest.raises(RuntimeError, match="breaks"):
        pilot(config, 2 * SAMPLED, **models() | {"reviser_model": Breaking()})
    manifest = json.loads((tmp_path / "run-pilot" / "manifest.json").read_text())
    assert list(manifest["stages"]) == ["load", "respond"]
    assert pilot(config, 2 * SAMPLED, **models()).prompts == 2 * SAMPLED


def test_a_pilot_of_other_prompts_or_another_recipe_is_refused(tmp_path):
    config = config_for(tmp_path, "clair", prompts=PROMPTS)
    pilot(config, SAMPLED, **models())
    seeded = config.prompts.model_copy(update={"seed": 5})
    for changed in ({"prompts": seeded}, {"recipe": "worsen"}):
        with pytest.raises(RunError, match="was begun with another"):
            pilot(config.model_copy(update=changed), 2 * SAMPLED, **models())


def test_a_pilot_of_a_limited_run_takes_some_of_its_prompts(tmp_path):
    config = config_for(tmp_path, "clair", prompts=PROMPTS)
    limited = config.model_copy(
        update={"prompts": config.prompts.model_copy(update={"limit": 6, "seed": 3})}
    )
    found = pilot(limited, SAMPLED, **models())
    assert (found.prompts, found.rest) == (SAMPLED, 2)
    generate(limited, **models())
    assert ids_of(tmp_path / "run-pilot") < ids_of(tmp_path / "run")


def test_a_pilot_larger_than_the_run_is_the_run(tmp_path):
    config = config_for(tmp_path, "clair", prompts=3)
    limited = config.prompts.model_copy(update={"limit": 2})
    assert pilot_config(config.model_copy(update={"prompts": limited}), 50).prompts.limit == 2
    found = pilot(config, 50, **models())
    assert (found.prompts, found.rest) == (3, 0)
    assert found.rest_pairs.mean == 0


@pytest.mark.parametrize("prompts", [0, 1])
def test_a_pilot_without_an_interval_is_refused(tmp_path, prompts):
    with pytest.raises(ConfigError, match="at least 2 prompts"):
        pilot(config_for(tmp_path, "clair"), prompts)


def test_a_pilot_of_a_shard_is_refused(tmp_path):
    config = config_for(tmp_path, "clair", shard="1/2")
    with pytest.raises(ConfigError, match="leave shard out"):
        pilot(config, SAMPLED)


def test_money_is_projected_from_what_the_pilots_prompts_took(tmp_path):
    cheap, dear = Price(input=1, output=4), Price(input=10, output=30)
    config = config_for(
        tmp_path,
        "clair",
        prompts=PROMPTS,
        target=server_model("target", price=cheap),
        reviser=server_model("reviser", price=dear),
    )
    found = pilot(config, SAMPLED, **models())
    each = (PROMPT_TOKENS * (1 + 10) + COMPLETION_TOKENS * (4 + 30)) / 1e6
    assert found.spent == pytest.approx(SAMPLED * each)
    assert found.rest_cost.mean == pytest.approx((PROMPTS - SAMPLED) * each)
    # every prompt cost the same: the interval has no width
    assert found.rest_cost.low == pytest.approx(found.rest_cost.high)
    by_role = {use.role: use for use in found.models}
    assert by_role["target"].requests.mean == 1
    assert by_role["target"].prompt_tokens.mean == PROMPT_TOKENS
    assert by_role["reviser"].completion_tokens.mean == COMPLETION_TOKENS
    dear_ones = (PROMPT_TOKENS * 10 + COMPLETION_TOKENS * 30) / 1e6
    assert by_role["reviser"].cost.mean == pytest.approx(dear_ones)


class Breaking(Reviser):
    def text(self, request):
        raise RuntimeError("breaks")


class HalfReviser(Reviser):
    """Has no form to give for every second prompt, however often it is asked."""

    def text(self, request):
        asked = "".join(message.content for message in request.messages)
        odd = any(f"number {n}?" in asked for n in (1, 3, 5, 7, 9, 11))
        return "I would rather not say." if odd else super().text(request)


def test_shares_are_given_with_wilsons_interval(tmp_path):
    config = config_for(tmp_path, "clair", prompts=PROMPTS)
    found = pilot(config, 9, **models() | {"reviser_model": HalfReviser()})
    drawn = {
        p.messages[-1].content for p in read_jsonl(tmp_path / "run-pilot/prompts.jsonl", Prompt)
    }
    odd = sum(int(text.split()[-1].strip("?")) % 2 for text in drawn)
    assert 0 < odd < 9
    assert found.kept == found.parsed == share_interval(9 - odd, 9)
    (share,) = found.drops.values()
    assert share == share_interval(odd, 9)
    rest = found.rest
    assert found.rest_pairs.low == pytest.approx(found.kept.low * rest)
    assert found.rest_pairs.high == pytest.approx(found.kept.high * rest)
    # a prompt whose reply had no form asked again, and that counts as well
    requests = next(use.requests for use in found.models if use.role == "reviser")
    assert requests.mean == pytest.approx((9 - odd + 2 * odd) / 9)
    assert requests.low < requests.mean < requests.high


def test_a_missing_price_leaves_the_cost_unknown(tmp_path):
    found = pilot(config_for(tmp_path, "clair"), SAMPLED, **models())
    assert (found.spent, found.rest_cost) == (None, None)
    assert [use.cost for use in found.models] == [None, None]


def test_the_edit_ratio_is_that_of_the_pairs(tmp_path):
    found = pilot(config_for(tmp_path, "clair"), SAMPLED, **models())
    pairs = list(read_jsonl(tmp_path / "run-pilot" / "pairs.jsonl", PreferencePair))
    sides = [(p.rejected[-1].content, p.chosen[-1].content) for p in pairs]
    ratios = [Levenshtein.distance(*two) / max(map(len, two)) for two in sides]
    assert found.edit_ratio.mean == pytest.approx(sum(ratios) / len(ratios))


def test_recipes_without_a_revision_have_no_parse_rate(tmp_path):
    assert pilot(config_for(tmp_path, "on_policy_judge"), SAMPLED, **models()).parsed is None


def test_time_is_projected_only_where_every_answer_was_waited_for(tmp_path):
    config = config_for(tmp_path, "clair", prompts=PROMPTS)
    first = pilot(config, SAMPLED, **models())
    assert first.rest_seconds == pytest.approx(first.seconds / SAMPLED * (PROMPTS - SAMPLED))
    again = pilot(config, SAMPLED, **models())
    assert (again.seconds, again.rest_seconds) == (None, None)
    unchanged = {"kept", "parsed", "drops", "edit_ratio", "models", "rest_pairs"}
    assert again.model_dump(include=unchanged) == first.model_dump(include=unchanged)


def test_a_pilot_is_written_down_in_its_own_folder(tmp_path):
    found = pilot(config_for(tmp_path, "clair"), SAMPLED, **models())
    text = (tmp_path / "run-pilot" / "pilot.json").read_text()
    assert Pilot.model_validate(json.loads(text)) == found
    assert not (tmp_path / "run").exists()


def test_a_pilot_keeps_to_its_budget(tmp_path):
    dear = server_model("target", price=Price(input=0, output=1_000_000))
    free = server_model("reviser", price=Price(input=0, output=0))
    config = config_for(
        tmp_path, "clair", prompts=PROMPTS, target=dear, reviser=free, max_cost=150.0
    )
    # each answer may cost 100 dollars and costs 10: the seventh may cross the limit
    target = Target()
    with pytest.raises(BudgetError):
        pilot(config, 8, **models() | {"target_model": target})
    assert len(target.requests) == 6
