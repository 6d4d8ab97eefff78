"""Responses as servers really send them: chunks, nothing, and what was paid for in vain."""

import pytest
from llm_requests import answers_of, ask_for, completion

from chat_server import ChatServer, Reply
from clair_apo.llm import (
    Answered,
    ChatModel,
    Completion,
    ModelSpec,
    RequestStore,
    ScriptedChat,
    StoredChat,
)
from clair_apo.llm.budget import Budget
from clair_apo.llm.prices import Price
from clair_apo.records import Message

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
DOLLAR_A_TOKEN = Price(input=1_000_000, output=1_000_000)


@pytest.fixture
def store(tmp_path):
    with RequestStore(tmp_path / "s.sqlite") as store:
        yield store


def response(message, finish="stop", **changes):
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": USAGE} | changes


def thinking(text):
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "plain"}, "plain"),
        ({"content": [{"type": "text", "text": "in "}, {"type": "text", "text": "two"}]}, "in two"),
        ({"content": [thinking("hm"), {"type": "text", "text": "said"}]}, "said"),
        ({"content": [thinking("hm")]}, ""),
        ({"content": ["bare ", "strings"]}, "bare strings"),
        ({"content": [{"type": "text", "text": "half \ud83d"}]}, "half \ufffd"),
        ({"content": [{"type": "text"}, None, 3]}, ""),
        ({"content": []}, ""),
        ({"content": None}, ""),
        ({"content": None, "reasoning_content": "hm"}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_the_text_of_a_message_is_what_it_says_and_not_what_it_thinks(message, text):
    read = Completion.from_response(response(message))
    assert read == Completion(text=text, finish_reason="stop", prompt_tokens=7, completion_tokens=5)


def test_thinking_that_ran_into_the_limit_reads_as_cut_and_not_as_an_answer():
    for message in ({"content": None}, {"content": [thinking("hm")]}, {}):
        assert Completion.from_response(response(message, "length")).finish_reason == "length"


@pytest.mark.parametrize("usage", [None, [3], {}, {"prompt_tokens": None, "completion_tokens": -1}])
def test_an_answer_with_an_odd_usage_is_read_and_counts_no_tokens(usage):
    read = Completion.from_response(response({"content": "hi"}, usage=usage))
    assert (read.text, read.prompt_tokens, read.completion_tokens) == ("hi", 0, 0)


NO_ANSWER = [
    {"choices": [], "usage": USAGE},
    {"choices": None, "usage": USAGE},
    {"choices": ["text"], "usage": USAGE},
    {"usage": USAGE},
]


@pytest.mark.parametrize("body", NO_ANSWER)
def test_a_paid_reply_without_an_answer_is_kept_counted_and_not_asked_again(store, body):
    with ChatServer(lambda asked: Reply(body=body) if asked.text == "bad" else Reply()) as server:
        spec = ModelSpec(model="m", base_url=server.url, max_tokens=100, price=DOLLAR_A_TOKEN)
        chat = StoredChat(spec, store, budget=(budget := Budget(limit=1000)), run_id="r")
        request = chat.request((Message(role="user", content="bad"),))
        (answer,) = answers_of(chat, [request])
        assert answer.completion is None
        assert "no answer in choices[0]" in answer.failure
        assert store.get(request.key) == body
        assert (chat.meter.asked, chat.meter.failed, chat.meter.cost) == (1, 1, 12)
        assert (budget.spent, budget.reserved) == (12, 0)
        assert store.spent("r")["m"].completion_tokens == 5
        again = StoredChat(spec, store)
        assert answers_of(again, [request]) == [answer]
        assert len(server.asked) == 1


def test_chunks_of_a_server_are_an_answer(store):
    body = response({"content": [thinking("hm"), {"type": "text", "text": "said"}]})
    with ChatServer(lambda _: Reply(body=body)) as server:
        chat = StoredChat(ModelSpec(model="m", base_url=server.url), store)
        (answer,) = answers_of(chat, [chat.request((Message(role="user", content="q"),))])
    assert answer.completion.text == "said"
    assert store.get(answer.request.key) == body


@pytest.mark.parametrize("body", [{"error": {"message": "overloaded"}}, {"message": "not here"}])
def test_a_body_that_was_not_paid_for_is_not_kept(store, body):
    class Fails(ChatModel):
        def answer(self, requests):
            yield [Answered(requests[0], body)]

    (answer,) = answers_of(StoredChat(ModelSpec(model="m"), store, Fails()), [ask_for("q")])
    assert answer.completion is None
    assert len(store) == 0
    mended = StoredChat(ModelSpec(model="m"), store, ScriptedChat([completion("now")]))
    assert answers_of(mended, [ask_for("q")])[0].completion.text == "now"
