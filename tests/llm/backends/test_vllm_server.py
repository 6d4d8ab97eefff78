"""`serve: vllm`: a server that the run starts, shares, and stops whatever happens."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from clair_apo.advice.advise import advise
from clair_apo.advice.config import AdviseConfig
from clair_apo.clair import GenerateConfig, generate
from clair_apo.errors import ModelNotFoundError, RequestError
from clair_apo.evaluation import EvaluateConfig, evaluate
from clair_apo.llm import CachedChat, ModelSpec, RequestStore, check_model
from clair_apo.llm.backends import server_watch
from clair_apo.llm.backends.vllm_server import ModelServers
from clair_apo.records import Message
from tests.helpers import ROOT
from tests.helpers.clair_runs import write_rows
from tests.helpers.evaluations import prompt_file
from tests.helpers.llm_requests import answers_of

STAND_IN = Path(__file__).parents[2] / "helpers" / "vllm_stand_in.py"


class StandIn:
    """What the stand-in for `vllm` wrote down."""

    def __init__(self, folder):
        self.folder = folder

    def _rows(self, name):
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def starts(self):
        return self._rows("starts")

    @property
    def asked(self):
        return self._rows("asked")

    @property
    def pids(self):
        path = self.folder / "pids"
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def is_gone(self, within_s=10.0):
        """Whether the server and what it started end in time."""
        assert len(self.pids) == 2
        return _holds(lambda: not any(_lives(pid) for pid in self.pids), within_s)


def _lives(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # one that nobody has waited for yet


def _holds(condition, within_s):
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    notes, commands = tmp_path / "notes", tmp_path / "bin"
    notes.mkdir()
    commands.mkdir()
    command = commands / "vllm"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_NOTES", str(notes))
    return StandIn(notes)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    return path


@pytest.fixture
def store(tmp_path):
    with RequestStore(tmp_path / "s.sqlite") as store:
        yield store


@pytest.fixture
def servers(tmp_path):
    with ModelServers(tmp_path / "run") as servers:
        yield servers


def spec_of(folder, **settings):
    return ModelSpec(**{"model": str(folder), "serve": "vllm", "patience_s": 30} | settings)


def request_of(chat, text="hello"):
    return chat.request((Message(role="user", content=text),))


def ask(spec, store, servers, *texts):
    chat = CachedChat(spec, store, servers=servers)
    return answers_of(chat, [request_of(chat, text) for text in texts or ("hello",)])


def option(start, name):
    return start[start.index(name) + 1]


def test_a_served_model_answers_and_is_gone_after_the_block(stand_in, folder, store, tmp_path):
    with ModelServers(tmp_path / "run") as servers:
        (answer,) = ask(spec_of(folder), store, servers)
        assert answer.completion.text == "answer to hello"
        assert not stand_in.is_gone(within_s=0)
    assert stand_in.is_gone(within_s=0)


def test_the_server_is_told_folder_precision_and_the_arguments_of_the_config(
    stand_in, folder, store, servers
):
    ask(spec_of(folder, dtype="bf16", serve_args=["--max-model-len=4096"]), store, servers)
    (start,) = stand_in.starts
    assert start[:2] == ["serve", str(folder)]
    assert option(start, "--host") == "127.0.0.1"
    assert option(start, "--dtype") == "bfloat16"
    assert option(start, "--generation-config") == "vllm"
    assert start[-1] == "--max-model-len=4096"


def test_two_roles_with_the_same_weights_share_one_server(stand_in, folder, store, servers):
    ask(spec_of(folder, temperature=0.7), store, servers)
    ask(spec_of(folder, temperature=0.0), store, servers)
    assert len(stand_in.starts) == 1
    assert [row["body"]["temperature"] for row in stand_in.asked] == [0.7, 0.0]


def test_a_server_for_another_model_stops_the_one_before(
    stand_in, folder, store, servers, tmp_path
):
    ask(spec_of(folder), store, servers)
    first = stand_in.pids
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"another": 1}')
    ask(spec_of(other), store, servers)
    assert len(stand_in.starts) == 2
    assert not any(_lives(pid) for pid in first)


def test_nothing_is_started_where_the_store_has_every_answer(stand_in, folder, store, tmp_path):
    for _ in range(2):
        with ModelServers(tmp_path / "run") as servers:
            ask(spec_of(folder), store, servers)
    assert len(stand_in.starts) == 1


def test_a_served_model_has_the_key_of_the_same_weights_in_this_process(folder, store):
    here = CachedChat(ModelSpec(model=str(folder)), store)
    assert CachedChat(spec_of(folder), store).identity == here.identity
    quick = spec_of(folder, serve_args=["--max_num_seqs=8"])
    assert CachedChat(quick, store).identity == here.identity
    other = spec_of(folder, serve_args=["--quantization=fp8"])
    assert CachedChat(other, store).identity not in (
        here.identity,
        CachedChat(spec_of(folder, serve_args=["--quantization=awq"]), store).identity,
    )
    (folder / "config.json").write_text('{"changed": 1}')
    assert CachedChat(spec_of(folder), store).identity != here.identity


def test_a_server_that_dies_while_it_loads_is_quoted(
    stand_in, folder, store, servers, monkeypatch, tmp_path
):
    monkeypatch.setenv("STAND_IN", "dies")
    with pytest.raises(RequestError, match="no room for the weights") as raised:
        ask(spec_of(folder), store, servers)
    message = str(raised.value)
    log = tmp_path / "run" / "vllm-model.log"
    assert "ended (status 1)" in message and str(log) in message
    assert "\n" not in message and "run the same command again" in message
    assert "loading the weights" in log.read_text()


def test_a_server_that_never_answers_ends_the_run_after_the_stated_time(
    stand_in, folder, store, servers, monkeypatch, capfd
):
    monkeypatch.setenv("STAND_IN", "silent")
    with pytest.raises(RequestError, match=r"did not answer within 2 s \(patience_s\)"):
        ask(spec_of(folder, patience_s=2), store, servers)
    assert stand_in.is_gone(within_s=0)
    assert "2 s at most" in capfd.readouterr().err


def test_a_server_that_dies_in_the_middle_ends_the_run_and_the_next_goes_on(
    stand_in, folder, store, tmp_path, monkeypatch
):
    monkeypatch.setenv("STAND_IN", "dies_later")
    texts = [f"question {n}" for n in range(4)]
    spec = spec_of(folder, max_in_flight=1)
    began = time.monotonic()
    with (
        ModelServers(tmp_path / "run") as servers,
        pytest.raises(RequestError, match=r"ended \(status 7\).*the engine is dead") as raised,
    ):
        ask(spec, store, servers, *texts)
    assert time.monotonic() - began < 30  # it does not wait for a server that cannot come back
    assert "\x1b" not in str(raised.value) and "run the same command again" in str(raised.value)
    monkeypatch.setenv("STAND_IN", "answers")
    with ModelServers(tmp_path / "run") as servers:
        answers = ask(spec, store, servers, *texts)
    assert [answer.completion.text for answer in answers] == [f"answer to {t}" for t in texts]
    asked = [row["body"]["messages"][-1]["content"] for row in stand_in.asked]
    assert asked.count("question 0") == 1


def test_a_port_that_is_taken_meanwhile_gives_way_to_another(
    stand_in, folder, store, servers, monkeypatch
):
    monkeypatch.setenv("STAND_IN", "taken")
    (answer,) = ask(spec_of(folder), store, servers)
    assert answer.completion.text == "answer to hello"
    first, second = stand_in.starts
    assert option(first, "--port") != option(second, "--port")


def test_a_stranger_at_the_port_is_never_asked(stand_in, folder, store, servers, monkeypatch):
    monkeypatch.setenv("STAND_IN", "stranger")
    with pytest.raises(RequestError, match="found its port taken 3 times"):
        ask(spec_of(folder), store, servers)
    assert not stand_in.asked


def test_a_server_that_takes_no_sigterm_is_killed(stand_in, folder, store, tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN", "stubborn")
    spec = spec_of(folder)
    with ModelServers(tmp_path / "run") as servers:
        servers.find(spec, str(folder), "name")
    assert stand_in.is_gone(within_s=0)
    assert server_watch.GRACE_S == 10


def test_neither_a_proxy_nor_a_key_of_the_environment_reaches_the_server(
    stand_in, folder, store, servers, monkeypatch
):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-this-server")
    monkeypatch.setenv("VLLM_API_KEY", "of-another-server")
    (answer,) = ask(spec_of(folder), store, servers)
    assert answer.completion
    assert "sk-not-for-this-server" not in json.dumps(stand_in.asked)


def test_without_vllm_the_way_out_is_told_before_anything_is_asked(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match=r"pip install vllm.*leave serve out.*base_url"):
        check_model(spec_of(folder))


def test_a_hub_name_and_an_adapter_are_refused(stand_in, folder):
    with pytest.raises(ModelNotFoundError, match="in a folder of this machine"):
        check_model(spec_of("org/model"))
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(ModelNotFoundError, match="an adapter without its model"):
        check_model(spec_of(folder))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"serve": "vllm", "base_url": "http://127.0.0.1:1/v1"}, "set one of the two"),
        ({"serve": "vllm", "mode": "files"}, "serve is for mode 'live'"),
        ({"serve_args": ["--max-num-seqs=8"]}, "set serve to vllm"),
        ({"serve": "vllm", "serve_args": ["--port=1"]}, "the run chooses it"),
        ({"serve": "vllm", "serve_args": ["--served_model_name=x"]}, "the run chooses it"),
        ({"serve": "vllm", "serve_args": ["--dtype=half"]}, "set dtype"),
        ({"serve": "vllm", "serve_args": ["--api-key=sk-x"]}, "takes a secret"),
        ({"serve": "vllm", "serve_args": ["8"]}, "expected an option such as"),
        ({"serve": "vllm", "serve_args": ["--max-num-seqs 8"]}, "expected an option such as"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ModelSpec(model="m", **settings)


@pytest.fixture
def config(tmp_path, folder):
    """A run whose target and reviser are the same served model."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(3)))
    served = {"model": str(folder), "serve": "vllm", "patience_s": 30}
    path = tmp_path / "config.yaml"
    values = {
        "run_dir": str(tmp_path / "run"),
        "prompts": {"path": str(prompts)},
        "target": served,
        "reviser": served | {"max_tokens": 1024},
        "revision": {"format": "full"},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def test_target_and_reviser_of_a_run_are_one_server(stand_in, config):
    with pytest.raises(ValueError, match="became a pair"):
        generate(GenerateConfig.from_command_line(["--config", str(config)]))
    assert len(stand_in.starts) == 1
    assert len(stand_in.asked) >= 6  # three answers, three revisions and what is asked again
    assert stand_in.is_gone(within_s=0)


def test_two_models_of_an_evaluation_with_the_same_weights_are_one_server(
    stand_in, folder, tmp_path
):
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    served = {"model": str(folder), "serve": "vllm", "patience_s": 30}
    config = EvaluateConfig(
        run_dir=tmp_path / "run",
        models={"greedy": served, "sampled": served | {"temperature": 0.7}},
        prompts={"path": str(prompt_file(tmp_path))},
        suites=[{"suite": "health"}],
    )
    assert evaluate(config).asked == 12
    assert len(stand_in.starts) == 1
    assert stand_in.is_gone(within_s=0)


def test_model_and_judge_of_an_advice_are_served(stand_in, folder, tmp_path):
    served = {"model": str(folder), "serve": "vllm", "patience_s": 30}
    chat = {"role": "user", "content": "question"}
    sides = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"prompt": [chat], **sides}])
    config = AdviseConfig(run_dir=tmp_path / "run", pairs=str(pairs), model=served, judge=served)
    advise(config)
    assert len(stand_in.starts) == 1
    assert len(stand_in.asked) == 7  # a sample, and the judge in both orders, controls included
    assert stand_in.is_gone(within_s=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("behaviour", ["silent", "hangs"])
def test_the_server_does_not_outlive_a_run_that_is_stopped(
    stand_in, folder, tmp_path, monkeypatch, number, behaviour
):
    monkeypatch.setenv("STAND_IN", behaviour)
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.served_run", str(folder), str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        begun = (lambda: stand_in.pids) if behaviour == "silent" else (lambda: stand_in.asked)
        assert _holds(begun, within_s=90)
        run.send_signal(number)
        _, said = run.communicate(timeout=60)
    finally:
        run.kill()
    assert stand_in.is_gone()
    if number is signal.SIGINT:
        assert run.returncode == 130 and "Traceback" not in said
