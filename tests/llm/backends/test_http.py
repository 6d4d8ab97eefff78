"""What is sent to a server, what comes back, and whose fault a failure is: on a real socket."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
import stamina

from clair_apo.errors import RequestError
from clair_apo.llm import CachedChat, ModelSpec, RequestStore
from clair_apo.llm.backends import server_health
from clair_apo.llm.backends.http import HttpChat
from clair_apo.llm.backends.http_errors import ODD_REPLIES
from clair_apo.llm.backends.server_health import ATTEMPTS
from clair_apo.llm.spec import find_key
from clair_apo.records import Message
from tests.helpers.chat_server import ChatServer, Reply
from tests.helpers.http_chats import answers, error, fine, one_after_the_other, spec_for
from tests.helpers.llm_requests import answers_of, ask_for

KEY = "sk-very-secret-5f2a"


@pytest.fixture(scope="module")
def one_server():
    with ChatServer() as running:
        yield running


@pytest.fixture
def server(one_server):
    one_server.reply = lambda _: Reply()
    one_server.asked.clear()
    one_server.most_under_way = 0
    return one_server


@pytest.fixture
def spec(server, monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    return spec_for(server.url)


@pytest.fixture
def no_server(spec):
    """A spec that leads to a port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else's
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        yield spec.model_copy(update={"base_url": url})


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """Attempts as in life, without the waits between them, and no patience with a new server."""
    monkeypatch.setattr(server_health, "FIRST_PATIENCE_S", 0.0)
    stamina.set_testing(True, attempts=100)
    yield
    stamina.set_testing(False)


def failure(spec, *texts):
    with pytest.raises(RequestError) as caught:
        answers(spec, *texts)
    message = str(caught.value)
    assert KEY not in message
    assert "\n" not in message
    return message


def test_what_is_sent_is_the_request_and_what_comes_back_is_the_whole_response(server, spec):
    server.reply = lambda _: fine(system_fingerprint="fp_1")
    request = ask_for("Hello?", max_tokens=7, temperature=0.3, top_p=0.9)
    with closing(HttpChat(spec)) as chat:
        chat.submit(request)
        (answered,) = chat.collect()
    assert answered.request == request
    assert answered.response["system_fingerprint"] == "fp_1"  # unknown fields are kept as well
    assert answered.response["choices"][0]["message"]["content"] == "hello"
    (sent,) = server.asked
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.body == {
        "model": "the-model",
        "messages": [{"role": "user", "content": "Hello?"}],
        "max_tokens": 7,
        "temperature": 0.3,
        "top_p": 0.9,
    }


def test_a_model_that_takes_no_choice_of_sampling_is_sent_none(server, spec):
    server.reply = lambda asked: (
        error(400, "unsupported parameter")
        if {"max_tokens", "temperature", "top_p"} & asked.body.keys()
        else fine()
    )
    changes = {"temperature": None, "top_p": None, "extra_body": {"reasoning_effort": "low"}}
    changes["token_limit_field"] = "max_completion_tokens"
    settings = spec.model_copy(update=changes)
    with RequestStore(":memory:") as store:
        chat = CachedChat(settings, store)
        (answer,) = answers_of(chat, [chat.request((Message(role="user", content="q"),))])
    assert answer.completion.text == "hello"
    assert server.asked[0].body == {
        "model": "the-model",
        "messages": [{"role": "user", "content": "q"}],
        "max_completion_tokens": spec.max_tokens,
        "reasoning_effort": "low",
    }


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_what_may_pass_is_tried_again(server, spec, status):
    server.reply = one_after_the_other(error(status), error(status), Reply())
    assert answers(spec, "q")["q"].response is not None
    assert len(server.asked) == 3


def test_a_connection_that_breaks_off_is_tried_again(server, spec):
    server.reply = one_after_the_other(Reply(manner="break"), Reply())
    assert answers(spec, "q")["q"].response is not None
    assert len(server.asked) == 2


@pytest.mark.parametrize("manner", ["hang", "trickle"])
def test_an_attempt_ends_at_its_time_out_even_if_the_server_keeps_sending(server, spec, manner):
    server.reply = one_after_the_other(Reply(manner=manner), Reply())
    began = time.monotonic()
    found = answers(spec.model_copy(update={"timeout_s": 0.3}), "q")
    assert found["q"].response is not None
    assert time.monotonic() - began < 10  # a trickled reply of 400 bytes takes 20 seconds


def test_a_server_that_answers_nothing_ends_the_run_and_says_how_to_go_on(server, spec):
    server.reply = lambda _: error(500, "out of memory")
    message = failure(spec, "q")
    assert "answered 500: out of memory" in message
    assert f"({ATTEMPTS} attempts)" in message
    assert "run the same command again to go on" in message
    assert len(server.asked) == ATTEMPTS + 1  # and a short question, to be sure


def test_a_refused_connection_says_where_and_how_to_go_on(no_server):
    message = failure(no_server, "q")
    where = no_server.base_url.removeprefix("http://").removesuffix("/v1")
    assert f"{where} could not be reached" in message
    assert "run the same command again to go on" in message


def test_a_refused_key_is_named_by_its_variable_and_is_not_tried_again(server, spec):
    server.reply = lambda _: error(401, f"wrong key {KEY}")
    message = failure(spec, "q")
    assert "$TEST_KEY" in message
    assert len(server.asked) == 1


def test_a_server_that_refuses_all_with_403_ends_the_run_and_names_the_key(server, spec):
    server.reply = lambda _: error(403, f"wrong key {KEY}")
    message = failure(spec, "q")
    assert "refused the key in $TEST_KEY" in message
    assert "run the same command again to go on" in message
    assert len(server.asked) == 2  # and a short question, which is refused too


def test_an_unknown_model_is_named(server, spec):
    server.reply = lambda _: error(404, "no")
    assert "the-model" in failure(spec, "q")
    assert len(server.asked) == 1


OUT_OF_MONEY = {
    "402": Reply(status=402, body={"error": {"message": "Insufficient Balance"}}),
    "code of OpenAI": Reply(status=429, body={"error": {"code": "insufficient_quota"}}),
    "type alone": Reply(status=429, body={"error": {"type": "insufficient_quota"}}),
    "type of Moonshot": Reply(
        status=429, body={"error": {"type": "exceeded_current_quota_error", "message": "suspended"}}
    ),
    "sentence of xAI": Reply(
        status=403, body={"error": "Your team has used all available credits or reached its limit"}
    ),
    "sentence of Anthropic": Reply(
        status=400, body={"error": {"message": "Your credit balance is too low to access the API"}}
    ),
    "in a list": Reply(status=429, body=[{"error": {"code": "insufficient_quota"}}]),
    "no envelope": Reply(status=429, body={"code": "insufficient_quota", "message": "no"}),
    "status 200": Reply(body={"error": {"code": 402, "message": "no credits"}}),
}


@pytest.mark.parametrize("case", OUT_OF_MONEY)
def test_an_account_with_nothing_left_ends_the_run_at_once(server, spec, case):
    server.reply = lambda _: OUT_OF_MONEY[case]
    message = failure(spec, "q")
    assert "nothing left to spend" in message
    assert "run the same command again to go on" in message
    assert len(server.asked) == 1


A_MINUTE_ONLY = "You exceeded your current quota, please check your plan and billing details."


def test_a_rate_limit_that_speaks_of_quota_is_waited_for_as_any_other(server, spec):
    server.reply = one_after_the_other(error(429, A_MINUTE_ONLY), Reply())
    assert answers(spec, "q")["q"].response is not None


def test_a_rejected_prompt_that_quotes_a_sentence_about_money_does_not_end_the_run(server, spec):
    quoting = error(400, "cannot read: 'insufficient balance, spending limit'")
    server.reply = lambda asked: quoting if asked.text == "bad" else Reply()
    found = answers(spec, "good", "bad", "fine")
    assert found["fine"].response is not None
    assert "insufficient balance" in found["bad"].failure


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_rejected_request_fails_alone(server, spec, status):
    rejected = Reply(status=status, body={"error": f"too long {KEY}"})
    server.reply = lambda asked: rejected if asked.text == "bad" else Reply()
    found = answers(spec, "bad", "good", "fine")
    assert found["good"].response is not None
    assert found["fine"].response is not None
    assert found["bad"].response is None
    assert "too long ***" in found["bad"].failure
    assert server.texts.count("bad") == 1


@pytest.mark.parametrize("status", [403, 406, 451])
@pytest.mark.parametrize("texts", [("bad", "good", "fine"), ("good", "bad", "fine")])
def test_a_refused_prompt_fails_alone_whatever_the_status(server, spec, status, texts):
    refused = error(status, "this prompt is blocked")
    server.reply = lambda asked: refused if asked.text == "bad" else Reply()
    found = answers(spec, *texts)
    assert found["good"].response is not None
    assert found["fine"].response is not None
    assert "this prompt is blocked" in found["bad"].failure
    assert "key" not in found["bad"].failure
    assert server.texts.count("bad") == 1


@pytest.mark.parametrize("status", [406, 451])
def test_a_server_that_refuses_even_a_short_question_ends_the_run(server, spec, status):
    server.reply = lambda _: error(status, "not in your country")
    message = failure(spec, *(f"q{n}" for n in range(50)))
    assert "not in your country; it says so even to a short question" in message
    assert "run the same command again to go on" in message
    assert len(server.asked) < 5


def test_a_key_that_is_refused_midway_ends_the_run_even_while_a_prompt_is_blocked(server, spec):
    texts = ["good", "bad", "worse"]
    replies = {"bad": error(403, "blocked"), "worse": error(401, "revoked")}
    server.reply = lambda asked: replies.get(asked.text, Reply())
    assert "$TEST_KEY" in failure(spec, *texts)
    assert server.texts == texts


def test_a_prompt_of_more_tokens_than_a_minute_has_fails_alone(server, spec):
    too_large = error(429, "Request too large for the-model on tokens per min (TPM): Limit 10000")
    server.reply = lambda asked: too_large if asked.text == "bad" else Reply()
    found = answers(spec, "good", "bad")
    assert "Request too large" in found["bad"].failure
    assert server.texts.count("bad") == 1


def test_settings_that_the_server_always_rejects_end_the_run(server, spec):
    server.reply = lambda _: error(400, "max_tokens is not supported")
    message = failure(spec, *(f"q{n}" for n in range(50)))
    assert "max_tokens is not supported" in message
    assert "even to a short question" in message
    assert len(server.asked) < 5


@pytest.mark.parametrize(
    "body", ["<html>a web page</html>", "{not json", "[1, 2]", '"text"', "", '{"hello": "world"}']
)
def test_a_reply_that_is_no_completion_asks_whether_the_address_is_right(server, spec, body):
    server.reply = lambda _: Reply(body=body)
    message = failure(spec, "q")
    assert f"is base_url '{spec.base_url}' right?" in message
    assert len(server.asked) == ODD_REPLIES


def test_a_first_reply_that_is_no_completion_is_tried_again(server, spec):
    server.reply = one_after_the_other(Reply(body=""), Reply(body="{not json"), Reply())
    assert answers(spec, "q")["q"].response is not None


def test_a_web_page_between_answers_is_tried_again(server, spec):
    page = Reply(body="<html>back in a minute</html>")
    server.reply = one_after_the_other(Reply(), page, Reply())
    found = answers(spec, "a", "b")
    assert all(answered.response is not None for answered in found.values())
    assert len(server.asked) == 3


def test_an_error_with_status_200_is_read_as_the_status_in_it(server, spec):
    upstream = Reply(body={"error": {"code": 502, "message": "upstream is overloaded"}})
    server.reply = lambda asked: upstream if asked.text == "bad" else Reply()
    found = answers(spec, "bad", "good")
    assert "upstream is overloaded" in found["bad"].failure
    assert server.texts.count("bad") == ATTEMPTS


def test_a_time_out_is_tried_again_three_times_and_then_named(server, spec):
    server.reply = lambda _: Reply(manner="hang")
    message = failure(spec.model_copy(update={"timeout_s": 0.1}), "q")
    assert "within 0.1 seconds (timeout_s) (3 attempts)" in message


def test_the_key_is_in_no_failure(server, spec):
    rejected = error(400, f"your key {KEY} is fine, the rest is not")
    server.reply = lambda asked: rejected if asked.text == "bad" else Reply()
    found = answers(spec, "good", "bad")
    assert "your key *** is fine" in found["bad"].failure


def test_a_key_with_a_line_end_is_used_without_it(server, spec, monkeypatch):
    monkeypatch.setenv("TEST_KEY", f"{KEY}\r\n")
    answers(spec, "q")
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", [f"{KEY}\n{KEY}", f"{KEY}\u2026"])
def test_what_cannot_be_a_key_is_refused_before_anything_is_sent(server, spec, monkeypatch, key):
    monkeypatch.setenv("TEST_KEY", key)
    assert "$TEST_KEY holds characters that no key has" in failure(spec, "q")
    assert not server.asked


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "127.9.9.9"])
def test_a_server_on_this_machine_needs_no_key(host, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    spec = ModelSpec(model="m", base_url=f"http://{host}:1/v1", api_key_env="NO_SUCH_KEY")
    HttpChat(spec).close()
    assert find_key(spec) is None


@pytest.mark.parametrize("host", ["models.example", "10.0.0.5", "localhost.example"])
@pytest.mark.parametrize("key", [None, "", "  "])
def test_any_other_server_needs_a_key(host, key, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("NO_SUCH_KEY", key)
    spec = ModelSpec(model="m", base_url=f"https://{host}/v1", api_key_env="NO_SUCH_KEY")
    with pytest.raises(RequestError, match=rf"no key for {host}.*NO_SUCH_KEY.*api_key_env"):
        HttpChat(spec)


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "ftp://x/v1", "http://", "models", ""])
def test_an_address_that_is_none_is_refused_by_its_field(url):
    with pytest.raises(ValueError, match=r"base_url\n.*expected an address such as http://127"):
        ModelSpec(model="m", base_url=url)


def test_answers_under_way_are_handed_out_when_another_request_ends_the_run(server, spec):
    both = threading.Event()

    def reply(asked):
        if len(server.asked) == 2:
            both.set()
        late = Reply(delay_s=0.3)  # so that the refusal is known first
        return Reply(status=401, body="{}", delay_s=0.1) if asked.text == "bad" else late

    server.reply = reply
    with closing(HttpChat(spec.model_copy(update={"max_in_flight": 2}))) as chat:
        for text in ("bad", "good", "late", "later"):
            chat.submit(ask_for(text))
        (answered,) = chat.collect()
        assert answered.request.messages[0].content == "good"
        for _ in range(2):  # it stays ended
            with pytest.raises(RequestError, match="401"):
                chat.collect()
        chat.submit(ask_for("much later"))
        with pytest.raises(RequestError, match="401"):
            chat.collect()
    assert both.is_set()
    assert sorted(server.texts) == ["bad", "good"], "nothing is sent after the run has ended"


def test_who_leaves_waits_for_nothing_and_sends_nothing_more(server, spec):
    server.reply = lambda _: Reply(manner="hang")
    chat = HttpChat(spec.model_copy(update={"max_in_flight": 4}))
    for number in range(50):
        chat.submit(ask_for(f"q{number}"))
    while server.under_way < 4:
        time.sleep(0.01)
    began = time.monotonic()
    chat.close()
    chat.close()
    assert time.monotonic() - began < 5
    assert len(server.asked) == 4


def test_collecting_waits_no_longer_than_it_is_told_and_not_at_all_for_nothing(server, spec):
    server.reply = lambda _: Reply(manner="hang")
    with closing(HttpChat(spec)) as chat:
        assert chat.collect() == []
        chat.submit(ask_for("q"))
        assert chat.collect(timeout_s=0.05) == []


_ASKS = """
import sys
from clair_apo.llm import ModelSpec
from clair_apo.llm.types import ChatRequest
from clair_apo.llm.backends import server_health
from clair_apo.llm.backends.http import HttpChat
from clair_apo.records import Message
spec = ModelSpec(model="m", base_url=sys.argv[1], timeout_s=60, max_in_flight=4)
chat = HttpChat(spec)
for n in range(8):
    question = (Message(role="user", content=f"q{n}"),)
    chat.submit(ChatRequest(model="m", messages=question, sampling=spec.sampling))
try:
    answered = chat.collect()
    chat.collect()
except KeyboardInterrupt:
    print("stopped", len(answered), flush=True)
"""


@pytest.mark.parametrize("closes", ["", "chat.close()\n"])
def test_ctrl_c_does_not_wait_for_a_slow_server(server, spec, closes):
    server.reply = lambda asked: Reply() if asked.text == "q0" else Reply(manner="hang")
    process = subprocess.Popen(
        [sys.executable, "-c", _ASKS + closes, spec.base_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OPENAI_API_KEY": ""},
    )
    try:
        give_up = time.monotonic() + 60
        while server.under_way < 3 and time.monotonic() < give_up:
            time.sleep(0.02)
        time.sleep(0.2)  # the first answer is read
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)  # far below the 60 seconds of the server
    finally:
        process.kill()
    assert (out, err) == ("stopped 1\n", "")


def test_what_is_sent_is_valid_json_whatever_the_text(server, spec):
    text = 'a "quote", a \\ and \u2028, \U0001f600'
    assert answers(spec, text)[text].response is not None
    assert json.loads(json.dumps(server.texts)) == [text]
