"""Another model than the one that was asked: what is one, and how it is told."""

import pytest

from clair_apo.llm import CachedChat, ModelSpec, RequestStore
from clair_apo.llm.model_names import is_same_model
from clair_apo.records import Message
from tests.helpers.chat_server import ChatServer, Reply, completion
from tests.helpers.llm_requests import answers_of


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4", "gpt-4-0613"),
        ("claude-3-5-sonnet", "claude-3-5-sonnet-20241022"),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-20241022"),
        ("gemini-1.5-pro", "gemini-1.5-pro-002"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b-instruct"),
        ("./models/mine/", "mine"),
        ("C:\\models\\mine", "mine"),
        ("llama3:latest", "llama3"),
        ("mine", "/data/mine.gguf"),
    ],
)
def test_a_date_a_folder_and_the_case_of_letters_make_no_other_model(asked, told):
    assert is_same_model(asked, told)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("gpt-4o", "gpt-4o-mini"),
        ("gpt-4o", "gpt-4o-mini-2024-07-18"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-08-06"),
        ("llama-3-8b", "llama-3-70b"),
        ("phi-3", "phi-4"),
        ("big", "default"),
        ("mine-v1", "mine-v2"),
    ],
)
def test_another_size_date_or_name_is_another_model(asked, told):
    assert not is_same_model(asked, told)


def asked_for(spec, *texts):
    with RequestStore(":memory:") as store:
        chat = CachedChat(spec, store)
        requests = [chat.request((Message(role="user", content=text),)) for text in texts]
        return answers_of(chat, requests)


@pytest.mark.parametrize(("told", "lines"), [("the-small-one", 1), ("the-model-2026-01-01", 0)])
def test_a_server_that_names_another_model_is_told_of_once_in_a_run(capsys, told, lines):
    def reply(asked):
        return Reply(body=completion(asked, "hello", model=told))

    with ChatServer(reply) as server:
        found = asked_for(ModelSpec(model="the-model", base_url=server.url), "a", "b", "c")
    assert [answer.completion.model for answer in found] == [told] * 3
    said = capsys.readouterr().err
    assert said.count("'the-model' was asked, and 'the-small-one'") == lines


@pytest.mark.parametrize("told", [None, "", 3, ["the-model"], {"id": "x"}])
def test_a_server_that_names_no_model_is_believed_to_be_the_one_asked(capsys, told):
    def reply(asked):
        return Reply(body=completion(asked, "hello", model=told))

    with ChatServer(reply) as server:
        (answer,) = asked_for(ModelSpec(model="the-model", base_url=server.url), "a")
    assert answer.completion.model is None
    assert capsys.readouterr().err == ""
