"""Log-probabilities of answers, token by token, under models in this process; computed once.

They are kept in a file for each model, by its identity: so an evaluation that was stopped goes on,
and those of a checkpoint that was dropped are still there.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clair_apo.errors import DataError
from clair_apo.evaluation.suites.base import ScoredText
from clair_apo.records import digest


class KeptLogProbs:
    """The log-probabilities that are kept for one model.

    Args:
        folder: of the evaluation.
        identity: what tells the model's weights from others.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._path = folder / "log_probs" / f"{digest(identity)[:16]}.jsonl"
        self._known: dict[str, list[float]] = {}
        lines = self._path.read_text("utf-8").splitlines() if self._path.exists() else []
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:  # the last one, of a process that was killed
                continue
            self._known[row["key"]] = row["log_probs"]

    def find(self, text: ScoredText) -> list[float] | None:
        """Those of a text; None where they were not computed."""
        return self._known.get(_key(text))

    def keep(self, text: ScoredText, values: list[float]) -> None:
        """Write down those of a text."""
        self._known[_key(text)] = values
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": _key(text), "log_probs": values}) + "\n")


def _key(text: ScoredText) -> str:
    turns = [message.model_dump() for message in text.conversation]
    return digest([turns, text.answer, text.ended])


def score(chat: Any, text: ScoredText) -> list[float]:
    """The log-probability of each token of an answer, in nats, the end token where it ended.

    The answer is tokenised anew: where a model sampled other tokens for the same characters, these
    are not the sampled ones.

    Args:
        chat: a `LocalChat`.
        text: the answer, and what it answers.

    Raises:
        DataError: the chat template does not take the conversation.
    """
    import torch

    from clair_apo.float32_products import fast_float32_products

    prompt = _prompt_tokens(chat, text)
    answer = list(chat.tokenizer(text.answer, add_special_tokens=False)["input_ids"])
    if text.ended and chat.tokenizer.eos_token_id is not None:
        answer.append(chat.tokenizer.eos_token_id)
    device = chat.model.device
    ids = torch.tensor([prompt + answer], device=device)
    with torch.inference_mode(), fast_float32_products(device):
        logits = chat.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        scores = logits.float().log_softmax(-1)
        picked = scores.gather(1, ids[0, len(prompt) :, None])[:, 0]
    return [float(value) for value in picked]


def _prompt_tokens(chat: Any, text: ScoredText) -> list[int]:
    from jinja2 import TemplateError

    turns: Sequence[dict[str, Any]] = [message.model_dump() for message in text.conversation]
    try:
        found = chat.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False
        )
    except TemplateError:
        raise DataError(
            f"the chat template of {chat.name!r} does not take one of the held-out conversations"
        ) from None
    return list(found)
