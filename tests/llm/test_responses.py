"""Responses as servers really send them: chunks, nothing, and what was paid for in vain."""

import pytest

from clair_apo.errors import BudgetError, RequestError
from clair_apo.llm import (
    CachedChat,
    ChatModel,
    Completion,
    ModelReply,
    ModelSpec,
    RequestStore,
    ScriptedChat,
)
from clair_apo.llm.answer_cache import TRIES
from clair_apo.llm.backends import http
from clair_apo.llm.pricing import Budget
from clair_apo.llm.scheduler import MOST_BROKEN_OFF
from clair_apo.llm.spec import Price
from clair_apo.llm.store_schema import Spent
from clair_apo.records import Message
from tests.helpers.chat_server import ChatServer, Reply
from tests.helpers.llm_requests import answers_of, ask_for, completion

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
DOLLAR_A_TOKEN = Price(input=1_000_000, output=1_000_000)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """What broke off is asked for again at once."""
    monkeypatch.setattr(http, "jittered_wait_s", lambda _: 0.0)


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


def ended(finish, text="half of it", **choice):
    """A response whose choice ends with a finish reason, or with whatever else is given."""
    message = {"role": "assistant", "content": text} | choice.pop("message", {})
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": finish} | choice],
        "usage": USAGE,
    }


ERROR = {"code": 502, "message": "Upstream provider aborted"}
BROKEN_OFF = [
    *NO_ANSWER,
    *(ended(reason) for reason in (None, "", "error", "abort", "insufficient_system_resource")),
    *(ended(reason) for reason in ("network_error", "time_limit", "cancelled", "tool_calls", 3)),
    *(ended(reason) for reason in ("function_call", "unknown", "stopped early", ["stop"], True)),
    ended("stop", error=ERROR),
    ended("stop", message={"error": "worker died"}),
    ended("stop", native_finish_reason="abort"),
    ended("length", error=ERROR),
    ended("stop") | {"error": ERROR},
    {"choices": [{"message": None, "finish_reason": "stop"}], "usage": USAGE},
]


@pytest.mark.parametrize("body", BROKEN_OFF)
def test_what_broke_off_is_asked_for_again_counted_and_never_kept_as_an_answer(store, body):
    with ChatServer(lambda asked: Reply(body=body) if asked.text == "bad" else Reply()) as server:
        spec = ModelSpec(model="m", base_url=server.url, max_tokens=100, price=DOLLAR_A_TOKEN)
        chat = CachedChat(spec, store, budget=(budget := Budget(limit=1000)), run_id="r")
        request = chat.request((Message(role="user", content="bad"),))
        (answer,) = answers_of(chat, [request])
        assert answer.completion is None
        assert answer.failure
        assert len(server.asked) == TRIES
        assert store.get(request.key) is None
        paid = TRIES * 12
        assert (chat.meter.asked, chat.meter.failed, chat.meter.cost) == (1, 1, paid)
        assert chat.meter.retried == TRIES - 1
        assert (budget.spent, budget.reserved) == (paid, 0)
        assert store.spent("r")["m"] == Spent(TRIES, TRIES * 7, TRIES * 5)
        offline = CachedChat(spec, store, offline=True)
        assert answers_of(offline, [request]) == [answer]
        server.reply = lambda _: Reply("whole at last")
        (again,) = answers_of(CachedChat(spec, store, run_id="r"), [request])
        assert again.completion.text == "whole at last"


@pytest.mark.parametrize("body", [ended("error", error=ERROR), ended(None, ""), NO_ANSWER[0]])
def test_one_whole_answer_after_others_that_broke_off_is_the_answer(store, body):
    def reply(asked):
        return Reply(body=body) if asked.times < TRIES else Reply("whole")

    with ChatServer(reply) as server:
        chat = CachedChat(ModelSpec(model="m", base_url=server.url), store)
        request = chat.request((Message(role="user", content="q"),))
        (answer,) = answers_of(chat, [request])
    assert answer.completion.text == "whole"
    assert store.answer(request).completion == answer.completion


def test_no_attempt_crosses_the_limit_of_a_run(store):
    body = ended("abort")  # 12 dollars each time, and at most 200 set aside for the next
    with ChatServer(lambda _: Reply(body=body)) as server:
        spec = ModelSpec(model="m", base_url=server.url, max_tokens=100, price=DOLLAR_A_TOKEN)
        chat = CachedChat(spec, store, budget=(budget := Budget(limit=200)))
        request = chat.request((Message(role="user", content="q"),))
        with pytest.raises(BudgetError, match="stopped before max_cost"):
            answers_of(chat, [request])
    assert budget.spent == 12
    assert len(server.asked) == 1


def test_a_server_whose_every_answer_breaks_off_ends_the_run(store):
    with ChatServer(lambda _: Reply(body=ended("abort"))) as server:
        chat = CachedChat(ModelSpec(model="m", base_url=server.url), store)
        requests = [
            chat.request((Message(role="user", content=f"q{n}"),))
            for n in range(MOST_BROKEN_OFF + 30)
        ]
        with pytest.raises(RequestError, match=r"'abort'.*one after the other.*to go on"):
            answers_of(chat, requests)


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        *((word, "stop") for word in ("stop", "STOP", "eos", "end_turn", "stop_sequence")),
        *((word, "stop") for word in ("eos_token", " Stop ", "COMPLETE", "FINISH_REASON_STOP")),
        *((word, "length") for word in ("length", "max_tokens", "MAX_TOKENS", "model_length")),
        *((word, "length") for word in ("max_output_tokens", "Max Tokens", "max-tokens")),
        *((word, "content_filter") for word in ("content_filter", "SAFETY", "sensitive")),
        *((word, "content_filter") for word in ("RECITATION", "PROHIBITED_CONTENT", "refusal")),
    ],
)
def test_what_ended_an_answer_is_read_in_the_words_of_many_servers(word, kind):
    assert Completion.from_response(ended(word)).finish_reason == kind
    as_native = Completion.from_response(ended("stop", native_finish_reason=word))
    assert as_native.finish_reason == kind


def test_an_answer_of_no_token_at_all_is_none():
    nothing = ended("stop", "") | {"usage": {"prompt_tokens": 7, "completion_tokens": 0}}
    with pytest.raises(ValueError, match="no token at all"):
        Completion.from_response(nothing)
    assert Completion.from_response(ended("stop", "")).text == ""  # it said that it has nothing


@pytest.mark.parametrize("nothing", [None, "", {}, {"code": None, "message": ""}, False, []])
def test_an_error_that_says_nothing_is_none(nothing):
    read = Completion.from_response(ended("stop", error=nothing) | {"error": nothing})
    assert read.finish_reason == "stop"


def test_a_word_of_the_provider_that_is_not_known_changes_nothing():
    read = Completion.from_response(ended("length", native_finish_reason="whatever"))
    assert read.finish_reason == "length"
    assert Completion.from_response(ended("stop", native_finish_reason="x")).finish_reason == "stop"


REFUSAL = "I'm sorry, I can't help with that."


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "refusal": REFUSAL},
        {"content": "", "refusal": REFUSAL},
        {"refusal": REFUSAL},
        {"content": [], "refusal": REFUSAL},
        {"content": [{"type": "refusal", "refusal": REFUSAL}]},
        {"content": [{"type": "text", "text": " "}, {"type": "refusal", "refusal": REFUSAL}]},
    ],
)
def test_a_refusal_beside_the_text_is_the_text_of_a_refusal(message):
    read = Completion.from_response(response(message))
    assert (read.text, read.refused) == (REFUSAL, True)


@pytest.mark.parametrize("refusal", [None, "", "  ", [], {"no": 1}])
def test_a_refusal_field_that_says_nothing_is_none(refusal):
    read = Completion.from_response(response({"content": "Yes.", "refusal": refusal}))
    assert (read.text, read.refused) == ("Yes.", False)


def test_chunks_of_a_server_are_an_answer(store):
    body = response({"content": [thinking("hm"), {"type": "text", "text": "said"}]})
    with ChatServer(lambda _: Reply(body=body)) as server:
        chat = CachedChat(ModelSpec(model="m", base_url=server.url), store)
        (answer,) = answers_of(chat, [chat.request((Message(role="user", content="q"),))])
    assert answer.completion.text == "said"
    assert store.get(answer.request.key) == body


@pytest.mark.parametrize("body", [{"error": {"message": "overloaded"}}, {"message": "not here"}])
def test_a_body_that_was_not_paid_for_is_not_kept(store, body):
    class Fails(ChatModel):
        def answer(self, requests):
            yield [ModelReply(requests[0], body)]

    (answer,) = answers_of(CachedChat(ModelSpec(model="m"), store, Fails()), [ask_for("q")])
    assert answer.completion is None
    assert len(store) == 0
    mended = CachedChat(ModelSpec(model="m"), store, ScriptedChat([completion("now")]))
    assert answers_of(mended, [ask_for("q")])[0].completion.text == "now"
