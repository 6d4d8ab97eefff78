import json
import logging
import shutil
from pathlib import Path

from datasets import Dataset

from clair_apo.apo.alarms import find_alarms
from clair_apo.apo.checkpoints import check_resumable
from clair_apo.apo.trainer import APOTrainer
from clair_apo.apo.watch import policy
from tests.helpers.tiny_apo import make_model, make_rows


def down_trainer(config, tokenizer, **options):
    """APO-down at a learning rate that makes the winners collapse within a few steps."""
    quick = {"loss_type": "apo_down", "beta": 0.05, "learning_rate": 3e-2, "max_steps": 16}
    return APOTrainer(
        model=make_model(),
        args=config(**(quick | options)),
        train_dataset=Dataset.from_list(make_rows(8)),
        processing_class=tokenizer,
    )


def test_a_collapse_is_said_once_and_training_goes_on(config, tokenizer, caplog):
    trainer = down_trainer(config, tokenizer)
    with caplog.at_level(logging.WARNING, logger="clair_apo"):
        trainer.train()
    said = [r.getMessage() for r in caplog.records if "chosen_collapses" in r.getMessage()]
    assert len(said) == 1
    assert "where the reference gives" in said[0]
    assert trainer.state.global_step == 16
    assert "chosen_collapses" in [alarm.name for alarm in trainer.alarms.alarms]
    assert trainer.alarms.alarms == find_alarms(trainer.state.log_history, ["apo_down"])
    assert trainer.alarms.stopped_by is None


def test_a_gentle_run_under_zero_says_nothing(config, tokenizer):
    trainer = down_trainer(config, tokenizer, loss_type="apo_zero", learning_rate=3e-3)
    trainer.train()
    assert trainer.alarms.alarms == ()


def test_on_alarm_stop_saves_a_checkpoint_and_a_resumed_run_does_not_stop_there_again(
    config, tokenizer, tmp_path
):
    trainer = down_trainer(config, tokenizer, on_alarm="stop")
    trainer.train()
    stopped_at = trainer.state.global_step
    assert trainer.alarms.stopped_by.name == "chosen_collapses"
    assert trainer.alarms.stopped_by.step == stopped_at < 16
    checkpoint = tmp_path / "out" / f"checkpoint-{stopped_at}"
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == stopped_at
    again = down_trainer(config, tokenizer, on_alarm="stop")
    again.train(resume_from_checkpoint=str(checkpoint))
    if again.alarms.stopped_by is not None:
        assert again.alarms.stopped_by.name != "chosen_collapses"
    assert again.state.global_step > stopped_at
    shutil.rmtree(checkpoint)


def test_a_loss_of_trls_own_has_no_alarms(config, tokenizer):
    trainer = down_trainer(config, tokenizer, loss_type="ipo", max_steps=6)
    trainer.train()
    assert trainer.alarms.alarms == ()


def test_answers_that_stop_ending_stop_a_run_and_no_checkpoint_of_before_is_deleted(
    apo_trainer, pairs, monkeypatch
):
    """With one checkpoint to keep: that of the last step before, and that of the alarm."""
    ended = iter([1.0, 1.0, 1.0, 0.0])
    real = policy.watch_metrics

    def as_if(answers):
        return real(answers) | {"watch/ended": next(ended)}

    monkeypatch.setattr(policy, "watch_metrics", as_if)
    trainer = apo_trainer(
        eval_dataset=pairs,
        watch_prompts=2,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        save_only_model=True,
        max_steps=12,
        on_alarm="stop",
    )
    trainer.train()
    alarm = trainer.alarms.stopped_by
    assert (alarm.name, alarm.step, alarm.clear_until) == ("stops_ending", 6, 4)
    assert trainer.state.global_step == 6
    folder = Path(trainer.args.output_dir)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == [
        "checkpoint-5",
        "checkpoint-6",
    ]
    check_resumable(folder / "checkpoint-6")


def test_an_alarm_at_the_last_step_keeps_a_checkpoint_of_it(apo_trainer, pairs, monkeypatch):
    rep_3 = iter([0.0, 0.9])
    real = policy.watch_metrics
    monkeypatch.setattr(
        policy, "watch_metrics", lambda answers: real(answers) | {"watch/rep_3": next(rep_3)}
    )
    trainer = apo_trainer(eval_dataset=pairs, watch_prompts=1, max_steps=2, on_alarm="stop")
    trainer.train()
    assert trainer.alarms.stopped_by.name == "repeats"
    assert (Path(trainer.args.output_dir) / "checkpoint-2" / "model.safetensors").is_file()
    losses = [entry["step"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == [1, 2]
