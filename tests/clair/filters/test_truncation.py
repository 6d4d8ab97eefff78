"""What a trainer leaves of a pair: the gate says the same as the trainer does."""

import pytest
from trl import DPOConfig

from clair_apo.clair import Gate, GateConfig
from clair_apo.clair.filters.truncation import TrainingTokens
from clair_apo.errors import ConfigError, ModelNotFoundError
from clair_apo.records import DropReason, Message
from tests.helpers.clair_runs import (
    Replying,
    edit_reply,
    make_config,
    rows_of,
    run,
    user,
    write_rows,
)
from tests.helpers.tiny_chat import save_tiny_chat

PROMPT = user("w1 w2 w3")
CHOSEN, REJECTED = "w4 w5 w6 w7", "w4 w5 w8 w7"
SIDES = tuple((Message(role="assistant", content=text),) for text in (CHOSEN, REJECTED))
# <user> w1 w2 w3 <eos> <assistant> are 6 tokens; the sides part at their third
PROMPT_TOKENS, ALIKE = 6, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_tiny_chat(tmp_path_factory.mktemp("tiny_chat")))


def test_a_pair_is_cut_where_the_training_length_ends(folder):
    left = TrainingTokens(folder, PROMPT_TOKENS + 3).after_truncation(PROMPT, *SIDES)
    assert len(left.chosen) == len(left.rejected) == 3
    assert left.chosen[:ALIKE] == left.rejected[:ALIKE]
    assert left.chosen[ALIKE] != left.rejected[ALIKE]
    whole = TrainingTokens(folder, 1000).after_truncation(PROMPT, *SIDES)
    assert len(whole.chosen) == 5  # four words and <eos>
    assert whole.chosen[:3] == left.chosen


@pytest.mark.parametrize("room", range(-2, 5))
def test_sides_that_are_equal_or_empty_within_the_training_length_are_dropped(folder, room):
    config = GateConfig(max_length=PROMPT_TOKENS + room, tokenizer=folder)
    verdict = Gate(config).check_pair(PROMPT, CHOSEN, REJECTED)
    if room > ALIKE:
        assert verdict is None
    else:
        assert verdict.reason is DropReason.IDENTICAL_AFTER_TRUNCATION
        said = "the same" if room > 0 else "leaves no token"
        assert said in verdict.detail and str(PROMPT_TOKENS + room) in verdict.detail


def test_different_texts_of_the_same_tokens_are_dropped(folder):
    gate = Gate(GateConfig(max_length=100), tokenizer=folder)
    unknown = gate.check_pair(PROMPT, "w4 xylophone", "w4 zebra")  # both <unk>
    assert unknown.reason is DropReason.IDENTICAL_AFTER_TRUNCATION
    assert "the same 3 tokens" in unknown.detail


@pytest.mark.parametrize("form", ["text", "messages"])
@pytest.mark.parametrize("max_length", [7, 9, 100])
def test_what_is_left_is_what_trls_trainer_trains_on(folder, max_length, form, tmp_path):
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    sides = {"prompt": PROMPT, "chosen": SIDES[0], "rejected": SIDES[1]}
    row = {name: [m.model_dump() for m in turns] for name, turns in sides.items()}
    if form == "text":
        row = sides = {"prompt": "w1 w2 w3 w9 w9 ", "chosen": CHOSEN, "rejected": REJECTED}
    args = DPOConfig(output_dir=str(tmp_path), max_length=None, report_to=[], use_cpu=True)
    trainer = DPOTrainer(
        folder,
        args=args,
        train_dataset=Dataset.from_list([row]),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    collate = DataCollatorForPreference(pad_token_id=0, max_length=max_length)
    batch = collate([trainer.train_dataset[0]])
    trained = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    left = TrainingTokens(folder, max_length).after_truncation(*sides.values())
    assert [left.chosen, left.rejected] == trained


def test_a_conversation_that_the_template_does_not_take_drops_its_row_and_no_other(
    folder, tmp_path
):
    system = {"role": "system", "content": "w9"}
    asked = [[{"role": "user", "content": f"w1 w{n}"}] for n in range(3)]
    asked[1].insert(0, system)
    data = write_rows(tmp_path / "data.jsonl", [{"messages": turns} for turns in asked])
    config = make_config(tmp_path, data, gate={"max_length": 50, "tokenizer": folder})
    done = run(config, Replying([("", REJECTED)]), Replying([("", edit_reply(("w8", "w6")))]))
    assert (done.pairs, done.dropped) == (2, {"identical_after_truncation": 1})
    (dropped,) = rows_of(tmp_path, "dropped.jsonl")
    assert dropped["stage"] == "pair"
    assert "does not take this conversation (no system turns)" in dropped["detail"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('never') }}", r"does not take this conversation \(never\)"),
    ],
)
def test_a_template_that_takes_no_conversation_stops_a_run_before_it_asks(
    template, message, tmp_path
):
    folder = str(save_tiny_chat(tmp_path / "tiny", template=template))
    data = write_rows(tmp_path / "data.jsonl", [{"prompt": "w1"}])
    target = Replying([("", REJECTED)])
    config = make_config(tmp_path, data, gate={"max_length": 50, "tokenizer": folder})
    with pytest.raises(ConfigError, match=message):
        run(config, target, Replying([]))
    assert target.requests == []


@pytest.mark.parametrize(
    ("changes", "loaded"),
    [
        ({}, ("org/model", "v2")),
        ({"tokenizer": "org/other"}, ("org/other", "main")),
    ],
)
def test_the_targets_tokenizer_is_that_of_the_targets_revision(
    folder, tmp_path, monkeypatch, changes, loaded
):
    from transformers import AutoTokenizer

    known, found = AutoTokenizer.from_pretrained(folder), []

    def load(location, revision="main"):
        found.append((location, revision))
        return known

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", load)
    data = write_rows(tmp_path / "data.jsonl", [{"prompt": "w1"}])
    target = {"model": "org/model", "revision": "v2"}
    config = make_config(tmp_path, data, target=target, gate={"max_length": 50} | changes)
    run(config, Replying([("", REJECTED)]), Replying([("", edit_reply(("w8", "w6")))]))
    assert set(found) == {loaded}


def test_a_tokenizer_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        TrainingTokens(str(tmp_path / "gone"), 9).after_truncation(PROMPT, *SIDES)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        TrainingTokens(str(tmp_path), 9).after_truncation(PROMPT, *SIDES)
