"""Metrics are shared where all processes come by; a log that one of them writes asks nobody."""

import pytest
from datasets import Dataset
from transformers import TrainerCallback

from clair_apo.apo.trainer import APOTrainer
from tests.helpers.tiny_apo import make_model, make_rows


class LogsTwice(TrainerCallback):
    """Logs a figure of its own twice, with every way to other processes closed."""

    def __init__(self, monkeypatch):
        self.monkeypatch, self.trainer = monkeypatch, None

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step != 1:
            return

        def asked(*args, **kwargs):
            raise AssertionError("the other processes are not here")

        with self.monkeypatch.context() as closed:
            for way in ("gather", "gather_for_metrics", "reduce", "pad_across_processes"):
                closed.setattr(self.trainer.accelerator, way, asked)
            self.trainer.log({"mine": 1.0})
            self.trainer.log({"mine": 2.0})


def test_a_log_of_ones_own_takes_the_metrics_and_asks_no_other_process(
    config, tokenizer, monkeypatch
):
    logs_twice = LogsTwice(monkeypatch)
    logs_twice.trainer = trainer = APOTrainer(
        model=make_model(),
        args=config(max_steps=2, logging_steps=2),
        train_dataset=Dataset.from_list(make_rows(4)),
        processing_class=tokenizer,
        callbacks=[logs_twice],
    )
    trainer.train()
    first, second, ours = trainer.state.log_history[:3]
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-6)
    assert "rewards/chosen" not in second
    assert "loss" in ours
    assert ours["rewards/chosen"] != 0, "of the second step, after the first moved the weights"
