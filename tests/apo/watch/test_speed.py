"""Tokens a second, padding, shared tokens and utilisation: by hand, and of real trainings."""

import copy
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback, TrainerControl

from clair_apo.apo.forward import operations
from clair_apo.apo.forward.operations import ModelSize, matrix_rate
from clair_apo.apo.lengths import cut_pair
from clair_apo.apo.watch import speed
from clair_apo.apo.watch.speed import SpeedLog, StepCost, Work, step_cost
from tests.helpers.tiny_apo import make_model, make_rows

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quick_rate(monkeypatch):
    monkeypatch.setattr(operations, "RATE_SECONDS", 0.01)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets forward by hand."""
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now.time)
    return now


def a_step(log, clock, seconds):
    log.begin_step()
    clock.time += seconds
    log.on_step_end(None, None, TrainerControl())
    clock.time += 1000  # an evaluation, a checkpoint


WORK = Work(torch.tensor([30, 70]), torch.tensor([80, 80]), torch.tensor([10, 20]))
SHARED = Work(torch.tensor([30, 70]), torch.tensor([20, 60]), torch.tensor([10, 20]))


def test_only_steps_are_timed_and_a_log_begins_anew(clock):
    log = SpeedLog(None, processes=1)
    a_step(log, clock, 2)
    a_step(log, clock, 3)
    assert log.take(WORK)["speed/tokens_per_second"] == pytest.approx(100 / 5)
    a_step(log, clock, 4)
    assert log.take(WORK)["speed/tokens_per_second"] == pytest.approx(100 / 4)
    assert log.take(WORK) == {}, "nothing was timed since"


def test_a_log_from_within_a_step_counts_the_time_so_far_and_the_rest_later(clock):
    log = SpeedLog(None, processes=1)
    log.begin_step()
    clock.time += 2
    assert log.take(WORK)["speed/tokens_per_second"] == pytest.approx(100 / 2)
    clock.time += 5
    log.on_step_end(None, None, TrainerControl())
    assert log.take(WORK)["speed/tokens_per_second"] == pytest.approx(100 / 5)


def test_a_run_that_broke_off_leaves_no_time(clock):
    log = SpeedLog(None, processes=1)
    a_step(log, clock, 7)
    log.on_train_begin()
    assert log.take(WORK) == {}


def test_padding_is_a_share_of_positions_and_sharing_one_of_tokens(clock):
    log = SpeedLog(None, processes=1)
    a_step(log, clock, 1)
    padded = log.take(WORK)
    assert padded["speed/padding"] == pytest.approx((50 + 10) / 160)
    assert padded["speed/shared"] == 0
    a_step(log, clock, 1)
    shared = log.take(SHARED)
    assert shared["speed/padding"] == 0
    assert shared["speed/shared"] == pytest.approx(20 / 100)


def test_utilisation_is_counted_operations_over_the_rate_of_all_processes(clock):
    size = ModelSize(inside=1000, hidden=8, layers=2, vocabulary=50)
    log = SpeedLog(StepCost(size, 3, lambda: 1e6), processes=2)
    a_step(log, clock, 0.5)
    layers = 2 * 1000 * 80  # 80 positions, of 100 tokens
    head = 2 * 8 * 50 * 30
    attention = 2 * 2 * 8 * 25 * 80  # sequences of 25 tokens on average
    wanted = 3 * (layers + head + attention) / 0.5 / (2 * 1e6)
    assert log.take(SHARED)["speed/utilisation"] == pytest.approx(wanted)
    a_step(log, clock, 0.5)
    layers, attention = 2 * 1000 * 100, 2 * 2 * 8 * 25 * 100  # padding is no use of the machine
    wanted = 3 * (layers + head + attention) / 0.5 / (2 * 1e6)
    assert log.take(WORK)["speed/utilisation"] == pytest.approx(wanted)


@pytest.mark.parametrize("layout", ["padded", "shared_prefix"])
def test_a_training_logs_what_its_layout_did_with_its_tokens(apo_trainer, layout):
    trainer = apo_trainer(pair_layout=layout, max_steps=2)  # all eight pairs in two steps
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    pairs = [cut_pair(row, None, "keep_start") for row in trainer.train_dataset]
    tokens = sum(pair.separate_tokens for pair in pairs)
    shared = 1 - sum(pair.tree_tokens for pair in pairs) / tokens
    assert all(entry["speed/tokens_per_second"] > 0 for entry in logs)
    assert all(0 < entry["speed/utilisation"] < 1 for entry in logs)
    padding = [entry["speed/padding"] for entry in logs]
    if layout == "padded":
        assert [entry["speed/shared"] for entry in logs] == [0, 0]
        assert all(0.02 < share < 0.6 for share in padding)
    else:
        assert padding == [0, 0]
        found = [entry["speed/shared"] for entry in logs]
        assert min(found) <= shared <= max(found), "a mean over both steps, weighted by tokens"
        assert max(found) - min(found) < 0.2


def test_an_evaluation_and_a_card_have_no_speed(apo_trainer, pairs):
    trainer = apo_trainer(eval_dataset=pairs, max_steps=1)
    trainer.train()
    assert not [name for name in trainer.evaluate() if "speed" in name]
    trainer.create_model_card("tiny")
    card = (Path(trainer.args.output_dir) / "README.md").read_text(encoding="utf-8")
    assert "rewards/chosen" in card
    assert "speed/" not in card


class Tokens(TrainerCallback):
    """Keeps the tokens a second of each log, times the seconds of its steps."""

    def __init__(self):
        self.found = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "speed/tokens_per_second" in logs:
            self.found.append(logs["speed/tokens_per_second"])


def test_tokens_are_those_of_the_pairs_that_were_trained_on(apo_trainer, clock):
    seen = Tokens()
    trainer = apo_trainer(max_steps=2, callbacks=[seen], logging_steps=2)
    fetch = trainer.get_batch_samples

    def slowly(*args):
        found = fetch(*args)
        clock.time += 2
        return found

    trainer.get_batch_samples = slowly
    trainer.train()
    pairs = [cut_pair(row, None, "keep_start") for row in trainer.train_dataset]
    assert seen.found == [pytest.approx(sum(pair.separate_tokens for pair in pairs) / 4)]


def test_the_cost_of_a_step_knows_adapters_references_and_what_it_does_not_know(config):
    model = make_model()
    args = config(precompute_ref_log_probs=True)
    whole = step_cost(args, model, CPU)
    assert whole.forwards == 3
    assert whole.size == ModelSize.of(model)
    body = sum(
        w.numel() for n, w in model.named_parameters() if "embed" not in n and "head" not in n
    )
    assert whole.size.inside == body
    assert step_cost(config(precompute_ref_log_probs=False), model, CPU).forwards == 4
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=["q_proj"]))
    assert step_cost(args, adapted, CPU).forwards == 2
    experts = copy.deepcopy(model)
    experts.config.num_local_experts = 8
    assert step_cost(args, experts, CPU) is None
    quantized = copy.deepcopy(model)
    quantized.hf_quantizer = object()
    assert step_cost(args, quantized, CPU) is None


def test_the_matrix_rate_is_measured_once_and_draws_no_random_number():
    before = torch.get_rng_state()
    rate = matrix_rate(CPU, torch.float32)
    assert rate > 1e8
    assert matrix_rate(CPU, torch.float32) == rate
    assert torch.equal(torch.get_rng_state(), before)


def test_data_of_one_pair_is_timed_as_well(apo_trainer):
    trainer = apo_trainer(data=Dataset.from_list(make_rows(1)), max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["speed/tokens_per_second"] > 0


def test_the_docs_name_every_figure_of_speed(clock):
    size = ModelSize(inside=1000, hidden=8, layers=2, vocabulary=50)
    log = SpeedLog(StepCost(size, 3, lambda: 1e6), processes=1)
    a_step(log, clock, 1)
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
    table = text.split("## Speed")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(.*?)` \|", table, re.M) == list(log.take(WORK))
