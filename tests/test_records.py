"""The vocabulary: records that come back from a file as they went in."""

import hashlib
import json
import os
import resource

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from clair_apo.errors import DataError, WriteError
from clair_apo.records import (
    Contrast,
    Dropped,
    DropReason,
    GivenAnswer,
    Judgement,
    Message,
    Origin,
    PreferencePair,
    Prompt,
    Provenance,
    Response,
    Revision,
    Stage,
    Verification,
    atomic_writer,
    canonical_json,
    digest,
    prompt_id,
    read_json_rows,
    read_jsonl,
    write_jsonl,
)
from clair_apo.rows import prompt_from_row

RECORDS = [Prompt, Response, Judgement, Revision, PreferencePair, Verification, Dropped]
turns = st.lists(st.builds(Message), min_size=1, max_size=3).map(tuple)


@settings(deadline=None)  # drawing a deep record may take long on a busy machine
@given(st.data())
@pytest.mark.parametrize("kind", RECORDS)
def test_records_come_back_from_a_file_unchanged(tmp_path_factory, kind, data):
    finite = st.floats(allow_nan=False, allow_infinity=False)
    origins = st.builds(Origin, cost=st.none() | finite)
    pair_fields = {
        "contrast": st.builds(Contrast, jaccard=finite),
        "provenance": st.builds(Provenance, chosen=origins, rejected=origins),
    }
    given_answers = st.builds(GivenAnswer, score=st.none() | finite)
    overrides = {
        PreferencePair: pair_fields,
        Prompt: {"given": st.lists(given_answers, max_size=3).map(tuple)},
        Response: {"score": st.none() | finite},
    }.get(kind, {})
    records = data.draw(st.lists(st.builds(kind, **overrides), max_size=3))
    path = tmp_path_factory.getbasetemp() / f"{kind.__name__}.jsonl"
    assert write_jsonl(path, records) == len(records)
    assert list(read_jsonl(path, kind)) == records
    assert path.read_bytes().count(b"\n") == len(records)


def test_records_are_frozen_and_know_no_other_fields():
    message = Message(role="user", content="a")
    with pytest.raises(ValidationError, match="frozen"):
        message.content = "b"
    with pytest.raises(ValidationError, match="name"):
        Message(role="user", content="a", name="x")


def test_a_line_that_is_no_such_record_is_named_with_its_place(tmp_path):
    path = tmp_path / "d.jsonl"
    row = Dropped(id="1", stage=Stage.PAIR, reason=DropReason.NO_OP, detail="d", raw="r")
    wrong = json.loads(row.model_dump_json()) | {"reason": "boring"}
    path.write_text(f"{row.model_dump_json()}\n\n{json.dumps(wrong)}\n")
    with pytest.raises(DataError, match=r"d\.jsonl:3: not a Dropped: reason: Input should be"):
        list(read_jsonl(path, Dropped))
    path.write_text("{}\n")
    with pytest.raises(DataError, match=r"d\.jsonl:1: not a Dropped: id: Field required"):
        list(read_jsonl(path, Dropped))
    path.write_text("{\n")
    with pytest.raises(DataError, match=r"d\.jsonl:1: not a Dropped: the line: Invalid JSON"):
        list(read_jsonl(path, Dropped))
    with pytest.raises(DataError, match=r"gone\.jsonl: cannot be read \(No such file"):
        list(read_jsonl(tmp_path / "gone.jsonl", Dropped))


def test_foreign_rows_carry_the_number_of_their_line(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"a": 1}\n\n{"b": 2}\n')
    assert list(read_json_rows(path)) == [(1, {"a": 1}), (3, {"b": 2})]


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "f.txt"
    with atomic_writer(path) as file:
        file.write("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(KeyboardInterrupt), atomic_writer(path) as file:
        file.write("half of the sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["f.txt"]


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path):
    path = tmp_path / "f.txt"
    path.write_text("first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with (
            pytest.raises(WriteError, match=r"f\.txt: cannot be written \(File too large\)"),
            atomic_writer(path) as file,
        ):
            file.write("x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["f.txt"]


def test_a_place_where_no_file_can_be_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(WriteError, match=r"file/f\.txt: cannot be written"),
        atomic_writer(tmp_path / "file" / "f.txt") as file,
    ):
        file.write("text")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_who_may_read_a_file_is_what_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_writer(tmp_path / "f.txt") as file:
            file.write("text")
    finally:
        os.umask(before)
    assert (tmp_path / "f.txt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_records_that_cannot_be_made_leave_the_old_file(tmp_path):
    path = tmp_path / "m.jsonl"
    write_jsonl(path, [Message(role="user", content="old")])

    def rows():
        yield Message(role="user", content="new")
        raise RuntimeError("the model is gone")

    with pytest.raises(RuntimeError):
        write_jsonl(path, rows())
    assert [m.content for m in read_jsonl(path, Message)] == ["old"]
    assert len(list(tmp_path.iterdir())) == 1


def test_digests_are_of_sorted_keys_without_blanks_in_utf8():
    assert canonical_json({"b": [1.0, None], "a": "ü"}) == '{"a":"ü","b":[1.0,null]}'
    expected = hashlib.sha256('{"a":"ü","b":[1.0,null]}'.encode()).hexdigest()
    assert digest({"b": [1.0, None], "a": "ü"}) == expected


def test_a_prompts_id_is_the_beginning_of_the_digest_of_its_messages():
    text = '[{"content":"Why?","role":"user"}]'
    expected = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert prompt_id([Message(role="user", content="Why?")]) == expected
    row = {"prompt": "Why?", "response": "So.", "topic": "x"}
    assert prompt_from_row(row, "elsewhere:9").id == expected, "nothing but the messages counts"


def _pair():
    user = (Message(role="system", content="s"), Message(role="user", content="q"))
    return PreferencePair(
        id="1",
        recipe="clair",
        prompt=user,
        chosen=(Message(role="assistant", content="new"),),
        rejected=(Message(role="assistant", content="old"),),
        rationale="",
        contrast=Contrast(jaccard=0, levenshtein=3, rejected_characters=3, chosen_characters=3),
        provenance=Provenance(
            source="prompts.jsonl:1",
            chosen=Origin(kind="revision", model="a-strong-reviser", request_keys=("2" * 64,)),
            rejected=Origin(kind="response", model="smollm2-135m", request_keys=("1" * 64,)),
            format="edits",
            direction="improve",
            template_digest="0" * 64,
        ),
    )


def test_a_pair_becomes_the_conversational_row_that_trl_takes():
    from trl.data_utils import is_conversational

    row = _pair().to_trl_row()
    assert row == {
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "new"}],
        "rejected": [{"role": "assistant", "content": "old"}],
    }
    assert is_conversational(row)
    assert Dataset.from_list([row, row])[1] == row


USER = {"role": "user", "content": "Q?"}
ASSISTANT = {"role": "assistant", "content": "A."}
FOREIGN = {
    # row, the prompt's last turn, the given response
    "prompt": ({"prompt": "Q?"}, "Q?", None),
    "instruction": ({"instruction": "Q?"}, "Q?", None),
    "question": ({"question": "Q?"}, "Q?", None),
    "query": ({"query": "Q?"}, "Q?", None),
    "task": ({"task": "Q?"}, "Q?", None),
    "text": ({"text": "Q?"}, "Q?", None),
    "input": ({"input": "Q?"}, "Q?", None),
    "messages": ({"messages": [USER]}, "Q?", None),
    "conversational prompt": ({"prompt": [USER]}, "Q?", None),
    "response": ({"prompt": "Q?", "response": "A."}, "Q?", "A."),
    "output": ({"instruction": "Q?", "output": "A."}, "Q?", "A."),
    "answer": ({"question": "Q?", "answer": "A."}, "Q?", "A."),
    "an answer in numbers": ({"question": "Q?", "answer": 42}, "Q?", "42"),
    "completion": ({"prompt": "Q?", "completion": "A."}, "Q?", "A."),
    "conversational completion": ({"prompt": [USER], "completion": [ASSISTANT]}, "Q?", "A."),
    "CLAIR's own": ({"task": "Q?", "student_solution": "A.", "rational": "r"}, "Q?", "A."),
    "Alpaca": (
        {"instruction": "Sum up.", "input": "Text.", "output": "A."},
        "Sum up.\n\nText.",
        "A.",
    ),
    "Alpaca, no input": ({"instruction": "Q?", "input": "", "output": "A."}, "Q?", "A."),
    "answered conversation": ({"messages": [USER, ASSISTANT]}, "Q?", "A."),
    "answered twice": ({"messages": [USER, ASSISTANT], "response": "B."}, "Q?", "A."),
    "best known first": ({"text": "T", "prompt": "Q?", "input": "I"}, "Q?", None),
    "None is no value": ({"messages": None, "prompt": "Q?", "response": None}, "Q?", None),
    "Arrow's fill": ({"messages": [USER | {"name": None, "tool_calls": None}]}, "Q?", None),
    "an empty answer is an answer": ({"prompt": "Q?", "response": ""}, "Q?", ""),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_columns_are_mapped_to_prompt_and_response(case):
    row, last_turn, response = FOREIGN[case]
    prompt = prompt_from_row(row, "data:1")
    assert prompt.messages[-1] == Message(role="user", content=last_turn)
    given = () if response is None else (response,)
    assert tuple(answer.text for answer in prompt.given) == given
    assert prompt.source == "data:1"


def test_several_turns_and_a_system_turn_are_kept():
    turns = [{"role": "system", "content": "s"}, USER, ASSISTANT, USER | {"content": "More?"}]
    prompt = prompt_from_row({"messages": turns}, "data:1")
    assert [m.model_dump() for m in prompt.messages] == turns
    assert prompt.given == ()


def test_a_column_asked_for_by_name_is_taken_and_no_other():
    row = {"prompt": "P", "answer": "A", "topic": "T"}
    assert prompt_from_row(row, "w", "topic").messages[0].content == "T"
    assert prompt_from_row(row, "w", "answer").given == (), "a column is not both"
    with pytest.raises(DataError, match="expected column 'title', found prompt, answer, topic"):
        prompt_from_row(row, "w", "title")


@pytest.mark.parametrize("value", [["x"], {"text": "x"}, [], [{"role": "user"}], ["\ud800"]])
def test_a_response_that_is_no_text_is_refused_by_its_column(value):
    with pytest.raises(DataError, match=r"^data:1: 'output' must be text or"):
        prompt_from_row({"instruction": "Q?", "output": value}, "data:1")
