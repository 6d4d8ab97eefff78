"""Requests, their keys, and how a response is read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clair_apo.llm import CachedChat, Completion, ModelSpec, RequestStore
from clair_apo.records import Message, digest
from tests.helpers.llm_requests import ask_for, completion

MESSAGES = (Message(role="user", content="q"),)


def test_a_key_is_the_digest_of_model_messages_sampling_and_sample():
    request = ask_for("q", model="m@1", sample=2, max_tokens=5, temperature=0.5, top_p=0.9)
    assert request.key == digest(
        {
            "model": "m@1",
            "messages": [{"role": "user", "content": "q"}],
            "sampling": {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9},
            "sample": 2,
        }
    )


CHANGES = {
    "another model": ask_for("q", model="other"),
    "another text": ask_for("q "),
    "another sample": ask_for("q", sample=1),
    "another limit": ask_for("q", max_tokens=9),
    "another temperature": ask_for("q", temperature=0.71),
    "another top_p": ask_for("q", top_p=0.99),
    "another role": ask_for("q").model_copy(
        update={"messages": (Message(role="system", content="q"),)}
    ),
    "another turn": ask_for("q").model_copy(update={"messages": MESSAGES * 2}),
}


def test_whatever_can_change_an_answer_changes_the_key():
    keys = {ask_for("q").key, *(request.key for request in CHANGES.values())}
    assert len(keys) == 1 + len(CHANGES)


def test_half_a_surrogate_pair_costs_a_character_and_not_the_answer():
    answer = completion("two \U0001f600 and half").to_response("m")
    answer["choices"][0]["message"]["content"] += " \ud83d."
    assert Completion.from_response(answer).text == "two \U0001f600 and half \ufffd."


def test_a_changed_copy_of_a_request_has_a_key_of_its_own():
    request = ask_for("q")
    before = request.key  # asked for once: a remembered key must not travel into the copy
    assert request.model_copy(update={"sample": 1}).key == ask_for("q", sample=1).key != before


def test_numbers_that_are_equal_make_equal_keys():
    assert ask_for("q", temperature=0, top_p=1).key == ask_for("q", temperature=0.0, top_p=1.0).key


OF_NO_ACCOUNT = {
    "base_url": "http://127.0.0.1:1/v1",
    "mode": "files",
    "price": {"input": 1, "output": 1},
    "api_key_env": "OTHER_KEY",
    "timeout_s": 1.0,
    "patience_s": 1.0,
    "max_in_flight": 1,
    "requests_per_minute": 1,
    "tokens_per_minute": 1,
    "batch_size": 1,
}
OF_ACCOUNT = {
    "model": "recorded:other",
    "revision": "2026-11",
    "max_tokens": 1,
    "temperature": 0.0,
    "top_p": 0.5,
}
# they need a server
OF_ACCOUNT_AT_A_SERVER = {
    "token_limit_field": "max_completion_tokens",
    "extra_body": {"reasoning_effort": "low"},
}
# part of a local model's identity: tested with the local model, and with the one that is served
LOCAL_ONLY = {"dtype": "bf16", "serve": "vllm", "serve_args": ("--quantization=fp8",)}


def _key(**changes):
    with RequestStore(":memory:") as store:
        return CachedChat(ModelSpec(**{"model": "recorded:m"} | changes), store).request(MESSAGES)


def test_every_setting_of_a_model_either_belongs_to_the_key_or_cannot_change_an_answer():
    at_a_server = {"base_url": "http://127.0.0.1:1/v1"}
    known = {*OF_NO_ACCOUNT, *OF_ACCOUNT, *OF_ACCOUNT_AT_A_SERVER, *LOCAL_ONLY}
    assert set(ModelSpec.model_fields) == known
    for name, value in OF_NO_ACCOUNT.items():
        assert _key(**{name: value}).key == _key().key, name
    for name, value in OF_ACCOUNT.items():
        assert _key(**{name: value}).key != _key().key, name
    for name, value in OF_ACCOUNT_AT_A_SERVER.items():
        assert _key(**at_a_server, **{name: value}).key != _key().key, name


def test_settings_that_came_later_are_in_no_key_where_they_are_not_set():
    written = {"token_limit_field": "max_tokens", "extra_body": {}}
    key = _key(base_url="http://127.0.0.1:1/v1", **written).key
    sampling = {"max_tokens": 512, "temperature": 0.7, "top_p": 1.0}
    request = {"model": "recorded:m", "messages": [MESSAGES[0].model_dump()], "sample": 0}
    assert key == digest(request | {"sampling": sampling})


def test_what_is_not_sent_is_in_the_key_as_well():
    keys = {_key(temperature=None).key, _key(top_p=None).key, _key().key}
    assert len(keys) == 3
    assert "temperature" not in _key(temperature=None).body("m")


@pytest.mark.parametrize("name", OF_ACCOUNT_AT_A_SERVER)
def test_what_only_a_server_takes_is_refused_without_one_by_its_name(name):
    with pytest.raises(ValueError, match=f"{name} is for a server: set base_url"):
        ModelSpec(model="m", **{name: OF_ACCOUNT_AT_A_SERVER[name]})
    assert ModelSpec(model="m", mode="files", **{name: OF_ACCOUNT_AT_A_SERVER[name]})


def _with_extra(extra):
    return ModelSpec(model="m", base_url="http://127.0.0.1:1/v1", extra_body=extra)


@pytest.mark.parametrize(
    "name", ["api_key", "api-key", "X-API-Key", "key", "access_token", "client_secret", "Password"]
)
def test_a_secret_is_not_sent_beside_because_the_manifest_would_hold_it(name):
    for extra in ({name: "sk-1"}, {"headers": [{name: "sk-1"}]}):
        with pytest.raises(ValueError, match=f"'{name}' looks like a secret"):
            _with_extra(extra)


def test_names_that_only_sound_like_a_secret_may_be_sent():
    extra = {"min_tokens": 3, "stop_token_ids": [1], "prompt_cache_key": "a", "top_k": 5}
    assert _with_extra(extra).sampling.extra_body == json.dumps(
        extra, sort_keys=True, separators=(",", ":")
    )


@pytest.mark.parametrize("name", ["model", "messages", "max_tokens", "temperature", "n", "stream"])
def test_a_setting_with_a_place_of_its_own_is_not_sent_beside(name):
    with pytest.raises(ValueError, match=f"'{name}' cannot be sent beside"):
        _with_extra({name: 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("timeout_s", 0),
        ("patience_s", -1),
        ("patience_s", float("inf")),
        ("max_in_flight", 0),
        ("batch_size", 0),
        ("dtype", "fp8"),
        ("modle", "x"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=rf"\n{name}\n"):
        ModelSpec(**{"model": "m", name: value})


@given(
    st.builds(
        Completion,
        text=st.text(min_size=1).filter(str.strip),
        finish_reason=st.sampled_from(["stop", "length", "content_filter"]),
        prompt_tokens=st.integers(0, 10**6),
        completion_tokens=st.integers(0, 10**6),
        refused=st.booleans(),
        model=st.just("m"),
    )
)
def test_a_completion_goes_through_a_response_unchanged(given_completion):
    assert Completion.from_response(given_completion.to_response("m")) == given_completion
