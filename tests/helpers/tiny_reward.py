"""A tiny random reward model, saved as a folder: nothing is fetched."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from tests.helpers.tiny_chat import SPECIAL, TEMPLATE, WINDOW, WORDS
from tests.helpers.word_tokenizer import word_tokenizer


def save_tiny_reward(folder: Path, *, labels: int = 1) -> Path:
    word_tokenizer(SPECIAL, WORDS, TEMPLATE).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(SPECIAL + WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        initializer_range=0.3,
        num_labels=labels,
        pad_token_id=0,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder
