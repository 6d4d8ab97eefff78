"""The vocabulary: records that come back from a file as they went in."""

import hashlib
import json

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from clair_apo.errors import DataError
from clair_apo.files import read_jsonl, write_jsonl
from clair_apo.ingest.rows import prompt_from_row
from clair_apo.records import (
    Contrast,
    DatasetAnswer,
    Dropped,
    Judgement,
    Message,
    Origin,
    PreferencePair,
    Prompt,
    Provenance,
    Response,
    Revision,
    Sampling,
    Verification,
    canonical_json,
    digest,
    prompt_id,
)

RECORDS = [Prompt, Response, Judgement, Revision, PreferencePair, Verification, Dropped]
turns = st.lists(st.builds(Message), min_size=1, max_size=3).map(tuple)


@settings(deadline=None)  # drawing a deep record may take long on a busy machine
@given(st.data())
@pytest.mark.parametrize("kind", RECORDS)
def test_records_come_back_from_a_file_unchanged(tmp_path_factory, kind, data):
    finite = st.floats(allow_nan=False, allow_infinity=False)
    shares = st.none() | st.floats(0.1, 1)
    samplings = st.builds(
        Sampling, max_tokens=st.integers(1, 2**31), temperature=shares, top_p=shares
    )
    origins = st.builds(Origin, cost=st.none() | finite, sampling=st.none() | samplings)
    pair_fields = {
        "contrast": st.builds(Contrast, jaccard=finite),
        "provenance": st.builds(Provenance, chosen=origins, rejected=origins),
    }
    given_answers = st.builds(DatasetAnswer, score=st.none() | finite)
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


def test_a_pair_of_before_sampling_and_the_judges_cost_were_written_down_still_loads(tmp_path):
    side = {"kind": "response", "model": "m", "request_keys": ["k"]}
    side |= {"prompt_tokens": 3, "completion_tokens": 5, "cost": None}
    row = {
        **{"id": "a", "recipe": "on_policy_judge", "rationale": ""},
        **{name: [{"role": "user", "content": "q"}] for name in ("prompt", "chosen", "rejected")},
        "contrast": {
            **{"jaccard": 0.5, "levenshtein": 1},
            **{"rejected_characters": 2, "chosen_characters": 2},
        },
        "provenance": {
            **{"source": "x", "chosen": side, "rejected": side, "judged_by": "judge"},
            **{"judge_keys": ["j"], "format": None, "direction": None, "template_digest": None},
        },
    }
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    (pair,) = read_jsonl(tmp_path / "pairs.jsonl", PreferencePair)
    assert pair.provenance.chosen.sampling is None and pair.provenance.cost is None
    assert pair.provenance.judge_keys == ("j",)


def test_records_are_frozen_and_know_no_other_fields():
    message = Message(role="user", content="a")
    with pytest.raises(ValidationError, match="frozen"):
        message.content = "b"
    with pytest.raises(ValidationError, match="name"):
        Message(role="user", content="a", name="x")


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
