"""Trains and evaluates the tiny model on a stream of 7 pairs, 4 in a step: `stream_run.py FOLDER`.

The first process writes its logs to `logs.json`.
"""

import json
import os
import sys
from pathlib import Path

from datasets import IterableDataset

from clair_apo.apo.config import APOConfig
from clair_apo.apo.process_exit import end_process, freeze_objects_for_exit
from clair_apo.apo.trainer import APOTrainer
from tests.helpers.tiny_apo import make_model, make_rows, make_tokenizer


def main() -> None:
    folder = Path(sys.argv[1])
    size = 4 // int(os.environ.get("WORLD_SIZE", "1"))
    stream = IterableDataset.from_generator(lambda: iter(make_rows(7)))
    trainer = APOTrainer(
        model=make_model(),
        args=APOConfig(
            output_dir=str(folder),
            max_steps=4,
            per_device_train_batch_size=size,
            per_device_eval_batch_size=size,
            gradient_checkpointing=False,
            learning_rate=1e-2,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=stream,
        eval_dataset=stream,
        processing_class=make_tokenizer(),
    )
    trainer.train()
    trainer.evaluate()
    if trainer.is_world_process_zero():
        rewards = trainer.evaluation_rewards.model_dump()
        logs = {"history": trainer.state.log_history, "rewards": rewards}
        (folder / "logs.json").write_text(json.dumps(logs))
    freeze_objects_for_exit(trainer.args.world_size)
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
    end_process()
