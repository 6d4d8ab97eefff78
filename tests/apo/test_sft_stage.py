"""SFT on the chosen answers, first and beside: the shipped configs train a tiny model."""

import json

import pytest
import yaml

from clair_apo.apo.arguments import parse_arguments
from clair_apo.apo.train import train
from tests.helpers import ROOT


@pytest.fixture
def run(write_config, tmp_path):
    """Trains the tiny model with a shipped config's objective; returns its log."""

    def run(config, name, **options):
        shipped = yaml.safe_load((ROOT / "configs" / "apo" / f"{config}.yaml").read_text())
        of_the_objective = ("loss_type", "loss_weights", "beta")
        taken = {key: shipped[key] for key in of_the_objective if key in shipped}
        quick = {"per_device_train_batch_size": 8, "max_steps": 6, "held_out": 0.0}
        path = write_config(name, 8, **(quick | taken | options))
        train(parse_arguments(["--config", str(path)]))
        state = json.loads((tmp_path / name / "trainer_state.json").read_text())
        return [entry for entry in state["log_history"] if "loss" in entry]

    return run


def test_apo_goes_on_from_the_model_that_sft_left_with_that_as_its_reference(run, tmp_path):
    before = run("sft_first", "sft")
    assert before[-1]["loss"] < before[0]["loss"]
    assert before[-1]["logps/chosen"] > before[0]["logps/chosen"]
    after = run("zero", "apo", model_name_or_path=str(tmp_path / "sft"))
    assert after[0]["rewards/chosen"] == pytest.approx(0, abs=1e-5)
    assert after[0]["ref_logps/chosen"] > before[-2]["logps/chosen"], "the reference is SFT's"
    assert after[-1]["rewards/margins"] > 0


def test_the_term_beside_keeps_chosen_likelier_than_apo_zero_does_alone(run):
    beside = run("zero_with_sft", "beside")
    alone = run("zero_with_sft", "alone", loss_type=["apo_zero"], loss_weights=[1.0])
    assert beside[0]["loss"] > alone[0]["loss"] == pytest.approx(1)
    assert beside[-1]["logps/chosen"] > alone[-1]["logps/chosen"]
