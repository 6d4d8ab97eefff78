"""An incomplete checkpoint is known for one; from whatever step a run resumes, it ends the same."""

import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from peft import LoraConfig
from transformers import Trainer, TrainerCallback, TrainerState

from clair_apo.apo import checkpoints as module
from clair_apo.apo.checkpoints import (
    NOTE,
    CheckpointWriter,
    incomplete_reason,
    last_checkpoint,
    resume_folder,
)
from clair_apo.errors import TrainingError
from tests.helpers.tiny_apo import make_model, make_rows


@pytest.fixture
def make(apo_trainer):
    """A trainer that saves after each of its 6 steps, 3 in an epoch; keywords override."""
    saving = {
        "data": Dataset.from_list(make_rows(12)),
        "save_strategy": "steps",
        "save_steps": 1,
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
    }

    def make_trainer(lora=False, **options):
        adapter = LoraConfig(
            target_modules=["q_proj", "v_proj"], r=4, lora_dropout=0.3, task_type="CAUSAL_LM"
        )
        return apo_trainer(peft_config=adapter if lora else None, **(saving | options))

    return make_trainer


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def weights(trainer):
    return torch.cat([weight.flatten().clone() for weight in trainer.model.parameters()])


class StopAfter(TrainerCallback):
    """Ends a run in the middle, as if it had been killed there."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("lora", [False, True], ids=["whole model", "adapter with dropout"])
def test_resumed_at_any_step_a_run_ends_with_the_same_bits(make, out, lora):
    options = {"lora": lora, "disable_dropout": not lora}
    uninterrupted = make(**options)
    uninterrupted.train()
    expected = weights(uninterrupted)
    logged = [e for e in uninterrupted.state.log_history if "loss" in e]
    for step in range(5, 0, -1):  # 3 is the end of the first epoch
        trainer = make(**options)
        trainer.train(resume_from_checkpoint=str(out / f"checkpoint-{step}"))
        assert torch.equal(weights(trainer), expected), f"resumed after step {step}"
        again = [e for e in trainer.state.log_history if "loss" in e]
        assert [e["loss"] for e in again] == [e["loss"] for e in logged]
        assert [e["rewards/margins"] for e in again] == [e["rewards/margins"] for e in logged]
    assert (expected - weights(make(**options))).abs().max() > 1e-3


def test_resuming_at_once_a_killed_run_gives_the_same_bits(make, out):
    uninterrupted = make()
    uninterrupted.train()
    shutil.rmtree(out)
    killed = make(save_steps=2)
    killed.add_callback(StopAfter(5))
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    assert last_checkpoint(out) == out / "checkpoint-4"
    resumed = make(save_steps=2)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed), weights(uninterrupted))


@pytest.fixture
def saved(make, out):
    """A folder with checkpoints 1 and 2, both whole."""
    make(max_steps=2).train()
    assert last_checkpoint(out) == out / "checkpoint-2"
    return out


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("tear", "reason"),
    [
        (lambda c: cut(c / "model.safetensors"), "its model.safetensors is missing or of another"),
        (lambda c: (c / "optimizer.pt").unlink(), "its optimizer.pt is missing"),
        (lambda c: (c / "rng_state.pth").unlink(), "its rng_state.pth is missing"),
        (lambda c: cut(c / "trainer_state.json"), "its trainer_state.json cannot be read"),
        (lambda c: (c / "trainer_state.json").unlink(), "its trainer_state.json cannot be read"),
        (lambda c: cut(c / NOTE), "it was not written to its end"),
        (lambda c: (c / NOTE).write_text('{"complete": false}'), "it was not written to its end"),
    ],
)
def test_a_torn_checkpoint_is_named_and_passed_over(saved, make, caplog, tear, reason):
    tear(saved / "checkpoint-2")
    with caplog.at_level(logging.WARNING, "clair_apo"):
        assert last_checkpoint(saved) == saved / "checkpoint-1"
    assert f"{saved / 'checkpoint-2'} is passed over: {reason}" in caplog.text
    with pytest.raises(TrainingError, match=f"no complete checkpoint to resume from: {reason}"):
        make(max_steps=3).train(resume_from_checkpoint=str(saved / "checkpoint-2"))


def test_a_checkpoint_of_another_program_is_whole_where_its_state_is(saved):
    (saved / "checkpoint-2" / NOTE).unlink()
    assert incomplete_reason(saved / "checkpoint-2") is None
    (saved / "checkpoint-2" / "trainer_state.json").write_text("{")
    assert incomplete_reason(saved / "checkpoint-2") is not None


def test_a_kill_during_a_save_costs_that_checkpoint_alone(make, out, monkeypatch, caplog):
    save_rng = Trainer._save_rng_state

    def dies_at_the_second(self, folder):
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        save_rng(self, folder)

    monkeypatch.setattr(Trainer, "_save_rng_state", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        make(save_total_limit=1).train()
    assert sorted(p.name for p in out.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert last_checkpoint(out) == out / "checkpoint-1", "kept, although one was the limit"
    monkeypatch.undo()
    resumed, uninterrupted = make(save_total_limit=1), make(output_dir=str(out / "other"))
    resumed.train(resume_from_checkpoint=True)
    uninterrupted.train()
    assert torch.equal(weights(resumed), weights(uninterrupted))
    assert [p.name for p in out.glob("checkpoint-*")] == ["checkpoint-6"]


def test_a_kill_before_the_other_processes_are_done_leaves_the_checkpoint_before(
    make, out, monkeypatch
):
    trainer = make(max_steps=2, save_total_limit=1)

    def dies_when_this_process_is_done():
        if (out / "checkpoint-2" / "trainer_state.json").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer.accelerator, "wait_for_everyone", dies_when_this_process_is_done)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert last_checkpoint(out) == out / "checkpoint-1", "it goes when the next is whole"


def test_a_kill_while_a_whole_checkpoint_is_written_again_makes_it_torn(saved, make, monkeypatch):
    def dies(self, *args, **kwargs):
        raise KeyboardInterrupt

    trainer = make(max_steps=2)
    monkeypatch.setattr(Trainer, "save_model", dies)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=str(saved / "checkpoint-1"))
    assert last_checkpoint(saved) == saved / "checkpoint-1"


def test_a_checkpoint_without_optimizer_is_not_resumed_from(make, out):
    make(max_steps=1, save_only_model=True).train()
    with pytest.raises(TrainingError, match="was saved without the optimizer"):
        make().train(resume_from_checkpoint=True)


def test_where_there_is_no_checkpoint_nothing_starts(make, out):
    with pytest.raises(TrainingError, match="there is no complete checkpoint to resume from"):
        make().train(resume_from_checkpoint=True)


def test_only_as_many_checkpoints_are_kept_as_were_asked_for(make, out):
    make(save_total_limit=2).train()
    assert sorted(p.name for p in out.glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-6"]
    assert module.last_checkpoint(out) == out / "checkpoint-6"


# --- the writer, without a trainer


def writer(**options):
    args = {"should_save": True, "save_total_limit": 1, "save_only_model": False}
    args |= {"sync_ref_model": False}
    return CheckpointWriter(SimpleNamespace(**(args | options)), Accelerator(cpu=True))


def save(written, run, step):
    state = TrainerState(global_step=step)
    with written.writing(run, state) as checkpoint:
        (checkpoint / "model.bin").write_text("weights")
        (checkpoint / "trainer_state.json").write_text("{}")
        assert incomplete_reason(checkpoint) == "it was not written to its end"
    return checkpoint


def test_a_checkpoint_is_complete_once_its_block_ends_and_older_ones_go_then(tmp_path):
    first = save(writer(), tmp_path, 1)
    assert incomplete_reason(first) is None
    second = save(writer(), tmp_path, 2)
    assert incomplete_reason(second) is None
    assert not first.exists()


def test_a_block_that_fails_leaves_an_incomplete_checkpoint_and_the_older_one(tmp_path):
    first = save(writer(), tmp_path, 1)
    named = pytest.raises(TrainingError, match=r"step 2: .* cannot be written \(No space left")
    with named, writer().writing(tmp_path, TrainerState(global_step=2)):
        raise OSError(28, "No space left on device")
    assert last_checkpoint(tmp_path) == first


def test_where_to_resume_is_decided_by_what_was_asked(tmp_path):
    assert resume_folder(None, tmp_path) is resume_folder("false", tmp_path) is None
    assert resume_folder(str(tmp_path / "other"), tmp_path) == tmp_path / "other"
    with pytest.raises(TrainingError, match="there is no complete checkpoint to resume from"):
        resume_folder(True, tmp_path)
    first = save(writer(), tmp_path, 1)
    assert resume_folder(True, tmp_path) == resume_folder("true", tmp_path) == first


def test_a_reference_that_moves_is_kept_and_restored(tmp_path):
    moving = writer(sync_ref_model=True)
    with pytest.raises(TrainingError, match="does not hold it as it was then"):
        moving.check_reference(tmp_path)
    moving.save_reference(make_model(1), tmp_path)
    moving.check_reference(tmp_path)
    other = make_model(2)
    moving.restore_reference(other, tmp_path)
    assert torch.equal(other.lm_head.weight, make_model(1).lm_head.weight)


def test_nothing_older_is_deleted_while_a_checkpoint_is_written(tmp_path):
    args = SimpleNamespace(
        should_save=True, save_total_limit=1, save_only_model=False, sync_ref_model=False
    )
    written = CheckpointWriter(args, Accelerator(cpu=True))
    with written.writing(tmp_path, TrainerState(global_step=1)):
        assert args.save_total_limit is None, "what transformers would delete by"
    assert args.save_total_limit == 1
