"""What a lint reads: runs, files and data sets, splits of one and other data beside it."""

import pytest
from datasets import Dataset, DatasetDict

from clair_apo.errors import DataError
from clair_apo.lint import Severity, lint
from clair_apo.lint.rows import row_count
from tests.helpers.clair_runs import Replying, edit_reply, make_config, run, write_rows
from tests.helpers.lint_pairs import as_messages, finding, linted, sound_pairs


def test_a_run_folder_a_parquet_file_and_a_saved_data_set_are_read(tmp_path):
    data = write_rows(tmp_path / "p.jsonl", [{"prompt": f"Question {n}?"} for n in range(4)])
    config = make_config(tmp_path, data)
    reviser = Replying([("", edit_reply(("old", "new")))])
    run(config, Replying([("", "the old answer")]), reviser)
    assert lint(str(tmp_path / "run")).pairs == 4
    rows = Dataset.from_list(sound_pairs(7))
    rows.to_parquet(tmp_path / "pairs.parquet")
    assert lint(str(tmp_path / "pairs.parquet")).pairs == 7
    rows.save_to_disk(tmp_path / "saved")
    assert lint(str(tmp_path / "saved")).pairs == 7


def test_whole_conversations_without_a_prompt_column_are_read(tmp_path):
    rows = [as_messages(one) for one in sound_pairs(5)]
    whole = [
        {side: [*row["prompt"], *row[side]] for side in ("chosen", "rejected")} for row in rows
    ]
    assert linted(tmp_path, whole).prompts == 5


def test_prompts_of_another_split_are_found_without_being_asked_for(tmp_path):
    rows = sound_pairs(40)
    splits = {"train": rows[:30], "test": rows[29:]}
    DatasetDict({name: Dataset.from_list(of) for name, of in splits.items()}).save_to_disk(
        tmp_path / "saved"
    )
    report = lint(str(tmp_path / "saved"))
    found = finding(report, "prompt_in_other_data")
    assert (report.pairs, found.count, found.severity) == (30, 1, Severity.ERROR)
    assert found.examples[0].detail.endswith("row 0 of test")
    assert report.against == (f"{tmp_path / 'saved'}: test",)
    assert lint(str(tmp_path / "saved"), split="test").pairs == 11


def test_splits_of_one_kind_may_share_their_prompts(tmp_path):
    rows = Dataset.from_list(sound_pairs(20))
    names = ("train_prefs", "train_sft", "test_prefs")
    DatasetDict(dict.fromkeys(names, rows)).save_to_disk(tmp_path / "saved")
    report = lint(str(tmp_path / "saved"), split="train_prefs")
    assert report.against == (f"{tmp_path / 'saved'}: test_prefs",)
    both = lint(str(tmp_path / "saved"), split="test_prefs").against
    assert both == tuple(f"{tmp_path / 'saved'}: {name}" for name in names[:2])


def test_half_a_character_makes_a_row_unreadable(tmp_path):
    rows = sound_pairs(3)
    rows[1]["rejected"] += " \ud83d"
    found = finding(linted(tmp_path, rows), "unreadable")
    assert found.examples[0].row.endswith("pairs.jsonl:2")
    assert "half a surrogate pair" in found.examples[0].detail


def test_prompts_of_other_data_are_found_whatever_its_form(tmp_path):
    rows = sound_pairs(40)
    near = rows[8]["prompt"].replace("Tell", "Please tell") + " Thank you."
    pairs = write_rows(tmp_path / "held_out.jsonl", [as_messages(rows[3]), {"chosen": "no pair"}])
    prompts = write_rows(
        tmp_path / "test.jsonl",
        [{"question": rows[5]["prompt"].upper()}, {"question": near}, {"question": "Why?"}],
    )
    report = linted(tmp_path, rows, against=[str(pairs), str(prompts)])
    same, alike = (
        finding(report, name) for name in ("prompt_in_other_data", "near_prompt_in_other_data")
    )
    assert [one.detail for one in same.examples] == [f"as {pairs}:1", f"as {prompts}:1"]
    assert (same.severity, alike.severity) == (Severity.ERROR, Severity.WARNING)
    (example,) = alike.examples
    assert example.row.endswith("pairs.jsonl:9") and example.detail.endswith(f"with {prompts}:2")


def test_a_system_turn_tells_no_prompts_apart(tmp_path):
    row = as_messages(sound_pairs(1)[0])
    asked = {**row, "prompt": [{"role": "system", "content": "Be kind."}, *row["prompt"]]}
    other = write_rows(tmp_path / "other.jsonl", [asked])
    assert finding(linted(tmp_path, [row], against=[str(other)]), "prompt_in_other_data")


def test_other_data_without_a_prompt_is_refused(tmp_path):
    other = write_rows(tmp_path / "other.jsonl", [{"number": 3}])
    with pytest.raises(DataError, match=r"other\.jsonl:1: expected one of the columns"):
        linted(tmp_path, sound_pairs(3), against=[str(other)])
    with pytest.raises(DataError, match=r"gone\.jsonl: cannot be read"):
        linted(tmp_path, sound_pairs(3), against=[str(tmp_path / "gone.jsonl")])


def test_examples_are_few_cut_and_show_where_the_sides_part(tmp_path):
    rows = sound_pairs(30)
    for row in rows:
        same = "word " * 1000
        row |= {"chosen": f"{same}yes {same}", "rejected": f"{same}no {same}"}
    found = finding(linted(tmp_path, rows), "near_identical_sides")
    assert found.count == 30 and len(found.examples) == 5
    for example in found.examples:
        assert "word yes word" in example.chosen and "word no word" in example.rejected
        assert "characters before]" in example.chosen and "more characters]" in example.chosen
        assert len(example.chosen) < 700


def test_progress_knows_how_many_rows_a_file_has_before_it_is_read(tmp_path):
    rows = Dataset.from_list(sound_pairs(7))
    rows.to_parquet(tmp_path / "pairs.parquet")
    rows.save_to_disk(tmp_path / "saved")
    (tmp_path / "pairs.jsonl").write_text('{"a": 1}\n\n{"a": 2}')
    (tmp_path / "broken.parquet").write_text("no Parquet")
    names = ("pairs.parquet", "pairs.jsonl", "saved", "broken.parquet", "gone.jsonl")
    assert [row_count(str(tmp_path / name)) for name in names] == [7, 2, 0, 0, 0]
