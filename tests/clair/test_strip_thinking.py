"""Both sides of a pair are treated alike: thinking goes from all of them, or from none."""

import json
import sqlite3

import pytest

from clair_apo.clair import generate
from clair_apo.clair.answer_text import answer_text, trimmed
from clair_apo.errors import DataError
from clair_apo.llm.thinking import without_thinking
from clair_apo.report import write_report
from tests.helpers.clair_runs import (
    Replying,
    cut,
    edit_reply,
    full_reply,
    make_config,
    rows_of,
    run,
    write_rows,
)
from tests.helpers.scripted_roles import config_for, models

ANSWER = "The answer is old."
THOUGHTS = {
    "as tags": f"<think>\nHm.\n</think>\n\n{ANSWER}",
    "in other words": f"<thinking>Hm.</thinking>{ANSWER}",
    "twice": f"<think>Hm.</think>\n<think>So.</think>\n{ANSWER}",
    "empty": f"<think>\n\n</think>\n\n{ANSWER}",
    "opened by the chat template": f"Hm, <b>old</b>.\n</think>\n\n{ANSWER}",
    "opened and closed by the chat template": f"</think>\n\n{ANSWER}",
    "channels": (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
        f"{ANSWER}<|return|>"
    ),
    "a final channel alone": f"<|channel|>final<|message|>{ANSWER}",
    "brackets": f"[THINK]Hm.[/THINK]{ANSWER}",
    "before an end mark": f"<think>Hm.</think>{ANSWER}<|im_end|>",
}
UNTOUCHED = [
    "The tag <think> opens and </think> closes it.",
    "It closes with </think> and goes on.",
    "```\nHm.\n</think>\n```\nis what it writes.",
    "`<think>` and\n`</think>`\nare its tags.",
    "<b>Think</b> of it.",
    "The end mark is </s>",
    "Prices: <s>10</s>",
    "It ends with <|im_end|> and then </s>, or <|im_end|>",
    "The mark is:\n<|im_end|>",
]


@pytest.mark.parametrize("case", THOUGHTS)
def test_thinking_and_end_marks_are_no_part_of_an_answer(case):
    assert answer_text(THOUGHTS[case], strip_thinking=True) == ANSWER
    assert answer_text(THOUGHTS[case], strip_thinking=False) == trimmed(THOUGHTS[case])


@pytest.mark.parametrize("text", UNTOUCHED)
def test_tags_and_marks_that_an_answer_speaks_of_are_part_of_it(text):
    assert answer_text(text, strip_thinking=True) == text


def test_outer_blank_lines_go_and_the_indentation_of_the_first_line_stays():
    assert trimmed("\n \n    if x:\n        y()  \n\n") == "    if x:\n        y()"
    assert trimmed("\tx\n") == "\tx"
    assert trimmed(" The answer. ") == "The answer."
    assert trimmed("    new", indented=False) == "new"
    assert trimmed(" new", indented=True) == " new"
    assert trimmed(" \n\t ") == ""
    assert answer_text("a\r\nb\rc", strip_thinking=False) == "a\nb\nc"


@pytest.mark.timeout(20)  # quadratic time would be minutes
def test_a_text_that_loops_over_blanks_or_marks_is_looked_through_in_time():
    for piece in (" ", "\n", "</s>", "<think>", "</think>\n", "a </s> "):
        text = piece * (60_000 // len(piece))
        assert len(without_thinking(answer_text(f"x{text}</think>", strip_thinking=True))) <= 60_010


def sides(folder, target, reply, format="full", **changes):
    data = write_rows(folder / "p.jsonl", [{"prompt": "Q?"}, {"prompt": "Filler?"}])
    config = make_config(folder, data, revision={"format": format}, **changes)
    filler = edit_reply(("old", "odd")) if format == "edits" else full_reply("An odd filler.")
    done = run(
        config,
        Replying([("Filler", "An old filler."), ("Q?", target)]),
        Replying([("filler", filler), ("", reply)]),
    )
    question = rows_of(folder, "prompts.jsonl")[0]["id"]
    pairs = {row["id"]: row for row in rows_of(folder, "pairs.jsonl")}
    dropped = {row["id"]: row for row in rows_of(folder, "dropped.jsonl")}
    return config, done, pairs.get(question) or dropped[question]


def texts(pair):
    return pair["chosen"][0]["content"], pair["rejected"][0]["content"]


@pytest.mark.parametrize("case", THOUGHTS)
def test_neither_side_of_a_pair_holds_thinking(tmp_path, case):
    replies = {
        "full": f"<think>Hm.</think>{full_reply('<think>So.</think>The answer is new.')}",
        "edits": f"<think>Hm.</think>{edit_reply(('old', 'new'))}",
    }
    for format, reply in replies.items():
        folder = tmp_path / format
        folder.mkdir()
        _, _, pair = sides(folder, THOUGHTS[case], reply, format)
        assert texts(pair) == ("The answer is new.", ANSWER)


def test_the_store_keeps_answers_as_they_came(tmp_path):
    sides(tmp_path, THOUGHTS["as tags"], full_reply("The answer is new."))
    with sqlite3.connect(tmp_path / "requests.sqlite") as store:
        kept = "".join(str(row) for row in store.iterdump())
    assert "<think>" in kept
    assert "<think>" not in json.dumps(rows_of(tmp_path, "responses.jsonl"))


@pytest.mark.parametrize(
    "target", ["<think>\nHm, the old", "<think>Hm.</think>\n", "Hm.\n</think>"]
)
def test_an_answer_that_is_thinking_and_nothing_else_is_cut(tmp_path, target):
    _, _, dropped = sides(tmp_path, target, full_reply("The answer is new."))
    assert (dropped["stage"], dropped["reason"], dropped["raw"]) == ("respond", "cut", target)
    assert "thinking" in dropped["detail"]


def test_a_limit_that_ends_the_thinking_is_named(tmp_path):
    _, _, dropped = sides(tmp_path, cut("<think>Hm"), full_reply("The answer is new."))
    assert dropped["reason"] == "cut"
    assert "limit" in dropped["detail"]


def test_answers_of_the_data_and_of_a_stronger_model_are_read_alike(tmp_path):
    roles = models()
    stronger = "<think>Hm.</think>A stronger answer.<|im_end|>"
    roles["reviser_model"].text = lambda request: stronger
    generate(config_for(tmp_path, "stronger_preferred", prompts=1), **roles)
    (pair,) = rows_of(tmp_path, "pairs.jsonl")
    assert pair["chosen"][0]["content"] == "A stronger answer."
    folder = tmp_path / "given"
    folder.mkdir()
    rows = [{"prompt": "Q?", "response": THOUGHTS["as tags"]}]
    config = make_config(folder, write_rows(folder / "p.jsonl", rows))
    run(config, Replying([]), Replying([("", edit_reply(("old", "new")))]))
    (pair,) = rows_of(folder, "pairs.jsonl")
    assert texts(pair) == ("The answer is new.", ANSWER)


def test_kept_thinking_stays_on_both_sides_or_makes_no_pair(tmp_path):
    thought = THOUGHTS["as tags"]
    for name, reply, format in (
        ("edits", edit_reply(("is old", "is new")), "edits"),
        ("full", full_reply(thought.replace("old", "new")), "full"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        _, _, pair = sides(folder, thought, reply, format, strip_thinking=False)
        assert texts(pair) == (thought.replace("old", "new"), thought)
    folder = tmp_path / "unlike"
    folder.mkdir()
    _, _, dropped = sides(folder, thought, full_reply("The answer is new."), strip_thinking=False)
    assert dropped["reason"] == "thinking_differs"


@pytest.mark.parametrize(("strip", "said"), [(True, "taken from"), (False, "kept on")])
def test_the_card_of_the_data_says_what_became_of_thinking(tmp_path, strip, said):
    reply = edit_reply(("is old", "is new"))
    config, _, _ = sides(tmp_path, ANSWER, reply, "edits", strip_thinking=strip)
    write_report(config.run_dir)
    card = (config.run_dir / "dataset" / "README.md").read_text("utf-8")
    assert f"| Thinking before an answer | {said} both sides |" in card


def test_the_manifest_shows_the_setting_and_a_changed_one_rebuilds_the_answers(tmp_path, capsys):
    reply = edit_reply(("is old", "is new"))
    config, _, pair = sides(tmp_path, THOUGHTS["as tags"], reply, "edits")
    manifest = json.loads((config.run_dir / "manifest.json").read_text("utf-8"))
    assert manifest["config"]["strip_thinking"] is True
    assert manifest["settings"]["strip_thinking"] is True
    capsys.readouterr()
    _, done, kept = sides(tmp_path, THOUGHTS["as tags"], reply, "edits", strip_thinking=False)
    assert "strip_thinking changed: rebuilding answers" in capsys.readouterr().err
    # the target's answers are in the store; the reviser gets another text to revise
    assert (done.asked, done.reused) == (1, 3)
    assert texts(kept) == tuple(f"<think>\nHm.\n</think>\n\n{text}" for text in texts(pair))


def test_a_run_of_before_the_setting_goes_on_and_says_what_it_rebuilds(tmp_path, capsys):
    reply = edit_reply(("is old", "is new"))
    config, _, pair = sides(tmp_path, ANSWER, reply, "edits")
    path = config.run_dir / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    for name in ("answers", "strip_thinking"):
        del manifest["settings"][name]
    del manifest["config"]["strip_thinking"]
    manifest["settings"]["parser"] = 2
    path.write_text(json.dumps(manifest), encoding="utf-8")
    capsys.readouterr()
    _, done, again = sides(tmp_path, ANSWER, reply, "edits")
    assert "changed: rebuilding answers and all that is made of them" in capsys.readouterr().err
    assert (done.asked, again) == (0, pair)


def test_texts_that_differ_only_in_how_accents_are_coded_make_no_pair(tmp_path):
    with pytest.raises(DataError, match="no_op 1"):
        data = write_rows(tmp_path / "p.jsonl", [{"prompt": "Q?"}])
        config = make_config(tmp_path, data, revision={"format": "full"})
        run(
            config,
            Replying([("", "Cafe\u0301 au lait")]),
            Replying([("", full_reply("Caf\u00e9 au lait"))]),
        )
