"""Truncates both sides of a pair as a trainer does, with the training tokenizer."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from clair_apo.errors import ConfigError
from clair_apo.models import find_model
from clair_apo.records import Conversation

Side = str | Conversation
"""Plain text, or messages."""


class RowRefusedError(ValueError):
    """The chat template takes no such conversation; its text says why."""


class TruncatedPair(NamedTuple):
    """The token ids of both answers that are left to train on."""

    chosen: list[int]
    rejected: list[int]


class TrainingTokens:
    """Tokenizes pairs as the trainer does, and cuts them as it does.

    That is TRL's DPOTrainer with `truncation_mode: keep_start`: prompt and answer are rendered
    together by the chat template, or joined where they are plain text; an answer begins where the
    two sides part from the prompt, and what lies beyond `max_length` tokens of prompt and answer is
    cut off.

    Args:
        tokenizer: a folder, a hub name or the embedded model; loaded when first used.
        max_length: tokens of prompt and answer together.
        revision: a commit or tag, where the tokenizer is a hub name.
        asked_by: the setting that names the tokenizer, for errors.
    """

    def __init__(
        self,
        tokenizer: str,
        max_length: int,
        revision: str | None = None,
        *,
        asked_by: str = "tokenizer",
    ) -> None:
        self.name, self.max_length, self.revision = tokenizer, max_length, revision
        self.asked_by = asked_by

    def after_truncation(self, prompt: Side, chosen: Side, rejected: Side) -> TruncatedPair:
        """The token ids that each of two answers to a prompt trains on.

        Args:
            prompt: messages, or plain text where the answers are, which no template renders.
            chosen: the better answer.
            rejected: the other.

        Raises:
            ModelNotFoundError: the tokenizer's name leads nowhere.
            ConfigError: it cannot be loaded, or has no chat template.
            RowRefusedError: its chat template does not take this conversation.
        """
        beginning = self._ids(prompt, add_generation_prompt=True)
        sides = [self._ids(self._joined(prompt, side)) for side in (chosen, rejected)]
        start = min(_shared(beginning, side) for side in sides)
        return TruncatedPair(*(side[start : self.max_length] for side in sides))

    def _joined(self, prompt: Side, answer: Side) -> Side:
        if isinstance(prompt, str) and isinstance(answer, str):
            end = self._tokenizer.eos_token or ""
            return prompt + answer.removesuffix(end) + end
        assert not isinstance(prompt, str) and not isinstance(answer, str)
        return (*prompt, *answer)

    def _ids(self, turns: Side, *, add_generation_prompt: bool = False) -> list[int]:
        tokenizer = self._tokenizer
        if isinstance(turns, str):
            return list(tokenizer(turns)["input_ids"])
        if tokenizer.chat_template is None:
            raise ConfigError(
                f"{self.asked_by} {self.name!r}: has no chat template; name the tokenizer of the "
                "model to be trained"
            )
        try:
            encoded = tokenizer.apply_chat_template(
                [turn.model_dump() for turn in turns],
                add_generation_prompt=add_generation_prompt,
                tokenize=True,
                return_dict=True,
            )
        except Exception as error:  # a chat template can raise anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise RowRefusedError(
                f"the chat template of {self.name!r} does not take this conversation ({reason})"
            ) from None
        return list(encoded["input_ids"])

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        source = find_model(self.name, revision=self.revision)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source.location, **source.pinned)
        except Exception as error:  # transformers raises errors of many kinds
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(
                f"{self.asked_by} {self.name!r}: cannot be loaded ({reason})"
            ) from None
        return tokenizer


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first), len(second)))
