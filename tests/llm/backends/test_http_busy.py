"""A server that is there and busy: told from the wrong one, and waited for as long as agreed."""

import re
import time
from datetime import datetime, timedelta
from email.utils import format_datetime

import pytest
import stamina

from clair_apo.errors import RequestError
from clair_apo.llm.backends import server_health
from clair_apo.llm.backends.http_errors import retry_after_s
from clair_apo.llm.pricing import Meter
from tests.helpers.chat_server import ChatServer, Reply
from tests.helpers.http_chats import answers, error, one_after_the_other, spec_for

LOADING = Reply(status=503, body={"error": {"message": "Loading model", "code": 503}})
ABSURD = ["1e18", "1e308", "172800", "9" * 300, format_datetime(datetime(9999, 12, 31, 23, 59, 59))]
NOTHING = ["nan", "inf", "-inf", "-5", "soon", "", "1e999", "9" * 400, "Mon, 99 Foo 0 99:99:99"]


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """Attempts as in life, without the waits between them, and no patience with a wrong server."""
    monkeypatch.setattr(server_health, "FIRST_PATIENCE_S", 0.0)
    monkeypatch.setattr(server_health, "jittered_wait_s", lambda _: 0.01)
    monkeypatch.setenv("TEST_KEY", "sk-very-secret-5f2a")
    stamina.set_testing(True, attempts=100)
    yield
    stamina.set_testing(False)


@pytest.mark.parametrize("status", [425, 429, 503, 529])
def test_a_server_that_is_busy_from_the_beginning_is_waited_for(status):
    busy = [error(status, "loading")] * 30  # five times as many as a request has attempts
    with ChatServer(one_after_the_other(*busy, Reply())) as server:
        assert answers(spec_for(server.url), "q")["q"].response is not None


def test_a_server_that_is_wrong_from_the_beginning_is_not():
    with ChatServer(lambda _: error(502, "no such backend")) as server:
        with pytest.raises(RequestError, match="answered 502"):
            answers(spec_for(server.url), "q")
        assert len(server.asked) < 10


@pytest.mark.parametrize("after", [None, "0.05"])
def test_a_server_that_stays_busy_is_waited_for_as_long_as_agreed(after):
    headers = {"Retry-After": after} if after else {}
    busy = Reply(status=503, body={"error": "loading"}, headers=headers)
    with ChatServer(lambda _: busy) as server:
        began = time.monotonic()
        with pytest.raises(
            RequestError, match=r"answered 503: loading.*run the same command again"
        ):
            answers(spec_for(server.url, patience_s=1.0), "q")
        assert 0.5 < time.monotonic() - began < 15


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("after", ABSURD)
def test_one_that_asks_for_longer_ends_the_run_with_the_time_to_come_again(status, after):
    with ChatServer(lambda _: error(status, "daily limit", Retry_After=after)) as server:
        with pytest.raises(RequestError, match=r"daily limit; it asks for .*patience_s") as caught:
            answers(spec_for(server.url), "q")
        assert len(server.asked) == 1
    assert "run the same command again to go on then" in str(caught.value)
    if after == "172800":
        then = datetime.now() + timedelta(days=2)
        assert f"it asks for 2 days, until {then:%Y-%m-%d} " in str(caught.value)


@pytest.mark.parametrize("after", NOTHING)
def test_a_retry_after_that_says_nothing_is_one_attempt_more(after):
    busy = Reply(status=503, headers={"Retry-After": after}, body="{}")
    with ChatServer(one_after_the_other(busy, Reply())) as server:
        assert answers(spec_for(server.url), "q")["q"].response is not None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *(("20", 20), ("1.5", 1.5), ("-5", 0), ("1e18", 1e18), ("nan", None), ("inf", None)),
        *(("Thu, 01 Jan 1970 00:01:00 GMT", 10), ("Thu, 01 Jan 1970 00:00:00 GMT", 0)),
        *(("later", None), ("", None)),
    ],
)
def test_what_retry_after_asks_for_is_seconds_from_now_or_nothing(value, seconds):
    assert retry_after_s({"retry-after": value}, now=50.0) == seconds


def test_a_pause_within_patience_is_shown_with_its_end_and_then_over():
    meter = Meter()
    with ChatServer(one_after_the_other(error(429, "slow", Retry_After="0.2"), Reply())) as server:
        began = time.time()
        assert answers(spec_for(server.url), "q", meter=meter)["q"].response is not None
    assert began + 0.2 <= meter.waits_until <= time.time() + 0.2


def test_answers_between_the_pauses_begin_the_patience_anew():
    def reply(asked):
        return error(429, "slow", Retry_After="0.4") if asked.times == 1 else Reply()

    with ChatServer(reply) as server:
        found = answers(spec_for(server.url, patience_s=0.6), *"abcd")
    assert all(answered.response is not None for answered in found.values())
    assert len(found) == 4


def test_a_wait_that_fits_alone_and_not_with_what_was_waited_before_ends_the_run():
    with ChatServer(lambda _: error(429, "slow", Retry_After="0.9")) as server:
        with pytest.raises(RequestError) as caught:
            answers(spec_for(server.url, patience_s=1.7), "q")
        assert len(server.asked) == 2  # the second asks for 0.9 of the 0.8 seconds left at most
    assert re.search(r"it asks for 1 s, until .* after \d s of waiting", str(caught.value))
