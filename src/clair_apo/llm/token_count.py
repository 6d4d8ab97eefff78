"""Counts tokens with a tokeniser, before any model has counted them."""

from typing import Any

from clair_apo.console import say
from clair_apo.errors import ModelNotFoundError
from clair_apo.models import EMBEDDED, find_model
from clair_apo.records import Conversation

STAND_IN = EMBEDDED
"""The model whose tokeniser stands in for one that is not available."""
AROUND_MESSAGE = 5
"""Tokens that chat templates commonly put around one message: its role, its beginning, its end."""


class TokenCounter:
    """Counts the tokens of texts and conversations.

    Args:
        model: whose tokeniser; `smollm2-135m`, a folder or a hub name.

    Raises:
        ModelNotFoundError: no such folder, or it holds no tokeniser.
    """

    def __init__(self, model: str = STAND_IN) -> None:
        from transformers import AutoTokenizer

        location = find_model(model, say).location
        self.name = model
        self._tokenizer: Any
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(location)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelNotFoundError(f"tokenizer {model!r} cannot be loaded: {reason}") from None

    def text(self, text: str) -> int:
        """The tokens of a text."""
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def conversation(self, messages: Conversation) -> int:
        """The tokens of a prompt: its messages, and about what a chat template puts around them."""
        inside = sum(self.text(message.content) for message in messages)
        return inside + AROUND_MESSAGE * len(messages)
