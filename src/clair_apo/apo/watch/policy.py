"""The callback that lets the policy answer held-out prompts while it trains."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from clair_apo.apo.forward.host import Host
from clair_apo.apo.watch.answers import (
    ANSWERS,
    Answer,
    AnswerFile,
    Judge,
    WatchedAnswer,
    WatchedPrompt,
    watch_metrics,
)
from clair_apo.apo.watch.generate import GreedyAnswers, cannot_generate
from clair_apo.apo.watch.prompts import DEFAULT, answer_limit, watched_prompts
from clair_apo.apo.watch.trackers import log_answers
from clair_apo.text.checks import load_checks

Log = Callable[[dict[str, float]], None]

logger = logging.getLogger(__name__)


class PolicyWatch(TrainerCallback):
    """Lets the policy answer at the start of a run, at each evaluation, and after its last step.

    All processes generate, and all log the same figures; one writes the answers down. Random
    numbers, modes, adapters and settings of the model are afterwards as they were. Once answering
    fails, a warning says why and the run goes on without.

    Args:
        host: the trainer.
        prompts: at least one.
        answers: generates.
        judge: gives each answer its figures.
        decode: from token ids to text, without special tokens.
        log: the trainer's, of figures that are no mean over pairs.
    """

    def __init__(
        self,
        host: Host,
        prompts: Sequence[WatchedPrompt],
        answers: GreedyAnswers,
        judge: Judge,
        decode: Callable[[list[int]], str],
        log: Log,
    ) -> None:
        self._host = host
        self._prompts = prompts
        self._answers = answers
        self._judge = judge
        self._decode = decode
        self._log = log
        self._file = AnswerFile(Path(str(host.args.output_dir)) / ANSWERS)
        self._steps: set[int] = set()
        self._is_training = False
        self._failed = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Answer once; a resumed run does so only where it has no answers of before."""
        self._is_training = True
        kept = self._file.begin(state.global_step) if state.is_world_process_zero else set()
        self._steps = self._from_main(kept)
        if not self._steps:
            self._watch(state)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Answer, unless it was done at this step; not in an evaluation outside of training."""
        if self._is_training:
            self._watch(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Answer after the last step."""
        if state.global_step >= state.max_steps:
            logs = control.should_log
            self._watch(state)
            control.should_log = logs  # a log takes that back, and the step's own is to come

    def on_train_end(self, *event: Any, **more: Any) -> None:
        """What is evaluated from now on is not watched."""
        self._is_training = False

    def _watch(self, state: TrainerState) -> None:
        if self._failed or state.global_step in self._steps:
            return
        self._steps.add(state.global_step)
        answers = self._answers.to([prompt.tokens for prompt in self._prompts])
        if answers.fault is not None:
            self._failed = True
            if state.is_world_process_zero:
                logger.warning(
                    f"step {state.global_step}: watch_prompts is off from now on, because the "
                    f"policy cannot answer ({answers.fault})"
                )
            return
        rows: list[WatchedAnswer] = []
        if state.is_world_process_zero:
            rows = self._judged(state.global_step, answers.tokens)
            self._file.add(rows)
            log_answers(self._host.args.report_to, self._file.rows)
        self._log(watch_metrics(self._from_main(rows)))

    def _judged(self, step: int, answers: Sequence[list[int]]) -> list[WatchedAnswer]:
        ends = self._answers.ends
        return [
            self._judge.judged(
                step,
                prompt,
                Answer(self._decode(tokens), len(tokens), bool(tokens) and tokens[-1] in ends),
            )
            for prompt, tokens in zip(self._prompts, answers, strict=True)
        ]

    def _from_main(self, found: Any) -> Any:
        """What the main process has; a check that times out there need not elsewhere."""
        if self._host.accelerator.num_processes == 1:
            return found
        shared = [found]
        broadcast_object_list(shared)
        return shared[0]


def policy_watch(
    host: Host, held_out: Any, processing_class: Any, *, sees_images: bool, log: Log
) -> PolicyWatch | None:
    """The watch of a run; None where none is wanted, or where a warning says why there is none.

    Args:
        host: the trainer.
        held_out: prepared pairs, or several by name; None where none are held out.
        processing_class: the tokenizer.
        sees_images: whether the policy is given images.
        log: of figures that are no mean over pairs.
    """
    wanted = host.args.watch_prompts
    count = DEFAULT if wanted is None else wanted
    if not count or (wanted is None and held_out is None):
        return None
    reason = "no pair is held out" if held_out is None else None
    reason = reason or cannot_generate(host, sees_images=sees_images)
    positions = getattr(host.model.config.get_text_config(), "max_position_embeddings", None)
    prompts: list[WatchedPrompt] = []
    if reason is None:
        prompts = watched_prompts(held_out, count, processing_class, positions)
        reason = None if prompts else "every held-out prompt fills the model"
    if reason is not None:
        logger.warning(f"watch_prompts: off, because {reason}")
        return None
    checks = load_checks(host.args.watch_checks) if host.args.watch_checks else ()
    return PolicyWatch(
        host,
        prompts,
        GreedyAnswers(host, processing_class, answer_limit(prompts, positions)),
        Judge(checks),
        lambda tokens: str(processing_class.decode(tokens, skip_special_tokens=True)),
        log,
    )
