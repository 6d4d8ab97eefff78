"""The HTTP client against a real socket."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import stamina
from llm_requests import ask_for, completion
from pytest_httpserver import HTTPServer
from werkzeug import Response

from clair_apo.errors import RequestError
from clair_apo.llm import ModelSpec, RequestStore, StoredChat
from clair_apo.llm.http import ATTEMPTS, HttpChat, find_key
from clair_apo.records import Message

KEY = "sk-very-secret-5f2a"
PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def one_server():
    with HTTPServer(host="127.0.0.1", threaded=True) as running:
        yield running


@pytest.fixture
def server(one_server):
    yield one_server
    one_server.clear()


@pytest.fixture
def no_server(spec):
    """A spec that leads to a port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else's
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        yield spec.model_copy(update={"base_url": url})


@pytest.fixture(autouse=True)
def no_waits():
    """Attempts as in life, without the waits between them."""
    stamina.set_testing(True, attempts=ATTEMPTS)
    yield
    stamina.set_testing(False)


@pytest.fixture
def spec(server, monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    return ModelSpec(
        model="the-model",
        base_url=server.url_for("/v1"),
        api_key_env="TEST_KEY",
        timeout_s=20,
        max_in_flight=1,
    )


def fine(text="hello", **changes):
    return completion(text).to_response("the-model") | changes


def answer(spec, *texts):
    return list(HttpChat(spec).answer([ask_for(text) for text in texts]))


def failure(spec, *texts):
    with pytest.raises(RequestError) as caught:
        answer(spec, *texts)
    message = str(caught.value)
    assert KEY not in message
    assert "\n" not in message
    return message


def replies(server, *replies):
    """Serve the replies one after the other: (status, body or JSON)."""
    waiting = list(replies)
    lock = threading.Lock()

    def handle(request):
        with lock:
            status, body = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        text = body if isinstance(body, str) else json.dumps(body)
        return Response(text, status, content_type="application/json")

    server.expect_request(PATH).respond_with_handler(handle)


def test_what_is_sent_is_the_request_and_what_comes_back_is_the_whole_response(server, spec):
    replies(server, (200, fine("Hi.", system_fingerprint="fp_1")))
    request = ask_for("Hello?", max_tokens=7, temperature=0.3, top_p=0.9)
    (answered,) = HttpChat(spec).answer([request])
    assert answered.request == request
    assert answered.response["system_fingerprint"] == "fp_1"  # unknown fields are kept as well
    assert answered.response["choices"][0]["message"]["content"] == "Hi."
    sent, _ = server.log[0]
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert sent.get_json() == {
        "model": "the-model",
        "messages": [{"role": "user", "content": "Hello?"}],
        "max_tokens": 7,
        "temperature": 0.3,
        "top_p": 0.9,
    }


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_what_may_pass_is_tried_again(server, spec, status):
    replies(server, (status, {"error": "later"}), (status, {"error": "later"}), (200, fine()))
    (answered,) = answer(spec, "q")
    assert answered.response is not None
    assert len(server.log) == 3


def test_a_server_that_keeps_failing_ends_the_run_and_says_how_to_go_on(server, spec):
    replies(server, (500, {"error": {"message": "out of memory"}}))
    message = failure(spec, "q")
    assert "out of memory" in message
    assert f"failed {ATTEMPTS} times" in message
    assert "run the same command again to go on" in message
    assert len(server.log) == ATTEMPTS


def test_a_refused_connection_says_where_and_how_to_go_on(no_server):
    message = failure(no_server, "q")
    where = no_server.base_url.removeprefix("http://").removesuffix("/v1")
    assert f"{where} could not be reached" in message
    assert "run the same command again to go on" in message


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_named_by_its_variable_and_is_not_tried_again(server, spec, status):
    replies(server, (status, {"error": f"wrong key {KEY}"}))
    message = failure(spec, "q")
    assert "$TEST_KEY" in message
    assert len(server.log) == 1


def test_an_unknown_model_is_named(server, spec):
    replies(server, (404, {"error": "no"}))
    assert "the-model" in failure(spec, "q")
    assert len(server.log) == 1


def test_a_status_that_is_final_is_not_said_to_have_failed_several_times(server, spec):
    replies(server, (402, {"error": "no credit"}))
    message = failure(spec, "q")
    assert "no credit" in message
    assert "times" not in message


@pytest.mark.parametrize("status", [400, 422])
def test_a_rejected_request_fails_alone(server, spec, status):
    def handle(request):
        if "bad" in request.get_data(as_text=True):
            return Response(json.dumps({"error": f"too long {KEY}"}), status)
        return Response(json.dumps(fine()), 200, content_type="application/json")

    server.expect_request(PATH).respond_with_handler(handle)
    answers = {a.request.messages[0].content: a for a in answer(spec, "good", "bad", "fine")}
    assert answers["good"].response is not None
    assert answers["fine"].response is not None
    assert answers["bad"].response is None
    assert "too long ***" in answers["bad"].failure


@pytest.mark.parametrize("body", ["<html>a web page</html>", "{not json", "[1, 2]", '"text"', ""])
def test_a_reply_that_is_no_json_object_asks_whether_the_address_is_right(server, spec, body):
    replies(server, (200, body))
    message = failure(spec, "q")
    assert f"is base_url '{spec.base_url}' right?" in message
    assert len(server.log) == 1


EMPTY_HANDED = {
    "an error with status 200": {"error": {"message": "upstream is overloaded"}},
    "no choices": fine(choices=[]),
    "choices that are none": fine(choices=None),
    "a choice that is no object": fine(choices=["x"]),
    "no message": fine(choices=[{"finish_reason": "stop"}]),
    "content in parts": fine(choices=[{"message": {"content": [{"type": "text"}]}}]),
    "usage that is no object": fine(usage=[1]),
    "half a surrogate pair": fine(choices=[{"message": {"content": "\ud83d"}}]),
}


@pytest.mark.parametrize("case", EMPTY_HANDED)
def test_a_response_without_text_fails_its_row_and_is_not_kept(server, spec, tmp_path, case):
    replies(server, (200, EMPTY_HANDED[case]), (200, fine("the second")))
    with RequestStore(tmp_path / "s.sqlite") as store:
        chat = StoredChat(spec, store)
        first, second = chat.ask([chat.request(_user("a")), chat.request(_user("b"))])
        assert first.completion is None
        assert "choices[0].message.content" in first.failure
        assert second.completion.text == "the second"
        assert len(store) == 1


def test_what_a_server_says_with_status_200_reaches_the_reader(server, spec, tmp_path):
    replies(server, (200, EMPTY_HANDED["an error with status 200"]))
    with RequestStore(tmp_path / "s.sqlite") as store:
        chat = StoredChat(spec, store)
        (answered,) = chat.ask([chat.request(_user("a"))])
    assert "upstream is overloaded" in answered.failure


@pytest.mark.parametrize("content", [None, ""])
def test_an_answer_without_text_is_an_empty_answer_not_a_failure(server, spec, tmp_path, content):
    choice = {"message": {"content": content}, "finish_reason": "stop"}
    replies(server, (200, fine(choices=[choice], usage=None)))
    with RequestStore(tmp_path / "s.sqlite") as store:
        chat = StoredChat(spec, store)
        (answered,) = chat.ask([chat.request(_user("a"))])
    assert answered.completion.text == ""
    assert answered.completion.completion_tokens == 0


def test_a_time_out_is_tried_again_and_then_named(server, spec):
    over = threading.Event()
    server.expect_request(PATH).respond_with_handler(lambda _: over.wait(20) and None)
    message = failure(spec.model_copy(update={"timeout_s": 0.2}), "q")
    over.set()
    assert "timeout_s" in message
    assert "within 0.2 seconds" in message


def test_the_key_is_in_no_failure_and_not_in_the_store(server, spec, tmp_path):
    replies(server, (200, fine()), (400, {"error": f"your key {KEY} is fine, the rest is not"}))
    path = tmp_path / "s.sqlite"
    with RequestStore(path) as store:
        chat = StoredChat(spec, store)
        answers = list(chat.ask([chat.request(_user("a")), chat.request(_user("b"))]))
    assert sum(a.completion is None for a in answers) == 1
    assert all(KEY not in a.failure for a in answers)
    for file in tmp_path.iterdir():
        assert KEY.encode() not in file.read_bytes()


def test_a_key_with_a_line_end_is_used_without_it(server, spec, monkeypatch):
    monkeypatch.setenv("TEST_KEY", f"{KEY}\r\n")
    replies(server, (200, fine()))
    answer(spec, "q")
    assert server.log[0][0].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", [f"{KEY}\n{KEY}", f"{KEY}\u2026"])
def test_what_cannot_be_a_key_is_refused_before_anything_is_sent(server, spec, monkeypatch, key):
    monkeypatch.setenv("TEST_KEY", key)
    assert "$TEST_KEY holds characters that no key has" in failure(spec, "q")
    assert not server.log


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "127.9.9.9"])
def test_a_server_on_this_machine_needs_no_key(host, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    spec = ModelSpec(model="m", base_url=f"http://{host}:1/v1", api_key_env="NO_SUCH_KEY")
    HttpChat(spec)
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


def test_as_many_requests_are_under_way_as_the_spec_says_and_no_more(server, spec):
    together = 4
    gate = threading.Barrier(together)  # opens only when so many requests are there at once
    under_way, most = [], []

    def handle(request):
        under_way.append(1)
        most.append(len(under_way))
        gate.wait(timeout=20)
        under_way.pop()
        return Response(json.dumps(fine()), content_type="application/json")

    server.expect_request(PATH).respond_with_handler(handle)
    wide = spec.model_copy(update={"max_in_flight": together})
    answers = answer(wide, *(f"q{n}" for n in range(3 * together)))
    assert all(a.response is not None for a in answers)
    assert {a.request.messages[0].content for a in answers} == {f"q{n}" for n in range(12)}
    assert max(most) == together


def test_answers_under_way_are_kept_when_another_request_ends_the_run(server, spec):
    both = threading.Barrier(2)

    def handle(request):
        both.wait(timeout=20)
        if "bad" in request.get_data(as_text=True):
            return Response("{}", 401)
        time.sleep(0.3)  # so that the refusal is known first
        return Response(json.dumps(fine()), content_type="application/json")

    server.expect_request(PATH).respond_with_handler(handle)
    chat = HttpChat(spec.model_copy(update={"max_in_flight": 2}))
    kept = []
    with pytest.raises(RequestError, match="401"):
        kept.extend(chat.answer([ask_for(t) for t in ("bad", "good", "late", "later")]))
        pytest.fail("the refusal was not raised")
    assert len(server.log) == 2, "no request is sent after the run has ended"


def test_the_paid_answer_reaches_the_store_although_the_run_ends(server, spec, tmp_path):
    both = threading.Barrier(2)

    def handle(request):
        both.wait(timeout=20)
        if "bad" in request.get_data(as_text=True):
            return Response("{}", 401)
        time.sleep(0.3)
        return Response(json.dumps(fine()), content_type="application/json")

    server.expect_request(PATH).respond_with_handler(handle)
    with RequestStore(tmp_path / "s.sqlite") as store:
        chat = StoredChat(spec.model_copy(update={"max_in_flight": 2}), store)
        requests = [chat.request(_user(text)) for text in ("bad", "good")]
        with pytest.raises(RequestError):
            list(chat.ask(requests))
        assert store.get(requests[1].key) is not None


def test_who_leaves_early_sends_nothing_more(server, spec):
    replies(server, (200, fine()))
    answering = HttpChat(spec).answer([ask_for(f"q{n}") for n in range(50)])
    next(answering)
    answering.close()
    sent = len(server.log)
    time.sleep(0.5)
    assert len(server.log) <= sent + 1  # the one that was under way
    assert sent < 10


def test_no_requests_need_no_server(no_server):
    assert list(HttpChat(no_server).answer([])) == []


_ASKS = """
import sys
from clair_apo.llm import ModelSpec, RequestStore, StoredChat
from clair_apo.records import Message
spec = ModelSpec(model="m", base_url=sys.argv[1], timeout_s=60, max_in_flight=4)
with RequestStore(sys.argv[2]) as store:
    chat = StoredChat(spec, store)
    requests = [chat.request((Message(role="user", content=f"q{n}"),)) for n in range(8)]
    try:
        list(chat.ask(requests))
    except KeyboardInterrupt:
        print("stopped", len(store), flush=True)
"""


def test_ctrl_c_does_not_wait_for_a_slow_server(server, spec, tmp_path):
    release, waiting = threading.Event(), threading.Semaphore(0)

    def handle(request):
        if '"q0"' in request.get_data(as_text=True):
            return Response(json.dumps(fine()), content_type="application/json")
        waiting.release()
        release.wait(60)
        return Response("{}", 503)

    server.expect_request(PATH).respond_with_handler(handle)
    process = subprocess.Popen(
        [sys.executable, "-c", _ASKS, spec.base_url, str(tmp_path / "s.sqlite")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OPENAI_API_KEY": ""},
    )
    try:
        for _ in range(4):
            assert waiting.acquire(timeout=60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)  # far below the 60 seconds of the server
    finally:
        release.set()
        process.kill()
    assert out == "stopped 1\n", err


def _user(text):
    return (Message(role="user", content=text),)
