"""Which prompts are nearly those of before, and what a run makes of them."""

import pytest
from pydantic import ValidationError

from clair_apo.clair import PromptsConfig, load_prompts
from clair_apo.records import Dropped, DropReason, Prompt, Stage
from clair_apo.run_folder import Shard
from tests.helpers.clair_runs import Replying, edit_reply, make_config, rows_of, run, write_rows

FIRST = (
    "Write a letter to my landlord in which I ask him to mend the heating before the winter "
    "comes, and to tell me when the man who does it will be at my door."
)
NEAR = FIRST.replace("landlord", "landlady")
OTHER = "Explain in two sentences why the sky is blue, as you would to a child of six years."
SYSTEM = " ".join(f"Rule {n}: keep to rule number {n}." for n in range(60))


def load(folder, *prompts, threshold=0.8, shard=None):
    rows = [{"messages": p} if isinstance(p, list) else {"prompt": p} for p in prompts]
    path = write_rows(folder / "p.jsonl", rows)
    return list(load_prompts(PromptsConfig(path=str(path), near_duplicates=threshold), shard))


def test_a_near_duplicate_is_dropped_and_names_the_first(tmp_path):
    first, other, dropped = load(tmp_path, FIRST, OTHER, NEAR)
    assert isinstance(first, Prompt) and isinstance(other, Prompt)
    assert isinstance(dropped, Dropped)
    assert (dropped.stage, dropped.reason) == (Stage.LOAD, DropReason.NEAR_DUPLICATE)
    assert dropped.detail.startswith(f"p.jsonl:3: prompt {first.id} stood there before")
    assert dropped.raw == NEAR


def test_without_the_setting_it_is_kept(tmp_path):
    assert all(isinstance(row, Prompt) for row in load(tmp_path, FIRST, NEAR, threshold=None))


def test_a_higher_threshold_keeps_what_a_lower_one_drops(tmp_path):
    kept = [
        sum(isinstance(row, Prompt) for row in load(tmp_path, FIRST, NEAR, threshold=threshold))
        for threshold in (0.7, 0.99)
    ]
    assert kept == [1, 2]


def test_the_same_prompt_is_a_duplicate_and_no_near_duplicate(tmp_path):
    _, dropped = load(tmp_path, FIRST, FIRST)
    assert dropped.reason is DropReason.DUPLICATE


def test_a_system_turn_that_all_prompts_share_makes_them_no_near_duplicates(tmp_path):
    rows = load(
        tmp_path,
        *(
            [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
            for text in (FIRST, OTHER)
        ),
    )
    assert all(isinstance(row, Prompt) for row in rows)


def test_every_shard_drops_what_the_whole_run_drops(tmp_path):
    prompts = [FIRST, OTHER, NEAR, *(f"{OTHER} Question number {n}, please." for n in range(20))]
    whole = load(tmp_path, *prompts)
    parts = [
        row for n in (1, 2, 3) for row in load(tmp_path, *prompts, shard=Shard.parse(f"{n}/3"))
    ]
    assert sorted(whole, key=lambda r: r.id) == sorted(parts, key=lambda r: r.id)


@pytest.mark.parametrize("threshold", [0.69, 1.01])
def test_a_threshold_that_the_sketches_cannot_tell_is_refused(threshold):
    with pytest.raises(ValidationError):
        PromptsConfig(path="p.jsonl", near_duplicates=threshold)


def test_a_run_counts_them_and_asks_nothing_about_them(tmp_path):
    data = write_rows(tmp_path / "p.jsonl", [{"prompt": p} for p in (FIRST, NEAR, OTHER)])
    config = make_config(tmp_path, data, prompts={"path": str(data), "near_duplicates": 0.8})
    target = Replying([("", "the old answer")])
    done = run(config, target, Replying([("", edit_reply(("old", "new")))]))
    assert (done.pairs, done.dropped) == (2, {"near_duplicate": 1})
    assert len(target.requests) == 2
    (dropped,) = rows_of(tmp_path, "dropped.jsonl")
    assert dropped["raw"] == NEAR
