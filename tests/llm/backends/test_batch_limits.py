"""A server that limits the rate of calls, or whose queue is full, when a batch is offered."""

import json
from types import SimpleNamespace

import pytest
import stamina
from werkzeug import Response

from clair_apo.errors import RequestError
from clair_apo.llm.backends import batch_api
from clair_apo.llm.backends.batch_api import BatchChat
from tests.helpers.batch_endpoints import BatchEndpoints
from tests.helpers.llm_requests import ask_for

HOUR_S = 3600


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 1_000_000.0

    def time(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(batch_api, "time", SimpleNamespace(time=clock.time, sleep=clock.sleep))
    with stamina.set_testing(True, attempts=3):
        yield clock


@pytest.fixture
def server(httpserver, clock, monkeypatch):
    """Replies to the next offers as `replies` says (None: takes it), and notes their times."""
    endpoints = BatchEndpoints()
    endpoints.replies, endpoints.offered_at = [], []
    take = endpoints.create

    def create(body):
        endpoints.offered_at.append(clock.now)
        reply = endpoints.replies.pop(0) if endpoints.replies else None
        return reply or take(body)

    monkeypatch.setattr(endpoints, "create", create)
    endpoints.serve(httpserver)
    return endpoints


def limited(code="rate_limit_exceeded", **headers):
    body = json.dumps({"error": {"message": "slow down", "code": code}})
    return Response(body, 429, {"Content-Type": "application/json", **headers})


def ask(server, store, count):
    """The requests' keys, in the order in which they were answered."""
    requests = [ask_for(f"q{n}", model="big") for n in range(count)]
    groups = BatchChat(server.spec, store, "run").answer(requests)
    return [answered.request.key for group in groups for answered in group if answered.response]


def test_a_rate_limit_is_waited_out_as_long_as_asked_and_halves_nothing(server, store, clock):
    server.replies = [limited(**{"Retry-After": str(2 * HOUR_S)})]
    assert len(ask(server, store, 6)) == 6
    first, second = server.offered_at
    assert second - first >= 2 * HOUR_S
    assert server.largest == [6]
    assert server.calls.count("POST /files") == 1


def test_answers_of_other_batches_come_in_while_a_rate_limit_is_waited_out(
    server, store, clock, monkeypatch
):
    monkeypatch.setattr(batch_api, "MOST_REQUESTS", 2)
    server.replies = [None, limited(**{"Retry-After": str(HOUR_S)})]
    assert len(ask(server, store, 4)) == 4
    assert server.offered_at[2] - server.offered_at[1] >= HOUR_S
    read, last_offer = (
        next(i for i, call in enumerate(server.calls) if call.endswith("/content")),
        max(i for i, call in enumerate(server.calls) if call == "POST /batches"),
    )
    assert read < last_offer


def test_while_the_server_wants_to_be_left_alone_no_other_shard_is_offered(
    server, store, monkeypatch
):
    monkeypatch.setattr(batch_api, "MOST_REQUESTS", 1)
    server.replies = [limited(**{"Retry-After": str(HOUR_S)})]
    assert len(ask(server, store, 3)) == 3
    assert server.offered_at[1] - server.offered_at[0] >= HOUR_S


def test_a_server_that_always_says_how_long_is_asked_again_as_often_as_it_says(
    server, store, monkeypatch
):
    monkeypatch.setattr(batch_api, "LIMITED_TRIES", 3)
    server.replies = [limited(**{"Retry-After": "1"}) for _ in range(10)]
    assert len(ask(server, store, 1)) == 1
    assert server.calls.count("POST /files") == 1


def test_a_rate_limit_without_an_end_ends_the_run_with_the_servers_words(
    server, store, monkeypatch
):
    monkeypatch.setattr(batch_api, "LIMITED_TRIES", 3)
    server.replies = [limited() for _ in range(10)]
    with pytest.raises(RequestError, match=r"429: slow down; tried 4 times; .*same command again"):
        ask(server, store, 2)
    assert server.calls.count("POST /files") == 1


@pytest.mark.parametrize("status", [429, 400])
def test_a_queue_that_is_full_by_its_code_is_offered_halves(server, store, status):
    full = limited("token_limit_exceeded")
    full.status_code = status
    server.replies = [full]
    assert len(ask(server, store, 6)) == 6
    assert server.largest == [3, 3]


def test_an_account_without_money_ends_the_run_at_once(server, store):
    server.replies = [limited("insufficient_quota")]
    with pytest.raises(RequestError, match="nothing left to spend"):
        ask(server, store, 2)
    assert len(server.offered_at) == 1


@pytest.mark.parametrize("after", [str(2 * 24 * HOUR_S), "1e18"])
def test_a_pause_of_more_than_a_day_ends_the_run_with_the_time_to_come_again(
    server, store, clock, after
):
    server.replies = [limited(**{"Retry-After": after})]
    with pytest.raises(RequestError, match=r"it asks for .*longer than patience_s.*again to go on"):
        ask(server, store, 2)


ODD = {
    "a page": Response("<html>hello</html>", 200, {"Content-Type": "text/html"}),
    "no JSON": Response("{", 200, {"Content-Type": "application/json"}),
    "deep JSON": Response("[" * 100_000, 200, {"Content-Type": "application/json"}),
    "no names": Response("{}", 200, {"Content-Type": "application/json"}),
    "no gzip": Response(
        b"abcd", 200, {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_reply_to_a_call_is_one_call_more(server, store, clock, case):
    server.refusals = [ODD[case]]
    assert len(ask(server, store, 2)) == 2


@pytest.mark.parametrize("case", ODD)
def test_nothing_but_odd_replies_end_the_run_with_a_sentence(server, store, clock, case):
    server.refusals = [ODD[case]] * 50
    with pytest.raises(RequestError, match=r"localhost:\d+ .*run the same command again"):
        ask(server, store, 2)
