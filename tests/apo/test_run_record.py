"""One record for one training: a resumed run keeps to what it began with, or says what changed."""

import json

import pytest
from datasets import Dataset
from peft import LoraConfig

from clair_apo.apo.run_record import (
    KEY,
    RunRecord,
    check_settings,
    may_change,
    record_of,
    settings_of,
)
from clair_apo.errors import TrainingError
from tests.helpers.tiny_apo import make_rows


@pytest.fixture
def make(apo_trainer):
    """A trainer of 4 steps that saves after the second; keywords override."""
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    return lambda **options: apo_trainer(**(saving | options))


@pytest.fixture
def begun(make, tmp_path):
    """The checkpoint of a run's second step."""
    make().train()
    return tmp_path / "out" / "checkpoint-2"


@pytest.fixture
def noted(config, tmp_path):
    """A checkpoint as far as its record goes."""
    record = RunRecord(settings=settings_of(config(max_steps=4)), tokens=None)
    state = {"stateful_callbacks": {KEY: record.model_dump(mode="json")}}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    return tmp_path


@pytest.mark.parametrize(
    "changed",
    [
        {"beta": 0.5},
        {"loss_type": ["apo_down"]},
        {"loss_type": ["apo_zero", "sft"], "loss_weights": [1.0, 0.1]},
        {"length_normalize": True},
        {"learning_rate": 1e-5},
        {"lr_scheduler_type": "cosine"},
        {"warmup_steps": 2},
        {"weight_decay": 0.1},
        {"optim": "adafactor"},
        {"max_grad_norm": 0.1},
        {"max_length": 12},
        {"seed": 8},
        {"data_seed": 8},
        {"train_sampling_strategy": "sequential"},
        {"disable_dropout": False},
        {"neftune_noise_alpha": 5.0},
        {"sync_ref_model": True},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_setting_that_decides_what_is_trained_is_refused_by_name(config, noted, changed):
    check_settings(noted, settings_of(config(max_steps=4, output_dir="elsewhere")))
    now = settings_of(config(max_steps=4, **changed))
    with pytest.raises(TrainingError, match="the run began with") as raised:
        check_settings(noted, now)
    for name, value in changed.items():
        value = ", ".join(map(str, value)) if isinstance(value, list) else value
        assert f"{name} " in str(raised.value)
        assert f"(now {value})" in str(raised.value)


def test_nothing_is_trained_with_another_beta(make, begun):
    trainer = make(beta=0.5)
    with pytest.raises(TrainingError, match=r"beta 0\.1 \(now 0\.5\)"):
        trainer.train(resume_from_checkpoint=str(begun))
    assert trainer.state.global_step == 0


def test_another_scale_of_the_adapter_is_refused(make, tmp_path):
    def lora(alpha):
        return LoraConfig(r=4, lora_alpha=alpha, target_modules=["q_proj"], task_type="CAUSAL_LM")

    make(peft_config=lora(8)).train()
    checkpoint = str(tmp_path / "out" / "checkpoint-2")
    make(peft_config=lora(8)).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(TrainingError, match=r"adapter\.lora_alpha 8 \(now 16\)"):
        make(peft_config=lora(16)).train(resume_from_checkpoint=checkpoint)


def test_a_step_may_be_split_otherwise_but_not_be_of_other_pairs(config, noted):
    halved = {"per_device_train_batch_size": 2}
    expected = r"per_device_train_batch_size 4 \(now 2\); pairs in a step 4 \(now 2\)"
    with pytest.raises(TrainingError, match=expected):
        check_settings(noted, settings_of(config(**halved)))
    split = settings_of(config(**halved, gradient_accumulation_steps=2))
    check_settings(noted, split)
    with pytest.raises(TrainingError, match=r"per_device_train_batch_size 4 \(now 2\)"):
        check_settings(noted, split, splits_steps=False)  # TRL's losses are means of means


def test_what_may_change_is_recorded_at_its_step(make, begun):
    trainer = make(max_steps=6, logging_steps=2, max_tokens_per_batch=30)
    trainer.train(resume_from_checkpoint=str(begun))
    record = record_of(trainer.state)
    assert {(c.setting, c.before, c.now, c.step) for c in record.changes} == {
        ("max_steps", 4, 6, 2),
        ("logging_steps", 1, 2, 2),
        ("max_tokens_per_batch", 4096, 30, 2),
    }
    assert "max_steps 4 -> 6 after step 2" in (begun.parent / "README.md").read_text()
    again = make(max_steps=6, logging_steps=2, max_tokens_per_batch=30)
    again.train(resume_from_checkpoint=str(begun.parent / "checkpoint-4"))
    assert len(record_of(again.state).changes) == 3, "said once"


def test_a_setting_that_nobody_knows_may_not_change():
    assert not may_change("a_setting_of_the_next_version")
    assert may_change("logging_steps")


def test_the_learning_rates_are_those_that_steps_had(make, begun):
    """Linear from 0.01 to 0 in 4 steps, then of 8: after step 2, 6 of 8 are left."""
    trainer = make(max_steps=8)
    trainer.train(resume_from_checkpoint=str(begun))
    found = record_of(trainer.state).learning_rates
    assert found.first == found.highest == pytest.approx(0.01)
    assert found.last == pytest.approx(0.01 / 8)
    logged = [e["learning_rate"] for e in trainer.state.log_history if "learning_rate" in e]
    assert found.last == pytest.approx(logged[-1])


def test_other_pairs_are_refused_also_where_only_the_template_differs(make, begun, tokenizer):
    tokenizer.chat_template += " "
    trainer = make(data=Dataset.from_list(make_rows(8, seed=1)))
    with pytest.raises(TrainingError, match="the run began with other pairs"):
        trainer.train(resume_from_checkpoint=str(begun))


def test_a_checkpoint_of_an_earlier_version_goes_on_with_a_word(make, begun, caplog):
    path = begun / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["stateful_callbacks"][KEY]
    path.write_text(json.dumps(state))
    note = json.loads((begun / "checkpoint.json").read_text())
    note["files"]["trainer_state.json"] = path.stat().st_size
    (begun / "checkpoint.json").write_text(json.dumps(note))
    trainer = make(beta=0.5)
    with caplog.at_level("WARNING", "clair_apo"):
        trainer.train(resume_from_checkpoint=str(begun))
    assert "does not say with which settings it was made" in caplog.text
    assert record_of(trainer.state).began_at == 2
