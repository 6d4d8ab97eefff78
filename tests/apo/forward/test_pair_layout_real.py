"""Pair layout across processes: gloo ranks on CPUs against one process."""

import functools
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.utils import add_fused_lm_head

from clair_apo.apo.forward.logps import padded_forward
from clair_apo.apo.forward.shared_prefix import shared_prefix_forward
from clair_apo.models import find_model
from tests.helpers.launching import ROOT, finished, launch
from tests.helpers.tiny_pairs import Pair, padded_batch

pytestmark = pytest.mark.real


TRAIN = """
import sys, torch
sys.path.insert(0, {root!r})
from datasets import Dataset
from tests.helpers.tiny_apo import make_model, make_rows, make_tokenizer
from clair_apo.apo.config import APOConfig
from clair_apo.apo.trainer import APOTrainer

args = APOConfig(
    output_dir={out!r}, num_train_epochs=2, learning_rate=1e-2, save_strategy="no",
    gradient_checkpointing=False, disable_tqdm=True, logging_steps=1, bf16=False,
    per_device_train_batch_size={size}, gradient_accumulation_steps=2, max_grad_norm=0.0,
    max_tokens_per_batch={limit},
)
trainer = APOTrainer(
    model=make_model(), args=args, train_dataset=Dataset.from_list(make_rows(13)),
    processing_class=make_tokenizer(), ref_model=None,
)
assert trainer.pair_layout == "shared_prefix"
trainer.train()
state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
if trainer.is_world_process_zero():
    weights = torch.cat([state[name].flatten().float() for name in sorted(state)])
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    torch.save({{"weights": weights, "logs": logs}}, {out!r} + ".pt")
"""
SHARDED = """
import sys, torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
sys.path.insert(0, {root!r})
from tests.helpers.tiny_pairs import edge_pairs, padded_batch, sharp_model
from clair_apo.apo.forward.attention import attends_to_trees
from clair_apo.apo.forward.shared_prefix import shared_prefix_forward

def gradients(model, pairs):
    with attends_to_trees(model):
        found = shared_prefix_forward(model, padded_batch(pairs), statistics=True)
        (found.logps.chosen - found.logps.rejected).sum().backward()
    return {{name: weight.grad for name, weight in model.named_parameters()}}

def ready(family):
    model = sharp_model(family).train()
    if {checkpointing}:
        model.gradient_checkpointing_enable()
    return model

dist.init_process_group("gloo")
for family in ("smollm2", "qwen3"):  # head tied to the embedding, and not
    pairs = edge_pairs()[:8]
    wanted = gradients(ready(family), pairs)
    model = ready(family)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    assert all(isinstance(weight, DTensor) for weight in model.parameters())
    mine = pairs[:5] if dist.get_rank() == 0 else pairs[5:]
    for name, found in gradients(model, mine).items():
        whole = found.full_tensor() * 2  # averaged over two
        assert (whole - wanted[name]).norm() / wanted[name].norm() < 1e-6, (family, name)
print("same gradients")
dist.destroy_process_group()
"""


@pytest.fixture
def run(tmp_path):
    """Trains in one process, or in two as an accelerate config says; returns weights and logs."""

    def train(name, accelerate_config=None, **options):
        script = tmp_path / f"{name}.py"
        values = {"limit": 60} | options
        script.write_text(TRAIN.format(root=str(ROOT), out=str(tmp_path / name), **values))
        run = [str(script)]
        alone = accelerate_config is None
        done = finished([sys.executable, *run] if alone else launch(accelerate_config, run))
        assert done.returncode == 0, done.stderr[-4000:]
        return torch.load(tmp_path / f"{name}.pt")

    return train


def test_two_processes_train_the_weights_of_one_though_pairs_fill_up_their_last_batch(run):
    """13 pairs in global batches of 8: the last 5 are filled with 3 repeats, which must not count.

    The processes cut their batches into different numbers of rows.
    """
    one = run("one", size=4, limit=None)
    two = run("two", ROOT / "configs" / "accelerate" / "cpu.yaml", size=2)
    torch.testing.assert_close(two["weights"], one["weights"], atol=1e-5, rtol=0)
    assert len(one["logs"]) == len(two["logs"]) == 4
    for mine, theirs in zip(two["logs"], one["logs"], strict=True):
        for key in ("loss", "rewards/chosen", "rewards/rejected", "logps/chosen", "entropy"):
            assert mine[key] == pytest.approx(theirs[key], abs=1e-4), key


@pytest.mark.parametrize("checkpointing", [False, True])
def test_weights_that_fsdp2_spreads_over_two_processes_get_the_gradients_of_one(
    tmp_path, checkpointing
):
    """By torch alone: accelerate 1.15 spreads no weights over CPUs."""
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED.format(root=str(ROOT), checkpointing=checkpointing))
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    done = finished([sys.executable, *torchrun, "--standalone", str(script)])
    assert done.stdout.count("same gradients") == 2, done.stderr[-4000:]


def test_on_the_embedded_model_both_layouts_agree_in_float32():
    """Summed log-probs to 1e-5 relative, and the gradient's direction to a cosine of 0.999999."""
    folder = find_model("smollm2-135m").location
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def ids(text: str) -> list[int]:
        return tokenizer(text)["input_ids"]

    pairs = [
        Pair(ids("Name a fruit that keeps."), ids(" An apple."), ids(" Certainly! A strawberry.")),
        Pair(
            ids("How long does tea steep?"),
            ids(" Green tea steeps for two minutes, black tea for four."),
            ids(" Green tea steeps for two minutes, and black tea steeps for a whole hour."),
        ),
    ]
    found = {}
    for forward in (
        padded_forward,
        functools.partial(shared_prefix_forward, statistics=True),
    ):
        model.zero_grad()
        logps = forward(model, padded_batch(pairs)).logps
        (logps.chosen - 0.5 * logps.rejected).sum().backward()
        gradient = torch.cat([weight.grad.flatten() for weight in model.parameters()])
        found[forward] = torch.cat(logps).detach(), gradient.double()
    (theirs, their_gradient), (mine, my_gradient) = found.values()
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=0)
    assert torch.cosine_similarity(my_gradient, their_gradient, dim=0) > 0.999999
    assert my_gradient.norm().item() == pytest.approx(their_gradient.norm().item(), rel=1e-4)
