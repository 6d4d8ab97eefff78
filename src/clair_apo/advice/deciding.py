"""How many nats chosen answers have to gain under a model, and their deciding tokens alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError

from clair_apo.advice.ask import JudgedPair

MOST = 50
"""Pairs that are looked at; the means of so many say enough."""


class ChosenLogps(NamedTuple):
    """Log-probabilities of one chosen answer, summed over tokens, in nats."""

    whole: float
    deciding: float
    """Over the tokens alone that the model would not take itself: another one is likelier."""


def chosen_logps(chat: Any, pairs: Sequence[JudgedPair]) -> list[ChosenLogps]:
    """Score the chosen answers of the first pairs, their end token with them.

    Pairs whose conversation the chat template does not take are left out.

    Args:
        chat: a `LocalChat`.
        pairs: from the first on, `MOST` are scored.
    """
    found = []
    for pair in pairs[:MOST]:
        turns: list[Any] = [message.model_dump() for message in pair.prompt]
        try:
            prompt = chat.tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_dict=False
            )
        except TemplateError:
            continue
        answer = list(chat.tokenizer(pair.chosen, add_special_tokens=False)["input_ids"])
        if chat.tokenizer.eos_token_id is not None:
            answer.append(chat.tokenizer.eos_token_id)
        found.append(_score(chat.model, list(prompt), answer))
    return found


def _score(model: Any, prompt: list[int], answer: list[int]) -> ChosenLogps:
    ids = torch.tensor([prompt + answer], device=model.device)
    labels = ids[0, len(prompt) :]
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    logps = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
    unlikely = logits.argmax(-1) != labels
    return ChosenLogps(float(logps.sum()), float(logps[unlikely].sum()))
