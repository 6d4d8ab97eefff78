"""Parts of a run on several machines, and the run that they are merged to."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from clair_apo.clair import GenerateConfig, generate, load_prompts
from clair_apo.clair.merge import merge
from clair_apo.cli import app
from clair_apo.errors import ClairApoError, DataError, RunError, StoreError
from clair_apo.llm import ModelSpec, RequestStore, StoredAnswer
from clair_apo.records import Dropped, Prompt
from clair_apo.run_folder import Shard
from tests.helpers.clair_runs import REVISER, TARGET, Replying, cut, edit_reply, write_rows

IDS = st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}")


@given(IDS, st.integers(1, 50))
def test_every_prompt_is_in_exactly_one_shard(prompt_id, count):
    holding = [n for n in range(1, count + 1) if Shard(n, count).holds(prompt_id)]
    assert len(holding) == 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="from 1/n to n/n"):
        Shard.parse(text)


def test_a_shard_has_a_folder_and_a_store_of_its_own(tmp_path):
    def config(**changes):
        values = {"run_dir": tmp_path / "run", "prompts": {"path": "x"}, "target": TARGET}
        return GenerateConfig(**values, reviser=REVISER, **changes)

    assert config().folder == tmp_path / "run"
    assert config().store_path == tmp_path / "requests.sqlite"
    assert config(shard="2/3").folder == tmp_path / "run" / "2-of-3"
    assert config(shard="2/3").store_path == tmp_path / "run" / "2-of-3" / "requests.sqlite"
    local = config(shard="2/3", store=Path("/scratch/x.sqlite"))
    assert local.store_path == Path("/scratch/x-2-of-3.sqlite")
    with pytest.raises(ValueError, match="from 1/n to n/n"):
        config(shard="9/3")


# every stage drops somebody: a duplicate, a cut answer, a revision that changes nothing
QUESTIONS = [f"question {n:02}?" for n in range(24)] + [
    "question 03?",
    "question 00?",  # of another shard than 03
    "question 03?",
    *("Question 08", "QUESTION  12?"),  # near-duplicates: in another shard, maybe
]
ANSWERS = [("question 05", cut("half an")), ("question", "the answer")]
REVISIONS = [
    ("question 07", edit_reply()),
    ("question 11", None),
    ("question", edit_reply(("answer", "best answer"))),
]


@pytest.fixture
def data(tmp_path):
    return write_rows(tmp_path / "data.jsonl", [{"prompt": question} for question in QUESTIONS])


def config_of(folder, data, **changes):
    values = {
        "run_dir": folder / "run",
        "prompts": {"path": str(data)},
        "target": TARGET,
        "reviser": REVISER,
        "revision": {"format": "edits", "ask_again": False},
    }
    return GenerateConfig(**(values | changes))


def run(config, answers=ANSWERS):
    target, reviser = Replying(answers), Replying(REVISIONS)
    result = generate(config, target_model=target, reviser_model=reviser)
    return result, target, reviser


def run_shards(folder, data, count=3, **changes):
    configs = [config_of(folder, data, shard=f"{n}/{count}", **changes) for n in (3, 1, 2)[:count]]
    for config in configs:
        run(config)
    return [config.folder for config in configs]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three shards and the data that they are of; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    data = write_rows(folder / "data.jsonl", [{"prompt": question} for question in QUESTIONS])
    run_shards(folder, data)
    return folder


@pytest.fixture
def folders(made, tmp_path):
    """A copy of the three shards, not in their order."""
    shutil.copytree(made / "run", tmp_path / "run")
    return [tmp_path / "run" / f"{number}-of-3" for number in (3, 1, 2)]


def files_of(folder):
    """The rows of a run and of its data set; those of shards below it are not meant."""
    paths = [*folder.glob("*.jsonl"), *folder.glob("dataset/*")]
    paths = [path for path in paths if path.suffix in (".jsonl", ".parquet")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_shards_prompts_are_disjoint_complete_and_in_the_order_of_the_data(tmp_path, data):
    config = config_of(tmp_path, data).prompts
    whole = [row.id for row in load_prompts(config)]
    parts = [[r.id for r in load_prompts(config, Shard(n, 4))] for n in range(1, 5)]
    assert sorted(id for part in parts for id in part) == sorted(whole)
    assert all(part == [id for id in whole if id in part] for part in parts)


def test_equal_prompts_are_in_one_shard_where_one_of_them_is_the_duplicate(tmp_path, data):
    config = config_of(tmp_path, data).prompts
    dropped, kept = [], []
    for number in (1, 2, 3):
        rows = list(load_prompts(config, Shard(number, 3)))
        dropped += [row for row in rows if isinstance(row, Dropped)]
        kept += [row for row in rows if isinstance(row, Prompt)]
    assert len(dropped) == 5
    assert len(kept) == 24


def test_a_limit_draws_the_same_prompts_for_all_shards(tmp_path, data):
    config = config_of(tmp_path, data).prompts.model_copy(update={"limit": 10})
    whole = [row.id for row in load_prompts(config)]
    parts = [row.id for n in (1, 2) for row in load_prompts(config, Shard(n, 2))]
    assert len(whole) == 10
    assert sorted(parts) == sorted(whole)


def test_a_shard_without_prompts_says_so(tmp_path):
    data = write_rows(tmp_path / "one.jsonl", [{"prompt": "only one"}])
    errors = []
    for number in (1, 2):
        try:
            list(load_prompts(config_of(tmp_path, data).prompts, Shard(number, 2)))
        except DataError as error:
            errors.append(str(error))
    assert len(errors) == 1
    assert "use fewer shards" in errors[0]


def test_the_merged_files_are_byte_for_byte_those_of_the_run_without_shards(tmp_path, data):
    parquet = {"output": {"parquet": True}}
    whole, _, _ = run(config_of(tmp_path / "whole", data, **parquet))
    folders = run_shards(tmp_path / "parts", data, **parquet)
    merged = merge(tmp_path / "parts" / "run", folders)
    files = files_of(tmp_path / "parts" / "run")
    assert files == files_of(tmp_path / "whole" / "run")
    assert {"dataset/train.jsonl", "dataset/train.parquet"} <= files.keys()
    assert (merged.prompts, merged.pairs, merged.dropped) == (
        whole.prompts,
        whole.pairs,
        whole.dropped,
    )
    assert whole.dropped == {"cut": 1, "duplicate": 5, "no_op": 1, "request_failed": 1}
    assert merged.prompts == len(QUESTIONS) == merged.pairs + sum(merged.dropped.values())
    assert merged.shards == 3


def test_the_merged_manifest_names_its_parts_and_its_counts_close(tmp_path, folders):
    out = tmp_path / "run"
    merged = merge(out, folders)
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert [part["shard"] for part in manifest["shards"]] == ["1/3", "2/3", "3/3"]
    assert [part["folder"] for part in manifest["shards"]] == [str(f) for f in sorted(folders)]
    assert sum(part["counts"]["prompts"] for part in manifest["shards"]) == merged.prompts
    stages = manifest["stages"]
    assert stages["load"]["kept"] == 24
    assert stages["load"]["dropped"] == {"duplicate": 5}
    assert stages["pair"]["kept"] == merged.pairs
    assert manifest["counts"]["dropped"] == merged.dropped
    # models in this process are free of charge
    assert manifest["cost"] == 0.0
    parts = [json.loads((f / "manifest.json").read_text("utf-8"))["costs"] for f in folders]
    for model, cost in manifest["costs"].items():
        tokens = [part[model]["completion_tokens"] for part in parts]
        assert cost["completion_tokens"] == sum(tokens) > max(tokens)
    assert manifest["costs"].keys() == parts[0].keys() != set()


def test_the_merged_run_runs_again_and_asks_only_what_failed_and_offline_nothing(tmp_path, folders):
    out = tmp_path / "run"
    merge(out, folders)
    before = files_of(out)
    assert b'"request_failed"' in before["dropped.jsonl"]
    settings = yaml.safe_load((out / "config.yaml").read_text("utf-8"))
    result, target, reviser = run(GenerateConfig(**settings | {"offline": True}))
    assert (target.requests, reviser.requests, result.asked) == ([], [], 0)
    assert files_of(out) == before
    result, target, reviser = run(GenerateConfig(**settings))
    assert (target.requests, len(reviser.requests), result.asked) == ([], 1, 1)
    assert files_of(out) == before


def test_the_merged_store_holds_all_answers_under_one_run(tmp_path, folders):
    out = tmp_path / "run"
    merged = merge(out, folders)
    run_id = json.loads((out / "manifest.json").read_text("utf-8"))["run_id"]
    with RequestStore(tmp_path / "requests.sqlite") as store:
        spent = store.spent(run_id)
        assert len(store) == merged.answers == sum(s.answers for s in spent.values())
    # 24 prompts; one answer was cut, one revision failed
    assert {model: s.answers for model, s in spent.items()} == {"target": 24, "reviser": 22}


def test_merging_again_changes_nothing(tmp_path, folders):
    out = tmp_path / "run"
    merge(out, folders)
    before = files_of(out)
    again = merge(out, list(reversed(folders)))
    assert files_of(out) == before
    assert (again.answers, again.conflicts) == (0, 0)


def test_shards_that_were_moved_with_their_stores_are_merged_where_they_are(tmp_path, folders):
    moved = [
        Path(shutil.move(folder, tmp_path / f"copy-{number}"))
        for number, folder in enumerate(folders)
    ]
    merged = merge(tmp_path / "run", moved)
    assert merged.answers == 46


def test_a_request_that_two_stores_answer_differently_is_counted_and_the_first_answer_stays(
    tmp_path, folders
):
    for number in (1, 2):
        with RequestStore(tmp_path / "run" / f"{number}-of-3" / "requests.sqlite") as store:
            store.put_many([StoredAnswer("shared", "m", _whole(number))])
    merged = merge(tmp_path / "run", folders)
    assert merged.conflicts == 1
    with RequestStore(tmp_path / "requests.sqlite") as store:
        assert store.get("shared") == _whole(1)


def _whole(number):
    message = {"content": f"from {number}"}
    return {"choices": [{"message": message, "finish_reason": "stop"}]}


def assert_refused(out, folders, match, error=RunError):
    with pytest.raises(error, match=match):
        merge(out, folders)
    assert not (out / "pairs.jsonl").exists()


def test_a_missing_shard_is_named(tmp_path, folders):
    assert_refused(tmp_path / "run", folders[:2], r"shards 2/3 are missing")


def test_a_doubled_shard_is_named(tmp_path, folders):
    copy = shutil.copytree(folders[0], tmp_path / "copy")
    assert_refused(tmp_path / "run", [*folders, copy], r"copy and .* are both shard 3/3")


def test_shards_of_different_divisions_are_refused(tmp_path, folders, data):
    run(config_of(tmp_path, data, shard="1/2"))
    other = tmp_path / "run" / "1-of-2"
    assert_refused(tmp_path / "run", [*folders, other], "parts of different divisions")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"reviser": ModelSpec(model="reviser", max_tokens=200, temperature=0.1)}, "temperature"),
        ({"revision": {"ask_again": False, "format": "full"}}, "format"),
        ({"prompts": {"seed": 7}}, "seed"),
    ],
)
def test_shards_with_other_settings_are_refused_by_the_setting(
    made, tmp_path, folders, change, named
):
    data = made / "data.jsonl"
    manifest = folders[1] / "manifest.json"
    content = json.loads(manifest.read_text("utf-8"))
    base = {"run_dir": tmp_path / "run", "prompts": {"path": str(data)}}
    changed = {k: (base["prompts"] | v if k == "prompts" else v) for k, v in change.items()}
    config = config_of(tmp_path, data, **({"shard": "1/3"} | changed))
    content["config"] = config.model_dump(mode="json")
    manifest.write_text(json.dumps(content), "utf-8")
    assert_refused(tmp_path / "run", folders, rf"1-of-3: has another .*{named} than")


def test_limits_of_a_machine_do_not_keep_shards_apart(tmp_path, data):
    folders = run_shards(tmp_path, data)
    slower = REVISER.model_copy(update={"max_in_flight": 3, "timeout_s": 9.0})
    run(config_of(tmp_path, data, shard="2/3", reviser=slower))
    assert merge(tmp_path / "run", folders).shards == 3


def test_an_unfinished_shard_is_named(tmp_path, folders):
    manifest = folders[2] / "manifest.json"
    content = json.loads(manifest.read_text("utf-8"))
    del content["stages"]["pair"]
    manifest.write_text(json.dumps(content), "utf-8")
    assert_refused(tmp_path / "run", folders, r"2-of-3: its run has not ended; run shard 2/3 again")


def test_what_is_no_shard_is_refused(tmp_path, data):
    run(config_of(tmp_path / "whole", data))
    assert_refused(tmp_path / "out", [tmp_path / "whole" / "run"], "is no shard")
    assert_refused(tmp_path / "out", [tmp_path], "is no run folder")
    assert_refused(tmp_path / "out", [], "nothing to merge")


def test_a_folder_with_another_run_is_not_merged_into(tmp_path, folders, data):
    run(config_of(tmp_path / "whole", data))
    before = files_of(tmp_path / "whole" / "run")
    with pytest.raises(RunError, match="holds another run"):
        merge(tmp_path / "whole" / "run", folders)
    assert files_of(tmp_path / "whole" / "run") == before


@pytest.mark.parametrize("rows", [QUESTIONS[:20], [*QUESTIONS, "a new question?"]])
def test_prompts_that_changed_since_are_refused(tmp_path, data, rows):
    folders = run_shards(tmp_path, data)
    write_rows(data, [{"prompt": question} for question in rows])
    assert_refused(tmp_path / "run", folders, "run the shards? again", ClairApoError)


def test_a_shard_without_its_store_is_refused(tmp_path, folders):
    (folders[0] / "requests.sqlite").unlink()
    with pytest.raises(StoreError, match="no such request store; bring it here first"):
        merge(tmp_path / "run", folders)


def test_the_command_merges_and_shows_the_report_of_the_whole_run(tmp_path, folders):
    out = tmp_path / "run"
    ended = CliRunner().invoke(app, ["merge", str(out), *map(str, folders)])
    assert ended.exit_code == 0, ended.stderr
    assert "merged 3 shards; 46 answers taken over" in ended.stdout
    assert (out / "report.html").exists()
    ended = CliRunner().invoke(app, ["merge", str(out), str(folders[0])])
    assert ended.exit_code == 2
    assert "shards 1/3, 2/3 are missing" in ended.stderr
