"""Prompts in, from wherever they are."""

import json
from collections import Counter
from itertools import pairwise

import pytest
from datasets import Dataset, DatasetDict

from clair_apo.clair import PromptsConfig, load_prompts
from clair_apo.errors import DataError
from clair_apo.records import Dropped, DropReason, Prompt, Stage
from tests.helpers.clair_runs import write_rows

ROWS = [{"instruction": f"Question {n}?", "topic": f"Topic {n}"} for n in range(6)]
TEXTS = [row["instruction"] for row in ROWS]


def load(path, **options):
    return list(load_prompts(PromptsConfig(path=str(path), **options)))


def texts(loaded):
    return [row.messages[-1].content for row in loaded if isinstance(row, Prompt)]


@pytest.fixture
def jsonl(tmp_path):
    return write_rows(tmp_path / "p.jsonl", ROWS)


def test_jsonl_lines_are_prompts_in_their_order_that_name_their_line(jsonl):
    loaded = load(jsonl)
    assert texts(loaded) == TEXTS
    assert [p.source for p in loaded] == [f"{jsonl.name}:{n}" for n in range(1, 7)]


def test_parquet_rows_are_the_same_prompts_as_jsonl_lines(tmp_path, jsonl):
    path = tmp_path / "p.parquet"
    Dataset.from_list(ROWS).to_parquet(path)
    loaded = load(path)
    assert [p.id for p in loaded] == [p.id for p in load(jsonl)]
    assert loaded[2].source == "p.parquet: row 2"


def test_a_folder_of_datasets_is_read_with_and_without_splits(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    splits = {"train": Dataset.from_list(ROWS[:4]), "test": Dataset.from_list(ROWS[4:])}
    DatasetDict(splits).save_to_disk(tmp_path / "two")
    assert texts(load(tmp_path / "one")) == TEXTS
    assert texts(load(tmp_path / "two")) == TEXTS[:4]
    assert texts(load(tmp_path / "two", split="test")) == TEXTS[4:]
    with pytest.raises(DataError, match=r"two: has no split 'dev', but train, test"):
        load(tmp_path / "two", split="dev")


def test_conversations_in_parquet_keep_their_turns(tmp_path):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    Dataset.from_list([{"messages": messages}]).to_parquet(tmp_path / "p.parquet")
    (prompt,) = load(tmp_path / "p.parquet")
    assert [m.model_dump() for m in prompt.messages] == messages


def test_another_column_can_be_named(jsonl):
    assert texts(load(jsonl, column="topic")) == [f"Topic {n}" for n in range(6)]


def test_a_limit_draws_by_the_seed_and_keeps_the_order_of_the_data(jsonl):
    drawn = texts(load(jsonl, limit=3, seed=1))
    assert len(drawn) == 3
    assert drawn == sorted(drawn)
    assert drawn == texts(load(jsonl, limit=3, seed=1))
    draws = {tuple(texts(load(jsonl, limit=3, seed=seed))) for seed in range(20)}
    assert len(draws) > 5
    counts = Counter(text for draw in draws for text in draw)
    assert set(counts) == set(TEXTS), "every prompt can be drawn, not only the first"


def test_a_smaller_limit_draws_some_of_what_a_larger_one_draws(jsonl):
    for seed in range(20):
        draws = [set(texts(load(jsonl, limit=limit, seed=seed))) for limit in range(1, 7)]
        assert all(less < more for less, more in pairwise(draws))


@pytest.mark.parametrize("limit", [6, 7])
def test_a_limit_that_takes_all_takes_all_in_order(jsonl, limit):
    assert texts(load(jsonl, limit=limit, seed=3)) == TEXTS


def test_a_prompt_that_stood_there_before_is_dropped_with_its_place(tmp_path):
    path = write_rows(tmp_path / "p.jsonl", [ROWS[0], ROWS[1], {"prompt": "Question 0?"}])
    first, second, third = load(path)
    assert isinstance(third, Dropped)
    assert (third.stage, third.reason) == (Stage.LOAD, DropReason.DUPLICATE)
    assert third.id == first.id != second.id
    assert third.raw == "Question 0?"
    assert third.detail.startswith(f"{path.name}:3: ")


def test_a_prompt_may_have_exactly_the_longest_length(tmp_path):
    messages = [{"role": "system", "content": "abc"}, {"role": "user", "content": "defg"}]
    path = write_rows(tmp_path / "p.jsonl", [{"prompt": "x"}, {"prompt": messages}])
    assert len(load(path, max_characters=7)) == 2
    with pytest.raises(DataError, match=r"p\.jsonl:2: .* 7 characters, the limit is 6; .*max_ch"):
        load(path, max_characters=6)


def _write(path, content):
    path.write_bytes(content)
    return path


GOOD = b'{"prompt": "a"}\n'
FAULTS = {
    "not JSON": (GOOD + b"{prompt: a}\n", r":2: not JSON"),
    "cut off": (GOOD + GOOD + b'{"prompt": "a', r":3: not JSON"),
    "a list": (b"[1]\n", r":1: expected a JSON object, found list"),
    "not UTF-8, first": (b'{"prompt": "\xff"}\n', r":1: not UTF-8 text"),
    "not UTF-8, third": (GOOD + b"\n" + b'{"prompt": "\xe4"}\n', r":3: not UTF-8 text"),
    "no column": (b'{"headline": "x", "n": 1}\n', r":1: expected .*prompt.*, found headline, n"),
    "no columns": (b"{}\n", r":1: expected .*prompt.*, found none"),
    "empty prompt": (GOOD + b'{"prompt": " \\n "}\n', r":2: 'prompt' is an empty prompt; "),
    "a number": (b'{"prompt": 3}\n', r":1: 'prompt' must be text or a list of messages"),
    "no messages": (b'{"messages": []}\n', r":1: 'messages' must be text or a list"),
    "no role": (b'{"messages": [{"content": "x"}]}\n', r":1: .*role: Field required"),
    "odd role": (b'{"messages": [{"role": "tool", "content": "x"}]}\n', r":1: .*role: .*'system'"),
    "system last": (
        b'{"messages": [{"role": "system", "content": "x"}]}\n',
        r":1: 'messages' must end with the user's turn",
    ),
    "answer alone": (
        b'{"messages": [{"role": "assistant", "content": "x"}]}\n',
        r":1: 'messages' must end with the user's turn",
    ),
    "half a character": (b'{"prompt": "\\ud83d"}\n', r":1: .*surrogate"),
    "a huge number": (b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}\n", r":1: not JSON"),
    "deep": (b'{"prompt": ' + b"[" * 200_000 + b"\n", r":1: not JSON"),
    "nothing": (b"", r": holds no prompts"),
    "blank lines": (b"\n  \n", r": holds no prompts"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_data_is_refused_with_file_line_and_what_was_expected(tmp_path, fault):
    content, message = FAULTS[fault]
    path = _write(tmp_path / "p.jsonl", content)
    with pytest.raises(DataError, match=rf"p\.jsonl{message}") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_column_is_named_where_one_was_asked_for(jsonl):
    with pytest.raises(DataError, match=r"p\.jsonl:1: expected column 'text', found instruction"):
        load(jsonl, column="text")


PLACES = {
    "missing.jsonl": "cannot be read",
    "missing.parquet": "no such file or folder",
    "missing/folder/p.txt": "there is no such file or folder",
    "./missing": "there is no such file or folder",
    "~/no such folder/x": "there is no such file or folder",
    "missing": "no such file or folder",
    "no-such-org/no-such-set": "no such file or folder",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_is_not_there_is_named(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=PLACES[place]) as caught:
        load(place)
    assert place.removeprefix("./").removeprefix("~") in str(caught.value)


def test_a_file_or_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"p\.csv: expected a \.json, \.jsonl or \.parquet file"):
        load(_write(tmp_path / "p.csv", b"prompt\na\n"))
    with pytest.raises(DataError, match="not a folder that datasets can read"):
        (tmp_path / "empty").mkdir()
        load(tmp_path / "empty")
    with pytest.raises(DataError, match=r"p\.parquet: not a readable Parquet file"):
        load(_write(tmp_path / "p.parquet", b"PAR1 no PAR1"))


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_a_prompt(tmp_path):
    path = _write(tmp_path / "p.jsonl", b"\xef\xbb\xbf" + b'{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    assert texts(load(path)) == ["a", "b"]


def test_a_prompt_with_every_kind_of_line_end_stays_one_line(tmp_path):
    nasty = "a\u2028b\u2029c\x85d\x0be\rf"
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": nasty}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert texts(load(path)) == [nasty]
