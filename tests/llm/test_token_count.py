"""Counting tokens with a tokeniser that lies in a folder."""

import pytest

from clair_apo.errors import ModelNotFoundError
from clair_apo.llm.token_count import AROUND_MESSAGE, TokenCounter
from clair_apo.records import Message
from tests.helpers.tiny_chat import save_tiny_chat


def test_tokens_are_those_of_the_folders_tokeniser(tmp_path):
    counter = TokenCounter(str(save_tiny_chat(tmp_path / "tiny")))
    # it splits at blanks and marks: one token each
    assert counter.text("w1 w2, w3") == 4
    assert counter.text("") == 0
    turns = tuple(Message(role="user", content=text) for text in ("w1 w2", "w3"))
    assert counter.conversation(turns) == 3 + 2 * AROUND_MESSAGE


def test_a_folder_without_a_tokeniser_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match=r"tokenizer .* cannot be loaded"):
        TokenCounter(str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        TokenCounter("./nowhere")
