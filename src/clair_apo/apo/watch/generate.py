"""Greedy answers of a policy in the middle of its training, which goes on as if nothing had been.

Where every process has the whole policy they share the prompts out. Where it is spread over them,
each forward needs them all: then all answer every prompt in the same steps.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from transformers import GenerationConfig

from clair_apo.apo.forward.host import Host
from clair_apo.apo.forward.noise import in_eval_mode, learns_a_prompt, random_numbers_kept
from clair_apo.apo.forward.shared_prefix import bare_model
from clair_apo.apo.trl_compat import is_spread, no_trace_of_generate, uses_fsdp
from clair_apo.apo.watch.tokens import end_token_ids
from clair_apo.float32_products import fast_float32_products

AT_ONCE = 16
"""Prompts of one batch."""


class Answers(NamedTuple):
    """What every process knows after all have generated."""

    tokens: list[list[int]]
    """One answer for each prompt, in their order, up to its end token."""
    fault: str | None = None
    """Why there are none; None where there are."""


def cannot_generate(host: Host, *, sees_images: bool) -> str | None:
    """Why a policy cannot answer while it trains; None where it can.

    Args:
        host: its policy may not be wrapped yet.
        sees_images: whether it is given images.
    """
    accelerator = host.accelerator
    if sees_images:
        return "the model sees images"
    if not bare_model(host.model).can_generate():
        return "the model cannot generate"
    if uses_fsdp(accelerator) and not accelerator.is_fsdp2:
        return "FSDP version 1 keeps a part of the model in pieces; set fsdp_version: 2"
    return None


class GreedyAnswers:
    """Lets the policy of a run answer prompts greedily.

    Args:
        host: of the run.
        processing_class: the tokenizer.
        limit: tokens after which an answer is cut.
    """

    def __init__(self, host: Host, processing_class: Any, limit: int) -> None:
        self._host = host
        self._limit = limit
        self.ends = end_token_ids(processing_class, bare_model(host.model))
        """Tokens at which an answer ends."""
        pad = getattr(processing_class, "pad_token_id", None)
        self._pad = min(self.ends, default=0) if pad is None else pad

    def to(self, prompts: Sequence[list[int]]) -> Answers:
        """Answer prompts; all processes call, and all get all answers.

        Whatever fails in one of them is the fault of all, and no error: training goes on.

        Args:
            prompts: token ids of each.
        """
        accelerator = self._host.accelerator
        spread = is_spread(accelerator)
        step = 1 if spread else accelerator.num_processes
        mine = prompts[0 if spread else accelerator.process_index :: step]
        found, fault = [], None
        try:
            found = self._generated(mine, synced=spread and accelerator.num_processes > 1)
        except Exception as error:  # of whatever kind: answers are watched, not needed
            words = " ".join(str(error).split())[:200]
            fault = f"{type(error).__name__}: {words}"
        shared = gather_object([(found, fault)])
        faults = [fault for _, fault in shared if fault]
        if faults:
            return Answers([], faults[0])
        if spread:
            return Answers(shared[0][0])
        answers: list[list[int]] = [[] for _ in prompts]
        for process, (part, _) in enumerate(shared):
            answers[process::step] = part
        return Answers(answers)

    def _generated(self, prompts: Sequence[list[int]], *, synced: bool) -> list[list[int]]:
        accelerator = self._host.accelerator
        model = accelerator.unwrap_model(self._host.model_wrapped, keep_torch_compile=False)
        found: list[list[int]] = []
        # a learnt prompt stands before the padding, which then counts as text in between
        at_once = 1 if learns_a_prompt(model) else AT_ONCE
        with (
            warnings.catch_warnings(),
            in_eval_mode(model),
            random_numbers_kept(accelerator.device),
            _settings(model, self._config()),
            accelerator.autocast(),
            fast_float32_products(accelerator.device),
        ):
            # peft's word on a learnt prompt; one sequence needs no positions
            warnings.filterwarnings("ignore", message="Position ids are not supported")
            for first in range(0, len(prompts), at_once):
                found += self._batch(model, prompts[first : first + at_once], synced)
        return found

    def _config(self) -> GenerationConfig:
        return GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=self._limit,
            eos_token_id=sorted(self.ends) or None,
            pad_token_id=self._pad,
            use_cache=True,
        )

    def _batch(self, model: Any, prompts: Sequence[list[int]], synced: bool) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self._pad)
        seen = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            seen[row, width - len(prompt) :] = 1
        device = self._host.accelerator.device
        whole = model.generate(
            input_ids=ids.to(device), attention_mask=seen.to(device), synced_gpus=synced
        )
        return [self._until_end(row) for row in whole[:, width:].tolist()]

    def _until_end(self, tokens: list[int]) -> list[int]:
        places = (place for place, token in enumerate(tokens) if token in self.ends)
        return tokens[: next(places, len(tokens)) + 1]


@contextlib.contextmanager
def _settings(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Generate with these settings alone, and leave the model's own as they were."""
    # an adapter may hold settings of its own, or pass on the model's
    parts = [part for part in (model, bare_model(model)) if "generation_config" in vars(part)]
    own = [part.generation_config for part in parts]
    with no_trace_of_generate(model):
        for part in parts:
            part.generation_config = config
        try:
            yield
        finally:
            for part, settings in zip(parts, own, strict=True):
                part.generation_config = settings
