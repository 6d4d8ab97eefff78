import json
import re
import sys

import pytest

from clair_apo.clair import GenerateConfig, generate
from clair_apo.errors import ConfigError, DataError, ModelNotFoundError, RequestError, RunError
from clair_apo.files import read_jsonl
from clair_apo.llm import ChatModel, Completion, ModelSpec, RequestStore
from clair_apo.records import (
    Dropped,
    DropReason,
    PreferencePair,
    Prompt,
    Response,
    Revision,
    prompt_id,
)
from tests.helpers.clair_runs import (
    TARGET,
    Replying,
    cut,
    edit_reply,
    full_reply,
    jsonl_bytes,
    make_config,
    rows_of,
    run,
    write_rows,
)

# the package exports the function under the module's name
MODULE = sys.modules["clair_apo.clair.manifest"]

THREE = [{"prompt": f"Question {name}?"} for name in ("one", "two", "three")]
ANSWERS = [(f"Question {name}?", f"The {name} answer is old.") for name in ("one", "two", "three")]
EDITS = [
    (f"The {name} answer is old.", edit_reply(("is old", "is new")))
    for name in ("one", "two", "three")
]


@pytest.fixture
def three(tmp_path):
    return write_rows(tmp_path / "prompts.jsonl", THREE)


def test_edits_of_three_answers_become_three_pairs_that_differ_in_the_edits_only(tmp_path, three):
    done = run(make_config(tmp_path, three), Replying(ANSWERS), Replying(EDITS))
    assert (done.prompts, done.pairs, done.dropped, done.asked, done.reused) == (3, 3, {}, 6, 0)
    pairs = list(read_jsonl(tmp_path / "run" / "pairs.jsonl", PreferencePair))
    assert [pair.prompt[0].content for pair in pairs] == [row["prompt"] for row in THREE]
    assert [pair.rejected[0].content for pair in pairs] == [answer for _, answer in ANSWERS]
    for pair in pairs:
        assert pair.chosen[0].content == pair.rejected[0].content.replace("is old", "is new")
        assert pair.chosen[0].role == pair.rejected[0].role == "assistant"
        assert pair.rationale == "because"
        assert pair.id == prompt_id(pair.prompt)
        assert pair.contrast.levenshtein == 3  # old to new, every letter


def test_full_revisions_become_pairs_too(tmp_path, three):
    config = make_config(tmp_path, three, revision={"format": "full"})
    replies = [(answer, full_reply(answer.replace("old", "new"))) for _, answer in ANSWERS]
    assert run(config, Replying(ANSWERS), Replying(replies)).pairs == 3
    pairs = rows_of(tmp_path, "pairs.jsonl")
    assert [p["chosen"][0]["content"] for p in pairs] == [
        answer.replace("old", "new") for _, answer in ANSWERS
    ]
    assert {p["provenance"]["format"] for p in pairs} == {"full"}


def test_every_stage_leaves_a_file_of_its_records_and_an_entry_in_the_manifest(tmp_path, three):
    run(make_config(tmp_path, three), Replying(ANSWERS), Replying(EDITS))
    folder = tmp_path / "run"
    prompts = list(read_jsonl(folder / "prompts.jsonl", Prompt))
    responses = list(read_jsonl(folder / "responses.jsonl", Response))
    revisions = list(read_jsonl(folder / "revisions.jsonl", Revision))
    pairs = list(read_jsonl(folder / "pairs.jsonl", PreferencePair))
    assert [prompt.source for prompt in prompts] == [f"{three.name}:{line}" for line in (1, 2, 3)]
    assert [r.prompt_id for r in responses] == [p.id for p in prompts]
    assert {r.model for r in responses} == {"target"}
    assert {r.completion_tokens for r in responses} == {5}
    for response, revision, pair in zip(responses, revisions, pairs, strict=True):
        assert pair.provenance.rejected.request_keys == response.request_keys
        assert pair.provenance.chosen.request_keys == revision.request_keys
        assert pair.provenance.chosen.model == revision.model == "reviser"
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert list(manifest["stages"]) == ["load", "respond", "revise", "pair"]
    assert [stage["kept"] for stage in manifest["stages"].values()] == [3, 3, 3, 3]
    assert manifest["counts"] == {"prompts": 3, "paired": 3, "pairs": 3, "dropped": {}}
    assert list(manifest["stages"]["revise"]["inputs"]) == ["prompts.jsonl", "responses.jsonl"]


def test_the_written_config_runs_again_as_the_same_config(tmp_path, three):
    config = make_config(tmp_path, three, revision={"format": "edits"})
    run(config, Replying(ANSWERS), Replying(EDITS))
    written = str(tmp_path / "run" / "config.yaml")
    assert GenerateConfig.from_command_line(["--config", written]) == config


DROPS = [
    # question, answer, reply, stage, reason
    ("empty answer", "  \n", None, "respond", "empty"),
    ("cut answer", cut("It goes on and"), None, "respond", "cut"),
    (
        "cut though called done",
        Completion(text="It goes", finish_reason="stop", prompt_tokens=1, completion_tokens=100),
        None,
        "respond",
        "cut",
    ),
    (
        "broken off by a filter",
        Completion(
            text="It is", finish_reason="content_filter", prompt_tokens=1, completion_tokens=2
        ),
        None,
        "respond",
        "cut",
    ),
    ("rejected question", None, None, "respond", "request_failed"),
    ("rejected revision", "alpha answer", None, "revise", "request_failed"),
    ("cut reply", "beta answer", cut("<edits>"), "revise", "cut"),
    (
        "reply at the limit",
        "gamma answer",
        Completion(
            text=edit_reply(("gamma", "Gamma")),
            finish_reason="stop",
            prompt_tokens=1,
            completion_tokens=400,  # at the limit of 200 and, asked again, at the larger one
        ),
        "revise",
        "cut",
    ),
    ("empty reply", "delta answer", " ", "revise", "empty"),
    (
        "filtered reply",
        "epsilon answer",
        Completion(text="", finish_reason="content_filter", prompt_tokens=1, completion_tokens=0),
        "revise",
        "refused",
    ),
    ("declined", "zeta answer", "I'm sorry, but I can't help with that.", "revise", "refused"),
    ("chatty reply", "sigma answer", "Looks good to me!", "revise", "unparsed"),
    (
        "wrong passage",
        "theta answer",
        edit_reply(("no such passage", "x")),
        "revise",
        "edit_not_found",
    ),
    ("nothing to do", "iota answer", edit_reply(), "pair", "no_op"),
    ("all deleted", "kappa answer", edit_reply(("kappa answer", " ")), "pair", "empty"),
    (
        "revised to a refusal",
        "lambda answer",
        edit_reply(("lambda answer", "I'm sorry, but I can't help with that.")),
        "pair",
        "refused",
    ),
]


def test_every_reason_drops_its_row_at_its_stage_and_the_counts_close(tmp_path):
    rows = [{"prompt": f"<{question}>"} for question, *_ in DROPS]
    prompts = write_rows(
        tmp_path / "prompts.jsonl", [*rows, {"prompt": "<good>"}, {"prompt": "<good>"}]
    )
    target = Replying([(f"<{d[0]}>", d[1]) for d in DROPS] + [("<good>", "the good answer")])
    reviser = Replying(
        [(d[1], d[2]) for d in DROPS if d[3] != "respond"]
        + [("the good answer", edit_reply(("good", "better")))]
    )
    done = run(make_config(tmp_path, prompts), target, reviser)
    dropped = list(read_jsonl(tmp_path / "run" / "dropped.jsonl", Dropped))
    assert done.prompts == len(DROPS) + 2
    assert done.pairs == 1
    assert done.prompts == done.pairs + len(dropped) == done.pairs + sum(done.dropped.values())
    expected = [("load", "duplicate")]
    for stage in ("respond", "revise", "pair"):
        expected += [(stage, drop[4]) for drop in DROPS if drop[3] == stage]
    assert [(row.stage, row.reason) for row in dropped] == expected
    assert all(row.detail for row in dropped)
    raw = {row.reason: row.raw for row in dropped}
    assert raw[DropReason.UNPARSED] == "Looks good to me!"


def test_a_second_run_asks_nothing_and_writes_the_same_bytes(tmp_path, three):
    config = make_config(tmp_path, three)
    run(config, Replying(ANSWERS), Replying(EDITS))
    before = jsonl_bytes(tmp_path)
    again = run(config, Replying([]), Replying([]))
    assert (again.asked, again.reused, again.pairs) == (0, 6, 3)
    assert jsonl_bytes(tmp_path) == before
    assert len(before) == 5


def test_a_changed_rubric_is_said_and_asks_only_the_reviser(tmp_path, three, capsys):
    run(make_config(tmp_path, three), Replying(ANSWERS), Replying(EDITS))
    before = jsonl_bytes(tmp_path)
    rubric = tmp_path / "rubric.md"
    rubric.write_text("Say newer, never new.")
    config = make_config(tmp_path, three, revision={"rubric": rubric})
    capsys.readouterr()
    newer = [(answer, edit_reply(("is old", "is newer"))) for _, answer in ANSWERS]
    target, reviser = Replying([]), Replying(newer)
    done = run(config, target, reviser)
    assert (
        "template changed: rebuilding revisions and all that is made of them"
        in capsys.readouterr().err
    )
    assert (done.asked, len(reviser.requests), target.requests) == (3, 3, [])
    assert "Say newer, never new." in reviser.requests[0].messages[0].content
    after = jsonl_bytes(tmp_path)
    assert after["responses.jsonl"] == before["responses.jsonl"]
    assert b"is newer" in after["pairs.jsonl"]
    assert after["pairs.jsonl"] != before["pairs.jsonl"]


def test_a_first_run_says_nothing_of_changes(tmp_path, three, capsys):
    run(make_config(tmp_path, three), Replying(ANSWERS), Replying(EDITS))
    assert "changed" not in capsys.readouterr().err


def test_a_changed_parser_or_gate_is_said_and_asks_nobody(tmp_path, three, capsys, monkeypatch):
    config = make_config(tmp_path, three)
    run(config, Replying(ANSWERS), Replying(EDITS))
    monkeypatch.setattr(MODULE, "GATE_VERSION", 99)
    capsys.readouterr()
    assert run(config, Replying([]), Replying([])).asked == 0
    assert "gate changed: rebuilding pairs" in capsys.readouterr().err
    monkeypatch.setattr(MODULE, "PARSER_VERSION", 99)
    assert run(config, Replying([]), Replying([])).asked == 0
    assert (
        "parser changed: rebuilding revisions and all that is made of them"
        in capsys.readouterr().err
    )


def test_a_rebuild_that_breaks_off_no_longer_vouches_for_the_old_files(tmp_path, three):
    run(make_config(tmp_path, three), Replying(ANSWERS), Replying(EDITS))
    rubric = tmp_path / "rubric.md"
    rubric.write_text("Be brief.")
    config = make_config(tmp_path, three, revision={"rubric": rubric})
    with pytest.raises(KeyboardInterrupt):
        run(config, Replying([]), Replying(EDITS, breaks_after=1))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    assert list(manifest["stages"]) == ["load", "respond"]
    assert run(config, Replying([]), Replying(EDITS)).asked == 2


def _contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("what", ["prompts", "target"])
def test_another_run_in_the_same_folder_is_refused_and_changes_nothing(tmp_path, three, what):
    run(make_config(tmp_path, three), Replying(ANSWERS), Replying(EDITS))
    before = _contents(tmp_path / "run")
    other = write_rows(tmp_path / "other.jsonl", [{"prompt": "Another question?"}])
    changes = {
        "prompts": {"prompts": {"path": str(other)}},
        "target": {"target": TARGET.model_copy(update={"temperature": 0.1})},
    }[what]
    with pytest.raises(RunError, match=rf"run: was begun with another {what}; name another"):
        run(make_config(tmp_path, three, **changes), Replying([]), Replying([]))
    assert _contents(tmp_path / "run") == before


def test_a_folder_of_another_recipe_is_refused(tmp_path, three):
    run(make_config(tmp_path, three), Replying(ANSWERS), Replying(EDITS))
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["settings"]["recipe"] = "worsen"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(RunError, match="another recipe"):
        run(make_config(tmp_path, three), Replying([]), Replying([]))


def test_given_answers_that_changed_are_other_prompts(tmp_path):
    rows = [{"prompt": "Q?", "response": "The answer is old."}]
    prompts = write_rows(tmp_path / "prompts.jsonl", rows)
    config = make_config(tmp_path, prompts)
    run(config, Replying([]), Replying([("is old", edit_reply(("old", "new")))]))
    write_rows(prompts, [{"prompt": "Q?", "response": "The answer is odd."}])
    with pytest.raises(RunError, match="another prompts"):
        run(config, Replying([]), Replying([]))


def test_a_first_run_that_got_no_answer_may_be_begun_anew_with_other_settings(tmp_path, three):
    class Unreachable(ChatModel):
        def answer(self, requests):
            raise RequestError("a prompt is too long; lower max_tokens")

    config = make_config(tmp_path, three)
    with pytest.raises(RequestError):
        generate(config, target_model=Unreachable(), reviser_model=Replying([]))
    mended = make_config(tmp_path, three, target=TARGET.model_copy(update={"max_tokens": 50}))
    assert run(mended, Replying(ANSWERS), Replying(EDITS)).pairs == 3


def test_no_pair_at_all_is_an_error_that_counts_the_reasons(tmp_path, three):
    replies = [("The one", edit_reply()), ("The", "Fine as it is.")]
    with pytest.raises(DataError, match=r"not one of 3 prompts.*no_op 1, unparsed 2.*dropped"):
        run(make_config(tmp_path, three), Replying(ANSWERS), Replying(replies))
    assert len(rows_of(tmp_path, "dropped.jsonl")) == 3


def test_answers_that_the_data_brings_are_revised_and_the_target_is_not_asked(tmp_path, capsys):
    rows = [
        {"prompt": "Q1?", "response": "Given answer, old."},
        {
            "messages": [
                {"role": "user", "content": "Q2?"},
                {"role": "assistant", "content": "Mine, old."},
            ]
        },
        {"prompt": "Q3?"},
    ]
    prompts = write_rows(tmp_path / "prompts.jsonl", rows)
    target = Replying([("Q3?", "Asked, old.")])
    reviser = Replying([(", old.", edit_reply(("old", "new")))])
    done = run(make_config(tmp_path, prompts), target, reviser)
    assert done.pairs == 3
    assert [request.messages[-1].content for request in target.requests] == ["Q3?"]
    pairs = rows_of(tmp_path, "pairs.jsonl")
    assert [p["rejected"][0]["content"] for p in pairs] == [
        "Given answer, old.",
        "Mine, old.",
        "Asked, old.",
    ]
    rejected = [p["provenance"]["rejected"] for p in pairs]
    assert [side["model"] for side in rejected] == ["given", "given", "target"]
    assert [side["kind"] for side in rejected] == ["given", "given", "response"]
    assert [len(side["request_keys"]) for side in rejected] == [0, 0, 1]
    assert "2 prompts bring an answer" in capsys.readouterr().err


def test_system_turns_and_earlier_turns_reach_the_target_the_reviser_and_the_pair(tmp_path):
    messages = [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "Second?"},
    ]
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"messages": messages}])
    target = Replying([("Second?", "The old reply.")])
    reviser = Replying([("The old reply.", edit_reply(("old", "new")))])
    run(make_config(tmp_path, prompts), target, reviser)
    assert [m.model_dump() for m in target.requests[0].messages] == messages
    asked = reviser.requests[0].messages[0].content
    assert re.search(r"\[system\]\nBe terse.\n\[user\]\nFirst\?\n\[assistant\]\nOne.\n", asked)
    assert rows_of(tmp_path, "pairs.jsonl")[0]["prompt"] == messages


def test_line_ends_and_outer_blanks_do_not_tell_chosen_from_rejected(tmp_path):
    rows = [{"prompt": "Q?", "response": "First line.\r\nSecond line, old.\r\n\r\n"}]
    prompts = write_rows(tmp_path / "prompts.jsonl", rows)
    reply = edit_reply(("line.\nSecond line, old", "line.\nSecond line, new"))
    run(make_config(tmp_path, prompts), Replying([]), Replying([("Second", reply)]))
    pair = rows_of(tmp_path, "pairs.jsonl")[0]
    assert pair["rejected"][0]["content"] == "First line.\nSecond line, old."
    assert pair["chosen"][0]["content"] == "First line.\nSecond line, new."


@pytest.mark.parametrize("answers", [0, 1, 2])
@pytest.mark.parametrize("stage", ["respond", "revise"])
def test_an_interrupted_run_asks_only_the_rest_and_ends_in_the_same_bytes(
    tmp_path, three, stage, answers
):
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    replies = [*EDITS[:2], (EDITS[2][0], "no tags")]
    run(make_config(tmp_path / "whole", three), Replying(ANSWERS), Replying(replies))
    breaking = {
        "respond": (Replying(ANSWERS, breaks_after=answers), Replying([])),
        "revise": (Replying(ANSWERS), Replying(replies, breaks_after=answers)),
    }[stage]
    config = make_config(tmp_path / "broken", three)
    with pytest.raises(KeyboardInterrupt):
        run(config, *breaking)
    assert not (tmp_path / "broken" / "run" / "pairs.jsonl").exists()
    target, reviser = Replying(ANSWERS), Replying(replies)
    run(config, target, reviser)
    assert len(target.requests) == (3 - answers if stage == "respond" else 0)
    repairs = 1  # of the reply without tags
    assert len(reviser.requests) == repairs + (3 if stage == "respond" else 3 - answers)
    assert jsonl_bytes(tmp_path / "broken") == jsonl_bytes(tmp_path / "whole")


FAULTS = {
    "no such prompts": ({"prompts": {"path": "missing.jsonl"}}, DataError),
    "no such rubric": ({"revision": {"rubric": "missing.md"}}, ConfigError),
    "no such template": ({"revision": {"template": "missing.jinja"}}, ConfigError),
    "no such target": ({"target": ModelSpec(model="./missing")}, ModelNotFoundError),
    "no such reviser": ({"reviser": ModelSpec(model="./missing")}, ModelNotFoundError),
    "no key for the reviser": (
        {
            "reviser": ModelSpec(
                model="m", base_url="https://models.example/v1", api_key_env="NO_SUCH_KEY"
            )
        },
        RequestError,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_can_be_known_beforehand_leaves_nothing_behind(tmp_path, three, fault):
    changes, error = FAULTS[fault]
    changes = {
        "target": ModelSpec(model="recorded:x"),
        "reviser": ModelSpec(model="recorded:y"),
    } | changes
    with pytest.raises(error):
        generate(make_config(tmp_path, three, **changes))
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_no_target_is_needed_where_the_data_brings_every_answer(tmp_path):
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "Q?", "response": "old text"}])
    target = ModelSpec(model="m", base_url="https://models.example/v1", api_key_env="NO_SUCH_KEY")
    done = generate(
        make_config(tmp_path, prompts, target=target),
        reviser_model=Replying([("old text", edit_reply(("old", "new")))]),
    )
    assert done.pairs == 1


def test_a_run_folder_that_cannot_be_written_is_known_before_anything_is_asked(tmp_path, three):
    (tmp_path / "run").write_text("a file, no folder")
    target = Replying(ANSWERS)
    with pytest.raises(RunError, match=r"run: no run folder can be written there"):
        run(make_config(tmp_path, three), target, Replying(EDITS))
    assert target.requests == []
    assert (tmp_path / "run").read_text() == "a file, no folder"


def test_hostile_text_in_prompts_and_answers_arrives_unchanged(tmp_path):
    nasty = "{{ 7*7 }} {% raw %} {0} %s <b>&amp;</b> \\n \u2028 \ufeff {# gone #}"
    rows = [{"prompt": f"Ask {nasty}"}]
    prompts = write_rows(tmp_path / "prompts.jsonl", rows)
    answer = f"old {nasty} end"
    reviser = Replying([("Ask", edit_reply(("old", "new")))])
    run(make_config(tmp_path, prompts), Replying([("Ask", answer)]), reviser)
    asked = reviser.requests[0].messages[0].content
    assert f"Ask {nasty}" in asked
    assert f"<answer>\n{answer}\n</answer>" in asked
    pair = rows_of(tmp_path, "pairs.jsonl")[0]
    assert pair["prompt"] == [{"role": "user", "content": f"Ask {nasty}"}]
    assert pair["chosen"][0]["content"] == f"new {nasty} end"


def test_runs_side_by_side_share_one_store_by_default(tmp_path, three):
    run(make_config(tmp_path, three), Replying(ANSWERS), Replying(EDITS))
    second = make_config(tmp_path, three, run_dir=tmp_path / "second")
    assert run(second, Replying([]), Replying([])).asked == 0
    with RequestStore(tmp_path / "requests.sqlite") as store:
        assert len(store) == 6
