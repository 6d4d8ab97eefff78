"""Answers generated in this process, by the client that makes pairs."""

import tempfile
import time
from typing import Any

import torch

from clair_apo.llm import Completion
from clair_apo.llm.backends.local import LocalChat
from clair_apo.llm.types import ChatRequest
from clair_apo.models import ModelSource
from clair_apo.records import Message, Sampling
from on_gpu.models import VOCABULARY, llama, random_model, tokenizer


def run(device: str, *, toy: bool) -> dict[str, Any]:
    """Tokens a second of a random 1B-shaped Llama in bf16, by requests in a batch."""
    size, tokens, batches = ("toy", 8, (1, 4)) if toy else ("1b", 128, (1, 8, 32))
    dtype = "fp32" if device == "cpu" else "bf16"
    with tempfile.TemporaryDirectory() as folder:
        kind = torch.float32 if device == "cpu" else torch.bfloat16
        random_model(llama(size), device, kind).save_pretrained(folder)
        tokenizer(VOCABULARY[size]).save_pretrained(folder)
        source = ModelSource(name="random", location=folder, identity="random")
        figures: dict[str, Any] = {}
        for batch in batches:
            chat = LocalChat(source, dtype=dtype, batch_size=batch)
            _answer(chat, batch, 2)  # warm-up
            start = time.perf_counter()
            made = _answer(chat, batch, tokens)
            figures[f"{batch} at once, tokens/s"] = made / (time.perf_counter() - start)
    return figures


def _answer(chat: LocalChat, count: int, tokens: int) -> int:
    sampling = Sampling(max_tokens=tokens, temperature=0.0, top_p=1.0)
    requests = [
        ChatRequest(
            model="random",
            messages=(Message(role="user", content=" ".join(f"w{n + k}" for k in range(64))),),
            sampling=sampling,
        )
        for n in range(count)
    ]
    made = 0
    for replies in chat.answer(requests):
        for reply in replies:
            if reply.response is None:
                raise RuntimeError(f"a request was not answered: {reply}")
            made += Completion.from_response(reply.response).completion_tokens
    return made
