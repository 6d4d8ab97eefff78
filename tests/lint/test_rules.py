"""Each rule finds the fault that it is for, in the row that has it, and nothing in sound pairs."""

import pytest

from clair_apo.errors import ConfigError, DataError, ModelNotFoundError
from clair_apo.lint import RULES, Severity
from tests.helpers import ROOT
from tests.helpers.lint_pairs import as_messages, finding, linted, sound_pairs
from tests.helpers.tiny_chat import save_tiny_chat

PROMPT = "Tell me how long the old bridge over the river is, and who built it?"
TEXT = "The bridge over the river is thirty metres long and was built more than a century ago."
GERMAN = "Die Brücke über den Fluss ist dreißig Meter lang und wurde vor hundert Jahren gebaut."
REFUSAL = "I'm sorry, but I can't help with that. " + TEXT


def row(**changes):
    return {"prompt": PROMPT, "chosen": TEXT, "rejected": TEXT[:-12] + "two years back."} | changes


FAULTS = {
    "unreadable": ([{"prompt": "a", "chosen": "b"}], Severity.ERROR),
    "empty_text": ([row(rejected=" \n")], Severity.ERROR),
    "identical_sides": ([row(rejected=f"\n{TEXT} ")], Severity.ERROR),
    "near_identical_sides": ([row(rejected=TEXT[:-1] + "!")], Severity.WARNING),
    "swapped_pair": ([row(), row(chosen=row()["rejected"], rejected=TEXT)], Severity.ERROR),
    "repeated_pair": ([row(), row(prompt=PROMPT.upper())], Severity.WARNING),
    "repeated_prompt": ([row(), row(chosen="Fifty metres, says the sign.")], Severity.NOTE),
    "near_duplicate_prompt": (
        [row(prompt=f"{PROMPT} {PROMPT} Please."), row(prompt=f"{PROMPT} {PROMPT} Thanks.")],
        Severity.WARNING,
    ),
    "template_marks": ([row(chosen=f"{TEXT}<|im_end|>")], Severity.WARNING),
    "prompt_in_one_side": ([row(rejected=f"You ask: {PROMPT.lower()} {TEXT}")], Severity.WARNING),
    "refusal_in_chosen": ([row(chosen=REFUSAL)], Severity.WARNING),
    "refusal_in_rejected": ([row(rejected=REFUSAL)], Severity.WARNING),
    "language_gap": ([row(rejected=GERMAN)], Severity.WARNING),
}


def test_nothing_is_found_in_sound_pairs(tmp_path):
    report = linted(tmp_path, sound_pairs())
    assert [one.name for one in report.findings] == ["length_gap"]
    assert report.findings[0].severity is Severity.NOTE
    assert (report.rows, report.pairs, report.prompts) == (60, 60, 60)
    assert not report.fails("warning")


@pytest.mark.parametrize("form", ["text", "messages"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_by_its_rule_in_its_row(tmp_path, name, form):
    faulty, severity = FAULTS[name]
    rows = [*sound_pairs(), *faulty]
    if form == "messages":
        rows = [as_messages(one) for one in rows]
    report = linted(tmp_path, rows)
    names = [one.name for one in report.findings if one.name != "length_gap"]
    assert [name] == [one for one in names if not one.startswith("markup")]
    found = finding(report, name)
    assert (found.count, found.severity) == (1, severity)
    (example,) = found.examples
    assert example.row == f"{tmp_path}/pairs.jsonl:{len(rows)}"
    assert (
        found.share.n
        == found.n
        == (report.rows if name in ("unreadable", "empty_text") else report.pairs)
    )
    assert found.share.low < 1 / found.n < found.share.high


def test_every_rule_has_a_fault_here_or_a_test_of_its_own():
    elsewhere = {
        "prompt_in_other_data",
        "near_prompt_in_other_data",
        "template_refuses",
        "identical_after_truncation",
        "length_gap",
    }
    markup = {name for name in RULES if name.startswith("markup_gap_")}
    assert set(FAULTS) | elsewhere | markup == set(RULES)


@pytest.mark.parametrize("name", ["near_identical_sides", "refusal_in_chosen", "language_gap"])
def test_what_may_be_meant_is_a_note_where_it_is_rare(tmp_path, name):
    faulty, _ = FAULTS[name]
    found = finding(linted(tmp_path, [*sound_pairs(120), *faulty]), name)
    assert found.severity is Severity.NOTE


def test_both_sides_may_decline_or_hold_the_prompt(tmp_path):
    both = [
        row(chosen=REFUSAL, rejected=REFUSAL + " Sorry, and good luck with the river and all."),
        row(prompt=PROMPT + " Say.", chosen=f"{PROMPT} say. Ten.", rejected=f"{PROMPT} say. Two."),
    ]
    report = linted(tmp_path, [*sound_pairs(), *both])
    assert not finding(report, "refusal_in_chosen") and not finding(report, "prompt_in_one_side")


def test_a_short_prompt_is_no_leak(tmp_path):
    rows = [*sound_pairs(), row(prompt="The bridge?", rejected=f"The bridge? {TEXT} Ask again.")]
    assert finding(linted(tmp_path, rows), "prompt_in_one_side") is None


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("<|start_header_id|>user<|end_header_id|>", "<|start_header_id|>"),
        ("[INST] hello [/INST]", "[INST]"),
        ("<<SYS>> be kind", "<<SYS>>"),
        ("ends here<end_of_turn>", "<end_of_turn>"),
        ("\n\nHuman: and then?", "Human:"),
        ("\n### Response:\nyes", "### Response:"),
        ("a <b> c | d [1] </p>", None),
        ("says Human: yes", None),
    ],
)
def test_marks_of_chat_templates_are_told_from_other_text(tmp_path, text, mark):
    found = finding(
        linted(tmp_path, [*sound_pairs(), row(rejected=f"{TEXT} {text}")]),
        "template_marks",
    )
    assert (found and found.examples[0].detail) == (mark and f"{mark} in rejected")


def test_the_turns_of_the_data_are_no_role_marks_in_a_prompt(tmp_path):
    rows = [*sound_pairs(), row(prompt=f"\n\nHuman: {PROMPT}\n\nAssistant: ")]
    assert finding(linted(tmp_path, rows), "template_marks") is None


def test_the_same_answers_to_another_prompt_are_no_contradiction(tmp_path):
    other = "Which metal is the old tower beside the harbour made of, if anybody knows it?"
    rows = [*sound_pairs(), row(), row(prompt=other, chosen=row()["rejected"], rejected=TEXT)]
    assert finding(linted(tmp_path, rows), "swapped_pair") is None


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return str(save_tiny_chat(tmp_path_factory.mktemp("tiny")))


def word_rows(*rows):
    return [dict(zip(("prompt", "chosen", "rejected"), one, strict=True)) for one in rows]


@pytest.mark.parametrize("form", ["text", "messages"])
def test_sides_that_are_cut_to_the_same_tokens_are_found(tmp_path, tokenizer, form):
    rows = word_rows(("w1 w2 ", "w3 w4 w5 w6", "w3 w4 w7 w8"), ("w9 w2 ", "w3 w4", "w5 w6"))
    if form == "messages":
        rows = [as_messages(one) for one in rows]
    before = 2 if form == "text" else 5  # <user> w1 w2 <eos> <assistant>
    cut = linted(tmp_path, rows, tokenizer=tokenizer, max_length=before + 2)
    found = finding(cut, "identical_after_truncation")
    assert (found.count, found.severity) == (1, Severity.ERROR)
    assert found.examples[0].row.endswith("pairs.jsonl:1")
    assert found.examples[0].detail == "2 equal tokens"
    whole = linted(tmp_path, rows, tokenizer=tokenizer, max_length=before + 3)
    assert finding(whole, "identical_after_truncation") is None
    nothing = linted(tmp_path, rows, tokenizer=tokenizer, max_length=before)
    assert finding(nothing, "identical_after_truncation").examples[0].detail == "no token is left"


def test_a_text_that_ends_where_the_other_goes_on_is_another_text_to_the_trainer(
    tmp_path, tokenizer
):
    rows = word_rows(("w1 w2 ", "w3 w4", "w3 w4 w5"))
    report = linted(tmp_path, rows, tokenizer=tokenizer, max_length=5)
    assert finding(report, "identical_after_truncation") is None


def test_a_conversation_that_the_template_refuses_is_found_and_the_others_are_looked_at(
    tmp_path, tokenizer
):
    rows = [as_messages(one) for one in word_rows(("w1", "w2", "w3"), ("w4", "w5", "w6"))]
    rows[0]["prompt"].insert(0, {"role": "system", "content": "w7"})
    found = finding(linted(tmp_path, rows, tokenizer=tokenizer), "template_refuses")
    assert (found.count, found.n) == (1, 2)
    assert "no system turns" in found.examples[0].detail


def test_without_a_tokenizer_the_report_says_what_was_not_looked_for(tmp_path):
    report = linted(tmp_path, sound_pairs())
    assert "--tokenizer" in report.left_out["template_refuses"]
    assert "--against" in report.left_out["prompt_in_other_data"]
    assert not {*report.left_out} & {*report.clean}
    assert {*report.left_out, *report.clean, *(one.name for one in report.findings)} == {*RULES}


def test_a_tokenizer_that_cannot_be_used_is_named_before_the_rows_are_read(tmp_path):
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        linted(tmp_path, [{"prompt": "no pair"}], tokenizer=str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="name the tokenizer"):
        linted(tmp_path, sound_pairs(), max_length=8)


def test_data_without_one_pair_is_refused_with_its_first_fault(tmp_path):
    with pytest.raises(DataError, match=r"pairs\.jsonl:1: expected columns prompt, chosen"):
        linted(tmp_path, [{"text": "a"}, {"text": "b"}])
    with pytest.raises(DataError, match="not one pair"):
        linted(tmp_path, [])


def test_the_page_about_lint_names_every_rule_with_its_severity():
    page = (ROOT / "docs" / "lint.md").read_text("utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert rows.keys() == RULES.keys()
    for name, rule in RULES.items():
        if "below |" not in rows[name]:  # decided by figures
            share = " from 1 %" if rule.from_share else ""
            assert rows[name].endswith(f"| {rule.severity.value}{share} |")
