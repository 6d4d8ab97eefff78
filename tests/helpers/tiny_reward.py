"""A tiny random reward model, saved as a folder: nothing is fetched."""

from pathlib import Path

import torch
from transformers import LlamaForSequenceClassification

from tests.helpers.tiny_chat import SPECIAL, TEMPLATE, WORDS, tiny_config
from tests.helpers.word_tokenizer import word_tokenizer


def save_tiny_reward(folder: Path, *, labels: int = 1) -> Path:
    word_tokenizer(SPECIAL, WORDS, TEMPLATE).save_pretrained(folder)
    torch.manual_seed(0)
    config = tiny_config(num_labels=labels)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder
