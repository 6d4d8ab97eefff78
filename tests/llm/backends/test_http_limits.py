"""Many requests at once against a real socket: limits, waits, and servers that are down a while."""

import asyncio
import itertools
import random
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import stamina

from clair_apo.errors import RequestError
from clair_apo.llm.backends import server_health
from clair_apo.llm.backends.http import HttpChat
from clair_apo.llm.backends.http_errors import RequestFailure, retry_after_s
from clair_apo.llm.backends.rate_limits import START, RateLimiter
from clair_apo.llm.backends.server_health import (
    ATTEMPTS,
    MOST_FAILURES,
    RATE_LIMITS,
    TIME_OUTS,
    Attempts,
)
from clair_apo.llm.pricing import Meter
from tests.helpers.chat_server import ChatServer, Reply
from tests.helpers.http_chats import answers, error, spec_for
from tests.helpers.llm_requests import ask_for
from tests.helpers.virtual_time import run_in_virtual_time


@pytest.fixture
def server():
    with ChatServer() as running:
        yield running


@pytest.fixture
def no_waits(monkeypatch):
    """Attempts as in life, without the waits between them, and no patience with a new server."""
    monkeypatch.setattr(server_health, "FIRST_PATIENCE_S", 0.0)
    stamina.set_testing(True, attempts=100)
    yield
    stamina.set_testing(False)


def questions(count):
    return [f"q{number}" for number in range(count)]


def all_answered(found, count):
    return len(found) == count and all(answered.response for answered in found.values())


def test_no_more_are_under_way_than_the_spec_says(server):
    server.reply = lambda _: Reply(delay_s=0.02)
    assert all_answered(answers(spec_for(server.url, max_in_flight=5), *questions(40)), 40)
    assert server.most_under_way == 5


def test_an_answer_keeps_its_place_until_it_is_settled(server):
    meter = Meter()
    with closing(HttpChat(spec_for(server.url, max_in_flight=4), meter)) as chat:
        for text in questions(10):
            chat.submit(ask_for(text))
        collected = 0
        while collected < 4:
            collected += len(chat.collect())
        assert chat.collect(timeout_s=0.2) == []
        assert len(server.asked) == 4
        assert meter.in_flight == 4
        chat.settle(3)
        while collected < 7:
            collected += len(chat.collect())
        assert chat.collect(timeout_s=0.2) == []
        assert len(server.asked) == 7


def test_a_failed_row_keeps_its_place_until_it_is_settled_too(server, no_waits):
    server.reply = lambda asked: error(400) if asked.text == "q1" else Reply()
    meter = Meter()
    answers(spec_for(server.url, max_in_flight=4), *questions(10), meter=meter)
    assert meter.in_flight == 0


def test_the_limit_starts_low_and_is_seen_to_grow(server):
    release = threading.Event()
    server.reply = lambda _: Reply(until=release)
    meter = Meter()
    with closing(HttpChat(spec_for(server.url, max_in_flight=64), meter)) as chat:
        for text in questions(200):
            chat.submit(ask_for(text))
        while server.under_way < START:
            time.sleep(0.01)
        assert chat.collect(timeout_s=0.1) == []
        assert (server.most_under_way, meter.limit) == (START, START)
        release.set()
        collected = 0
        while collected < 200:
            collected += (count := len(chat.collect()))
            chat.settle(count)
    assert meter.limit == 64


def test_a_server_that_bears_few_at_once_is_found_out_and_no_row_is_lost(server):
    bears = 12

    def reply(_):
        return error(429) if server.under_way > bears else Reply(delay_s=0.02)

    server.reply = reply
    meter = Meter()
    found = answers(spec_for(server.url, max_in_flight=256), *questions(400), meter=meter)
    assert all_answered(found, 400)
    assert meter.limit < 100  # it may have grown to 256
    assert 0 < meter.retried < 200


@pytest.mark.parametrize("form", ["seconds", "date", "milliseconds"])
def test_retry_after_is_waited_for_by_everybody(server, form):
    pause_s = {"seconds": 1.0, "date": 2.0, "milliseconds": 0.7}[form]

    def header():
        at = datetime.now(UTC) + timedelta(seconds=pause_s)
        return {
            "seconds": {"Retry_After": "1"},
            "date": {"Retry_After": format_datetime(at, usegmt=True)},  # whole seconds
            "milliseconds": {"retry_after_ms": "700"},
        }[form]

    first = threading.Lock()
    server.reply = lambda _: error(429, **header()) if first.acquire(False) else Reply()
    meter, began = Meter(), time.time()
    found = answers(spec_for(server.url, max_in_flight=2), *questions(12), meter=meter)
    assert all_answered(found, 12)
    first_at = server.asked[0].at
    early = [asked for asked in server.asked if asked.at < first_at + min(pause_s, 1.0) - 0.05]
    assert len(early) <= 4, "those that were under way, and no more"
    # a date has whole seconds
    assert began + pause_s - 1 <= meter.waits_until <= time.time() + pause_s


def test_retry_after_is_read_in_all_its_forms_and_lengths():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    late = format_datetime(now + timedelta(days=2), usegmt=True)
    early = format_datetime(now - timedelta(days=2), usegmt=True)
    for headers, expected in [
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": late}, 2 * 86400.0),
        ({"retry-after": early}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "9", "retry-after-ms": "8500"}, 8.5),
        ({}, None),
    ]:
        assert retry_after_s(headers, now.timestamp()) == expected, headers


def test_requests_per_minute_are_kept(server):
    count, per_s, began = 30, 1200 / 61, time.monotonic()
    spec = spec_for(server.url, max_in_flight=64, requests_per_minute=1200)
    assert all_answered(answers(spec, *questions(count)), count)
    # as many as fit into a second are at hand at the start
    assert server.asked[-1].at - began >= (count - per_s) / per_s


def test_tokens_per_minute_are_kept_and_what_was_not_used_is_given_back(server):
    # each request reserves 800 tokens for its answer and costs 2 as the server counts
    count, per_s, began = 60, 3000 / 61, time.monotonic()
    spec = spec_for(server.url, max_in_flight=64, tokens_per_minute=3000)
    assert all_answered(answers(spec, *questions(count), max_tokens=800), count)
    took_s = server.asked[-1].at - began
    assert took_s >= (2 * (count - 1) - per_s) / per_s
    assert took_s < (800 * (count - 1) - per_s) / per_s / 4, "the 798 others were given back"


def test_a_row_that_always_fails_fails_alone_amid_others(server, no_waits):
    server.reply = lambda asked: error(500, "no") if asked.text == "q7" else Reply(delay_s=0.01)
    found = answers(spec_for(server.url, max_in_flight=8), *questions(60))
    assert [text for text, one in found.items() if one.response is None] == ["q7"]
    assert "answered 500: no (6 attempts)" in found["q7"].failure
    assert server.texts.count("q7") == ATTEMPTS


def test_a_row_that_always_fails_fails_alone_even_if_nothing_else_is_asked(server, no_waits):
    server.reply = lambda asked: error(500) if asked.text == "q0" else Reply()
    found = answers(spec_for(server.url), "q0")
    assert found["q0"].response is None


def test_random_failures_lose_no_row(server, no_waits):
    dice, failed, guard = random.Random(0), Counter(), threading.Lock()

    def reply(asked):
        with guard:
            fails = failed[asked.text] < 3 and dice.random() < 0.2  # no row uses up its attempts
            failed[asked.text] += fails
            status = dice.choice([429, 500, 503, None])
        if not fails:
            return Reply(f"to {asked.text}")
        return error(status) if status else Reply(manner="break")

    server.reply = reply
    found = answers(spec_for(server.url, max_in_flight=16), *questions(200))
    assert all_answered(found, 200)
    for text, answered in found.items():
        assert answered.response["choices"][0]["message"]["content"] == f"to {text}"


def test_a_server_that_is_down_for_a_while_costs_no_row(server, no_waits, capsys):
    back_at = []

    def reply(asked):
        if asked.number < 40:
            return Reply(delay_s=0.01)
        if not back_at:
            back_at.append(time.monotonic() + 1.5)
        return Reply() if time.monotonic() > back_at[0] else error(503, "loading the model")

    server.reply = reply
    found = answers(spec_for(server.url, max_in_flight=32), *questions(200))
    assert all_answered(found, 200)
    asked_in_vain = sum(asked.at < back_at[0] for asked in server.asked[40:])
    assert asked_in_vain <= 2 * 32 + 20  # then only short questions, now and then
    assert "loading the model" in capsys.readouterr().err


def test_rows_that_used_up_their_attempts_while_the_server_was_down_are_asked_again():
    down = RequestFailure("passing", "gone")
    probes = iter([down, down, None])

    async def probe():
        return next(probes)

    async def two_rows():
        health = server_health.ServerHealth(
            RateLimiter(4, None, None), Meter(), probe, patience_s=60.0
        )
        health.answered()
        await asyncio.sleep(1)
        down.sent_at = asyncio.get_running_loop().time()
        return await asyncio.gather(*(health.is_request_error(down) for _ in range(2)))

    assert run_in_virtual_time(two_rows()) == [False, False]


@pytest.mark.parametrize("status", [502, 503])  # down, and busy
def test_a_server_that_stays_down_ends_the_run_and_keeps_what_was_answered(
    server, no_waits, monkeypatch, status
):
    monkeypatch.setattr(server_health, "PATIENCE_S", 0.5 if status == 502 else 300.0)
    patience_s = 0.5 if status == 503 else 300.0
    server.reply = lambda asked: Reply() if asked.number < 20 else error(status, "gone")
    spec = spec_for(server.url, max_in_flight=8, patience_s=patience_s)
    with closing(HttpChat(spec)) as chat:
        for text in questions(100):
            chat.submit(ask_for(text))
        found = []
        with pytest.raises(RequestError, match=r"gone.*run the same command again to go on"):
            while True:
                found += (answered := chat.collect())
                chat.settle(len(answered))
    assert len(found) == 20
    assert all(answered.response for answered in found)


def test_a_rate_limit_at_the_very_start_is_waited_for(server, no_waits):
    began = time.monotonic()
    server.reply = lambda _: Reply() if time.monotonic() > began + 1.0 else error(429)
    assert all_answered(answers(spec_for(server.url, max_in_flight=8), *questions(20)), 20)


def test_rows_that_all_fail_end_the_run_although_short_questions_are_answered(server, no_waits):
    server.reply = lambda asked: error(500, "no") if asked.text.startswith("q") else Reply()
    with pytest.raises(RequestError, match="20 requests failed one after the other") as caught:
        answers(spec_for(server.url, max_in_flight=8), *questions(100))
    assert "run the same command again to go on" in str(caught.value)


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_a_server_that_begins_to_reject_everything_ends_the_run(server, status):
    server.reply = lambda asked: Reply() if asked.number < 5 else error(status, "not any more")
    with closing(HttpChat(spec_for(server.url))) as chat:
        for text in questions(100):
            chat.submit(ask_for(text))
        found = []
        with pytest.raises(RequestError, match=r"not any more.*even to a short") as caught:
            while len(found) < 100:
                found += (answered := chat.collect())
                chat.settle(len(answered))
    assert "run the same command again to go on" in str(caught.value)
    assert [one.response is not None for one in found] == [True] * 5 + [False] * (MOST_FAILURES - 1)
    assert len(server.asked) <= 5 + MOST_FAILURES + 2  # the short question, and one beside it


def test_rows_that_are_all_rejected_fail_alone_while_short_questions_are_answered(server):
    count = 2 * MOST_FAILURES + 5
    server.reply = lambda asked: error(400) if asked.text.startswith("q") else Reply()
    found = answers(spec_for(server.url), *questions(count))
    assert len(found) == count
    assert not any(one.response for one in found.values())
    # one at the very start, and then one each time that so many were rejected
    assert len(server.asked) - count == 1 + (count - 1) // MOST_FAILURES


def test_rejected_rows_amid_answers_are_not_counted_together(server):
    server.reply = lambda asked: error(400) if asked.number % 10 else Reply()
    count = 3 * MOST_FAILURES
    found = answers(spec_for(server.url), *questions(count))
    assert sum(one.response is None for one in found.values()) > MOST_FAILURES
    assert len(server.asked) == count


def test_an_account_shared_with_others_who_use_it_up_costs_no_row(server, no_waits):
    dice, guard = random.Random(1), threading.Lock()

    def reply(_):
        with guard:
            return error(429) if dice.random() < 0.5 else Reply()

    server.reply = reply
    count = 200  # of which 1 in 64 meets six refusals one after the other
    assert all_answered(answers(spec_for(server.url, max_in_flight=8), *questions(count)), count)


def test_time_outs_and_rate_limits_have_counts_of_their_own():
    def failure(**what):
        return RequestFailure("passing", "", **what)

    for failures, most in [
        (itertools.repeat(failure()), ATTEMPTS),
        (itertools.repeat(failure(timed_out=True)), TIME_OUTS),
        (itertools.repeat(failure(limited=True)), RATE_LIMITS),
        (itertools.cycle([failure(), failure(limited=True)]), 2 * ATTEMPTS - 1),
        ([RequestFailure("request", "")], 1),
    ]:
        waits = itertools.takewhile(lambda wait: wait is not None, map(Attempts().wait_s, failures))
        assert len(list(waits)) + 1 == most


def test_waits_between_attempts_are_random_and_their_bound_doubles():
    for attempt, bound in [(1, 0.5), (2, 1.0), (5, 8.0), (20, 30.0)]:
        waits = [server_health.jittered_wait_s(attempt) for _ in range(2000)]
        assert 0.95 * bound < max(waits) <= bound
        assert min(waits) < 0.05 * bound
