"""Training for real: the embedded model, several processes, a killed run."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from clair_apo.apo.arguments import parse_arguments
from clair_apo.apo.checks import LOGP_TOLERANCE_HALF
from clair_apo.apo.config import APOConfig
from clair_apo.apo.train import train
from clair_apo.apo.trainer import APOTrainer
from clair_apo.models import find_model
from tests.helpers.launching import ENVIRONMENT, ROOT, command, finished

pytestmark = pytest.mark.real

TOPICS = ["tea", "rain", "bees", "chess", "bread", "maps", "salt", "owls", "glass", "wool"]
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Tell me one thing about {topic}."}],
        "chosen": [{"role": "assistant", "content": f"In short: {topic} can be learned about."}],
        "rejected": [
            {"role": "assistant", "content": f"Certainly! There is so much to say about {topic}!"}
        ],
    }
    for topic in TOPICS
]


@pytest.fixture
def files(write_config):
    """Writes a config for the tiny model on 40 pairs; returns its path."""

    def write(name: str, **options) -> Path:
        values = {
            "held_out": 0.3,
            "max_pairs": 16,
            "num_train_epochs": 3,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 2,
        }
        return write_config(name, 40, **(values | options))

    return write


def weights(folder: Path) -> torch.Tensor:
    saved = load_file(folder / "model.safetensors")
    return torch.cat([saved[name].flatten() for name in sorted(saved)])


def test_two_processes_give_what_one_gives_with_the_same_global_batch(files, tmp_path):
    """17 seconds, three starts of the interpreter."""
    one = files("one")
    two = files("two", per_device_train_batch_size=4)
    for config, processes in ((one, 1), (two, 2)):
        done = finished(command(config, processes))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("held-out rewards") == 1, "one process speaks for all"
    alone, together = (
        json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("one", "two")
    )
    state = json.loads((tmp_path / "two" / "trainer_state.json").read_text())
    assert state["train_batch_size"] == 4
    assert len(alone["ids"]) % 4, "the last batch of two processes is filled with repeated pairs"
    assert alone["ids"] == together["ids"]
    for side in ("chosen", "rejected"):
        assert together[side] == pytest.approx(alone[side], abs=1e-4)
    assert max(map(abs, alone["chosen"])) > 0.1
    torch.testing.assert_close(
        weights(tmp_path / "two"), weights(tmp_path / "one"), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_by_ctrl_c_is_resumed_and_loses_nothing(files, tmp_path, processes):
    """24 seconds for one process, 45 for two: three starts of the interpreter each."""
    options = {"per_device_train_batch_size": 8 // processes, "num_train_epochs": 60}
    whole, cut = files("whole", **options), files("cut", **options)

    def run(config, *more):
        return subprocess.Popen(
            [*command(config, processes), *more],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # as a terminal does: the signal reaches the whole group
        )

    uninterrupted = run(whole)
    assert uninterrupted.communicate(timeout=200) and uninterrupted.returncode == 0
    killed = run(cut)
    said = ""
    while "rejected=" not in said:  # the bar shows the first rewards: training is under way
        character = killed.stderr.read(1)
        assert character, said
        said += character
    os.killpg(killed.pid, signal.SIGINT)
    said += killed.communicate(timeout=200)[1]
    assert "--resume_from_checkpoint true" in said
    if processes == 1:
        assert killed.returncode == 130
        assert "Traceback" not in said
    (checkpoint,) = (tmp_path / "cut").glob("checkpoint-*")
    stopped_at = int(checkpoint.name.split("-")[1])
    assert 0 < stopped_at < 120
    resumed = run(cut, "--resume_from_checkpoint", "true")
    assert resumed.communicate(timeout=200) and resumed.returncode == 0
    steps = [
        [entry["step"] for entry in json.loads(path.read_text())["log_history"] if "loss" in entry]
        for path in (tmp_path / "whole/trainer_state.json", tmp_path / "cut/trainer_state.json")
    ]
    assert steps[0] == steps[1] == list(range(1, 121))
    assert torch.equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


@pytest.fixture(scope="module")
def embedded() -> str:
    return find_model("smollm2-135m").location


def embedded_trainer(embedded, tmp_path, **options):
    quick = {
        "output_dir": str(tmp_path / "out"),
        "max_steps": 2,
        "per_device_train_batch_size": 3,
        "per_device_eval_batch_size": 3,
        "gradient_checkpointing": False,
        "learning_rate": 3e-5,
        "logging_steps": 1,
        "save_strategy": "no",
        "lr_scheduler_type": "constant",
    }
    pairs = Dataset.from_list(ROWS[:6])
    return APOTrainer(
        model=embedded, args=APOConfig(**(quick | options)), train_dataset=pairs, eval_dataset=pairs
    )


def trained_rewards(trainer):
    trainer.train()
    trainer.evaluate()
    return trainer.evaluation_rewards.intervals()


def test_two_steps_of_apo_zero_raise_the_winner_and_lower_the_loser(embedded, tmp_path):
    """92 seconds beside another busy process, 2 steps."""
    rewards = trained_rewards(embedded_trainer(embedded, tmp_path))
    assert rewards.chosen.low > 0
    assert rewards.rejected.high < 0


def test_three_steps_of_apo_down_lower_both_and_the_loser_further(embedded, tmp_path):
    """18 seconds."""
    trainer = embedded_trainer(embedded, tmp_path, loss_type="apo_down", max_steps=3)
    rewards = trained_rewards(trainer)
    assert rewards.rejected.mean < rewards.chosen.mean < 0


def test_bf16_starts_within_its_stated_tolerance_and_trains(embedded, tmp_path):
    """26 seconds. The reference is precomputed in batches of another size, so padding differs."""
    trainer = embedded_trainer(
        embedded,
        tmp_path,
        bf16=True,
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=2,
    )
    trainer.evaluate()
    tokens = [len(row["chosen_ids"]) for row in trainer.eval_dataset]
    misses = [
        abs(reward / trainer.beta) / count**0.5
        for reward, count in zip(trainer.evaluation_rewards.chosen, tokens, strict=True)
    ]
    assert max(misses) < LOGP_TOLERANCE_HALF / 2
    rewards = trained_rewards(trainer)
    assert rewards.chosen.mean > 0 > rewards.rejected.mean


def test_the_shipped_lora_config_trains_the_embedded_model(tmp_path):
    """9 seconds, 2 steps of 3 pairs."""
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    shipped = str(ROOT / "configs" / "apo" / "zero_lora.yaml")
    options = {
        "dataset_name": tmp_path / "pairs.jsonl",
        "output_dir": tmp_path / "adapter",
        "held_out": 0.4,
        "max_steps": 2,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
    }
    more = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    result = train(parse_arguments(["--config", shipped, *more]))
    assert result.steps == 2
    assert result.rewards.margin.mean > 0
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
