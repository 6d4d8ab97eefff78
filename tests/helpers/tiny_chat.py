"""A tiny random chat model with a tokenizer of words, saved as a folder: nothing is fetched."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.helpers.word_tokenizer import word_tokenizer

SPECIAL = ["<pad>", "<eos>", "<unk>", "<user>", "<assistant>"]
WORDS = [f"w{number}" for number in range(40)]
WINDOW = 64
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    "<{{ m.role }}> {{ m.content }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def save_tiny_chat(folder: Path, *, seed: int = 0, template: str | None = TEMPLATE) -> Path:
    tokenizer = word_tokenizer(SPECIAL, WORDS, template)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = tiny_config(bos_token_id=None, eos_token_id=1)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def tiny_config(**more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(SPECIAL + WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        initializer_range=0.3,
        pad_token_id=0,
        **more,
    )


def next_log_probs(chat: Any, ids: list[int]) -> torch.Tensor:
    """Log-probabilities (V,) of the token after `ids`, computed without generate()."""
    with torch.inference_mode():
        return chat.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
