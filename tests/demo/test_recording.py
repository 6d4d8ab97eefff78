"""The shipped recording fits the pipeline that renders its requests."""

from collections import Counter
from pathlib import Path

import pytest

from clair_apo.apo import load_pairs, split_pairs
from clair_apo.clair import generate
from clair_apo.demo.recording import (
    REKEY,
    data_file,
    fill_store,
    read_recording,
    recorded_prompts,
    rendered_requests,
)
from clair_apo.demo.run import demo_config
from clair_apo.errors import DataError, RequestError
from clair_apo.files import read_jsonl
from clair_apo.llm import RequestStore
from clair_apo.records import PreferencePair


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
    assert all("edits" in row.revisions for row in rows)
    assert sum("full" in row.revisions for row in rows) >= 20
    assert sum(path.stat().st_size for path in data_file(".").iterdir()) < 500_000


def test_the_demo_makes_97_pairs_of_106_prompts_and_fails_where_it_should(tmp_path: Path) -> None:
    run = demo_run(tmp_path)
    pairs = list(read_jsonl(run / "pairs.jsonl", PreferencePair))
    reasons = Counter(
        line.split('"reason":"')[1].split('"')[0]
        for line in (run / "dropped.jsonl").read_text("utf-8").splitlines()
    )
    assert len(pairs) == 97
    assert reasons == {"no_op": 2, "cut": 2, "refused": 2, "unparsed": 2, "edit_not_found": 1}


def test_64_pairs_train_and_at_least_24_are_held_out(tmp_path: Path) -> None:
    pairs = load_pairs(str(demo_run(tmp_path) / "pairs.jsonl"))
    split = split_pairs(pairs, held_out=0.3, max_pairs=64)
    assert len(split.train) == 64
    assert len(split.held_out) >= 24
    assert not {p.id for p in split.train} & {p.id for p in split.held_out}


def test_every_winner_keeps_the_house_rules_that_can_be_counted(tmp_path: Path) -> None:
    for pair in read_jsonl(demo_run(tmp_path) / "pairs.jsonl", PreferencePair):
        lines = pair.chosen[0].content.splitlines()
        assert lines[-1].startswith("Next step: ")
        assert sum("Next step:" in line for line in lines) == 1
        assert not any(line.lstrip().startswith(("-", "*", "1.")) for line in lines)


def test_a_request_that_was_not_recorded_is_refused_and_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="name a live model"):
        demo_run(tmp_path, "--reviser.temperature", "0.5")


def test_the_whole_texts_give_the_same_winners_as_the_edits(tmp_path: Path) -> None:
    by_edits = {p.id: p for p in read_jsonl(demo_run(tmp_path) / "pairs.jsonl", PreferencePair)}
    both = [
        row for row in read_recording() if len(row.revisions) == 2 and row.prompt_id in by_edits
    ]
    assert len(both) == 24
    for row in both:
        whole = row.revisions["full"].completion.text
        assert by_edits[row.prompt_id].chosen[0].content in whole


def test_zero_pairs_after_the_gate_are_an_error_that_counts_the_reasons(tmp_path: Path) -> None:
    lines = data_file("prompts.jsonl").read_text().splitlines()
    ids = [row.prompt_id for row in read_recording()]
    unchanged = [
        i
        for i, row in enumerate(read_recording())
        if "<edits>\n</edits>" in row.revisions["edits"].completion.text
    ]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(lines[i] for i in unchanged))
    assert len(ids) == len(lines)
    with pytest.raises(DataError, match=r"not one of 1 prompts became a pair \(no_op 1\)"):
        demo_run(tmp_path, "--prompts.path", str(prompts))
