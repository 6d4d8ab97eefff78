"""No field of the config that changes nothing: each is set to another value and its effect seen."""

from queue import SimpleQueue
from types import SimpleNamespace

import pytest
from datasets import Dataset, DatasetDict

from clair_apo.clair import GenerateConfig, generate
from clair_apo.config import dotted_keys
from clair_apo.errors import DataError, RequestError
from clair_apo.llm import CachedChat, Meter, ModelSpec, RequestStore
from clair_apo.llm.backends.connection import Connection
from clair_apo.llm.backends.http import _Server
from tests.helpers.clair_runs import Replying, edit_reply, jsonl_bytes

OTHER = {
    "run_dir": "elsewhere",
    "store": "other.sqlite",
    "prompts.path": "data2",
    "prompts.column": "topic",
    "prompts.split": "test",
    "prompts.limit": 3,
    "prompts.seed": 1,
    "prompts.max_characters": 5,
    "revision.format": "full",
    "revision.rubric": "rubric.md",
    "revision.template": "own.jinja",
    "revision.keep_length": True,
    "revision.ask_again": False,
    "prompts.ignore_given": True,
    "gate.max_edit_ratio": 0.01,
    "gate.length_ratio": (2.0, 3.0),
    "prompts.contamination": ("tests.jsonl",),
    "output.test_size": 0.999,
    "offline": True,
    "shard": "1/2",
    "recipe": "worsen",
    **{
        f"{who}.{name}": value
        for who in ("target", "reviser")
        for name, value in {
            "model": "another",
            "revision": "second-training",
            "max_tokens": 77,
            "temperature": 0.11,
            "top_p": 0.9,
        }.items()
    },
}
CONNECTION = {
    "base_url": "http://127.0.0.1:2/v1",
    "api_key_env": "ANOTHER_KEY",
    "timeout_s": 3.0,
    "patience_s": 9.0,
    "max_in_flight": 2,
    "requests_per_minute": 7,
    "tokens_per_minute": 700,
    "batch_size": 3,
    "dtype": "bf16",
}
# their effects are seen in the tests of recipes, of verification, of contamination, of money, of
# Parquet and of answers that come later
ELSEWHERE = {"samples", "revision.direction", "verify", "controls.share", "controls.seed"}
# ... and of requests
ELSEWHERE |= {
    f"{who}.{name}" for who in ("target", "reviser") for name in ("token_limit_field", "extra_body")
}
ELSEWHERE |= {"prompts.ngram", "max_cost", "target.mode", "reviser.mode", "output.parquet"}
# ... of answers that begin with thinking
ELSEWHERE |= {"strip_thinking"}
# ... of the gate
ELSEWHERE |= {
    f"gate.{name}"
    for name in (
        *("preset", "max_length", "tokenizer", "language_confidence"),
        *("drop_refusals", "drop_mentions"),
    )
}
SECTIONS = {"prompts", "target", "reviser", "judge", "revision", "gate", "controls", "output"}


def test_the_tables_below_know_every_field():
    leaves = {
        key
        for key in dotted_keys(GenerateConfig)
        if key not in SECTIONS and not key.startswith("judge.") and ".price" not in key
    }
    known = set(OTHER) | ELSEWHERE
    known |= {f"{who}.{name}" for who in ("target", "reviser") for name in CONNECTION}
    assert leaves == known


def _write_inputs(folder):
    for name, word in (("data", "Question"), ("data2", "Riddle")):
        rows = [
            {"prompt": f"{word} {n}?", "topic": f"{word} topic {n}", "answer": None}
            for n in range(8)
        ]
        rows[2]["answer"] = "the old gold"
        splits = {"train": Dataset.from_list(rows[:6]), "test": Dataset.from_list(rows[6:])}
        DatasetDict(splits).save_to_disk(folder / name)
    (folder / "rubric.md").write_text("Be kind.")
    asked = "".join(f'{{"question": "Question {n}?"}}\n' for n in range(3))
    (folder / "tests.jsonl").write_text(asked)
    (folder / "own.jinja").write_text("Mend: {{ answer }} {{ rubric }}")


def _seen(folder, key=None):
    """All that a run leaves and asks."""
    values = {
        "run_dir": "run",
        "prompts": {"path": "data", "limit": 4},
        "target": {"model": "target"},
        "reviser": {"model": "reviser"},
        "revision": {},
        "gate": {},
        "output": {},
        "store": None,
    }
    if key:
        section, _, name = key.rpartition(".")
        (values[section] if section else values)[name] = OTHER[key]
    target = Replying([("", "the old answer")])
    both = edit_reply(("old", "new")) + "<revision>the new answer</revision>"
    reviser = Replying([("n 1?", "no form at all"), ("", both)])
    try:
        generate(GenerateConfig(**values), target_model=target, reviser_model=reviser)
    except (DataError, RequestError) as error:
        return str(error)
    requests = [request.key for request in target.requests + reviser.requests]
    names = sorted(str(path.relative_to(folder)) for path in folder.glob("**/*.*l*"))
    return requests, names, jsonl_bytes(folder)


@pytest.mark.parametrize("key", OTHER)
def test_every_field_of_a_run_changes_what_the_run_leaves_or_asks(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    seen = []
    for name, changed in (("plain", None), ("again", None), ("changed", key)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        _write_inputs(tmp_path / name)
        seen.append(_seen(tmp_path / name, changed))
    plain, again, changed = seen
    assert plain == again
    assert changed != plain


def _connection(monkeypatch, spec):
    """What is handed to the client of a server, its limits, and to a model in this process."""
    handed = []
    monkeypatch.setattr(
        "clair_apo.llm.backends.http.RateLimiter", lambda *limits: handed.append(limits)
    )
    monkeypatch.setattr(
        "clair_apo.llm.backends.http.ServerHealth", lambda *known: handed.append(known[-1])
    )
    monkeypatch.setattr("clair_apo.llm.backends.http._Server._show", lambda _: None)
    monkeypatch.setattr("httpx2.Limits", lambda **limits: handed.append(limits))
    monkeypatch.setattr("openai.DefaultAioHttpClient", lambda **_: SimpleNamespace())
    monkeypatch.setattr("openai.AsyncOpenAI", lambda **settings: handed.append(_plain(settings)))
    _Server(Connection.of(spec), Meter(), SimpleQueue())
    monkeypatch.setattr(
        "clair_apo.llm.backends.local.LocalChat", lambda source, **kwargs: handed.append(kwargs)
    )
    monkeypatch.setattr("clair_apo.llm.client.find_model", lambda name, say, revision: name)
    with RequestStore(":memory:") as store:
        _ = CachedChat(spec.model_copy(update={"base_url": None}), store)._model
    return handed


def _plain(settings):
    return {name: value for name, value in settings.items() if name != "http_client"}


# test_http sees timeout_s at work
@pytest.mark.parametrize("name", sorted(set(CONNECTION) - {"timeout_s"}))
def test_every_setting_of_a_connection_reaches_the_connection(monkeypatch, name):
    monkeypatch.setenv("OPENAI_API_KEY", "one")
    monkeypatch.setenv("ANOTHER_KEY", "two")
    spec = ModelSpec(model="m", base_url="http://127.0.0.1:1/v1")
    plain = _connection(monkeypatch, spec)
    assert _connection(monkeypatch, spec) == plain
    assert _connection(monkeypatch, spec.model_copy(update={name: CONNECTION[name]})) != plain
