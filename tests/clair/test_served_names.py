"""A server tells its model's name alone: what keeps answers of different weights apart."""

import pytest

from clair_apo.llm import ModelSpec
from tests.helpers.clair_runs import Replying, edit_reply, make_config, rows_of, run, write_rows

HERE, THERE = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"


def served(url=HERE, **changes):
    return ModelSpec(**{"model": "same", "base_url": url} | changes)


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("stronger_preferred", {"target": served(), "reviser": served(THERE)}),
        ("clair", {"target": served(), "judge": served(THERE), "verify": True}),
        ("judge_then_revise", {"reviser": served(), "judge": served(None, mode="files")}),
    ],
)
def test_two_models_of_one_name_at_different_addresses_need_a_revision(tmp_path, recipe, changes):
    with pytest.raises(ValueError, match=r"both called 'same'.* set \w+\.revision"):
        make_config(
            tmp_path, tmp_path / "p", **{"judge": served(model="judge"), "recipe": recipe} | changes
        )
    role = "judge" if "judge" in changes else "reviser"
    told_apart = {role: changes[role].model_copy(update={"revision": "second"})}
    values = {"judge": served(model="judge"), "recipe": recipe} | changes | told_apart
    assert make_config(tmp_path, tmp_path / "p", **values)


def test_one_model_in_two_roles_is_no_mistake(tmp_path):
    same = {"target": served(), "reviser": served(f"{HERE}/")}
    assert make_config(tmp_path, tmp_path / "p", **same)
    declared = {"target": served(revision="a"), "reviser": served(THERE, revision="a")}
    assert make_config(tmp_path, tmp_path / "p", **declared)
    unused = {"target": served(), "judge": served(THERE)}
    assert make_config(tmp_path, tmp_path / "p", **unused)


def test_another_revision_of_a_served_model_is_asked_anew(tmp_path):
    rows = [{"prompt": f"Question {n}?"} for n in range(2)]
    two = write_rows(tmp_path / "prompts.jsonl", rows)
    asked = []
    for revision in ("first", "first", "second"):
        config = make_config(
            tmp_path,
            two,
            run_dir=tmp_path / revision / "run",
            store=tmp_path / "requests.sqlite",
            target=served(revision=revision),
        )
        target = Replying([("", "an old answer")])
        run(config, target, Replying([("", edit_reply(("old", "new")))]))
        asked.append(len(target.requests))
    assert asked == [2, 0, 2]
    provenance = rows_of(tmp_path / "second", "pairs.jsonl")[0]["provenance"]
    assert provenance["rejected"]["model"] == "same@second"
