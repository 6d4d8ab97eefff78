"""The Batch API: nothing is paid twice, nothing that was answered is lost, limits are kept."""

import re

import pytest
from werkzeug import Response

from clair_apo.errors import RequestError
from clair_apo.llm import CachedChat, Completion, RequestStore, StoredAnswer
from clair_apo.llm.answer_cache import TRIES_IN_GROUPS
from clair_apo.llm.backends import batch_api
from clair_apo.llm.backends.batch_api import BatchChat
from clair_apo.llm.store_schema import CREATING, FORGOTTEN, READ, StoredBatch
from tests.helpers.batch_endpoints import (
    BatchEndpoints,
    Outcome,
    answered,
    not_executed,
    rejected,
    silent,
)
from tests.helpers.llm_requests import answers_of, ask_for

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def server(httpserver):
    endpoints = BatchEndpoints()
    endpoints.serve(httpserver, mode="live")
    yield endpoints
    httpserver.check_assertions()


@pytest.fixture
def store(tmp_path):
    with RequestStore(tmp_path / "s.sqlite") as opened:
        yield opened


def questions(count, first=0):
    return [ask_for(f"q{n}", model="big") for n in range(first, first + count)]


def ask(server, store, requests):
    """Answer the requests as `CachedChat` does: each group is stored before the next is made."""
    got = {}
    for group in BatchChat(server.spec, store, "run").answer(requests):
        keep(store, group)
        got |= {answer.request.key: answer for answer in group}
    return got


def keep(store, group):
    store.put_many(
        [StoredAnswer(a.request.key, a.request.model, a.response) for a in group if a.response],
        "run",
    )


def assert_all_answered(store, requests):
    for request in requests:
        completion = Completion.from_response(store.get(request.key))
        assert completion.text == f"re: {request.messages[-1].content}"


def test_every_request_is_answered_once_whatever_the_order_of_the_output(server, store):
    requests = questions(5)
    got = ask(server, store, requests)
    assert set(got) == {r.key for r in requests}
    assert_all_answered(store, requests)
    assert server.asked == {r.key: 1 for r in requests}
    assert [b.state for b in store.batches()] == [READ]
    assert store.spent("run")["big"].answers == 5


def test_a_line_of_the_file_holds_what_the_api_documents(server, store):
    (request,) = questions(1)
    ask(server, store, [request])
    (made,) = server.batches.values()
    assert made.lines == [
        {
            "custom_id": request.key,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "big",
                "messages": [{"role": "user", "content": "q0"}],
                "max_tokens": 8,
                "temperature": 0.7,
                "top_p": 1.0,
            },
        }
    ]
    assert len(request.key) <= 64  # the longest custom_id


def test_requests_are_spread_over_files_within_the_limits(server, store, monkeypatch):
    monkeypatch.setattr(batch_api, "MOST_REQUESTS", 4)
    requests = questions(10)
    ask(server, store, requests)
    assert server.largest == [4, 4, 2]
    assert_all_answered(store, requests)


def test_a_file_is_never_larger_than_the_limit(server, store, monkeypatch):
    requests = questions(6)
    ask(server, store, requests[:1])
    line_bytes = len(server.files["file-0"])
    monkeypatch.setattr(batch_api, "MOST_BYTES", 2 * line_bytes)
    ask(server, store, requests[1:])
    assert server.largest == [1, 2, 2, 1]
    sizes = [len(server.files[b.input_file_id]) for b in server.batches.values()]
    assert max(sizes) == 2 * line_bytes


def test_all_batches_are_submitted_before_the_first_is_waited_for(server, store, monkeypatch):
    monkeypatch.setattr(batch_api, "MOST_REQUESTS", 2)
    ask(server, store, questions(6))
    first_look = next(i for i, c in enumerate(server.calls) if c.startswith("GET /batches/"))
    assert server.calls[:first_look].count("POST /batches") == 3


def test_a_rejected_request_fails_alone_with_the_servers_words(server, store):
    requests = questions(3)
    server.outcomes = [
        Outcome(line=lambda x: rejected(x) if x["custom_id"] == requests[1].key else answered(x))
    ]
    got = ask(server, store, requests)
    assert got[requests[1].key].failure == "400: too long"
    assert_all_answered(store, [requests[0], requests[2]])
    assert server.asked[requests[1].key] == 1


def test_what_a_batch_did_not_get_to_before_it_expired_is_asked_in_another(server, store):
    requests = questions(4)
    late = {requests[1].key, requests[3].key}
    server.outcomes = [
        Outcome("expired", lambda x: not_executed(x) if x["custom_id"] in late else answered(x))
    ]
    ask(server, store, requests)
    assert_all_answered(store, requests)
    assert server.asked == {r.key: 1 + (r.key in late) for r in requests}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (not_executed, "This request could not be executed."),
        (lambda x: rejected(x, 500, "overloaded"), "500: overloaded"),
        (silent, "the batch completed without an answer"),
    ],
)
def test_a_request_that_batch_after_batch_leaves_unanswered_fails_with_the_reason(
    server, store, line, said
):
    requests = questions(2)

    def unlucky(x):
        return line(x) if x["custom_id"] == requests[0].key else answered(x)

    server.outcomes = [Outcome(line=unlucky) for _ in range(5)]
    got = ask(server, store, requests)
    assert got[requests[0].key].failure == f"not answered in 3 batches: {said}"
    assert server.asked == {requests[0].key: 3, requests[1].key: 1}


def test_a_line_of_the_input_that_the_server_does_not_accept_fails_alone(server, store):
    requests = questions(3)
    error = {"code": "invalid_request", "line": 2, "message": "bad role", "param": None}
    server.outcomes = [Outcome("failed", errors=[error])]
    got = ask(server, store, requests)
    assert got[requests[1].key].failure == "bad role"
    assert_all_answered(store, [requests[0], requests[2]])


@pytest.mark.parametrize("lines", [[None], [1, 2]])
def test_a_batch_that_is_refused_as_a_whole_ends_the_run_with_the_reason(server, store, lines):
    errors = [{"code": "model_not_found", "line": n, "message": "no big here"} for n in lines]
    server.outcomes = [Outcome("failed", errors=errors)]
    with pytest.raises(RequestError, match="model_not_found: no big here"):
        ask(server, store, questions(2))
    ask(server, store, questions(2))  # the same command again
    assert_all_answered(store, questions(2))


def test_batches_that_the_queue_has_no_room_for_wait_until_others_have_ended(
    server, store, monkeypatch
):
    monkeypatch.setattr(batch_api, "MOST_REQUESTS", 4)
    server.most_queued = 8
    requests = questions(20)
    ask(server, store, requests)
    assert_all_answered(store, requests)
    assert server.asked == {r.key: 1 for r in requests}
    assert max(server.largest) == 4
    # five shards, two of which fit: an upload is not wasted at every look
    refused = [b for b in server.batches.values() if b.status == "failed"]
    assert len(refused) <= 5


def test_a_batch_larger_than_the_whole_queue_is_halved_until_it_fits(server, store):
    server.most_queued = 3
    requests = questions(10)
    ask(server, store, requests)
    assert_all_answered(store, requests)
    assert server.largest[:3] == [10, 5, 2]
    assert server.asked == {r.key: 1 for r in requests}


def test_a_queue_without_room_for_one_request_ends_the_run(server, store, monkeypatch):
    monkeypatch.setattr(batch_api, "SINGLE_REQUEST_TRIES", 3)
    server.most_queued = 0
    with pytest.raises(RequestError, match="no room in its queue for even one request"):
        ask(server, store, questions(1))
    assert len(server.batches) == 4
    assert server.calls.count("POST /files") == 1


def test_a_server_that_refuses_a_batch_with_429_is_offered_it_later(server, store, monkeypatch):
    monkeypatch.setattr(batch_api, "MOST_REQUESTS", 2)
    create, times = server.create, iter(range(100))

    def busy(body):
        full = next(times) in (1, 2)
        return Response('{"error": {"message": "too many"}}', 429) if full else create(body)

    monkeypatch.setattr(server, "create", busy)
    requests = questions(6)
    ask(server, store, requests)
    assert_all_answered(store, requests)
    assert server.asked == {r.key: 1 for r in requests}
    # the same three files, written down once each, whatever was refused
    assert [b.state for b in store.batches()] == [READ] * 3
    assert server.calls.count("POST /files") == 3


def test_passing_errors_of_the_server_are_waited_out(server, store):
    server.refusals = [Response("down", 503), Response("slow", 500)]
    requests = questions(2)
    ask(server, store, requests)
    assert_all_answered(store, requests)


def test_a_batch_whose_beginning_was_lost_on_the_way_back_is_found_and_not_begun_again(
    server, store, monkeypatch
):
    create = server.create

    def begin_and_break_down(body):
        monkeypatch.setattr(server, "create", create)
        create(body)
        return Response("bad gateway", 502)

    monkeypatch.setattr(server, "create", begin_and_break_down)
    requests = questions(2)
    ask(server, store, requests)
    assert_all_answered(store, requests)
    assert server.asked == {r.key: 1 for r in requests}


def test_a_wrong_key_ends_the_run_and_is_not_shown(server, store, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.refusals = [Response('{"error": {"message": "no key sk-secret"}}', 401)]
    with pytest.raises(RequestError, match="401") as caught:
        ask(server, store, questions(1))
    assert "sk-secret" not in str(caught.value)
    assert server.calls == ["POST /files"]


class KilledError(BaseException):
    """Stands for the end of the process."""


def leave_batch(server, store, requests, polls=0):
    """Begin a batch and go away after some looks at it."""
    generator = BatchChat(server.spec, store, "run").answer(requests)
    looks = iter(range(polls + 1))

    def stop(_):
        if next(looks) == polls:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_api.time, "sleep", stop)
        with pytest.raises(KeyboardInterrupt) as caught:
            list(generator)
    return caught


def test_after_ctrl_c_the_batch_goes_on_and_the_next_run_takes_it_up(server, store):
    requests = questions(3)
    told = str(leave_batch(server, store, requests, polls=1).value)
    assert "goes on with the batches" in told
    assert "run the same command again" in told
    ask(server, store, requests)
    assert_all_answered(store, requests)
    assert server.asked == {r.key: 1 for r in requests}


def test_a_run_that_wants_more_than_before_takes_up_the_old_batch_and_begins_one_for_the_rest(
    server, store
):
    leave_batch(server, store, questions(2))
    ask(server, store, questions(5))
    assert_all_answered(store, questions(5))
    assert server.largest == [2, 3]


def test_answers_of_an_old_batch_that_nobody_wants_any_more_are_kept_too(server, store):
    leave_batch(server, store, questions(3))
    got = ask(server, store, questions(1))
    assert set(got) == {questions(1)[0].key}
    assert_all_answered(store, questions(3))


BROKEN_OFF = {"choices": [], "usage": {"prompt_tokens": 300, "completion_tokens": 200}}


def test_an_answer_of_an_old_batch_that_broke_off_is_counted_and_is_no_answer(server, store):
    server.outcomes = [Outcome(line=lambda line: answered(line, lambda _: BROKEN_OFF))]
    first, second = questions(2)
    leave_batch(server, store, [first, second])
    ask(server, store, [first])
    assert store.answer(second) is None
    assert store.spent("run")["big"].completion_tokens >= 200


def test_what_broke_off_in_a_batch_is_asked_for_in_the_next_one(server, store):
    server.outcomes = [
        Outcome(line=lambda line: answered(line, lambda _: BROKEN_OFF)),
        Outcome(),
    ]
    chat = CachedChat(server.spec, store, BatchChat(server.spec, store, "run"), run_id="run")
    found = answers_of(chat, questions(3))
    assert [answer.completion.text for answer in found] == ["re: q0", "re: q1", "re: q2"]
    assert set(server.asked.values()) == {2}
    assert store.spent("run")["big"].answers == 6


def test_what_breaks_off_in_every_batch_fails_its_row_after_a_few(server, store):
    server.outcomes = [Outcome(line=lambda line: answered(line, lambda _: BROKEN_OFF))] * 9
    chat = CachedChat(server.spec, store, BatchChat(server.spec, store, "run"), run_id="run")
    (answer,) = answers_of(chat, questions(1))
    assert "no answer in choices[0]" in answer.failure
    assert set(server.asked.values()) == {TRIES_IN_GROUPS}
    assert store.spent("run")["big"].answers == TRIES_IN_GROUPS


def test_a_batch_that_was_created_but_not_noted_is_found_by_its_name(server, store, monkeypatch):
    requests = questions(3)
    other = questions(2, first=10)
    ask(server, store, other)  # so that the list at the server has several pages
    ask(server, store, questions(1, first=20))
    update = RequestStore.update_batch

    def die(*_, **__):
        raise KilledError

    monkeypatch.setattr(RequestStore, "update_batch", die)
    with pytest.raises(KilledError):
        ask(server, store, requests)
    monkeypatch.setattr(RequestStore, "update_batch", update)
    assert store.batches()[-1].state == CREATING
    ask(server, store, requests)
    assert_all_answered(store, requests)
    assert server.asked == {r.key: 1 for r in [*requests, *other, *questions(1, first=20)]}


def test_a_batch_that_was_noted_but_not_created_is_created_by_the_next_run(
    server, store, monkeypatch
):
    def die(*_):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(batch_api.BatchServer, "create", die)
        with pytest.raises(KilledError):
            ask(server, store, questions(2))
    ask(server, store, questions(2))
    assert_all_answered(store, questions(2))
    assert [b.state for b in store.batches()] == [FORGOTTEN, READ]


def test_the_same_requests_in_a_second_batch_are_not_mistaken_for_the_first(
    server, store, monkeypatch
):
    (request,) = questions(1)
    server.outcomes = [Outcome("expired", not_executed)]
    ask(server, store, [request])
    names = [b.metadata["clair_apo_shard"] for b in server.batches.values()]
    assert len(set(names)) == 2


def test_a_cancelled_batch_keeps_what_it_answered_and_ends_the_run(server, store):
    requests = questions(3)
    server.outcomes = [
        Outcome("stays", lambda x: answered(x) if x["custom_id"] == requests[0].key else None)
    ]
    leave_batch(server, store, requests)
    server.cancel("batch-0")
    with pytest.raises(RequestError, match="cancelled with 2 requests unanswered"):
        ask(server, store, requests)
    assert_all_answered(store, requests[:1])
    ask(server, store, requests[1:])  # the same command again
    assert_all_answered(store, requests)


def test_a_batch_that_the_server_does_not_know_any_more_says_how_to_go_on(server, store):
    (request,) = questions(1)
    host = batch_api.BatchServer(server.spec).host
    store.add_batch(
        StoredBatch("gone", "x", "big", host, "run", "in_progress", 1.0, (request.key,))
    )
    with pytest.raises(RequestError, match=r"knows no batch gone.*--forget"):
        ask(server, store, [request])


def test_batches_of_another_server_are_left_alone(server, store):
    (request,) = questions(1)
    elsewhere = StoredBatch("b", "x", "big", "else:1", "run", "in_progress", 1.0, (request.key,))
    store.add_batch(elsewhere)
    ask(server, store, [request])
    assert_all_answered(store, [request])
    assert elsewhere in store.batches()


def test_an_answer_with_a_line_separator_in_its_text_is_read_whole(server, store):
    def with_separator(line):
        made = answered(line)
        made["response"]["body"]["choices"][0]["message"]["content"] = "a\u2028b\u0085c"
        return made

    server.outcomes = [Outcome(line=with_separator)]
    (request,) = questions(1)
    ask(server, store, [request])
    assert Completion.from_response(store.get(request.key)).text == "a\u2028b\u0085c"


def test_progress_is_told_when_something_changed(server, store, capsys):
    ask(server, store, questions(2))
    told = " ".join(capsys.readouterr().err.split())
    assert "1 in_progress; 0 of 2 requests answered" in told
    assert told.count("1 in_progress") == 1


def test_a_server_without_the_batch_api_is_named_with_another_way(server, store, httpserver):
    server.spec = server.spec.model_copy(update={"base_url": httpserver.url_for("/other")})
    httpserver.expect_request(re.compile("/other/")).respond_with_data("no", 404)
    with pytest.raises(RequestError, match=r"has no Batch API .*Mode `live`"):
        ask(server, store, questions(1))


def test_a_batch_that_another_run_is_about_to_begin_is_left_to_it(server, store):
    (request,) = questions(1)
    host = batch_api.BatchServer(server.spec).host
    theirs = StoredBatch("x", "x", "big", host, "another run", CREATING, 1.0, (request.key,))
    store.add_batch(theirs)
    ask(server, store, [request])
    assert_all_answered(store, [request])
    assert theirs in store.batches()


def test_a_batch_of_another_run_with_the_same_requests_is_waited_for_and_not_repeated(
    server, store
):
    (request,) = questions(1)
    leave_batch(server, store, [request])
    answers = list(BatchChat(server.spec, store, "another run").answer([request]))
    assert [answer.request.key for group in answers for answer in group] == [request.key]
    assert server.asked == {request.key: 1}


def test_a_download_that_breaks_off_is_begun_again(server, store, monkeypatch):
    handle, broken = server.handle, []

    def breaking(request):
        if request.path.endswith("/content") and not broken:
            broken.append(1)
            whole = handle(request)
            half = Response(whole.get_data()[:50])
            half.headers["Content-Length"] = str(len(whole.get_data()))
            half.automatically_set_content_length = False
            return half
        return handle(request)

    monkeypatch.setattr(server, "handle", breaking)
    requests = questions(2)
    ask(server, store, requests)
    assert_all_answered(store, requests)
    assert server.asked == {r.key: 1 for r in requests}


def test_a_key_that_a_batch_echoes_is_in_no_answer_and_no_reason(server, store, monkeypatch):
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)

    def echo(line):
        if line["body"]["messages"][-1]["content"] == "q0":
            return rejected(line, message=f"no {key}")
        message = {"content": f"Bearer {key}"}
        body = {"choices": [{"message": message, "finish_reason": "stop"}]}
        return answered(line, lambda _: body)

    server.outcomes = [Outcome(line=echo)]
    bad, good = questions(2)
    got = ask(server, store, [bad, good])
    assert got[bad.key].failure.endswith("no ***")
    assert Completion.from_response(store.get(good.key)).text == "Bearer ***"
