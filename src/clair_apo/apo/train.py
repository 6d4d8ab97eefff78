"""Trains from a YAML file to a checkpoint: `clair-apo train` and `scripts/train.py` call it."""

import copy
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging
from trl.trainer.utils import get_peft_config, get_quantization_config

from clair_apo.advice.advise import read_advice
from clair_apo.apo.adapters import load_policy
from clair_apo.apo.alarms import Alarm
from clair_apo.apo.arguments import TrainingSetup, parse_arguments, resolved_yaml
from clair_apo.apo.checkpoints import Interrupt, check_resumable, last_checkpoint, resume_folder
from clair_apo.apo.data import PairSplit, data_digest
from clair_apo.apo.dry_run.run import preview
from clair_apo.apo.dry_run.text import dry_run_text
from clair_apo.apo.metrics import RewardIntervals
from clair_apo.apo.process_exit import freeze_objects_for_exit
from clair_apo.apo.run_record import check_settings, settings_of
from clair_apo.apo.run_summary import run_facts
from clair_apo.apo.trainer import APOTrainer
from clair_apo.apo.watch.answers import watched_words
from clair_apo.console import CONSOLE, print_result
from clair_apo.errors import ClairApoError, TrainingError
from clair_apo.files import atomic_writer
from clair_apo.ingest.pairs import TrainingPair
from clair_apo.models import find_model
from clair_apo.run_folder import RunFolder, now, write_json

_QUIET_BELOW = 2000
"""Pairs that are tokenized within two seconds; a bar for each step of it would only flicker."""


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run."""

    output_dir: Path
    """Model or adapter, tokenizer, model card, `training.yaml`, `evaluation.json`."""
    trained: int
    """Pairs trained on."""
    held_out: int
    steps: int
    rewards: RewardIntervals | None
    """Mean rewards of the held-out pairs; None where none were held out, or TRL has the loss."""
    held_out_by: str = ""
    """In words: what decided which pairs are held out, or why none are."""
    watched: str = ""
    """The first and the last figures of watched answers, in words; empty where there are none."""


def main(argv: Sequence[str] | None = None) -> TrainingResult | None:
    """Train as the command line says, or do a dry run, and print the result.

    Returns:
        The result, on the process that writes; None on others and after a dry run.

    Raises:
        ClairApoError: whatever the user can mend.
        KeyboardInterrupt: Ctrl+C; its message says how to go on.
    """
    setup = parse_arguments(sys.argv[1:] if argv is None else argv)
    if setup.script.dry_run:
        with quiet(few=True):
            print_result(dry_run_text(preview(setup)))
        return None
    result = train(setup)
    if setup.args.process_index != 0:
        return None
    print_result(summary(result))
    return result


def train(setup: TrainingSetup) -> TrainingResult:
    """Load pairs, hold some out, train, evaluate, and write everything to `output_dir`.

    Raises:
        BusyError: another process trains in `output_dir`.
        ClairApoError: whatever the user can mend.
        KeyboardInterrupt: Ctrl+C; a checkpoint is saved, and the message says how to go on.
    """
    resume_from = resume_point(setup.args)
    if resume_from:
        check_settings(Path(resume_from), _early_settings(setup))
    split = load_split(setup)
    if setup.args.process_index == 0:
        CONSOLE.print(
            f"{len(split.train)} pairs to train on, {len(split.held_out)} held out: {split.rule}"
        )
        if split.sources:
            CONSOLE.print(f"of each data set: {'; '.join(map(str, split.sources))}")
        if words := split.weights_in_words:
            CONSOLE.print(words)
    with quiet(few=is_quickly_done(split)):
        return _run(setup, split, resume_from)


@contextmanager
def held_folder(args: TrainingArguments) -> Iterator[None]:
    """Hold the lock of `output_dir`, in the process that writes there.

    Raises:
        BusyError: another process trains in it.
    """
    if args.process_index != 0:
        yield
        return
    folder = RunFolder(str(args.output_dir))
    folder.prepare()
    with folder.locked():
        yield


def _early_settings(setup: TrainingSetup) -> dict[str, Any]:
    """The settings of the command line, known before a model is loaded."""
    settings = settings_of(setup.args)
    return {k: v for k, v in settings.items() if not k.startswith("model_init_kwargs.")}


def _run(setup: TrainingSetup, split: PairSplit, resume_from: str | None) -> TrainingResult:
    started = now()
    trainer = make_trainer(setup, split)  # before the lock: what fails here has written nothing
    if setup.args.process_index == 0 and trainer.layout.proof.compared:
        CONSOLE.print(f"pair layout: {trainer.layout.proof}")
    with held_folder(setup.args):
        return _trained(setup, split, trainer, resume_from, started)


def _trained(
    setup: TrainingSetup,
    split: PairSplit,
    trainer: APOTrainer,
    resume_from: str | None,
    started: str,
) -> TrainingResult:
    with Interrupt(trainer) as interrupt:
        trainer.train(resume_from_checkpoint=resume_from)
    if interrupt.stopped_at is not None:
        raise KeyboardInterrupt(
            f"step {interrupt.stopped_at} of {trainer.state.max_steps} is saved in "
            f"{setup.args.output_dir}; run the same command with --resume_from_checkpoint true"
        )
    if trainer.alarms.stopped_by is not None:
        trainer.save_state()
        raise TrainingError(stopped_words(trainer.alarms.stopped_by, trainer.state, setup.args))
    trainer.save_model()
    if split.held_out:
        trainer.evaluate()
    trainer.save_state()  # with the metrics of the evaluation
    measured = trainer.evaluation_rewards
    result = TrainingResult(
        output_dir=Path(str(setup.args.output_dir)),
        trained=len(split.train),
        held_out=len(split.held_out),
        steps=trainer.state.global_step,
        rewards=measured.intervals() if measured else None,
        held_out_by=split.rule,
        watched=watched_words(trainer.state.log_history),
    )
    _write(trainer, setup, split, result, started)
    freeze_objects_for_exit(setup.args.world_size)
    trainer.end()  # type: ignore[no-untyped-call]
    return result


def stopped_words(alarm: Alarm, state: TrainerState, args: TrainingArguments) -> str:
    """What is said of a run that an alarm stopped: the model to take, and how to go on."""
    folder = Path(str(args.output_dir))
    # a checkpoint within the window of the alarm may already show what it is about
    clear = last_checkpoint(folder, alarm.clear_until) or last_checkpoint(folder, alarm.step - 1)
    model = (
        f"{clear} is the last checkpoint from before it: its model can be used as it is"
        if clear
        else "No checkpoint was saved before it (save_steps)"
    )
    return (
        f"stopped by on_alarm: {alarm}. {model}. Step {state.global_step} of {state.max_steps} is "
        f"saved in {folder} too: go on all the same with --resume_from_checkpoint true, or begin "
        "anew in another output_dir"
    )


def summary(result: TrainingResult) -> str:
    """The result in a few lines, for the terminal."""
    lines = [f"trained on {result.trained} pairs in {result.steps} steps"]
    if not result.held_out:
        lines.append(f"no held-out rewards: no pair was held out ({result.held_out_by})")
    elif result.rewards is None:
        lines.append(
            "no held-out rewards: the loss is TRL's own; its metrics are in trainer_state.json"
        )
    else:
        lines.append("held-out rewards, mean over pairs with 95 % interval:")
        for side in ("chosen", "rejected", "margin"):
            lines.append(f"  {side:8} {getattr(result.rewards, side)}")
    if result.watched:
        lines.append(result.watched)
    return "\n".join([*lines, f"checkpoint: {result.output_dir}"])


def resume_point(args: TrainingArguments) -> str | None:
    """The checkpoint to go on from; None starts anew.

    `resume_from_checkpoint: true` takes the last one that was written to its end.

    Raises:
        TrainingError: there is none where one was asked for, or one where none was.
    """
    folder = Path(str(args.output_dir))
    found = resume_folder(args.resume_from_checkpoint, folder)
    if found is not None:
        check_resumable(found)
        return str(found)
    last = last_checkpoint(folder)
    if last is not None:
        raise TrainingError(
            f"{folder} holds {last.name} of an earlier run: go on with it "
            "(--resume_from_checkpoint true), or give another output_dir"
        )
    return None


def load_split(setup: TrainingSetup) -> PairSplit:
    """Load the pairs that a setup names, and hold some out.

    Raises:
        DataError: no pairs there, or a row that is none.
    """
    return setup.script.load_split()


def make_trainer(setup: TrainingSetup, split: PairSplit) -> APOTrainer:
    """The trainer of a setup, with its model loaded and its data tokenized.

    Raises:
        ClairApoError: whatever the user can mend.
    """
    script, model, args = setup.script, setup.model, copy.copy(setup.args)
    model_options: Any = args.model_init_kwargs or {}
    location = find_model(str(model.model_name_or_path), say=CONSOLE.print).location
    args.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **model_options,
    }
    try:
        policy = load_policy(location, args.model_init_kwargs)
        if policy.model is not location:
            args.model_init_kwargs = None  # used up
        trainer = APOTrainer(
            model=policy.model,
            args=args,
            train_dataset=_dataset(split.train),
            eval_dataset=_dataset(split.held_out) if split.held_out else None,
            processing_class=policy.tokenizer,
            quantization_config=get_quantization_config(model),
            peft_config=get_peft_config(model),
        )
    except ClairApoError:
        raise
    except (ValueError, OSError) as error:  # what transformers and trl say of model or data
        raise TrainingError(
            f"{model.model_name_or_path}: {' '.join(str(error).split())[:400]}"
        ) from None
    trainer.data_description = (
        f"{script.data_short_name}: {len(split.train)} pairs trained on, "
        f"{len(split.held_out)} held out, digest {data_digest(split.train)[:12]}"
    )
    if script.advice:
        trainer.advice_reason = read_advice(Path(script.advice)).reason
    if not args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(QuietProgress())
    return trainer


def _dataset(pairs: Sequence[TrainingPair]) -> datasets.Dataset:
    return datasets.Dataset.from_list([pair.to_trl_row() for pair in pairs])


def is_quickly_done(split: PairSplit) -> bool:
    """Whether the pairs are so few that a bar for each step of their preparation would flicker."""
    return len(split.train) + len(split.held_out) < _QUIET_BELOW


@contextmanager
def quiet(few: bool) -> Iterator[None]:
    """Hide warnings that a user cannot act on, and progress bars where there are few pairs."""
    hides = few and not datasets.are_progress_bars_disabled()
    if hides:
        datasets.disable_progress_bars()
        transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # trl calls what transformers renamed
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if hides:
            datasets.enable_progress_bars()
            transformers_logging.enable_progress_bar()


class QuietProgress(ProgressCallback):
    """The training bar with the latest rewards at its end, instead of a line for every log."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show loss and both rewards."""
        shown = {"loss": "loss", "rewards/chosen": "chosen", "rewards/rejected": "rejected"}
        if self.training_bar is not None and logs:
            found = {shown[k]: f"{v:.3f}" for k, v in logs.items() if k in shown}
            if found:
                self.training_bar.set_postfix(found)


def _write(
    trainer: APOTrainer,
    setup: TrainingSetup,
    split: PairSplit,
    result: TrainingResult,
    started: str,
) -> None:
    """Write card, settings, evaluation and manifest beside the checkpoint."""
    trainer.create_model_card(result.output_dir.name, setup.script.dataset_name)
    if not trainer.is_world_process_zero():
        return
    with atomic_writer(result.output_dir / "training.yaml") as file:
        file.write(resolved_yaml(setup))
    rewards = result.rewards.model_dump() if result.rewards else None
    if trainer.evaluation_rewards:
        each = trainer.evaluation_rewards.model_dump()
        ids = [pair.id for pair in split.held_out]
        write_json(result.output_dir / "evaluation.json", {"rewards": rewards, "ids": ids, **each})
    # never into the run folder above: a second training there has a record of its own
    RunFolder(result.output_dir).record_stage(
        "train",
        {
            "output_dir": str(result.output_dir),
            "dataset": setup.script.data_name,
            "sources": [source._asdict() for source in split.sources],
            "trained": result.trained,
            "held_out": result.held_out,
            "held_out_by": result.held_out_by,
            "digest_trained": data_digest(split.train),
            "digest_held_out": data_digest(split.held_out),
            "steps": result.steps,
            "rewards": rewards,
            **run_facts(trainer).model_dump(mode="json"),
            "started": started,
            "ended": now(),
        },
    )
