"""What a row says of how it was made, and that the rows' money is the run's."""

import json

import pytest

from clair_apo.clair import RECIPES, generate
from clair_apo.llm import ModelSpec
from clair_apo.llm.spec import Price
from clair_apo.records import Sampling
from tests.helpers.clair_runs import (
    Replying,
    cut,
    edit_reply,
    make_config,
    rows_of,
    run,
    write_rows,
)
from tests.helpers.scripted_roles import config_for, models, server_model

# prices so different that a request counted for the wrong model shows
PRICED = {
    role: server_model(role, price=Price(input=price, output=7 * price), temperature=0.1 * n)
    for n, (role, price) in enumerate((("target", 1), ("reviser", 100), ("judge", 10_000)), 1)
}
PRICED["pool"] = tuple(
    server_model(name, price=Price(input=price, output=7 * price))
    for name, price in (("first", 1), ("second", 100))
)


def provenances(folder):
    return [row["provenance"] for row in rows_of(folder, "pairs.jsonl")]


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("recipe", RECIPES)
def test_what_the_rows_cost_is_what_the_run_cost(tmp_path, recipe, verify):
    config = config_for(tmp_path, recipe, verify=verify, controls={"share": 0.5}, **PRICED)
    done = generate(config, **models())
    rows = provenances(tmp_path)
    assert len(rows) == done.prompts, "a dropped row would take money along"
    assert done.cost > 0
    assert sum(row["cost"] for row in rows) == pytest.approx(done.cost)
    judged = [row["judge_cost"] for row in rows]
    assert all(judged) if config.recipe_def.chooses else judged == [None] * len(rows)
    assert all(bool(row["verify_cost"]) == verify for row in rows)


def test_a_judge_that_chose_or_verified_is_named_with_its_settings_and_all_it_was_asked(tmp_path):
    config = config_for(tmp_path, "on_policy_judge", verify=True, controls={"share": 1.0}, **PRICED)
    roles = models()
    generate(config, **roles)
    manifest = json.loads((tmp_path / "run/manifest.json").read_text("utf-8"))
    rows = provenances(tmp_path)
    for row in rows:
        assert (row["judged_by"], row["verified_by"]) == ("judge", "judge")
        assert row["judge_digest"] == manifest["settings"]["judge"]["template"]
        assert Sampling(**row["judge_sampling"]) == PRICED["judge"].sampling
    keys = [key for row in rows for key in row["judge_keys"] + row["verify_keys"]]
    assert sorted(keys) == sorted(request.key for request in roles["judge_model"].requests)


def test_each_side_has_the_settings_that_it_was_asked_with(tmp_path):
    generate(config_for(tmp_path, "clair", **PRICED), **models())
    for row in provenances(tmp_path):
        for side, role in (("chosen", "reviser"), ("rejected", "target")):
            assert Sampling(**row[side]["sampling"]) == PRICED[role].sampling
        assert row["judge_digest"] is row["judge_sampling"] is row["verified_by"] is None


def test_what_the_data_brought_has_no_settings(tmp_path):
    generate(config_for(tmp_path, "off_policy_judge"), **models())
    sides = [row[side] for row in provenances(tmp_path) for side in ("chosen", "rejected")]
    assert [side["sampling"] for side in sides] == [None] * len(sides)


def test_a_revision_that_was_asked_again_names_the_larger_limit(tmp_path):
    reviser = ModelSpec(model="reviser", max_tokens=200)
    data = write_rows(tmp_path / "data.jsonl", [{"prompt": "Question?"}])

    class CutAtFirst(Replying):
        def answer(self, requests):
            self.replies = [("", self.of_limit[requests[0].sampling.max_tokens])]
            return super().answer(requests)

    again = CutAtFirst([])
    again.of_limit = {200: cut("half", 200), 400: edit_reply(("old", "new"))}
    run(make_config(tmp_path, data, reviser=reviser), Replying([("", "old answer")]), again)
    (row,) = provenances(tmp_path)
    assert row["chosen"]["sampling"]["max_tokens"] == 400
    assert len(row["chosen"]["request_keys"]) == 2
