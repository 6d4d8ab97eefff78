import json

import pytest
from datasets import Dataset, DatasetDict

from clair_apo.apo.data import data_digest, load_split_pairs, split_pairs
from clair_apo.errors import DataError
from clair_apo.ingest.pairs import TrainingPair, load_pairs, pair_from_row
from clair_apo.records import Message, digest
from clair_apo.run_folder import is_held_out
from tests.helpers.tiny_apo import make_rows

USER = {"role": "user", "content": "why?"}
SYSTEM = {"role": "system", "content": "be brief"}
GOOD = {"role": "assistant", "content": "because"}
BAD = {"role": "assistant", "content": "no idea"}


def dicts(turns):
    return [turn.model_dump() for turn in turns]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def many(count):
    return [pair_from_row(row, "here") for row in make_rows(count)]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "why?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD], "rational": "so"},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD], "score": 3},
        {"prompt": [USER], "chosen": "because", "rejected": "no idea"},
        {"prompt": "why?", "chosen": [GOOD], "rejected": [BAD]},
    ],
)
def test_every_foreign_form_becomes_the_same_conversation(row):
    pair = pair_from_row(row, "here")
    assert dicts(pair.prompt) == [USER]
    assert dicts(pair.chosen) == [GOOD]
    assert dicts(pair.rejected) == [BAD]


def test_a_system_turn_that_only_the_answers_carry_is_kept():
    row = {"prompt": "why?", "chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]}
    assert dicts(pair_from_row(row, "here").prompt) == [SYSTEM, USER]


def test_several_turns_with_equal_answers_in_between_stay_in_the_prompt():
    turns = [USER, GOOD, USER]
    row = {"chosen": [*turns, GOOD], "rejected": [*turns, BAD]}
    assert dicts(pair_from_row(row, "here").prompt) == turns


def test_plain_text_stays_plain_text_with_the_id_of_the_same_message():
    text = pair_from_row({"prompt": "why?", "chosen": "because", "rejected": "no"}, "here")
    assert (text.prompt, text.chosen, text.rejected) == ("why?", "because", "no")
    assert text.id == digest([Message(**USER).model_dump()])[:16]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "chosen": "b"}, "expected columns prompt, chosen, rejected, found prompt"),
        ({"chosen": "b", "rejected": "c"}, "expected column 'prompt' beside plain-text"),
        ({"prompt": " ", "chosen": "b", "rejected": "c"}, "'prompt' is empty"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "'rejected' is empty"),
        (
            {"prompt": [USER | {"content": ""}], "chosen": [GOOD], "rejected": [BAD]},
            "'prompt' is empty",
        ),
        ({"prompt": [USER], "chosen": [USER, GOOD], "rejected": [BAD]}, "'chosen' must answer"),
        ({"prompt": [USER, GOOD], "chosen": [GOOD], "rejected": [BAD]}, "must end with the user"),
        ({"prompt": [USER], "chosen": 3, "rejected": [BAD]}, "'chosen' must be text or a list"),
        ({"prompt": [{"text": "a"}], "chosen": [GOOD], "rejected": [BAD]}, "role and content"),
    ],
)
def test_a_row_that_is_no_pair_is_named_with_what_was_expected(row, said, tmp_path):
    path = write(tmp_path / "pairs.jsonl", [*make_rows(2), row])
    with pytest.raises(DataError) as caught:
        load_pairs(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert said in str(caught.value)


def test_an_unreadable_line_is_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    write(path, make_rows(1))
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(DataError, match=r"pairs\.jsonl:2: not JSON"):
        load_pairs(str(path))


def test_no_pairs_no_file_and_no_split_are_each_said(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(DataError, match="there is not one pair in it"):
        load_pairs(str(empty))
    for name in ("none.jsonl", "none.parquet", "./none"):
        with pytest.raises(DataError, match=r"cannot be read|no such file or folder"):
            load_pairs(str(tmp_path / name))
    DatasetDict(train=Dataset.from_list(make_rows(2))).save_to_disk(tmp_path / "split")
    with pytest.raises(DataError, match="has no split 'test', but train"):
        load_pairs(str(tmp_path / "split"), "test")


def test_jsonl_parquet_and_folders_of_datasets_give_the_same_pairs(tmp_path):
    rows = make_rows(5)
    data = Dataset.from_list(rows)
    data.to_parquet(tmp_path / "pairs.parquet")
    data.save_to_disk(tmp_path / "saved")
    DatasetDict(train=data).save_to_disk(tmp_path / "splits")
    (tmp_path / "files").mkdir()
    write(tmp_path / "files" / "train.jsonl", rows)
    expected = load_pairs(write(tmp_path / "pairs.jsonl", rows))
    assert len(expected) == 5
    for name in ("pairs.parquet", "saved", "splits", "files"):
        assert load_pairs(str(tmp_path / name)) == expected, name


def test_a_faulty_row_of_a_table_is_named_by_its_number(tmp_path):
    rows = make_rows(3)
    rows[2]["chosen"] = None
    Dataset.from_list(rows).to_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(DataError, match=r"pairs\.parquet: row 2: expected columns"):
        load_pairs(str(tmp_path / "pairs.parquet"))


def test_held_out_is_decided_by_the_first_32_bits_of_the_prompts_digest():
    pairs = many(60)
    for pair in pairs:
        whole = digest(dicts(pair.prompt))
        assert is_held_out(pair.id, 0.3) == (int(whole[:8], 16) / 2**32 < 0.3)
    split = split_pairs(pairs, 0.3)
    assert {p.id for p in split.held_out} == {p.id for p in pairs if is_held_out(p.id, 0.3)}
    assert 0 < len(split.held_out) < 60
    assert len(split.train) + len(split.held_out) == 60


def test_adding_or_shuffling_rows_moves_no_pair_between_the_sides():
    pairs = many(60)
    few, all_of_them = split_pairs(pairs[:30], 0.3), split_pairs(pairs[::-1], 0.3)
    assert set(few.held_out) <= set(all_of_them.held_out)
    assert set(few.train) <= set(all_of_them.train)
    assert split_pairs(pairs, 0.3) == all_of_them
    assert data_digest(split_pairs(pairs, 0.3).train) == data_digest(all_of_them.train)


def test_equal_prompts_are_on_one_side():
    pair = many(1)[0]
    twin = TrainingPair(id=pair.id, prompt=pair.prompt, chosen=pair.rejected, rejected=pair.chosen)
    for fraction in (0.01, 0.99):
        held_out = {is_held_out(pair.id, fraction), is_held_out(twin.id, fraction)}
        assert len(held_out) == 1


def test_max_pairs_takes_the_first_of_the_rest_in_the_order_of_their_ids():
    pairs = many(40)
    whole, limited = split_pairs(pairs, 0.2), split_pairs(pairs, 0.2, max_pairs=7)
    assert limited.train == whole.train[:7]
    assert limited.held_out == whole.held_out
    assert [p.id for p in whole.train] == sorted(p.id for p in whole.train)


def test_nothing_left_to_train_on_is_said():
    pair = next(p for p in many(40) if is_held_out(p.id, 0.5))
    with pytest.raises(DataError, match="all 1 pairs are held out"):
        split_pairs([pair], 0.5)


def test_the_row_for_trl_keeps_messages_and_the_id():
    pair = many(1)[0]
    row = pair.to_trl_row()
    assert row["id"] == pair.id
    assert row["chosen"][0]["role"] == "assistant"


@pytest.fixture(params=["files", "saved"])
def parted(request, tmp_path):
    """A folder with 12 pairs to train on and 3 to test with, one prompt in both."""
    rows = make_rows(14)
    splits = {"train": rows[:12], "test": rows[11:]}
    if request.param == "saved":
        DatasetDict({k: Dataset.from_list(v) for k, v in splits.items()}).save_to_disk(tmp_path)
    else:
        for name, part in splits.items():
            write(tmp_path / f"{name}.jsonl", part)
    return str(tmp_path)


def test_the_test_split_is_held_out_and_nothing_else(parted):
    for share in (0.02, 0.1, 0.9):
        split = load_split_pairs(parted, "train", share, max_pairs=5)
        assert {pair.id for pair in split.held_out} == {p.id for p in load_pairs(parted, "test")}
        assert (len(split.train), len(split.held_out), split.left) == (5, 3, 7)
    whole = load_split_pairs(parted, "train", 0.1)
    assert len(whole.train) == 12
    assert whole.rule == f"the test split of {parted}, 1 of whose prompts are trained on too"


def test_nothing_is_held_out_where_the_share_is_0(parted):
    split = load_split_pairs(parted, "train", 0)
    assert (len(split.train), split.held_out) == (12, ())
    assert split.rule == f"held_out is 0, although {parted} has a test split"


def test_a_test_split_that_is_trained_on_is_parted_by_digest(parted):
    split = load_split_pairs(parted, "test", 0.1)
    assert split == split_pairs(load_pairs(parted, "test"), 0.1)


def test_the_rule_says_why_nothing_is_held_out(tmp_path):
    name = write(tmp_path / "pairs.jsonl", make_rows(6))
    assert load_split_pairs(name, "train", 0.0).rule == "held_out is 0"
    assert (
        "no prompt's digest falls into held_out 1e-09" in split_pairs(load_pairs(name), 1e-9).rule
    )
    assert "held_out 0.5" in split_pairs(load_pairs(name), 0.5).rule
