"""Trains on every process of a launch, and logs a figure of its own on the first one alone."""

import sys

from datasets import Dataset
from transformers import TrainerCallback

from clair_apo.apo import APOConfig, APOTrainer
from clair_apo.apo.process_exit import end_process, freeze_objects_for_exit
from tests.helpers.tiny_apo import make_model, make_rows, make_tokenizer


class LogsAlone(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero and state.global_step == 1:
            trainer.log({"my/figure": 1.0})
            trainer.log({"my/second": 1.0})


args = APOConfig(
    output_dir=sys.argv[1],
    reference_cache=f"{sys.argv[1]}/cache",
    max_steps=3,
    per_device_train_batch_size=2,
    logging_steps=3,
    save_strategy="no",
    report_to="none",
    gradient_checkpointing=False,
    on_alarm="stop",
)
trainer = APOTrainer(
    model=make_model(),
    args=args,
    train_dataset=Dataset.from_list(make_rows(12)),
    processing_class=make_tokenizer(),
    callbacks=[LogsAlone()],
)
trainer.train()
if trainer.is_world_process_zero():
    watched = {"my/figure", "my/second", "loss", "rewards/chosen"}
    logs = [sorted(watched & log.keys()) for log in trainer.state.log_history]
    sys.stdout.write(f"logged: {logs}\n")
    sys.stdout.flush()
freeze_objects_for_exit(trainer.args.world_size)
trainer.accelerator.end_training()
end_process()
