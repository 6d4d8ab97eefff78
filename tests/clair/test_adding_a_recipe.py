"""docs/adding_recipes.md: its code is run here, and its tables must name every field."""

import dataclasses
import json
import re

import pytest

from clair_apo.clair import PromptsConfig, generate
from clair_apo.clair.planning import estimate as estimating
from clair_apo.clair.recipes import RECIPES, Recipe
from clair_apo.clair.stages.table import STAGES, Forecast, StageDef
from clair_apo.report import write_report
from tests.helpers import ROOT
from tests.helpers.clair_runs import rows_of, write_rows
from tests.helpers.scripted_roles import Role, WordCounter, config_for, models

PAGE = (ROOT / "docs" / "adding_recipes.md").read_text("utf-8")
RECIPE, STAGE = PAGE.split("\n## ")[1:]


@pytest.fixture(autouse=True)
def tables_put_back():
    """What the page adds to the tables is taken out again."""
    before = [(table, dict(table)) for table in (RECIPES, STAGES)]
    yield
    for table, entries in before:
        table.clear()
        table.update(entries)


def names_after(section):
    """Run the Python blocks of a section in their order; the names that they leave."""
    names = {}
    for block in re.findall(r"(?ms)^```python\n(.*?)^```", section):
        exec(compile(block, "adding_recipes.md", "exec"), names)
    return names


def sides(folder):
    return [
        (row["chosen"][0]["content"], row["rejected"][0]["content"])
        for row in rows_of(folder, "pairs.jsonl")
    ]


def test_the_recipe_of_the_page_makes_the_pairs_that_the_page_promises(tmp_path):
    config = names_after(RECIPE)["config"]
    assert config.recipe == "revise_worst"
    data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "Why?"}])
    here = {"run_dir": tmp_path / "run", "prompts": PromptsConfig(path=str(data))}
    roles = models()
    generate(config.model_copy(update=here), **roles)
    # of the two answers the judge prefers the longer one, so the short one is the worst
    ((chosen, rejected),) = sides(tmp_path)
    assert rejected == "The answer is plain."
    assert chosen == "The answer is plain. Really so. Really so. And it says why."
    (request,) = roles["reviser_model"].requests
    assert f"<answer>\n{rejected}\n</answer>" in request.messages[0].content


def test_a_recipe_asks_for_the_models_of_its_stages(tmp_path):
    names_after(RECIPE)
    with pytest.raises(ValueError, match="'revise_worst' needs a judge"):
        config_for(tmp_path, "revise_worst", judge=None)
    with pytest.raises(ValueError, match=r"expected one of 'clair', .*'revise_worst'"):
        config_for(tmp_path, "revise_best")


class Shortener(Role):
    """Leaves out the end of an answer, where there is one."""

    def text(self, request):
        answer = re.search(r"(?s)<answer>\n(.*)\n</answer>", request.messages[0].content)[1]
        return answer.removesuffix(" Really so.")


class Target(Role):
    """Has nothing to leave out in the answer to the first question."""

    def text(self, request):
        number = re.search(r"\d", request.messages[0].content)[0]
        return f"Answer {number} is plain." + ("" if number == "0" else " Really so.")


def test_the_stage_of_the_page_is_run_resumed_estimated_and_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(estimating, "TokenCounter", WordCounter)
    names_after(STAGE)
    config = config_for(tmp_path, "shorten", prompts=3, samples=2)
    before = {model.role: model.requests for model in estimating.estimate(config).models}
    assert before == {"target": 3, "reviser": 3}

    roles = {"target_model": Target(), "reviser_model": Shortener()}
    done = generate(config, **roles)
    assert (done.pairs, done.dropped, done.asked) == (2, {"no_op": 1}, 6)
    assert sides(tmp_path) == [
        (f"Answer {n} is plain.", f"Answer {n} is plain. Really so.") for n in (1, 2)
    ]
    assert len(rows_of(tmp_path, "shortened.jsonl")) == 2
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    assert list(manifest["stages"]) == ["load", "respond", "shorten", "pair"]

    assert generate(config, **roles).asked == 0
    assert sum(model.requests for model in estimating.estimate(config).models) == 0
    card = write_report(tmp_path / "run").card.read_text("utf-8")
    assert "rejected is the target model's answer, chosen is the same answer, shortened" in card


def test_another_reviser_makes_the_rows_of_the_new_stage_void(tmp_path, capsys):
    names_after(STAGE)
    config = config_for(tmp_path, "shorten")
    roles = {"target_model": Target(), "reviser_model": Shortener()}
    generate(config, **roles)
    cooler = config.reviser.model_copy(update={"temperature": 0.1})
    capsys.readouterr()
    assert generate(config.model_copy(update={"reviser": cooler}), **roles).asked == 6
    said = "reviser changed: rebuilding shortened answers and all that is made of them"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("table", [Recipe, StageDef, Forecast])
def test_the_page_names_every_field_of_an_entry(table):
    for field in dataclasses.fields(table):
        assert re.search(rf"(?m)^\|[^|]*`{field.name}`[^|]*\|", PAGE), field.name
