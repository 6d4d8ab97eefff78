"""The shipped recording fits the pipeline that renders its requests."""

from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest

from clair_apo.apo import load_pairs, split_pairs
from clair_apo.clair import generate
from clair_apo.config import read_yaml
from clair_apo.demo.recording import (
    REKEY,
    data_file,
    fill_store,
    read_recording,
    recorded_prompts,
    rendered_requests,
)
from clair_apo.demo.run import demo_config, held_out_prompts, training_yaml
from clair_apo.errors import DataError, RequestError
from clair_apo.files import read_jsonl
from clair_apo.llm import RequestStore
from clair_apo.records import PreferencePair
from clair_apo.text.checks import load_checks, passed


def demo_run(folder: Path, *options: str) -> Path:
    config = demo_config(["--run_dir", str(folder / "run"), *options])
    with RequestStore(config.store_path) as store:
        fill_store(store)
    generate(config)
    return config.run_dir


def test_every_recorded_answer_belongs_to_the_request_that_is_rendered_today() -> None:
    config = demo_config()
    prompts = recorded_prompts(config)
    for row in read_recording():
        requests = rendered_requests(row, prompts[row.prompt_id], config.target, config.reviser)
        recorded = {"response": row.response, **row.revisions}
        for name, request in requests.items():
            assert recorded[name].key == request.key, (
                f"{name} of {row.prompt_id} is no longer the recorded request; run: {REKEY}"
            )


def test_the_recording_holds_every_prompt_and_enough_of_both_formats() -> None:
    rows = read_recording()
    assert [row.prompt_id for row in rows] == list(recorded_prompts(demo_config()))
    assert len(rows) >= 96
    whole = [row for row in rows if row.response.completion.finish_reason == "stop"]
    assert all("edits" in row.revisions for row in whole)  # the others are dropped unrevised
    assert sum("full" in row.revisions for row in rows) >= 20
    assert sum(path.stat().st_size for path in data_file(".").iterdir()) < 500_000


def test_the_demo_makes_147_pairs_of_177_prompts_and_drops_the_rest(tmp_path: Path) -> None:
    run = demo_run(tmp_path)
    pairs = list(read_jsonl(run / "pairs.jsonl", PreferencePair))
    reasons = Counter(
        line.split('"reason":"')[1].split('"')[0]
        for line in (run / "dropped.jsonl").read_text("utf-8").splitlines()
    )
    assert len(pairs) == 147
    assert reasons == {"cut": 27, "no_op": 1, "refused": 1, "edit_not_found": 1}


def test_revisions_are_minimal(tmp_path: Path) -> None:
    pairs = list(read_jsonl(demo_run(tmp_path) / "pairs.jsonl", PreferencePair))
    assert fmean(pair.contrast.jaccard for pair in pairs) >= 0.6
    assert fmean(pair.contrast.levenshtein_share for pair in pairs) <= 0.3


def test_the_held_out_prompts_are_neither_trained_on_nor_chosen_by_their_answers(
    tmp_path: Path,
) -> None:
    run = demo_run(tmp_path)
    share = read_yaml(training_yaml())["held_out"]
    split = split_pairs(load_pairs(str(run / "pairs.jsonl")), held_out=share)
    held_out = {prompt.id for prompt in held_out_prompts(demo_config())}
    assert not held_out & {pair.id for pair in split.train}
    assert held_out > {pair.id for pair in split.held_out}  # those that became no pair as well
    assert len(held_out) >= 40


def test_every_winner_keeps_the_house_rules_that_can_be_counted(tmp_path: Path) -> None:
    rules = load_checks(data_file("house_rules.yaml"))
    for pair in read_jsonl(demo_run(tmp_path) / "pairs.jsonl", PreferencePair):
        answer = pair.chosen[0].content
        assert answer.count("Next step:") == 1
        assert all(passed(rules, pair.prompt[-1].content, answer).values())


def test_a_request_that_was_not_recorded_is_refused_and_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="name a live model"):
        demo_run(tmp_path, "--reviser.temperature", "0.5")


def test_the_whole_texts_give_the_same_winners_as_the_edits(tmp_path: Path) -> None:
    by_edits = {p.id: p for p in read_jsonl(demo_run(tmp_path) / "pairs.jsonl", PreferencePair)}
    both = [
        row for row in read_recording() if len(row.revisions) == 2 and row.prompt_id in by_edits
    ]
    assert len(both) == 30
    for row in both:
        whole = row.revisions["full"].completion.text
        assert by_edits[row.prompt_id].chosen[0].content in whole


def test_zero_pairs_after_the_gate_are_an_error_that_counts_the_reasons(tmp_path: Path) -> None:
    lines = data_file("prompts.jsonl").read_text().splitlines()
    ids = [row.prompt_id for row in read_recording()]
    unchanged = [
        i
        for i, row in enumerate(read_recording())
        if row.revisions and "<edits>\n</edits>" in row.revisions["edits"].completion.text
    ]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(lines[i] for i in unchanged))
    assert len(ids) == len(lines)
    with pytest.raises(DataError, match=r"not one of 1 prompts became a pair \(no_op 1\)"):
        demo_run(tmp_path, "--prompts.path", str(prompts))
