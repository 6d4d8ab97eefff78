"""Checks as a gate: chosen must pass them. Checks as a scorer: they choose among samples."""

import json

import pytest
from pydantic import ValidationError

from clair_apo.clair import generate
from clair_apo.clair.prompt_state import PromptState
from clair_apo.clair.setup import stage_context
from clair_apo.clair.stages.judge import comparisons_of
from clair_apo.errors import ConfigError, DataError
from clair_apo.records import Prompt, prompt_id
from tests.helpers.clair_runs import (
    Replying,
    edit_reply,
    make_config,
    rows_of,
    run,
    user,
    write_rows,
)
from tests.helpers.scripted_roles import Judge, Target, config_for, models

TWO = "checks:\n  - {name: says_new, contains_any: [new]}\n  - {name: short, max_words: 3}\n"


PROMPT = Prompt(id="p", messages=user("Question?"), source="here")


def checks_file(folder, text=TWO):
    path = folder / "checks.yaml"
    path.write_text(text)
    return path


def gated(folder, **gate):
    rows = [{"prompt": f"Question {n}?"} for n in range(3)]
    config = make_config(folder, write_rows(folder / "data.jsonl", rows), gate=gate)
    replies = [
        ("Question 0?", edit_reply(("old", "new"))),
        ("Question 1?", edit_reply(("old", "other"))),
        ("Question 2?", edit_reply(("old", "another and longer"))),
    ]
    return run(config, Replying([("", "old answer")]), Replying(replies))


def test_a_pair_whose_chosen_side_fails_a_check_is_dropped_with_the_checks_names(tmp_path):
    done = gated(tmp_path, checks=checks_file(tmp_path))
    assert (done.pairs, done.dropped) == (1, {"checks_failed": 2})
    details = {row["id"]: row["detail"] for row in rows_of(tmp_path, "dropped.jsonl")}
    assert details[prompt_id(user("Question 1?"))] == "chosen fails 1 of 2 checks: says_new"
    assert details[prompt_id(user("Question 2?"))].endswith("2 of 2 checks: says_new, short")


def test_a_changed_file_of_checks_makes_the_pairs_anew_and_asks_nothing(tmp_path, capsys):
    path = checks_file(tmp_path)
    gated(tmp_path, checks=path)
    checks_file(tmp_path, "checks: [{name: no_words, max_words: 0}]")
    with pytest.raises(DataError, match=r"not one of 3 .* \(checks_failed 3\)"):
        gated(tmp_path, checks=path)
    checks_file(tmp_path, "checks: [{name: all_good, max_words: 9}]")
    capsys.readouterr()
    done = gated(tmp_path, checks=path)
    assert (done.pairs, done.asked) == (3, 0)
    assert "gate changed: rebuilding pairs" in " ".join(capsys.readouterr().err.split())


def test_a_gate_without_checks_has_the_settings_that_it_had_before_there_were_any(tmp_path):
    gated(tmp_path)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert "checks" not in manifest["settings"]["gate"]
    assert "scorer" not in manifest["settings"]


def test_a_file_of_checks_that_is_none_is_found_before_anything_is_asked(tmp_path):
    for gate in (tmp_path / "missing.yaml", checks_file(tmp_path, "checks: []")):
        with pytest.raises(ConfigError):
            gated(tmp_path, checks=gate)
    assert not (tmp_path / "run").exists()


def test_an_expression_that_never_ends_ends_the_run_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("clair_apo.text.checks.SECONDS", 0.05)
    path = checks_file(tmp_path, "checks: [{name: slow, matches: '^(a|a)*$'}]")
    config = make_config(
        tmp_path, write_rows(tmp_path / "d.jsonl", [{"prompt": "Q?"}]), gate={"checks": path}
    )
    with pytest.raises(DataError, match="'slow': its regular expression did not come to an end"):
        run(config, Replying([("", "old")]), Replying([("", edit_reply(("old", "a" * 40 + "!")))]))


def scored(folder, text, recipe="on_policy_judge", **changes):
    path = checks_file(folder, text)
    return config_for(folder, recipe, judge=None, scorer={"checks": path}, **changes)


FEW_WORDS = "checks:\n" + "".join(f"  - {{name: most_{n}, max_words: {n}}}\n" for n in (5, 7))


@pytest.mark.parametrize("recipe", ["on_policy_judge", "judge_then_revise", "off_policy_judge"])
def test_a_scorer_takes_best_and_worst_by_the_share_of_checks_and_asks_nobody(tmp_path, recipe):
    # of the target's samples the first has 4 words, and each later one 2 more
    text = FEW_WORDS if recipe != "off_policy_judge" else "checks: [{name: one, max_words: 1}]"
    config = scored(tmp_path, text, recipe)
    done = generate(config, target_model=Target(), reviser_model=models()["reviser_model"])
    assert done.pairs == done.prompts
    pair = rows_of(tmp_path, "pairs.jsonl")[0]
    assert pair["provenance"]["judged_by"] == "checks"
    (judged,) = {(row["better"], row["worse"]) for row in rows_of(tmp_path, "judgements.jsonl")}
    assert judged == ((0, 2) if recipe != "off_policy_judge" else (0, 1))


def test_answers_that_pass_as_many_checks_make_no_pair(tmp_path):
    config = scored(tmp_path, "checks: [{name: any, max_words: 99}]")
    with pytest.raises(DataError, match="judge_rejected 6"):
        generate(config, target_model=Target())
    detail = rows_of(tmp_path, "dropped.jsonl")[0]["detail"]
    assert detail == "all 3 answers have the score 1"


def test_a_changed_scorer_chooses_anew(tmp_path):
    generate(scored(tmp_path, FEW_WORDS), target_model=Target())
    longest = "checks: [{name: much, matches: 'so. Really so.$'}]"
    done = generate(scored(tmp_path, longest), target_model=Replying([]))
    assert (done.pairs, done.asked) == (6, 0)
    assert {row["better"] for row in rows_of(tmp_path, "judgements.jsonl")} == {2}


def test_a_judge_verifies_what_a_scorer_chose_and_is_asked_nothing_else(tmp_path):
    path = checks_file(tmp_path, "checks: [{name: much, matches: 'so. Really so.$'}]")
    config = config_for(
        tmp_path, "on_policy_judge", scorer={"checks": path}, verify=True, controls={"share": 0}
    )
    assert comparisons_of(PromptState(PROMPT), stage_context(config)) == 0  # for --estimate
    judge = Judge()
    done = generate(config, target_model=Target(), judge_model=judge)
    assert done.pairs == len(judge.requests) == 6


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"recipe": "on_policy_judge"}, "would both choose"),
    ],
)
def test_a_scorer_stands_where_a_judge_would(tmp_path, changes, expected):
    data = write_rows(tmp_path / "d.jsonl", [{"prompt": "Q?"}])
    judge = {"model": "judge"}
    with pytest.raises(ValidationError, match=expected):
        make_config(tmp_path, data, judge=judge, scorer={"checks": tmp_path / "c.yaml"}, **changes)


def test_without_judge_and_scorer_both_are_named(tmp_path):
    data = write_rows(tmp_path / "d.jsonl", [{"prompt": "Q?"}])
    with pytest.raises(ValidationError, match=r"set judge\.model, or a scorer"):
        make_config(tmp_path, data, recipe="on_policy_judge")
