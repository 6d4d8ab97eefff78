"""Chains: each edit of a revision makes a pair of the texts before and after it."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clair_apo.clair.merge import merge
from clair_apo.clair.stages.chain import differing_spans
from clair_apo.errors import ConfigError
from clair_apo.files import read_jsonl
from clair_apo.ingest.pairs import load_pairs
from clair_apo.records import DroppedStep, PreferencePair
from clair_apo.report import counts_line, write_report
from clair_apo.run_folder import RunFolder, is_held_out
from tests.helpers.clair_runs import (
    Replying,
    cut,
    edit_reply,
    full_reply,
    make_config,
    rows_of,
    run,
    segment_reply,
    write_rows,
)
from tests.helpers.judging import JUDGE, RuleJudge

ANSWER = "The tower is 30 feet high. It is old. It stands in Rome."
EDITS = (("30 feet", "30 metres"), ("in Rome", "in Pisa"), ("is old", "is very old"))
STEPS = [
    ANSWER,
    "The tower is 30 metres high. It is old. It stands in Rome.",
    "The tower is 30 metres high. It is very old. It stands in Rome.",
    "The tower is 30 metres high. It is very old. It stands in Pisa.",
]


@pytest.fixture
def one(tmp_path):
    return write_rows(tmp_path / "prompts.jsonl", [{"prompt": "How high?"}])


def chain(folder, data, reply, judged_by=None, **changes):
    config = make_config(folder, data, **({"pairs": "chain"} | changes))
    return run(
        config, Replying([("How high?", ANSWER)]), Replying([("It is old.", reply)]), judged_by
    )


def pairs_of(folder):
    return list(read_jsonl(folder / "run" / "pairs.jsonl", PreferencePair))


def texts(pairs):
    return [(pair.rejected[0].content, pair.chosen[0].content) for pair in pairs]


def test_three_edits_make_three_pairs_of_adjacent_texts_in_the_order_of_the_text(tmp_path, one):
    done = chain(tmp_path, one, edit_reply(*EDITS))
    assert (done.prompts, done.paired, done.pairs, done.dropped) == (1, 1, 3, {})
    pairs = pairs_of(tmp_path)
    assert texts(pairs) == list(pairwise(STEPS))
    steps = [pair.provenance.step for pair in pairs]
    assert [(step.first, step.last, step.edits) for step in steps] == [
        (1, 1, 3),
        (2, 2, 3),
        (3, 3, 3),
    ]


def test_the_span_of_a_step_is_all_that_differs_in_its_pair(tmp_path, one):
    chain(tmp_path, one, edit_reply(*EDITS))
    spans = []
    for pair in pairs_of(tmp_path):
        step, chosen, rejected = pair.provenance.step, pair.chosen[0], pair.rejected[0]
        spans.append(
            (rejected.content[slice(*step.rejected_span)], chosen.content[slice(*step.chosen_span)])
        )
    assert spans == [("feet", "metres"), ("", "very "), ("Rome", "Pisa")]


@given(st.text(alphabet="ab \n", max_size=12), st.text(alphabet="ab \n", max_size=12))
def test_outside_of_their_spans_two_texts_are_equal(one, other):
    (start, end), (begin, stop) = differing_spans(one, other)
    assert one[:start] + other[begin:stop] + one[end:] == other
    assert (start, end) == (begin, stop) or one != other


def test_segments_make_a_chain_too_and_a_deleted_one_is_a_step(tmp_path, one):
    reply = segment_reply((1, "The tower is 30 metres high."), (2, ""))
    done = chain(tmp_path, one, reply, revision={"format": "segments"})
    assert done.pairs == 2
    assert texts(pairs_of(tmp_path))[1] == (
        "The tower is 30 metres high. It is old. It stands in Rome.",
        "The tower is 30 metres high. It stands in Rome.",
    )


def test_the_last_text_of_a_chain_is_the_revision_that_makes_one_whole_pair(tmp_path, one):
    chain(tmp_path, one, edit_reply(*EDITS))
    last = pairs_of(tmp_path)[-1].chosen
    done = chain(tmp_path, one, edit_reply(*EDITS), pairs="whole")
    (whole,) = pairs_of(tmp_path)
    assert (done.asked, whole.chosen) == (0, last)
    assert whole.provenance.step is None
    assert whole.rejected[0].content == ANSWER


def test_a_worsened_answer_makes_a_chain_that_goes_down(tmp_path, one):
    chain(tmp_path, one, edit_reply(*EDITS), recipe="worsen")
    assert texts(pairs_of(tmp_path)) == [(after, before) for before, after in pairwise(STEPS)]


def test_only_the_first_text_is_the_targets_answer(tmp_path, one):
    chain(tmp_path, one, edit_reply(*EDITS))
    kinds = [(p.provenance.rejected.kind, p.provenance.chosen.kind) for p in pairs_of(tmp_path)]
    assert kinds == [("response", "revision"), ("revision", "revision"), ("revision", "revision")]


def test_an_edit_that_changes_nothing_is_no_step_and_the_chain_goes_on(tmp_path, one):
    edits = (EDITS[0], ("is old", "is old"), EDITS[1])
    done = chain(tmp_path, one, edit_reply(*edits))
    assert (done.paired, done.pairs) == (1, 2)
    (left_out,) = read_jsonl(tmp_path / "run" / "dropped_steps.jsonl", DroppedStep)
    assert (left_out.edit, left_out.edits, left_out.reason.value) == (2, 3, "no_op")
    assert left_out.raw == STEPS[1]
    steps = [pair.provenance.step for pair in pairs_of(tmp_path)]
    assert [(step.first, step.last) for step in steps] == [(1, 1), (2, 3)]
    manifest = RunFolder(tmp_path / "run").manifest()
    assert manifest["stages"]["pair"]["dropped_steps"] == {"no_op": 1}


def test_a_text_that_the_gate_refuses_is_left_out_and_the_next_one_is_compared_with_the_last_good(
    tmp_path, one
):
    checks = tmp_path / "checks.yaml"
    checks.write_text("checks:\n- {name: tower, matches: tower}\n")
    edits = (("tower", "building"), ("It is old.", "The tower is old."), ("Rome", "Pisa"))
    chain(tmp_path, one, edit_reply(*edits), gate={"checks": str(checks)})
    assert texts(pairs_of(tmp_path))[0] == (
        ANSWER,
        "The building is 30 feet high. The tower is old. It stands in Rome.",
    )
    (left_out,) = read_jsonl(tmp_path / "run" / "dropped_steps.jsonl", DroppedStep)
    assert (left_out.edit, left_out.reason.value) == (1, "checks_failed")


def test_a_prompt_of_which_no_text_is_left_is_dropped_for_the_reason_of_the_last_one(tmp_path):
    data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "How high?"}, {"prompt": "How old?"}])
    config = make_config(tmp_path, data, pairs="chain")
    same = edit_reply(("30 feet", "30 feet"), ("is old", "is old"))
    target = Replying([("How high?", ANSWER), ("How old?", "Twice " + ANSWER)])
    done = run(config, target, Replying([("Twice", edit_reply(*EDITS)), (ANSWER, same)]))
    assert (done.prompts, done.paired, done.pairs, done.dropped) == (2, 1, 3, {"no_op": 1})
    assert rows_of(tmp_path, "dropped_steps.jsonl") == []
    files = write_report(tmp_path / "run")
    assert counts_line(files.summary) == "2 prompts in = 1 with 3 pairs + 1 dropped (no_op 1)"
    assert files.summary.statistics[0].mean.clusters == 1


def test_edits_that_overlap_drop_the_prompt_with_one_clear_line(tmp_path):
    data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "How high?"}, {"prompt": "How old?"}])
    config = make_config(tmp_path, data, pairs="chain")
    over = edit_reply(("30 feet", "30 metres"), ("feet high", "metres tall"))
    target = Replying([("How high?", ANSWER), ("How old?", "Twice " + ANSWER)])
    done = run(config, target, Replying([("Twice", edit_reply(*EDITS)), (ANSWER, over)]))
    assert (done.pairs, done.dropped) == (3, {"edit_not_found": 1})
    (dropped,) = rows_of(tmp_path, "dropped.jsonl")
    assert dropped["detail"] == "an edit overlaps another one: 'feet high'"


def test_all_pairs_of_a_prompt_go_into_one_split(tmp_path):
    rows = [{"prompt": f"How high is number {n}?"} for n in range(12)]
    data = write_rows(tmp_path / "prompts.jsonl", rows)
    config = make_config(tmp_path, data, pairs="chain", output={"test_size": 0.4})
    run(config, Replying([("How high", ANSWER)]), Replying([(ANSWER, edit_reply(*EDITS))]))
    ids = {}
    for split in ("train", "test"):
        pairs = load_pairs(str(tmp_path / "run" / "dataset"), split)
        ids[split] = [pair.id for pair in pairs]
    assert ids["test"]
    assert not set(ids["train"]) & set(ids["test"])
    assert all(is_held_out(id, 0.4) for id in ids["test"])
    assert len(ids["train"]) + len(ids["test"]) == 36


def test_a_chain_is_paid_for_once(tmp_path, one):
    price = {"input": 1000.0, "output": 1000.0}
    chain(
        tmp_path,
        one,
        edit_reply(*EDITS),
        target={"model": "target", "max_tokens": 100, "price": price},
        reviser={"model": "reviser", "max_tokens": 200, "price": price},
    )
    costs = [pair.provenance.cost for pair in pairs_of(tmp_path)]
    whole = RunFolder(tmp_path / "run").manifest()["cost"]
    assert sum(costs) == pytest.approx(whole)
    assert len(set(costs)) == 1
    card = write_report(tmp_path / "run").card.read_text("utf-8")
    sides = [line.split(" | ")[3:6] for line in card.splitlines() if "| revision | rev" in line]
    assert sides == [["3", "3", "5"], ["2", "0", "0"]]


def test_a_judge_verifies_each_pair_of_a_chain_and_the_others_stay(tmp_path, one):
    judge = RuleJudge(lambda chosen, rejected: "yes" if "very" in chosen else "no")
    reply, options = edit_reply(*EDITS), {"verify": True, "controls": {"share": 0}, "judge": JUDGE}
    done = chain(tmp_path, one, reply, judge, **options)
    assert (done.paired, done.pairs) == (1, 2)
    assert texts(pairs_of(tmp_path)) == list(pairwise(STEPS))[1:]
    said = rows_of(tmp_path, "verifications.jsonl")
    assert [(row["last_edit"], row["confirmed"]) for row in said] == [
        (1, False),
        (2, True),
        (3, True),
    ]
    assert len(rows_of(tmp_path, "candidates.jsonl")) == 3


def test_a_prompt_none_of_whose_pairs_the_judge_confirms_is_dropped(tmp_path):
    data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "How high?"}, {"prompt": "How old?"}])
    config = make_config(tmp_path, data, pairs="chain", verify=True, judge=JUDGE)
    target = Replying([("How high?", ANSWER), ("How old?", "Twice " + ANSWER)])
    reviser = Replying([(ANSWER, edit_reply(*EDITS))])
    judge = RuleJudge(lambda chosen, rejected: "yes" if "Twice" in chosen else "no")
    config = config.model_copy(update={"controls": config.controls.model_copy(update={"share": 0})})
    done = run(config, target, reviser, judge)
    assert (done.paired, done.pairs, done.dropped) == (1, 3, {"judge_rejected": 1})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipe": "judge_then_revise"}, "in the recipes clair and worsen; with"),
        ({"recipe": "on_policy_judge"}, "in the recipes clair and worsen; with"),
        ({"revision": {"format": "full"}}, "set revision.format to edits or segments"),
    ],
)
def test_a_chain_without_edits_is_refused_with_the_way_out(tmp_path, one, changes, words):
    judge = {"model": "judge", "max_tokens": 50}
    with pytest.raises((ConfigError, ValueError), match=words):
        make_config(tmp_path, one, pairs="chain", judge=judge, **changes)


def test_shards_of_chains_join_into_the_run_that_one_machine_makes(tmp_path):
    rows = [{"prompt": f"How high is number {n}?"} for n in range(8)]
    data = write_rows(tmp_path / "prompts.jsonl", rows)
    edits = (EDITS[0], ("is old", "is old"), EDITS[1])
    models = Replying([("How high", ANSWER)]), Replying([(ANSWER, edit_reply(*edits))])
    whole = make_config(tmp_path, data, pairs="chain")
    run(whole, *models)
    shards = []
    for number in (1, 2):
        config = make_config(
            tmp_path, data, pairs="chain", run_dir=tmp_path / "shards", shard=f"{number}/2"
        )
        run(config, *models)
        shards.append(config.folder)
    merged = merge(tmp_path / "merged", shards)
    assert (merged.paired, merged.pairs) == (8, 16)
    for name in ("pairs.jsonl", "dropped_steps.jsonl"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_a_changed_mind_rebuilds_the_pairs_alone(tmp_path, one, capsys):
    chain(tmp_path, one, edit_reply(*EDITS), pairs="whole")
    done = chain(tmp_path, one, edit_reply(*EDITS))
    assert (done.asked, done.pairs) == (0, 3)
    assert "pairs changed: rebuilding pairs" in capsys.readouterr().err


def test_a_cut_reply_makes_no_chain(tmp_path):
    data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "How high?"}, {"prompt": "How old?"}])
    config = make_config(tmp_path, data, pairs="chain")
    target = Replying([("How high?", ANSWER), ("How old?", "Twice " + ANSWER)])
    reviser = Replying([("Twice", edit_reply(*EDITS)), (ANSWER, cut("<reasoning>", 200))])
    assert run(config, target, reviser).dropped == {"cut": 1}


def test_full_is_still_what_it_was(tmp_path, one):
    reply = full_reply("The tower is 30 metres high.")
    done = chain(tmp_path, one, reply, pairs="whole", revision={"format": "full"})
    assert (done.paired, done.pairs) == (1, 1)
    assert json.loads((tmp_path / "run" / "revisions.jsonl").read_text())["edits"] is None
