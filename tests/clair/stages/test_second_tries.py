"""A reply that was cut, or cannot be read, is asked for once more, and never twice."""

import pytest

from clair_apo.llm import ChatModel, Completion, ModelReply
from tests.helpers.clair_runs import (
    REVISER,
    Replying,
    cut,
    edit_reply,
    make_config,
    rows_of,
    run,
    write_rows,
)

ANSWER = "The answer is old."
GOOD = edit_reply(("is old", "is new"))


class InTurn(ChatModel):
    """Replies one after the other; None fails the request."""

    def __init__(self, *replies):
        self.replies, self.requests = list(replies), []

    def answer(self, requests):
        for request in requests:
            self.requests.append(request)
            reply = self.replies.pop(0)
            if reply is None:
                yield [ModelReply(request, None, "the server says no")]
                continue
            if isinstance(reply, str):
                reply = said(reply)
            yield [ModelReply(request, reply.to_response("reviser"))]


def said(text, tokens=5):
    return Completion(text=text, finish_reason="stop", prompt_tokens=3, completion_tokens=tokens)


def outcome(tmp_path, *replies, **changes):
    """The reviser, and the revision or the reason why there is none."""
    # the second prompt makes a pair whatever becomes of the first: a run without pairs is an error
    data = write_rows(tmp_path / "p.jsonl", [{"prompt": "Q?"}, {"prompt": "Filler?"}])
    reviser = InTurn(*replies)
    target = Replying([("Filler", "An old filler."), ("Q?", ANSWER)])
    config = make_config(tmp_path, data, **changes)
    run(config, target, _First(reviser))
    rows = {row["prompt_id"]: row for row in rows_of(tmp_path, "revisions.jsonl")}
    question = rows_of(tmp_path, "prompts.jsonl")[0]["id"]
    dropped = {row["id"]: row for row in rows_of(tmp_path, "dropped.jsonl")}
    return reviser, rows.get(question) or dropped[question]


class _First(ChatModel):
    """Lets the question go to a model of replies in turn, and answers the filler itself."""

    def __init__(self, model):
        self.model = model

    def answer(self, requests):
        for request in requests:
            if "filler" in request.messages[0].content:
                reply = edit_reply(("old", "odd"))
                yield [ModelReply(request, said(reply).to_response("reviser"))]
            else:
                yield from self.model.answer([request])


def test_a_good_reply_is_asked_for_once(tmp_path):
    reviser, revision = outcome(tmp_path, GOOD)
    assert len(reviser.requests) == 1
    assert revision["text"] == "The answer is new."
    assert len(revision["request_keys"]) == 1


@pytest.mark.parametrize(
    "broken_off", [cut("<edits>"), said(GOOD, tokens=REVISER.max_tokens)], ids=["said", "unsaid"]
)
def test_a_cut_reply_is_asked_for_again_with_twice_the_limit(tmp_path, broken_off):
    reviser, revision = outcome(tmp_path, broken_off, said(GOOD, tokens=REVISER.max_tokens + 9))
    first, second = reviser.requests
    assert second.sampling.max_tokens == 2 * first.sampling.max_tokens == 2 * REVISER.max_tokens
    assert second.messages == first.messages
    assert revision["text"] == "The answer is new."
    assert revision["request_keys"] == [first.key, second.key]
    assert revision["completion_tokens"] == broken_off.completion_tokens + REVISER.max_tokens + 9


def test_a_reply_that_is_cut_twice_is_never_accepted(tmp_path):
    whole_but_cut = said(GOOD, tokens=2 * REVISER.max_tokens)
    reviser, dropped = outcome(tmp_path, cut("<edits>"), whole_but_cut)
    assert len(reviser.requests) == 2
    assert (dropped["stage"], dropped["reason"]) == ("revise", "cut")
    assert f"limit of {2 * REVISER.max_tokens} tokens" in dropped["detail"]


def test_a_server_that_refuses_the_larger_limit_leaves_the_reply_cut(tmp_path):
    _, dropped = outcome(tmp_path, cut("<edits>"), None)
    assert (dropped["reason"], dropped["raw"]) == ("cut", "<edits>")


@pytest.mark.parametrize("reply", ["Looks good!", edit_reply(("not there", "x"))])
def test_a_reply_that_cannot_be_used_is_sent_back_once_with_what_is_wrong(tmp_path, reply):
    reviser, revision = outcome(tmp_path, reply, GOOD)
    first, second = reviser.requests
    assert second.messages[0] == first.messages[0]
    assert second.messages[1].role == "assistant"
    assert second.messages[1].content == reply
    assert "cannot be used" in second.messages[2].content
    assert revision["text"] == "The answer is new."


def test_a_second_unusable_reply_ends_the_row_with_its_reason(tmp_path):
    reviser, dropped = outcome(tmp_path, "Looks good!", edit_reply(("not there", "x")))
    assert len(reviser.requests) == 2
    assert dropped["reason"] == "edit_not_found"


def test_a_reviser_that_declines_is_not_asked_again(tmp_path):
    reviser, dropped = outcome(tmp_path, "I'm sorry, but I can't help with that.")
    assert len(reviser.requests) == 1
    assert dropped["reason"] == "refused"


def test_without_ask_again_every_reply_is_the_last(tmp_path):
    for number, reply in enumerate([cut("<edits>"), "Looks good!"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        reviser, _ = outcome(folder, reply, revision={"ask_again": False})
        assert len(reviser.requests) == 1
