import itertools
import os
import signal

import pytest
import torch
from transformers import TrainerCallback

from clair_apo.apo import checkpoints as module
from clair_apo.apo.checkpoints import Interrupt


class PressCtrlC(TrainerCallback):
    """A real signal to this process, in the middle of given steps."""

    def __init__(self, *steps):
        self.steps = steps

    def on_step_begin(self, args, state, control, **kwargs):
        for _ in range(self.steps.count(state.global_step)):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def make(apo_trainer):
    return lambda *callbacks, **options: apo_trainer(
        callbacks=list(callbacks), max_steps=6, **options
    )


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_ctrl_c_saves_and_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(make):
    whole = make()
    whole.train()
    stopped = make(PressCtrlC(2), save_only_model=True)
    before = signal.getsignal(signal.SIGINT)
    with Interrupt(stopped) as interrupt:
        stopped.train()
    assert signal.getsignal(signal.SIGINT) is before
    assert interrupt.stopped_at == stopped.state.global_step == 3, "the step under way is finished"
    resumed = make()
    with Interrupt(resumed) as interrupt:
        resumed.train(resume_from_checkpoint=f"{resumed.args.output_dir}/checkpoint-3")
    assert interrupt.stopped_at is None
    assert resumed.state.global_step == whole.state.global_step == 6
    assert torch.equal(weights(resumed), weights(whole))
    assert not torch.equal(weights(stopped), weights(whole))


def test_the_echo_of_a_launcher_is_not_a_second_ctrl_c(make):
    trainer = make(PressCtrlC(1, 1))
    with Interrupt(trainer) as interrupt:
        trainer.train()
    assert interrupt.stopped_at == 2


def test_a_second_ctrl_c_stops_at_once_and_saves_nothing(make, monkeypatch, tmp_path):
    seconds = itertools.count(0, 10)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))
    trainer = make(PressCtrlC(1, 1))
    with pytest.raises(KeyboardInterrupt), Interrupt(trainer):
        trainer.train()
    assert trainer.state.global_step == 1
    assert not list((tmp_path / "out").glob("checkpoint-*"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_training_that_fails_gives_ctrl_c_back(make):
    class Fail(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            raise RuntimeError("broken")

    trainer = make(Fail())
    with pytest.raises(RuntimeError, match="broken"), Interrupt(trainer):
        trainer.train()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_person_is_told_what_ctrl_c_does(make, capfd):
    trainer = make(PressCtrlC(1))
    with Interrupt(trainer):
        trainer.train()
    assert capfd.readouterr().err.count("Ctrl+C again stops at once") == 1
