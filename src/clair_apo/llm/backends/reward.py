"""A reward model in this process: a sequence classifier with one label, asked in batches."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from clair_apo.errors import ModelNotFoundError
from clair_apo.llm.backends.local import DTYPES, accelerator_or_cpu
from clair_apo.llm.scheduler import groups_of
from clair_apo.llm.types import ChatModel, ChatRequest, Completion, ModelReply
from clair_apo.models import ModelSource


class RewardChat(ChatModel):
    """Answers a conversation with its score, as text that gives the same number again.

    Args:
        source: where its files are.
        dtype: `fp32` or `bf16`.
        batch_size: conversations that are scored together.

    Raises:
        ModelNotFoundError: the files cannot be loaded, there is no chat template, the model has
            more than one label, or the files lack weights.
    """

    def __init__(self, source: ModelSource, *, dtype: str = "fp32", batch_size: int = 32) -> None:
        self.tokenizer: Any
        self.model: Any
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(source.location, **source.pinned)
            self.model, loaded = AutoModelForSequenceClassification.from_pretrained(
                source.location,
                dtype=DTYPES[dtype],
                device_map=accelerator_or_cpu(),
                output_loading_info=True,
                **source.pinned,
            )
            self.model.eval()
        except Exception as error:  # a damaged file raises errors of many libraries
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ModelNotFoundError(
                f"reward model {source.name!r} cannot be loaded: {reason}"
            ) from None
        if self.tokenizer.chat_template is None:
            raise ModelNotFoundError(f"reward model {source.name!r} has no chat template")
        if self.model.config.num_labels != 1:
            raise ModelNotFoundError(
                f"{source.name!r} has {self.model.config.num_labels} labels, and a reward model "
                "has one: name a model that was trained to give a score"
            )
        if missing := sorted(loaded["missing_keys"]):
            raise ModelNotFoundError(
                f"{source.name!r} has no weights for {', '.join(missing[:3])}, and would give "
                "random scores: name a model that was trained to give a score"
            )
        self._config = self.model.config.get_text_config()
        # the model takes the score at the last token that is not this one
        if self._config.pad_token_id is None:
            self._config.pad_token_id = self.tokenizer.pad_token_id
        self.name = source.name
        # without such a token the score is at the last place, which a row of a batch may not reach
        self.batch_size = 1 if self._config.pad_token_id is None else batch_size

    def plan(self, requests: Sequence[ChatRequest]) -> list[Sequence[ChatRequest]]:
        """Batches of similar lengths, longest first."""
        lengths = {request.key: len(self._tokens(request)) for request in requests}
        ordered = sorted(requests, key=lambda request: (-lengths[request.key], request.key))
        return list(groups_of(self.batch_size, ordered))

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[list[ModelReply]]:
        """Score requests as one batch, without those that the model cannot read."""
        tokens = [self._tokens(request) for request in requests]
        faults = [self._fault(found) for found in tokens]
        yield [ModelReply(r, None, f) for r, f in zip(requests, faults, strict=True) if f]
        fitting = [n for n, fault in enumerate(faults) if not fault]
        if not fitting:
            return
        scores = self._scores([tokens[n] for n in fitting])
        yield [
            _reply(requests[n], score, len(tokens[n]), self.name)
            for n, score in zip(fitting, scores, strict=True)
        ]

    def _scores(self, rows: Sequence[list[int]]) -> list[float]:
        """The scores of conversations in tokens, padded on the right."""
        ids = [torch.tensor(row) for row in rows]
        padding = self._config.pad_token_id or 0
        inputs = pad_sequence(ids, batch_first=True, padding_value=padding)
        mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        device = self.model.device
        with torch.inference_mode():
            logits = self.model(input_ids=inputs.to(device), attention_mask=mask.to(device)).logits
        scores: list[float] = logits[:, 0].float().tolist()
        return scores

    def _tokens(self, request: ChatRequest) -> list[int]:
        """The conversation in tokens; none where the chat template does not take it."""
        messages = [message.model_dump() for message in request.messages]
        try:
            ids: list[int] = self.tokenizer.apply_chat_template(messages, return_dict=False)
        except TemplateError:
            return []
        return ids

    def _fault(self, tokens: list[int]) -> str:
        """Why a conversation cannot be scored; empty where it can."""
        if not tokens:
            return f"the chat template of {self.name!r} takes no conversation with such turns"
        window = getattr(self._config, "max_position_embeddings", None)
        if window is not None and len(tokens) > window:
            return f"the conversation has {len(tokens)} tokens, and {self.name!r} reads {window}"
        return ""


def _reply(request: ChatRequest, score: float, tokens: int, name: str) -> ModelReply:
    if not math.isfinite(score):
        return ModelReply(request, None, f"{name!r} gives {score} in place of a score")
    done = Completion(
        text=repr(score), finish_reason="stop", prompt_tokens=tokens, completion_tokens=0
    )
    return ModelReply(request, done.to_response(request.model))
