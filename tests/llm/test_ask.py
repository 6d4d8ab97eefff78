"""The one door: answers in order, nothing asked twice, failures not kept."""

import subprocess
import sys

import pytest
from llm_requests import completion

from clair_apo.errors import ModelNotFoundError, RequestError
from clair_apo.llm import (
    Answered,
    ModelSpec,
    RequestStore,
    ScriptedChat,
    StoredAnswer,
    StoredChat,
    check_model,
)
from clair_apo.records import Message

SPEC = ModelSpec(model="m")


@pytest.fixture
def store(tmp_path):
    with RequestStore(tmp_path / "s.sqlite") as store:
        yield store


class Backwards:
    """Answers in another order than it was asked, and only what it likes."""

    def __init__(self, fails=(), forgets=()):
        self.fails, self.forgets, self.seen = fails, forgets, []

    def answer(self, requests):
        self.seen += [r.messages[0].content for r in requests]
        for request in reversed(requests):
            text = request.messages[0].content
            if text in self.forgets:
                continue
            if text in self.fails:
                yield Answered(request, None, f"no answer to {text}")
            else:
                yield Answered(request, completion(text.upper()).to_response("m"))


def _ask(chat, *texts, advance=None):
    requests = [chat.request((Message(role="user", content=text),)) for text in texts]
    return list(chat.ask(requests, advance))


def test_answers_come_in_the_order_of_the_requests(store):
    answers = _ask(StoredChat(SPEC, store, Backwards()), "a", "b", "c")
    assert [a.completion.text for a in answers] == ["A", "B", "C"]


def test_equal_requests_are_asked_once_and_counted_as_reused(store):
    model = Backwards()
    chat = StoredChat(SPEC, store, model)
    moves = []
    answers = _ask(chat, "a", "b", "a", "a", advance=moves.append)
    assert [a.completion.text for a in answers] == ["A", "B", "A", "A"]
    assert model.seen == ["a", "b"]
    assert (chat.asked, chat.reused) == (2, 2)
    assert sum(moves) == 4


def test_what_the_store_knows_is_not_asked_again(store):
    _ask(StoredChat(SPEC, store, Backwards()), "a", "b")
    model = Backwards()
    chat = StoredChat(SPEC, store, model)
    assert [a.completion.text for a in _ask(chat, "b", "c")] == ["B", "C"]
    assert model.seen == ["c"]
    assert (chat.asked, chat.reused) == (1, 1)


def test_a_failure_is_told_is_not_kept_and_is_asked_again_next_time(store):
    failing = StoredChat(SPEC, store, Backwards(fails=("b",)))
    a, b, c = _ask(failing, "a", "b", "c")
    assert (a.completion.text, c.completion.text) == ("A", "C")
    assert b.completion is None
    assert b.failure == "no answer to b"
    assert len(store) == 2
    assert _ask(StoredChat(SPEC, store, Backwards()), "b")[0].completion.text == "B"


def test_a_request_that_a_model_forgets_is_a_failure_of_that_request(store):
    a, b = _ask(StoredChat(SPEC, store, Backwards(forgets=("a",))), "a", "b")
    assert a.completion is None
    assert a.failure
    assert b.completion.text == "B"


def test_answers_are_in_the_store_before_the_next_is_awaited(store):
    class Breaks:
        def answer(self, requests):
            yield Answered(requests[0], completion("kept").to_response("m"))
            assert len(store) == 1
            raise RequestError("the server is gone")

    with pytest.raises(RequestError):
        _ask(StoredChat(SPEC, store, Breaks()), "a", "b")
    assert len(store) == 1


def test_a_model_with_nothing_in_it_is_still_the_given_model(store):
    class Empty(Backwards):
        def __len__(self):
            return 0

    chat = StoredChat(ModelSpec(model="no/such/model"), store, Empty())
    assert _ask(chat, "a")[0].completion.text == "A"


def test_a_recorded_model_is_never_asked_and_says_what_differs(store):
    chat = StoredChat(ModelSpec(model="recorded:us"), store)
    with pytest.raises(RequestError, match=r"'recorded:us' has no recorded answer.*live model"):
        _ask(chat, "a")
    request = chat.request((Message(role="user", content="b"),))
    response = completion("from the recording").to_response("r")
    store.put_many([StoredAnswer(request.key, "recorded", response)])
    assert _ask(chat, "b")[0].completion.text == "from the recording"


def test_a_server_is_not_connected_to_where_the_store_has_every_answer(store, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    spec = ModelSpec(model="m", base_url="https://models.example/v1", api_key_env="NO_SUCH_KEY")
    _ask(StoredChat(spec, store, Backwards()), "a")
    chat = StoredChat(spec, store)
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
    first, second = _ask(StoredChat(SPEC, store, model), "a", "b")
    assert first.completion.text == "one two"
    assert first.completion.finish_reason == "stop"
    assert second.completion == completion("cut", "length", 9)
    assert [r.messages[0].content for r in model.requests] == ["a", "b"]


def test_a_script_that_runs_out_is_an_error_that_says_after_how_many(store):
    chat = StoredChat(SPEC, store, ScriptedChat(["one", "two"]))
    with pytest.raises(RequestError, match="run out after 2 answers"):
        _ask(chat, "a", "b", "c")


def test_asking_loads_no_torch_and_no_client_before_a_model_is_needed():
    code = (
        "import sys, clair_apo.llm; from clair_apo.llm import *; "
        "print(sorted({'torch', 'transformers', 'openai'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr
