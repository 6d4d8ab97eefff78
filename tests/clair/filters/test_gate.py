"""Which answers and revisions make no pair."""

import pytest
from pydantic import ValidationError

from clair_apo.clair import Gate, GateConfig, GenerateConfig, generate
from clair_apo.clair.filters.gate import PRESETS, check_answer, check_reply
from clair_apo.errors import ConfigError, DataError, ModelNotFoundError
from clair_apo.files import read_jsonl
from clair_apo.records import Dropped, DropReason
from tests.helpers.clair_runs import Replying, edit_reply, make_config, run, user, write_rows
from tests.helpers.clair_texts import REFUSALS

PROMPT = user("How long is the bridge?")
ENGLISH = "The bridge over the river is thirty metres long and was built more than a century ago."
GERMAN = "Die Brücke über den Fluss ist dreißig Meter lang und wurde vor hundert Jahren gebaut."
REPLY = edit_reply(("thirty", "30"))


def _reason(cause):
    if cause is None:
        return None
    assert cause.detail
    return cause.reason


@pytest.mark.parametrize(
    ("text", "finish", "tokens", "reason"),
    [
        ("An answer.", "stop", 99, None),
        ("An answer.", "given", 0, None),
        ("An answer.", "other", 5, DropReason.REQUEST_FAILED),
        (" \n\t", "stop", 1, DropReason.EMPTY),
        ("", "length", 100, DropReason.CUT),
        ("It goes", "length", 50, DropReason.CUT),
        ("It goes", "stop", 100, DropReason.CUT),
        ("It goes", "content_filter", 5, DropReason.CUT),
    ],
)
def test_an_answer_is_judged_by_text_finish_and_length(text, finish, tokens, reason):
    assert _reason(check_answer(text, finish, tokens, 100)) is reason


@pytest.mark.parametrize(
    ("text", "finish", "tokens", "reason"),
    [
        ("<edits>", "stop", 99, None),
        ("<edits>", "other", 5, DropReason.REQUEST_FAILED),
        ("<edits>", "length", 5, DropReason.CUT),
        ("<edits>", "stop", 100, DropReason.CUT),
        ("", "length", 100, DropReason.CUT),
        (" ", "stop", 1, DropReason.EMPTY),
        ("", "content_filter", 0, DropReason.REFUSED),
        ("half", "content_filter", 100, DropReason.REFUSED),
    ],
)
def test_a_reply_is_judged_before_it_is_parsed(text, finish, tokens, reason):
    assert _reason(check_reply(text, finish, tokens, 100)) is reason


def test_an_answer_of_the_data_has_no_limit_to_run_into():
    assert check_answer("An answer.", "given", 10**6, None) is None


OFF = GateConfig(drop_refusals=False, drop_mentions=False)


@pytest.mark.parametrize(
    ("answer", "revision", "reason"),
    [
        ("old", "new", None),
        ("old", "", DropReason.EMPTY),
        ("old", " \n", DropReason.EMPTY),
        ("old", REFUSALS[0], DropReason.REFUSED),
        (REFUSALS[0], REFUSALS[0] + " Try a doctor.", None),  # a refusal may be revised
        (REFUSALS[0], "Of course: here it is.", None),
        ("old", "The student's solution, but new.", DropReason.MENTIONS_REVISION),
        ("The student's solution.", "The student's solution, but new.", None),
    ],
)
def test_a_revision_is_judged_by_what_it_says_of_itself(answer, revision, reason):
    assert _reason(Gate(GateConfig()).check_revision(PROMPT, answer, revision)) is reason
    switched_off = reason if reason is DropReason.EMPTY else None
    assert _reason(Gate(OFF).check_revision(PROMPT, answer, revision)) is switched_off


def test_what_the_user_asked_for_is_no_mention_of_a_revision():
    answer, revision = "It says tow.", "Here is the corrected version: it says two."
    gate = Gate(GateConfig())
    assert _reason(gate.check_revision(PROMPT, answer, revision)) is DropReason.MENTIONS_REVISION
    assert gate.check_revision(user("Please correct my sentence."), answer, revision) is None


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("new", "old", None),
        ("Old", "old", None),
        ("old", "old", DropReason.NO_OP),
        ("\nold ", "old", DropReason.NO_OP),
        ("", "old", DropReason.EMPTY),
        ("new", " ", DropReason.EMPTY),
    ],
)
def test_a_pair_needs_two_different_texts(chosen, rejected, reason):
    assert _reason(Gate(OFF).check_pair(PROMPT, chosen, rejected)) is reason


def test_what_was_edited_is_a_share_of_the_longer_text_and_the_threshold_is_allowed():
    answer, revision = "abcdefghij", "abcdefXX"  # 2 replaced, 2 deleted: 4 of 10
    assert Gate(GateConfig(max_edit_ratio=0.4)).check_revision(PROMPT, answer, revision) is None
    cause = Gate(GateConfig(max_edit_ratio=0.39)).check_revision(PROMPT, answer, revision)
    assert cause.reason is DropReason.OVER_EDITED
    assert cause.detail == "0.40 of the characters were edited (allowed: 0.39)"
    turned = Gate(GateConfig(max_edit_ratio=0.39)).check_revision(PROMPT, revision, answer)
    assert turned.reason is DropReason.OVER_EDITED


def test_the_length_ratio_is_chosen_over_rejected_and_both_ends_are_allowed():
    gate = Gate(GateConfig(length_ratio=(0.5, 2.0)))
    for chosen in ("12345", "1" * 20):
        assert gate.check_pair(PROMPT, chosen, "1234567890") is None
    for chosen, ratio in (("1234", "0.40"), ("1" * 21, "2.10")):
        cause = gate.check_pair(PROMPT, chosen, "1234567890")
        assert cause.reason is DropReason.LENGTH_RATIO
        assert f"{ratio} times" in cause.detail and "0.5 to 2" in cause.detail


def test_a_change_of_language_is_dropped_where_both_sides_are_sure():
    gate = Gate(GateConfig(language_confidence=0.95))
    cause = gate.check_pair(PROMPT, GERMAN, ENGLISH)
    assert cause.reason is DropReason.LANGUAGE_CHANGED
    assert "'de'" in cause.detail and "'en'" in cause.detail
    assert gate.check_pair(PROMPT, ENGLISH + " So.", ENGLISH) is None
    assert gate.check_pair(PROMPT, "Ja, gewiss.", ENGLISH) is None  # too short to be sure
    assert Gate(GateConfig()).check_pair(PROMPT, GERMAN, ENGLISH) is None


def test_the_first_verdict_of_several_is_the_one_that_explains_most():
    strict = Gate(GateConfig(preset="strict", max_length=None))
    assert _reason(strict.check_revision(PROMPT, ENGLISH, REFUSALS[0])) is DropReason.REFUSED
    assert _reason(strict.check_pair(PROMPT, "Ja. " + GERMAN * 3, ENGLISH)) is (
        DropReason.LANGUAGE_CHANGED
    )


# --- the config


def test_a_preset_sets_every_threshold_and_the_resolved_config_is_without_it():
    fields = set(GateConfig.model_fields) - {"preset", "tokenizer", "checks", "keywords"}
    for name, values in PRESETS.items():
        assert values.keys() == fields
        config = GateConfig(preset=name)
        assert config == GateConfig(**values)
        assert config.preset is None
        assert GateConfig(**config.model_dump(mode="json")) == config


def test_what_is_set_beside_a_preset_stays():
    config = GateConfig(preset="strict", max_edit_ratio=0.9, length_ratio=None)
    expected = PRESETS["strict"] | {"max_edit_ratio": 0.9, "length_ratio": None}
    assert config == GateConfig(**expected)


def test_a_preset_that_could_change_nothing_is_refused():
    resolved = GateConfig(preset="strict").model_dump(mode="json")
    with pytest.raises(ValidationError, match="'paper' changes nothing"):
        GateConfig(**(resolved | {"preset": "paper"}))


def test_the_papers_setting_drops_what_is_equal_and_nothing_else():
    gate = Gate(GateConfig(preset="paper"))
    assert _reason(gate.check_pair(PROMPT, "old", "old")) is DropReason.NO_OP
    for revision in (REFUSALS[0], "The student's solution is old.", "x" * 500, GERMAN):
        assert gate.check_revision(PROMPT, ENGLISH, revision) is None
        assert gate.check_pair(PROMPT, revision, ENGLISH) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "lenient"}, "'paper' or 'strict'"),
        ({"length_ratio": (2.0, 0.5)}, "the lower one first"),
        ({"length_ratio": (1.0, 1.0)}, "the lower one first"),
        ({"length_ratio": (-1.0, 1.0)}, "the lower one first"),
        ({"max_edit_ratio": 0}, "greater than 0"),
        ({"max_edit_ratio": 1.5}, "less than or equal to 1"),
        ({"max_length": 0}, "greater than 0"),
        ({"language_confidence": 0.5}, "greater than 0.5"),
        ({"tokenizer": "smollm2-135m"}, "used only with max_length"),
    ],
)
def test_a_threshold_that_means_nothing_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        GateConfig(**values)


def test_the_gate_is_set_on_the_command_line_and_written_down_with_its_values(tmp_path):
    needed = [
        "--run_dir",
        "r",
        "--prompts.path",
        "p",
        "--target.model",
        "t",
        "--reviser.model",
        "m",
    ]
    options = ["--gate.preset", "strict", "--gate.max_edit_ratio", "0.5"]
    options += ["--gate.length_ratio", "[0.8,1.25]", "--gate.max_length", "null"]
    config = GenerateConfig.from_command_line([*needed, *options])
    assert config.gate == GateConfig(
        **PRESETS["strict"]
        | {"max_edit_ratio": 0.5, "length_ratio": (0.8, 1.25), "max_length": None}
    )
    resolved = tmp_path / "config.yaml"
    resolved.write_text(config.to_yaml(), encoding="utf-8")
    again = GenerateConfig.from_command_line(["--config", str(resolved)])
    assert again.gate == config.gate
    with pytest.raises(ConfigError, match="preset 'paper' changes nothing"):
        GenerateConfig.from_command_line(["--config", str(resolved), "--gate.preset", "paper"])


# --- in a run


def test_a_run_drops_by_its_gate_and_another_gate_rebuilds_the_pairs_from_the_store(
    tmp_path, capsys
):
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "a?"}, {"prompt": "b?"}])
    target = Replying([("a?", ENGLISH), ("b?", "one two")])
    reviser = Replying([(ENGLISH, REPLY), ("one two", edit_reply(("one two", "sixteen")))])
    config = make_config(tmp_path, prompts, gate={"max_edit_ratio": 0.5})
    done = run(config, target, reviser)
    assert (done.pairs, done.dropped) == (1, {"over_edited": 1})
    (dropped,) = read_jsonl(tmp_path / "run" / "dropped.jsonl", Dropped)
    assert dropped.raw == "sixteen"
    assert "(allowed: 0.5)" in dropped.detail
    capsys.readouterr()
    lenient = run(make_config(tmp_path, prompts), Replying([]), Replying([]))
    assert (lenient.pairs, lenient.asked) == (2, 0)
    assert "gate changed: rebuilding pairs" in capsys.readouterr().err


def test_a_tokenizer_that_is_not_there_stops_a_run_before_it_asks(tmp_path):
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "a?"}])
    gate = {"max_length": 9, "tokenizer": str(tmp_path / "gone")}
    config = make_config(tmp_path, prompts, gate=gate)
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        generate(config, target_model=Replying([]), reviser_model=Replying([]))
    assert not config.store_path.exists()


def test_a_worsened_answer_is_judged_as_a_revision_too(tmp_path):
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "a?"}])
    config = make_config(tmp_path, prompts, recipe="worsen")
    worse = edit_reply((ENGLISH, REFUSALS[0]))
    with pytest.raises(DataError, match="refused 1"):
        run(config, Replying([("a?", ENGLISH)]), Replying([(ENGLISH, worse)]))


def test_a_training_length_without_a_tokenizer_stops_a_run_before_it_asks(tmp_path):
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "a?"}])
    target = {"model": "served", "base_url": "http://127.0.0.1:1/v1"}
    config = make_config(tmp_path, prompts, target=target, gate={"preset": "strict"})
    assert config.training_tokenizer is None
    with pytest.raises(ConfigError, match=r"set gate\.tokenizer, or gate\.max_length to null"):
        generate(config, target_model=Replying([]), reviser_model=Replying([]))
    local = make_config(tmp_path, prompts, target={"model": "some/folder"})
    assert local.training_tokenizer == "some/folder"
