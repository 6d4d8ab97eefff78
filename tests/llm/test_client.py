"""The one door: answers in order, nothing asked twice, failures asked again."""

import subprocess
import sys
import threading
import time

import pytest

from clair_apo.errors import ConfigError, ModelNotFoundError, RequestError, StoreError
from clair_apo.llm import (
    CachedChat,
    ChatModel,
    ModelReply,
    ModelSpec,
    RequestStore,
    ScriptedChat,
    StoredAnswer,
    check_model,
    propagate_errors_to,
)
from clair_apo.llm import store as store_module
from clair_apo.llm.backends.http import HttpChat
from clair_apo.records import Message
from tests.helpers.chat_server import ChatServer, Reply
from tests.helpers.llm_requests import answers_of, completion, says

SPEC = ModelSpec(model="m")


@pytest.fixture
def store(tmp_path):
    with RequestStore(tmp_path / "s.sqlite") as store:
        yield store


class Backwards(ChatModel):
    """Answers in another order than it was asked, and only what it likes."""

    def __init__(self, fails=(), forgets=()):
        self.fails, self.forgets, self.seen = fails, forgets, []

    def plan(self, requests):
        return [requests[::-1]]

    def answer(self, requests):
        self.seen += [r.messages[-1].content for r in requests]
        for request in requests:
            text = request.messages[-1].content
            if text in self.forgets:
                continue
            if text in self.fails:
                yield [ModelReply(request, None, f"no answer to {text}")]
            else:
                yield [ModelReply(request, completion(text.upper()).to_response("m"))]


def _request(chat, text):
    return chat.request((Message(role="user", content=text),))


def _ask(chat, *texts):
    return answers_of(chat, [_request(chat, text) for text in texts])


def test_answers_come_in_the_order_of_the_requests(store):
    answers = _ask(CachedChat(SPEC, store, Backwards()), "a", "b", "c")
    assert [a.completion.text for a in answers] == ["A", "B", "C"]


def test_equal_requests_are_asked_once(store):
    model = Backwards()
    chat = CachedChat(SPEC, store, model)
    answers = _ask(chat, "a", "b", "a", "a")
    assert [a.completion.text for a in answers] == ["A", "B", "A", "A"]
    assert model.seen == ["b", "a"]
    assert (chat.meter.asked, chat.meter.reused) == (2, 0)


def _twice(chat, text):
    """A row whose second question is made of its first answer, and which asks one thing twice."""
    first, same = yield (_request(chat, text), _request(chat, text))
    assert first == same
    (second,) = yield (_request(chat, first.completion.text + text),)
    return second.completion.text


def test_a_row_goes_on_with_its_answers_and_rows_keep_their_order(store):
    chat = CachedChat(SPEC, store, Backwards())
    assert list(chat.converse(_twice(chat, text) for text in "abc")) == ["AA", "BB", "CC"]
    again = CachedChat(SPEC, store, Backwards())
    assert list(again.converse(_twice(again, text) for text in "abc")) == ["AA", "BB", "CC"]
    assert (again.meter.asked, again.meter.reused) == (0, 6)


def test_rows_are_begun_only_as_fast_as_results_are_taken(store):
    class Small(Backwards):
        wave = 2

    begun = []
    chat = CachedChat(SPEC, store, Small())

    def rows():
        for text in "abcdef":
            begun.append(text)
            yield says(_request(chat, text))

    results = chat.converse(rows())
    assert next(results).completion.text == "A"
    assert begun == ["a", "b"]
    assert next(results).completion.text == "B"
    assert next(results).completion.text == "C"
    assert begun == ["a", "b", "c", "d"]


def test_a_resumed_run_plans_the_same_groups_and_asks_only_what_is_missing(store):
    class Pairs(Backwards):
        def __init__(self, breaks_after):
            super().__init__()
            self.planned, self.breaks_after = [], breaks_after

        def plan(self, requests):
            groups = [requests[:2], requests[2:]]
            self.planned.append([[r.messages[-1].content for r in group] for group in groups])
            return groups

        def answer(self, requests):
            if self.breaks_after == len(self.seen):
                raise KeyboardInterrupt
            yield [a for (a,) in super().answer(requests)]

    killed = Pairs(breaks_after=2)
    with pytest.raises(KeyboardInterrupt):
        _ask(CachedChat(SPEC, store, killed), "a", "b", "c", "d")
    assert len(store) == 2
    resumed = Pairs(breaks_after=None)
    _ask(CachedChat(SPEC, store, resumed), "a", "b", "c", "d")
    assert resumed.planned == killed.planned == [[["a", "b"], ["c", "d"]]]
    assert resumed.seen == ["c", "d"]


def test_offline_answers_from_the_store_and_fails_rather_than_ask(store):
    _ask(CachedChat(SPEC, store, Backwards()), "a")
    model = Backwards()
    offline = CachedChat(SPEC, store, model, offline=True)
    assert _ask(offline, "a")[0].completion.text == "A"
    with pytest.raises(RequestError, match=r"offline: .*s\.sqlite has no answer of 'm'"):
        _ask(offline, "a", "b")
    assert model.seen == []


def test_what_the_store_knows_is_not_asked_again(store):
    _ask(CachedChat(SPEC, store, Backwards()), "a", "b")
    model = Backwards()
    chat = CachedChat(SPEC, store, model)
    assert [a.completion.text for a in _ask(chat, "b", "c")] == ["B", "C"]
    assert model.seen == ["c"]
    assert (chat.meter.asked, chat.meter.reused) == (1, 1)


def test_a_failure_is_told_is_no_answer_and_is_asked_again_next_time(store):
    failing = CachedChat(SPEC, store, Backwards(fails=("b",)))
    a, b, c = _ask(failing, "a", "b", "c")
    assert (a.completion.text, c.completion.text) == ("A", "C")
    assert b.completion is None
    assert b.failure == "no answer to b"
    assert len(store) == 2
    assert _ask(CachedChat(SPEC, store, Backwards()), "b")[0].completion.text == "B"


def offline(store):
    return CachedChat(SPEC, store, Backwards(), offline=True)


def test_offline_a_request_that_failed_fails_again_in_the_same_words(store):
    model = Backwards(fails=("b",), forgets=("c",))
    before = _ask(CachedChat(SPEC, store, model), "a", "b", "c")
    assert [a.failure for a in before] == ["", "no answer to b", "the model gave no answer"]
    assert _ask(offline(store), "a", "b", "c") == before
    with pytest.raises(RequestError, match="offline"):
        _ask(offline(store), "a", "b", "d")


def test_an_answer_takes_the_place_of_a_failure_and_a_later_failure_that_of_an_earlier(store):
    class FailsOtherwise(ChatModel):
        def answer(self, requests):
            yield [ModelReply(request, None, "another \ud83d reason") for request in requests]

    _ask(CachedChat(SPEC, store, Backwards(fails=("a", "b"))), "a", "b")
    _ask(CachedChat(SPEC, store, FailsOtherwise()), "b")
    _ask(CachedChat(SPEC, store, Backwards()), "a")
    a, b = _ask(offline(store), "a", "b")
    assert a.completion.text == "A"
    assert b.failure == "another \ufffd reason"  # as a file can hold it


def test_offline_a_row_that_a_server_rejected_fails_again(store):
    rejected = Reply(status=400, body={"error": {"message": "too long"}})
    with ChatServer(lambda asked: rejected if asked.text == "b" else Reply()) as server:
        spec = ModelSpec(model="m", base_url=server.url)
        before = _ask(CachedChat(spec, store), "a", "b")
    assert "too long" in before[1].failure
    assert _ask(CachedChat(spec, store, offline=True), "a", "b") == before


def test_a_request_that_a_model_forgets_is_a_failure_of_that_request(store):
    a, b = _ask(CachedChat(SPEC, store, Backwards(forgets=("a",))), "a", "b")
    assert a.completion is None
    assert a.failure
    assert b.completion.text == "B"


def test_answers_are_in_the_store_before_the_next_is_awaited(store):
    class Breaks(ChatModel):
        def answer(self, requests):
            yield [ModelReply(requests[0], completion("kept").to_response("m"))]
            assert len(store) == 1
            raise RequestError("the server is gone")

    with pytest.raises(RequestError):
        _ask(CachedChat(SPEC, store, Breaks()), "a", "b")
    assert len(store) == 1


def test_a_model_with_nothing_in_it_is_still_the_given_model(store):
    class Empty(Backwards):
        def __len__(self):
            return 0

    chat = CachedChat(ModelSpec(model="no/such/model"), store, Empty())
    assert _ask(chat, "a")[0].completion.text == "A"


def test_a_recorded_model_is_never_asked_and_says_what_differs(store):
    chat = CachedChat(ModelSpec(model="recorded:us"), store)
    with pytest.raises(RequestError, match=r"'recorded:us' has no recorded answer.*live model"):
        _ask(chat, "a")
    request = chat.request((Message(role="user", content="b"),))
    response = completion("from the recording").to_response("r")
    store.put_many([StoredAnswer(request.key, "recorded", response)])
    assert _ask(chat, "b")[0].completion.text == "from the recording"


def test_a_server_is_not_connected_to_where_the_store_has_every_answer(store, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    spec = ModelSpec(model="m", base_url="https://models.example/v1", api_key_env="NO_SUCH_KEY")
    _ask(CachedChat(spec, store, Backwards()), "a")
    chat = CachedChat(spec, store)
    assert _ask(chat, "a")[0].completion.text == "A"
    with pytest.raises(RequestError, match="no key"):
        _ask(chat, "b")


def test_a_model_is_checked_without_being_asked(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    check_model(ModelSpec(model="recorded:x"))
    check_model(ModelSpec(model="m", base_url="http://127.0.0.1:1/v1", api_key_env="NO_SUCH_KEY"))
    with pytest.raises(RequestError, match="NO_SUCH_KEY"):
        check_model(ModelSpec(model="m", base_url="http://far/v1", api_key_env="NO_SUCH_KEY"))
    with pytest.raises(ModelNotFoundError):
        check_model(ModelSpec(model="./missing"))


def test_a_scripted_model_answers_in_order_and_keeps_what_it_was_asked(store):
    model = ScriptedChat(["one two", completion("cut", "length", 9)])
    first, second = _ask(CachedChat(SPEC, store, model), "a", "b")
    assert first.completion.text == "one two"
    assert first.completion.finish_reason == "stop"
    expected = completion("cut", "length", 9).model_copy(update={"model": "m"})
    assert second.completion == expected
    assert [r.messages[0].content for r in model.requests] == ["a", "b"]


def test_a_script_that_runs_out_is_an_error_that_says_after_how_many(store):
    chat = CachedChat(SPEC, store, ScriptedChat(["one", "two"]))
    with pytest.raises(RequestError, match="run out after 2 answers"):
        _ask(chat, "a", "b", "c")


def test_asking_loads_no_torch_and_no_client_before_a_model_is_needed():
    code = (
        "import sys, clair_apo.llm; from clair_apo.llm import *; "
        "print(sorted({'torch', 'transformers', 'openai'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


def test_a_row_that_takes_long_holds_up_few_others_and_results_keep_their_order(store):
    others = 150
    release = threading.Event()

    def reply(asked):
        if len(server.asked) == 1 + others:
            release.set()
        return Reply(asked.text, until=release if asked.text == "q0" else None)

    with ChatServer(reply) as server:
        chat = CachedChat(ModelSpec(model="m", base_url=server.url, max_in_flight=4), store)
        texts = [f"q{n}" for n in range(1 + others)]
        assert [a.completion.text for a in _ask(chat, *texts)] == texts


@pytest.fixture
def stopping(monkeypatch):
    """Is set when the client has been told to send nothing more: only then a server replies."""
    event, stop = threading.Event(), HttpChat.stop

    def stop_and_tell(self):
        stop(self)
        event.set()

    monkeypatch.setattr(HttpChat, "stop", stop_and_tell)
    return event


def wait_for(server, count):
    """Return once so many requests are under way."""
    give_up = time.monotonic() + 20
    while server.under_way < count and time.monotonic() < give_up:
        time.sleep(0.01)
    return server.under_way == count


def test_when_the_disk_is_nearly_full_what_is_under_way_is_kept_and_no_more_is_asked(
    store, stopping, monkeypatch
):
    free = iter([2**30] * 5)

    def free_bytes(_):
        return next(free, None) or (wait_for(server, 5) and 2**20)

    monkeypatch.setattr(store_module, "free_bytes", free_bytes)
    with ChatServer(lambda _: Reply(until=stopping)) as server:
        chat = CachedChat(ModelSpec(model="m", base_url=server.url, max_in_flight=20), store)
        with pytest.raises(StoreError, match="only 1 MB are free"):
            _ask(chat, *(f"q{n}" for n in range(30)))
        assert len(server.asked) == len(store) == 5


def test_an_error_of_one_row_costs_no_answer_that_is_under_way(store, stopping, capsys):
    def rows():
        yield from (says(_request(chat, f"q{n}")) for n in range(8))
        wait_for(server, 4)
        raise ConfigError("this row cannot be rendered")

    with ChatServer(lambda _: Reply(until=stopping)) as server:
        chat = CachedChat(ModelSpec(model="m", base_url=server.url, max_in_flight=4), store)
        with pytest.raises(ConfigError, match="cannot be rendered"):
            list(chat.converse(rows()))
        assert len(server.asked) == len(store) == 4, "what waited for its turn is not sent"
    assert "waiting for 4 requests under way" in capsys.readouterr().err


def test_an_error_of_the_one_who_takes_the_results_costs_no_answer_either(store, stopping):
    def reply(asked):
        return Reply(until=None if asked.text == "q0" else stopping)

    with ChatServer(reply) as server:
        chat = CachedChat(ModelSpec(model="m", base_url=server.url, max_in_flight=4), store)
        results = chat.converse(says(_request(chat, f"q{n}")) for n in range(4))
        with pytest.raises(OSError, match="no room"), propagate_errors_to(results):
            next(results)
            wait_for(server, 3)
            raise OSError("no room")
        assert len(server.asked) == len(store) == 4


def test_ctrl_c_does_not_wait_for_what_is_under_way(store, stopping):
    with ChatServer(lambda asked: Reply(until=None if asked.text == "q0" else stopping)) as server:
        chat = CachedChat(ModelSpec(model="m", base_url=server.url, max_in_flight=4), store)
        results = chat.converse(says(_request(chat, f"q{n}")) for n in range(4))
        with pytest.raises(KeyboardInterrupt), propagate_errors_to(results):
            next(results)
            raise KeyboardInterrupt
        results.close()
        assert not stopping.is_set()
        assert len(store) == 1


def test_an_error_before_anything_was_asked_is_only_raised():
    results = (text for text in "ab")
    with pytest.raises(ValueError, match="early"), propagate_errors_to(results):
        raise ValueError("early")
    with pytest.raises(ValueError, match="early"), propagate_errors_to(["a list"]):
        raise ValueError("early")


def test_a_wave_is_not_begun_on_a_disk_that_is_nearly_full(store, monkeypatch):
    monkeypatch.setattr(store_module, "free_bytes", lambda _: 2**20)
    script = ScriptedChat(["never"])
    with pytest.raises(StoreError, match="only 1 MB are free"):
        _ask(CachedChat(SPEC, store, script), "q")
    assert script.requests == []
