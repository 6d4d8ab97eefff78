"""Answers that broke off, refusals and other models on their way through a whole run."""

import json
import sqlite3

import pytest

from clair_apo.clair import generate
from clair_apo.errors import DataError
from clair_apo.llm import RequestStore
from clair_apo.llm.backends import http
from clair_apo.llm.store_checksums import use_checksums
from tests.helpers.chat_server import Asked, ChatServer, Reply, completion
from tests.helpers.clair_runs import edit_reply, make_config, rows_of, write_rows

ANSWER = "An old answer about the bridge."
HALF = "An old answer about the"
REFUSAL = "I'm sorry, I can't help with that."


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(http, "jittered_wait_s", lambda _: 0.0)


def choice(asked: Asked, text, finish="stop", message=None, **more) -> Reply:
    said = {"role": "assistant", "content": text} | (message or {})
    one = {"index": 0, "message": said, "finish_reason": finish} | more
    return Reply(body=completion(asked, "", choices=[one]))


def run(tmp_path, server, **values):
    model = {"base_url": server.url, "max_tokens": 64}
    settings = {"target": {"model": "target"} | model, "reviser": {"model": "reviser"} | model}
    data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "Tell me about the bridge."}])
    return generate(make_config(tmp_path, data, **settings | values))


def revised(asked):
    return choice(asked, edit_reply(("old", "new")))


@pytest.mark.parametrize("finish", ["error", "abort", None, "tool_calls"])
@pytest.mark.parametrize("broken", ["target", "reviser"])
def test_a_side_that_broke_off_makes_no_pair_and_the_next_run_asks_again(tmp_path, broken, finish):
    healthy = []

    def reply(asked):
        whole = choice(asked, ANSWER) if asked.body["model"] == "target" else revised(asked)
        half = HALF if broken == "target" else edit_reply(("old", "new"))
        fails = asked.body["model"] == broken and not healthy
        return choice(asked, half, finish) if fails else whole

    with ChatServer(reply) as server:
        with pytest.raises(DataError, match="request_failed 1"):
            run(tmp_path, server)
        (dropped,) = rows_of(tmp_path, "dropped.jsonl")
        assert "the answer broke off" in dropped["detail"]
        with pytest.raises(DataError, match="request_failed 1"):
            run(tmp_path, server, offline=True)
        assert rows_of(tmp_path, "dropped.jsonl") == [dropped]
        healthy.append(True)
        assert run(tmp_path, server).pairs == 1


def test_an_answer_of_an_earlier_version_that_broke_off_is_asked_for_again(tmp_path):
    def reply(asked):
        return choice(asked, ANSWER) if asked.body["model"] == "target" else revised(asked)

    with ChatServer(reply) as server:
        run(tmp_path, server)
        store = next(tmp_path.glob("**/requests.sqlite"))
        with RequestStore(store) as opened:
            keys = rows_of(tmp_path, "responses.jsonl")[0]["request_keys"]
            kept = opened.get(keys[0])
        kept["choices"][0] |= {"message": {"content": HALF}, "finish_reason": "error"}
        with sqlite3.connect(store) as db:
            use_checksums(db)
            db.execute(
                "UPDATE answers SET response = ?1, checksum = checksum(key, model, run_id, "
                "prompt_tokens, completion_tokens, answered_at, ?1) WHERE key = ?2",
                (json.dumps(kept), *keys),
            )
        with pytest.raises(DataError, match="request_failed 1"):
            run(tmp_path, server, offline=True)
        asked_before = len(server.asked)
        assert run(tmp_path, server).pairs == 1
        assert len(server.asked) == asked_before + 1
    assert rows_of(tmp_path, "pairs.jsonl")[0]["rejected"][0]["content"] == ANSWER


@pytest.mark.parametrize(
    "message", [{"refusal": REFUSAL}, {"content": [{"type": "refusal", "refusal": REFUSAL}]}]
)
@pytest.mark.parametrize("finish", ["stop", "content_filter", "length", "refusal"])
def test_a_reviser_that_declines_in_the_field_for_it_is_refused_with_its_words(
    tmp_path, message, finish
):
    def reply(asked):
        if asked.body["model"] == "target":
            return choice(asked, ANSWER)
        return choice(asked, None, finish, message)

    with ChatServer(reply) as server, pytest.raises(DataError, match="refused 1"):
        run(tmp_path, server)
    (dropped,) = rows_of(tmp_path, "dropped.jsonl")
    assert (dropped["reason"], dropped["raw"]) == ("refused", REFUSAL)
    assert sum(asked.body["model"] == "reviser" for asked in server.asked) == 1


def test_a_refusal_of_the_target_is_its_answer(tmp_path):
    def reply(asked):
        if asked.body["model"] == "target":
            return choice(asked, None, message={"refusal": REFUSAL})
        return choice(asked, edit_reply(("I can't help with that", "I would need its name")))

    with ChatServer(reply) as server:
        assert run(tmp_path, server).pairs == 1
    assert rows_of(tmp_path, "pairs.jsonl")[0]["rejected"][0]["content"] == REFUSAL


def test_the_model_that_answered_stands_in_the_provenance_of_a_pair(tmp_path, capsys):
    def reply(asked):
        made = choice(asked, ANSWER) if asked.body["model"] == "target" else revised(asked)
        made.body["model"] += "-2026-01-01" if asked.body["model"] == "target" else "-of-another"
        return made

    with ChatServer(reply) as server:
        run(tmp_path, server)
    provenance = rows_of(tmp_path, "pairs.jsonl")[0]["provenance"]
    assert provenance["rejected"]["model"] == "target"
    assert provenance["rejected"]["answered_by"] == "target-2026-01-01"
    assert provenance["chosen"]["answered_by"] == "reviser-of-another"
    told = capsys.readouterr().err
    assert told.count("says that it answered") == 1
    assert "'reviser-of-another'" in told


def test_no_file_of_a_run_holds_a_key_that_the_server_echoes(tmp_path, monkeypatch):
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("TEST_KEY", key)

    def reply(asked):
        if asked.body["model"] == "target":
            return choice(asked, f"{ANSWER} {asked.headers['authorization']}", echo=key)
        text = edit_reply(("old", f"new {key}"))
        return choice(asked, text, message={"reasoning_content": f"with {key}"})

    with ChatServer(reply) as server:
        model = {"base_url": server.url, "max_tokens": 64, "api_key_env": "TEST_KEY"}
        roles = {role: {"model": role} | model for role in ("target", "reviser")}
        assert run(tmp_path, server, **roles).pairs == 1
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not [path.name for path in written if key.encode() in path.read_bytes()]
