"""Trains on pairs taken apart, with TRL's `KTOTrainer`; we have no second trainer.

`KTOTrainer` estimates KTO's KL term from mismatched answers: within each batch, in the order of
the rows, every prompt is combined with the answer of the row before. TRL's own unpairing
writes a thousand chosen answers and then the rejected ones, so a batch holds one label alone. The
order here alternates chosen and rejected answers and keeps both answers to a prompt apart.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.model_config import ModelConfig
from trl.trainer.utils import get_peft_config

from clair_apo.apo.arguments import PairArguments, parse_into
from clair_apo.apo.config import APOConfig
from clair_apo.apo.data import PairSplit, data_digest
from clair_apo.apo.train import TrainingResult, held_folder, resume_point
from clair_apo.console import CONSOLE
from clair_apo.ingest.pairs import TrainingPair
from clair_apo.models import find_model
from clair_apo.run_folder import RunFolder, now

_PAIRED_ALONE = {f.name for f in dataclasses.fields(APOConfig)} - {
    f.name for f in dataclasses.fields(KTOConfig)
}


def train_unpaired(argv: Sequence[str]) -> TrainingResult | None:
    """Train as the command line says, on the same pairs as `train`, and hold out the same ones.

    The YAML holds the keys of TRL's `KTOConfig` and `ModelConfig` beside `dataset_name` or
    `datasets`, `held_out` and `max_pairs`. Keys of paired training alone, such as `pair_layout` or
    `reference_cache`, have no meaning here; they are left out, with a line that says so.

    Returns:
        The result, on the process that writes; None on others.

    Raises:
        ClairApoError: whatever the user can mend.
    """
    kinds = (PairArguments, KTOConfig, ModelConfig)
    script, args, model = parse_into(argv, kinds, leave_out=_PAIRED_ALONE)
    resume_from = resume_point(args)
    split = script.load_split()
    trainer, started = _trainer(args, model, split), now()
    with held_folder(args):
        trainer.train(resume_from_checkpoint=resume_from)
        trainer.save_model()
        if split.held_out:
            found = trainer.evaluate()
            CONSOLE.print({k: round(v, 4) for k, v in found.items() if "rewards" in k})
        trainer.save_state()
        if args.process_index != 0:
            return None
        return _recorded(script, args, model, split, trainer.state.global_step, started)


def _trainer(args: KTOConfig, model: ModelConfig, split: PairSplit) -> KTOTrainer:
    given: dict[str, Any] = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
    }
    asked = args.model_init_kwargs
    args.model_init_kwargs = given | (asked if isinstance(asked, dict) else {})
    held_out = Dataset.from_list(unpaired_rows(split.held_out)) if split.held_out else None
    return KTOTrainer(
        model=find_model(str(model.model_name_or_path)).location,
        args=args,
        train_dataset=Dataset.from_list(unpaired_rows(split.train)),
        eval_dataset=held_out,
        peft_config=get_peft_config(model),
    )


def _recorded(
    script: PairArguments,
    args: KTOConfig,
    model: ModelConfig,
    split: PairSplit,
    steps: int,
    started: str,
) -> TrainingResult:
    """Write what the training was into its manifest."""
    folder = Path(str(args.output_dir))
    facts: dict[str, Any] = {
        "output_dir": str(folder),
        "dataset": script.data_name,
        "trained": len(split.train),
        "held_out": len(split.held_out),
        "held_out_by": str(split.rule),
        "digest_trained": data_digest(split.train),
        "digest_held_out": data_digest(split.held_out),
        "steps": steps,
        "objective": str(args.loss_type),
        "beta": args.beta,
        "model": model.model_name_or_path,
        "pair_layout": "unpaired",
        "started": started,
        "ended": now(),
    }
    RunFolder(folder).record_stage("train", facts)
    return TrainingResult(
        folder, len(split.train), len(split.held_out), steps, None, str(split.rule)
    )


def unpaired_rows(pairs: Sequence[TrainingPair]) -> list[dict[str, Any]]:
    """Each pair as two of TRL's unpaired preference rows.

    Args:
        pairs: N of them.

    Returns:
        2N rows with `id`, `prompt`, `completion` and `label` (True: chosen), a chosen answer
        first, then alternating. The two rows of a pair are at least N - 2 apart.
    """
    half = len(pairs) // 2
    rows = []
    for number, pair in enumerate(pairs):
        other = pairs[(number + half) % len(pairs)]
        rows.append(_row(pair, "chosen"))
        rows.append(_row(other, "rejected"))
    return rows


def _row(pair: TrainingPair, side: str) -> dict[str, Any]:
    row = pair.to_trl_row()
    return {
        "id": row["id"],
        "prompt": row["prompt"],
        "completion": row[side],
        "label": side == "chosen",
    }
