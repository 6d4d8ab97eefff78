"""Runs whose models answer later: by the Batch API, and by files."""

import json
import re
import shlex
from pathlib import Path

import pytest
import stamina
from typer.testing import CliRunner

from clair_apo.clair import GenerateConfig, generate
from clair_apo.cli import app
from clair_apo.errors import RunError, WaitingError
from clair_apo.llm.backends import batch_api
from tests.helpers.batch_endpoints import BatchEndpoints, Outcome, answered
from tests.helpers.clair_runs import edit_reply, write_rows

EDIT = edit_reply(("answer", "best answer"))


def reply_to(body):
    """The target answers; the reviser, which is asked about an answer, makes one edit."""
    asked = "\n".join(message["content"] for message in body["messages"])
    text = EDIT if "the answer" in asked else "the answer"
    message = {"role": "assistant", "content": text}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }


@pytest.fixture
def data(tmp_path):
    return write_rows(tmp_path / "data.jsonl", [{"prompt": f"question {n}?"} for n in range(3)])


@pytest.fixture
def server(httpserver, monkeypatch):
    """A server with the endpoints of the Batch API, and a client that does not wait."""
    endpoints = BatchEndpoints()
    endpoints.outcomes = [Outcome(line=lambda line: answered(line, reply_to)) for _ in range(4)]
    endpoints.serve(httpserver)
    endpoints.url = endpoints.spec.base_url
    monkeypatch.setattr(batch_api, "FIRST_WAIT_S", 0.0)
    with stamina.set_testing(True, attempts=2):
        yield endpoints


def config_of(tmp_path, data, **spec):
    model = {"model": "big", "max_tokens": 100, **spec}
    return GenerateConfig(
        run_dir=tmp_path / "run",
        prompts={"path": str(data)},
        target=model,
        reviser=model,
        revision={"format": "edits"},
    )


def pairs_of(folder):
    return [
        json.loads(line)["chosen"][0]["content"]
        for line in (folder / "pairs.jsonl").read_text("utf-8").splitlines()
    ]


def answer_files(folder):
    """What `vllm run-batch` does with every file that has no output."""
    for path in folder.glob("*.in.jsonl"):
        out = path.with_name(path.name.replace(".in.", ".out."))
        if out.exists():
            continue
        with path.open(encoding="utf-8") as file, out.open("w", encoding="utf-8") as written:
            for line in map(json.loads, file):
                response = {"status_code": 200, "request_id": "r", "body": reply_to(line["body"])}
                answer = {"custom_id": line["custom_id"], "response": response, "error": None}
                written.write(json.dumps(answer) + "\n")


def test_a_run_by_files_goes_on_with_each_round_and_ends_with_pairs(tmp_path, data):
    path = tmp_path / "config.yaml"
    path.write_text(config_of(tmp_path, data, mode="files").to_yaml(), "utf-8")
    for _ in range(2):  # one round for the target, one for the reviser
        ended = CliRunner().invoke(app, ["generate", "--config", str(path)])
        assert ended.exit_code == 3
        (command,) = re.findall(r"^ *(vllm run-batch .*)$", ended.stderr, re.MULTILINE)
        assert Path(shlex.split(command)[3]).parent == tmp_path / "run" / "batch"
        answer_files(tmp_path / "run" / "batch")
    ended = CliRunner().invoke(app, ["generate", "--config", str(path)])
    assert ended.exit_code == 0, ended.stderr
    assert pairs_of(tmp_path / "run") == ["the best answer"] * 3


def test_a_run_by_the_batch_api_has_one_batch_for_each_round(tmp_path, data, server):
    result = generate(config_of(tmp_path, data, mode="batch", base_url=server.url))
    assert (result.pairs, result.asked) == (3, 6)
    assert pairs_of(tmp_path / "run") == ["the best answer"] * 3
    assert server.largest == [3, 3]
    assert set(server.asked.values()) == {1}


def test_an_interrupted_run_says_how_to_come_back_and_its_batch_can_be_looked_after(
    tmp_path, data, server, monkeypatch
):
    path = tmp_path / "config.yaml"
    path.write_text(config_of(tmp_path, data, mode="batch", base_url=server.url).to_yaml(), "utf-8")

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batch_api.time, "sleep", interrupt)
        ended = CliRunner().invoke(app, ["generate", "--config", str(path)])
    assert ended.exit_code == 130
    assert "run the same command again" in ended.stderr

    def look(*options):
        return CliRunner().invoke(app, ["batches", str(tmp_path / "run"), *options])

    assert "batch-0  in_progress  0 of 3 answered" in look().stdout
    assert look("--cancel", "batch-7").exit_code == 2
    assert "batch-0  read  3 of 3 answered" in look("--cancel", "all").stdout
    assert server.batches["batch-0"].status == "cancelled"
    ended = CliRunner().invoke(app, ["generate", "--config", str(path)])
    assert ended.exit_code == 0, ended.stderr
    assert pairs_of(tmp_path / "run") == ["the best answer"] * 3


def interrupted(config, monkeypatch):
    """A run that Ctrl+C ends while its first batch is at the server."""

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batch_api.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            generate(config)


@pytest.mark.parametrize("mode", ["live", "files"])
def test_a_model_with_open_batches_cannot_leave_them_for_another_mode(
    tmp_path, data, server, monkeypatch, mode
):
    interrupted(config_of(tmp_path, data, mode="batch", base_url=server.url), monkeypatch)
    path = tmp_path / "config.yaml"
    path.write_text(config_of(tmp_path, data, mode=mode, base_url=server.url).to_yaml(), "utf-8")
    calls = len(server.calls)
    ended = CliRunner().invoke(app, ["generate", "--config", str(path)])
    assert ended.exit_code == 2
    assert "3 requests to 'big' are at" in ended.stderr
    assert f"`clair-apo batches {tmp_path / 'run'} --cancel all`" in ended.stderr
    assert len(server.calls) == calls

    # what the message says: with the old mode the answers are collected, and nothing is in the way
    ended = CliRunner().invoke(
        app,
        ["generate", "--config", str(path), "--target.mode", "batch", "--reviser.mode", "batch"],
    )
    assert ended.exit_code == 0, ended.stderr
    assert set(server.asked.values()) == {1}
    ended = CliRunner().invoke(app, ["generate", "--config", str(path)])
    assert ended.exit_code == 0, ended.stderr


def test_another_address_for_a_model_with_open_batches_is_refused_too(
    tmp_path, data, server, monkeypatch
):
    interrupted(config_of(tmp_path, data, mode="batch", base_url=server.url), monkeypatch)
    elsewhere = config_of(tmp_path, data, mode="batch", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(RunError, match="nobody waits for them"):
        generate(elsewhere)


def test_once_its_batches_are_cancelled_and_read_a_model_may_answer_in_another_mode(
    tmp_path, data, server, monkeypatch
):
    interrupted(config_of(tmp_path, data, mode="batch", base_url=server.url), monkeypatch)
    CliRunner().invoke(app, ["batches", str(tmp_path / "run"), "--cancel", "all"])
    # no batch is in the way any more: the reviser's requests are written into files
    with pytest.raises(WaitingError, match="requests wait in files"):
        generate(config_of(tmp_path, data, mode="files", base_url=server.url))


def test_batches_can_be_looked_after_though_no_model_answers_in_batches_any_more(
    tmp_path, data, server, monkeypatch
):
    interrupted(config_of(tmp_path, data, mode="batch", base_url=server.url), monkeypatch)
    manifest = tmp_path / "run" / "manifest.json"
    content = json.loads(manifest.read_text("utf-8"))
    for role in ("target", "reviser"):
        content["config"][role]["mode"] = "live"
    manifest.write_text(json.dumps(content), "utf-8")
    ended = CliRunner().invoke(app, ["batches", str(tmp_path / "run"), "--cancel", "all"])
    assert ended.exit_code == 0, ended.stderr
    assert "batch-0  read  3 of 3 answered" in ended.stdout


def test_an_offline_run_begins_no_batch_and_writes_no_file(tmp_path, data, server):
    for mode in ("batch", "files"):
        config = config_of(tmp_path, data, mode=mode, base_url=server.url)
        with pytest.raises(ValueError, match="offline"):
            generate(config.model_copy(update={"offline": True}))
    assert server.calls == []
    assert not (tmp_path / "run" / "batch").exists()


def test_looking_after_batches_where_there_is_no_run_or_no_batch(tmp_path, data):
    def look(folder):
        return CliRunner().invoke(app, ["batches", str(folder)])

    assert "is no run folder" in look(tmp_path).stderr
    config = config_of(tmp_path, data, mode="files")
    with pytest.raises(ValueError, match="requests wait in files"):
        generate(config)
    assert "this run has no batches" in look(tmp_path / "run").stdout
