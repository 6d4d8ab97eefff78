"""A transformers model in this process that answers many requests in batches.

Requests are sorted by length, so that a batch pads little. Each request draws its own random
numbers, seeded from its key: what it is answered does not depend on its neighbours in the batch
(up to the rounding of padded matrix products).
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from clair_apo.errors import ModelNotFoundError
from clair_apo.llm.backends.decoding import Ends, SeededSampling, generate
from clair_apo.llm.scheduler import groups_of
from clair_apo.llm.types import ChatModel, ChatRequest, Completion, ModelReply
from clair_apo.models import ModelSource

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class LocalChat(ChatModel):
    """A causal language model with a chat template, loaded from a folder or the hub.

    Args:
        source: where its files are.
        dtype: `fp32` or `bf16`.
        batch_size: requests that are answered together.

    Raises:
        ModelNotFoundError: the files cannot be loaded, or there is no chat template.
    """

    def __init__(self, source: ModelSource, *, dtype: str = "fp32", batch_size: int = 32) -> None:
        self.tokenizer: Any
        self.model: Any
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(
                source.location, padding_side="left", **source.pinned
            )
            self.model = AutoModelForCausalLM.from_pretrained(
                source.location,
                dtype=DTYPES[dtype],
                device_map=accelerator_or_cpu(),
                **source.pinned,
            ).eval()
        except Exception as error:  # a damaged file raises errors of many libraries
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ModelNotFoundError(f"model {source.name!r} cannot be loaded: {reason}") from None
        if self.tokenizer.chat_template is None:
            raise ModelNotFoundError(f"model {source.name!r} has no chat template")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._stops = _stops(self.model, self.tokenizer)
        # what a folder brings of penalties, beams or top-k would change answers behind the back of
        # the request's own sampling settings
        self.model.generation_config = GenerationConfig()
        self.name = source.name
        self.batch_size = batch_size

    def plan(self, requests: Sequence[ChatRequest]) -> list[Sequence[ChatRequest]]:
        """Batches of requests with equal settings and similar lengths, longest first."""
        lengths = {request.key: len(self._tokens(request)) for request in requests}

        def order(request: ChatRequest) -> tuple[str, int, str]:
            # longest first: if memory does not suffice, that shows at once
            return request.sampling.model_dump_json(), -lengths[request.key], request.key

        groups = groupby(sorted(requests, key=order), key=lambda request: request.sampling)
        return [batch for _, group in groups for batch in groups_of(self.batch_size, group)]

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[list[ModelReply]]:
        """Answer requests with equal settings as one batch, without those that do not fit."""
        tokens = [self._tokens(request) for request in requests]
        faults = [self._fault(r, found) for r, found in zip(requests, tokens, strict=True)]
        yield [ModelReply(r, None, f) for r, f in zip(requests, faults, strict=True) if f]
        fitting = [n for n, fault in enumerate(faults) if not fault]
        if fitting:
            batch = [requests[n] for n in fitting]
            yield list(self._answer_batch(batch, [tokens[n] for n in fitting]))

    def _tokens(self, request: ChatRequest) -> list[int]:
        """The prompt in tokens; none where the chat template does not take the conversation."""
        messages = [message.model_dump() for message in request.messages]
        try:
            ids: list[int] = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False
            )
        except TemplateError:  # no system turns, or roles that must alternate
            return []
        return ids

    def _fault(self, request: ChatRequest, tokens: list[int]) -> str:
        """Why a request cannot be answered; empty where it can."""
        if not tokens:
            return f"the chat template of {self.name!r} takes no conversation with such turns"
        window = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if window is not None and len(tokens) + request.sampling.max_tokens > window:
            return (
                f"the prompt is longer than {self.name!r} can read: {len(tokens)} tokens and "
                f"{request.sampling.max_tokens} for the answer exceed {window}"
            )
        return ""

    def _answer_batch(
        self, requests: Sequence[ChatRequest], tokens: list[list[int]]
    ) -> Iterator[ModelReply]:
        sampling = requests[0].sampling
        seeds = [int(request.key[:15], 16) for request in requests]  # 15 hex digits: 60 bits
        draw = SeededSampling(seeds, sampling)
        ends = Ends(frozenset(self._stops), sampling.max_tokens, self.tokenizer.pad_token_id)
        answers = generate(self.model, tokens, ends, draw)
        for request, prompt, row in zip(requests, tokens, answers, strict=True):
            yield ModelReply(request, self._completion(prompt, row).to_response(request.model))

    def _completion(self, prompt: list[int], row: list[int]) -> Completion:
        ended = row[-1] in self._stops
        answer = row[:-1] if ended else row
        return Completion(
            text=self.tokenizer.decode(answer, skip_special_tokens=True).strip(),
            finish_reason="stop" if ended else "length",
            prompt_tokens=len(prompt),
            completion_tokens=len(row),
        )


def _stops(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer, as the model's folder names them in one place or another."""
    named = model.generation_config.eos_token_id
    listed = named if isinstance(named, list) else [named]
    return {token for token in (*listed, tokenizer.eos_token_id) if token is not None}


def accelerator_or_cpu() -> str:
    """Where a model in this process runs."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator else "cpu"
