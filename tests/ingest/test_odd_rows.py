"""Foreign rows with cells that hold nothing, or what no text is; and answers in conversations."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from clair_apo.clair import PromptsConfig, load_prompts
from clair_apo.errors import DataError
from clair_apo.ingest.rows import prompt_from_row, questions_from_row

NAN = float("nan")
NOTHING = {
    "null": None,
    "NaN": NAN,
    "numpy's NaN": np.float64("nan"),
    "numpy's NaN in 32 bits": np.float32("nan"),
    "NaT": pd.NaT,
    "NA": pd.NA,
    "numpy's NaT": np.datetime64("NaT"),
}
USER = {"role": "user", "content": "Q?"}
SYSTEM = {"role": "system", "content": "s"}


def says(text):
    return {"role": "assistant", "content": text}


def read(row, column=None, **how):
    """What the messages of a row's prompt say, and its answers."""
    prompt = prompt_from_row(row, "d:2", column, **how)
    return [m.content for m in prompt.messages], [a.text for a in prompt.given]


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize("column", ["response", "output", "completions", "answers", "chosen"])
def test_a_cell_that_holds_nothing_is_no_answer(column, nothing):
    row = {"prompt": "Q?", "rejected": "B"} if column == "chosen" else {"prompt": "Q?"}
    assert read(row | {column: NOTHING[nothing]}) == (["Q?"], [])


@pytest.mark.parametrize("nothing", NOTHING)
def test_a_cell_that_holds_nothing_is_no_prompt_and_another_column_is_taken(nothing):
    assert read({"messages": NOTHING[nothing], "question": "Q?"}) == (["Q?"], [])


@pytest.mark.parametrize(("nothing", "named"), [(None, "null"), (NAN, "NaN"), (pd.NA, "<NA>")])
def test_a_missing_prompt_is_named_with_its_column_and_value(nothing, named):
    for column in (None, "prompt"):
        with pytest.raises(DataError, match=rf"^d:2: column 'prompt' is \W*{named}\W*; remove"):
            read({"prompt": nothing, "response": "A"}, column)
    with pytest.raises(DataError, match=r"^d:2: column 'topic' is null; remove the row or fill"):
        read({"topic": None, "prompt": "P"}, "topic")


def test_an_input_is_no_prompt_where_the_instruction_is_missing():
    with pytest.raises(DataError, match="column 'instruction' is null"):
        read({"instruction": None, "input": "The text it is about.", "output": "A"})


def test_missing_answers_in_a_list_are_left_out_with_their_scores():
    listed = ["a", None, NAN, {"response": None, "score": 3}, {"text": "b", "score": NAN}]
    prompt = prompt_from_row({"prompt": "Q?", "completions": listed}, "d:2")
    assert [(a.text, a.score) for a in prompt.given] == [("a", None), ("b", None)]


def test_the_word_nan_is_a_text():
    assert read({"prompt": "nan", "response": "NaN"}) == (["nan"], ["NaN"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("inf"), "Infinity"),
        (-float("inf"), "-Infinity"),
        (True, "true"),
        (False, "false"),
        ({"a": 1}, '{"a": 1}'),
        (b"bytes", "b'bytes'"),
        ([], r"\[\]"),
        ("x" * 5, None),
    ],
)
def test_what_no_text_is_is_refused_with_its_column_and_value(value, shown):
    if shown is None:
        assert read({"prompt": "Q?", "response": value}) == (["Q?"], [value])
        return
    for column in ("response", "chosen"):
        row = {"prompt": "Q?", "rejected": "B", column: value}
        with pytest.raises(DataError, match=rf"^d:2: '{column}' must be text.*found .*{shown}"):
            read(row)
    with pytest.raises(DataError, match=rf"^d:2: 'prompt' must be text.*found .*{shown}"):
        read({"prompt": value})


def test_a_number_of_thousands_of_digits_is_refused():
    with pytest.raises(DataError, match=r"d:2: 'response' must be text .*found int"):
        read({"prompt": "Q?", "response": 10**5000})


def test_a_value_that_is_refused_is_shown_in_one_short_line():
    with pytest.raises(DataError) as caught:
        read({"prompt": {"text": "x\ny" * 1000}})
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        (
            {"role": "assistant", "content": None},
            "content: Field required; turn 2 has content null",
        ),
        ({"role": "assistant", "content": NAN}, "content: Field required; turn 2 has content NaN"),
        ({"role": "assistant", "content": 3}, "content: .*string; turn 2 has content 3"),
        (
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            r"content: .*string; turn 2 has content \[\{",
        ),
        ({"role": "tool", "content": "x"}, r'role: .*\'system\'.*; turn 2 has role "tool"'),
        ({"role": "human", "content": "x"}, r'role: .*; turn 2 has role "human"'),
        ({"role": None, "content": "x"}, "role: Field required; turn 2 has role null"),
        ({"from": "human", "value": "x"}, r'role: Field required; turn 2 has \{"from"'),
        ({"role": "user", "content": "x", "tool_calls": [1]}, r"tool_calls: .*; turn 2 has"),
        ("x", 'turn 2 has "x"'),
        (None, "turn 2 has null"),
    ],
)
def test_a_turn_that_is_none_is_named_with_its_number_and_value(turn, told):
    with pytest.raises(DataError, match=rf"^d:2: 'messages' must be text or messages.*{told}"):
        read({"messages": [USER, turn]})


BINARIZED = {
    "prompt": "Q?",
    "prompt_id": "0" * 64,
    "chosen": [USER, says("good")],
    "rejected": [USER, says("bad")],
    "messages": [USER, says("good")],
    "score_chosen": 8.5,
    "score_rejected": 6.0,
}


def test_the_binarized_form_of_ultrafeedback_brings_both_answers_with_their_scores():
    prompt = prompt_from_row(BINARIZED, "d:2")
    assert [m.content for m in prompt.messages] == ["Q?"]
    assert [(a.text, a.score) for a in prompt.given] == [("good", 8.5), ("bad", 6.0)]
    for column in ("prompt", "messages"):
        assert prompt_from_row(BINARIZED, "d:2", column) == prompt


def without(*columns):
    return {name: value for name, value in BINARIZED.items() if name not in columns}


def test_conversations_bring_the_prompt_where_no_column_holds_one():
    assert read(without("prompt", "messages")) == (["Q?"], ["good", "bad"])
    assert read(without("prompt", "messages", "rejected")) == (["Q?"], [])
    assert read(without("messages") | {"prompt": NAN}) == (["Q?"], ["good", "bad"])


@pytest.mark.parametrize(
    ("prompt", "context", "told"),
    [
        ("Q?", [SYSTEM, USER], ["s", "Q?"]),
        ([SYSTEM, USER], [USER], ["s", "Q?"]),
        ([USER], [USER | {"content": "Q? \n"}], ["Q?"]),
        ("Q?", [USER, says("A."), USER | {"content": "And?"}], ["Q?", "A.", "And?"]),
        ("And?", [USER, says("A."), USER | {"content": "And?"}], ["Q?", "A.", "And?"]),
        ("Q?", [SYSTEM, USER, says("A."), USER | {"content": "And?"}], ["s", "Q?", "A.", "And?"]),
        ("Q?", [], ["Q?"]),
    ],
)
def test_a_prompt_has_all_the_turns_that_its_answers_reply_to(prompt, context, told):
    row = {
        "prompt": prompt,
        "chosen": [*context, says("good")],
        "rejected": [*context, says("bad")],
    }
    assert read(row) == (told, ["good", "bad"])


def test_answers_to_another_prompt_or_to_different_ones_are_refused():
    other = USER | {"content": "Another?"}
    row = {"prompt": "Q?", "chosen": [other, says("good")], "rejected": [other, says("bad")]}
    with pytest.raises(DataError, match="d:2: 'chosen' replies to another prompt than 'prompt'"):
        read(row)
    row |= {"rejected": [USER, says("bad")]}
    with pytest.raises(DataError, match="'chosen' and 'rejected' reply to different conversations"):
        read(row)
    with pytest.raises(DataError, match="'completion' replies to another prompt than 'prompt'"):
        read({"prompt": "Q?", "completion": [other, says("A")]})


def test_an_answer_that_ends_with_a_question_is_none():
    with pytest.raises(DataError, match="d:2: 'rejected' must end with the assistant's turn"):
        read({"prompt": "Q?", "chosen": "good", "rejected": [says("A."), USER]})


def test_answers_that_are_not_wanted_stop_nobody():
    row = {"question": "Q?", "answer": True}
    assert read(row, with_given=False) == (["Q?"], [])
    assert read(BINARIZED, with_given=False) == (["Q?"], [])


def test_a_model_that_is_no_name_and_a_score_that_is_no_number_are_none():
    listed = [{"response": "a", "model": 3, "score": 10**400}, {"response": "b", "model": NAN}]
    prompt = prompt_from_row({"prompt": "Q?", "completions": listed}, "d:2")
    assert [(a.model, a.score) for a in prompt.given] == [(None, None), (None, None)]


def test_a_data_frames_missing_answers_are_missing_in_every_file_that_it_writes(tmp_path):
    frame = pd.DataFrame({"prompt": ["Q1?", "Q2?", "Q3?"], "response": ["A", None, NAN]})
    floats = pd.DataFrame({"prompt": ["Q1?", "Q2?"], "response": [NAN, NAN]})
    frame.to_parquet(tmp_path / "texts.parquet")
    floats.to_parquet(tmp_path / "floats.parquet")
    frame.to_json(tmp_path / "lines.jsonl", orient="records", lines=True)
    rows = [json.dumps(row) for row in frame.to_dict("records")]
    assert '"response": NaN' in rows[2]
    (tmp_path / "dumped.jsonl").write_text("\n".join(rows))
    for name in ("texts.parquet", "floats.parquet", "lines.jsonl", "dumped.jsonl"):
        found = list(load_prompts(PromptsConfig(path=str(tmp_path / name))))
        given = [[a.text for a in prompt.given] for prompt in found]
        assert given == ([[], []] if name == "floats.parquet" else [["A"], [], []]), name


def test_a_test_sets_cells_that_are_no_text_ask_nothing():
    row = {"question": NAN, "turns": [NAN, None, "Why \ud83d?"], "prompt": float("inf")}
    asked = list(questions_from_row(row))
    assert len(asked) == 1
    assert re.fullmatch("Why .[?]", asked[0])
    asked[0].encode()
