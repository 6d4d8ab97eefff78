"""The trainer's layouts: the same losses, gradients and weights, however a batch is laid out."""

import dataclasses
import logging
import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, TrainingArguments
from trl import DPOConfig

from clair_apo.apo.forward import row_runner
from clair_apo.apo.forward.attention import TREE_ATTENTION
from clair_apo.errors import ConfigError
from tests.helpers.tiny_apo import make_model, make_rows
from tests.helpers.tiny_pairs import separate_logps

DOCS = Path(__file__).parents[3] / "docs" / "training.md"


@pytest.fixture
def trainer(apo_trainer):
    """Makes a trainer whose policy is not its reference, in float64, where nothing is rounded."""

    def make(pairs=None, model=None, peft_config=None, **options):
        return apo_trainer(
            make_model().double() if model is None else model,
            pairs or Dataset.from_list(make_rows(7)),
            ref_model=None if peft_config else make_model(seed=1).double(),
            peft_config=peft_config,
            **options,
        )

    return make


def weights(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def trained(trainer) -> torch.Tensor:
    before = weights(trainer).clone()
    trainer.train()
    after = weights(trainer)
    assert (after - before).abs().max() > 1e-3, "it has learned something"
    return after


def batch(trainer):
    return trainer.data_collator([trainer.train_dataset[i] for i in range(7)])


# --- the same training


def test_both_layouts_have_the_same_loss_gradient_and_metrics(trainer):
    found = {}
    for layout in ("padded", "shared_prefix"):
        mine = trainer(pair_layout=layout, model=make_model())  # TRL's head is float32 anyway
        mine.ref_model.float()
        mine.model.train()
        loss = mine.compute_loss(mine.model, batch(mine))
        loss.backward()
        logs = {}
        mine.log(logs)
        found[layout] = loss, torch.cat([p.grad.flatten() for p in mine.model.parameters()]), logs
    (loss, gradient, logs), (other_loss, other_gradient, other_logs) = found.values()
    assert loss.item() == pytest.approx(other_loss.item(), rel=1e-5)
    cosine = torch.cosine_similarity(gradient.double(), other_gradient.double(), dim=0)
    assert cosine > 0.999999
    assert other_gradient.norm().item() == pytest.approx(gradient.norm().item(), rel=1e-5)
    assert other_logs == pytest.approx(logs, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "split",
    [
        {"max_tokens_per_batch": 40},
        {"max_tokens_per_batch": 1},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 7},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {
            "per_device_train_batch_size": 3,
            "gradient_accumulation_steps": 3,
            "max_tokens_per_batch": 40,
        },
    ],
    ids=str,
)
def test_weights_do_not_depend_on_rows_and_micro_batches(trainer, split):
    """Seven pairs a step; split by 2 and 3 the last part is smaller, and must not weigh more."""
    whole = trained(trainer(per_device_train_batch_size=7, max_tokens_per_batch=None))
    found = trained(trainer(**{"per_device_train_batch_size": 7} | split))
    assert (found - whole).abs().max() < 1e-9


def test_a_step_of_the_padded_layout_is_a_mean_over_pairs_too(trainer):
    options = {"pair_layout": "padded"}
    whole = trained(trainer(per_device_train_batch_size=7, max_tokens_per_batch=None, **options))
    found = trained(
        trainer(per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    )
    assert (found - whole).abs().max() < 1e-4  # TRL's head rounds to float32


def test_logged_losses_and_metrics_do_not_depend_on_the_split(trainer):
    logs = []
    for split in ({}, {"max_tokens_per_batch": 40}, {"gradient_accumulation_steps": 7}):
        size = 1 if "gradient_accumulation_steps" in split else 7
        mine = trainer(per_device_train_batch_size=size, **split)
        mine.train()
        entry = mine.state.log_history[0]
        timeless = {k: v for k, v in entry.items() if not k.startswith(("epoch", "speed/"))}
        logs.append(timeless)
    assert logs[1] == pytest.approx(logs[0], rel=1e-6)
    assert logs[2] == pytest.approx(logs[0], rel=1e-6)


def test_gradient_checkpointing_trains_the_same_weights(trainer):
    plain = trained(trainer())
    assert (trained(trainer(gradient_checkpointing=True)) - plain).abs().max() < 1e-9


def test_an_adapter_trains_the_same_in_both_layouts(trainer):
    found = []
    for layout in ("padded", "shared_prefix"):
        lora = LoraConfig(target_modules=["q_proj", "v_proj"], r=4, task_type="CAUSAL_LM")
        mine = trainer(model=make_model(), peft_config=lora, pair_layout=layout)
        assert mine.pair_layout == layout
        found.append(trained(mine))
    assert (found[0] - found[1]).abs().max() < 1e-4


def test_a_batch_is_cut_into_rows_that_hold_what_was_allowed(trainer, monkeypatch):
    rows = []
    real = row_runner.shared_prefix_forward

    def watched(model, row, **options):
        rows.append((len(row["input_ids"]) // 2, torch.is_grad_enabled()))
        return real(model, row, **options)

    monkeypatch.setattr(row_runner, "shared_prefix_forward", watched)
    mine = trainer(max_tokens_per_batch=40, max_steps=1, per_device_train_batch_size=7)
    mine.train()
    policy = [pairs for pairs, with_gradient in rows if with_gradient]
    assert sum(policy) == 7
    assert len(policy) > 2
    reference = [pairs for pairs, with_gradient in rows if not with_gradient]
    assert sum(reference) == 7, "each once, before training; the cache knows them from then on"


def test_padded_rows_hold_what_was_allowed_with_their_padding(trainer, monkeypatch):
    rows = []
    real = row_runner.padded_forward

    def watched(model, row):
        rows.append(row["input_ids"].shape)
        return real(model, row)

    monkeypatch.setattr(row_runner, "padded_forward", watched)
    mine = trainer(pair_layout="padded", max_tokens_per_batch=84, model=make_model())
    # the first three pairs have 84 tokens between them, each padded on its own; together 108
    seen = batch(mine)["attention_mask"]
    assert seen.numel() > seen.sum() > 2 * 84, "it is padded, and must be cut"
    rows.clear()  # those of the reference
    mine.rows.forward(mine.model, batch(mine))
    assert sum(answers for answers, _ in rows) == len(seen)
    assert max(answers for answers, _ in rows) > 2, "several pairs in a row"
    assert all(answers * longest <= 84 for answers, longest in rows)


def test_evaluation_does_not_depend_on_layout_or_rows(trainer):
    found = []
    for options in ({"pair_layout": "padded"}, {}, {"max_tokens_per_batch": 30}):
        mine = trainer(model=make_model(), per_device_eval_batch_size=4, **options)
        mine.ref_model.float()
        mine.evaluate(Dataset.from_list(make_rows(7)))
        found.append(mine.evaluation_rewards)
    for other in found[1:]:
        assert other.chosen == pytest.approx(found[0].chosen, abs=1e-4)
        assert other.rejected == pytest.approx(found[0].rejected, abs=1e-4)


def test_after_training_generation_and_checkpoint_have_ordinary_attention(trainer, tokenizer):
    mine = trainer(model=make_model())
    assert mine.pair_layout == "shared_prefix"
    mine.ref_model.float()
    mine.train()
    mine.save_model()
    assert mine.model.config._attn_implementation == "sdpa"
    folder = Path(mine.args.output_dir)
    assert not any(TREE_ATTENTION in p.read_text() for p in folder.glob("*.json"))
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer("w1 w2 w3", return_tensors="pt")["input_ids"]
    mine.model.eval()
    texts = [
        m.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        for m in (mine.model, loaded)
    ]
    assert torch.equal(*texts)
    assert torch.equal(mine.model(ids).logits, loaded(ids).logits)


# --- which layout


def test_auto_says_in_one_line_why_it_pads_and_the_name_refuses(trainer, caplog):
    with caplog.at_level(logging.WARNING, "clair_apo"):
        assert trainer(loss_type="ipo").pair_layout == "padded"
    (line,) = [r.getMessage() for r in caplog.records if "pair_layout" in r.getMessage()]
    assert line == "pair_layout auto: padded, because loss_type ipo is computed by TRL"
    with pytest.raises(ConfigError, match="pair_layout shared_prefix: loss_type ipo"):
        trainer(loss_type="ipo", pair_layout="shared_prefix")


@pytest.mark.parametrize("key, value", [("pair_layout", "packed"), ("max_tokens_per_batch", 0)])
def test_a_value_that_cannot_be_is_named(config, key, value):
    with pytest.raises(ConfigError, match=f"{key} must be .*, got '?{value}"):
        config(**{key: value})


def test_trainable_weights_in_16_bits_are_named(trainer, caplog):
    with caplog.at_level(logging.WARNING, "clair_apo"):
        trainer(model=make_model().bfloat16())
    assert any("the first is model.embed_tokens.weight" in r.getMessage() for r in caplog.records)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "clair_apo"):
        trainer(model=make_model())
    assert not any("16 bits" in r.getMessage() for r in caplog.records)


# --- every field of DPOConfig

# another value than the default, with what it needs beside it
ANOTHER = {
    "learning_rate": {"learning_rate": 1e-3},
    "model_init_kwargs": {"model_init_kwargs": {"dtype": "float32"}},
    "trust_remote_code": {"trust_remote_code": True},
    "disable_dropout": {"disable_dropout": False},
    "dataset_num_proc": {"dataset_num_proc": 1},
    "max_length": {"max_length": 30},
    "truncation_mode": {"truncation_mode": "keep_end"},
    "padding_free": {"padding_free": True},
    "pad_to_multiple_of": {"pad_to_multiple_of": 8},
    "precompute_ref_log_probs": {"precompute_ref_log_probs": True},
    "precompute_ref_batch_size": {"precompute_ref_batch_size": 3},
    "loss_type": {"loss_type": ["hinge"]},
    "loss_weights": {"loss_weights": [0.5]},
    "ld_alpha": {"ld_alpha": 0.5},
    "f_divergence_type": {"f_divergence_type": "js_divergence", "loss_type": ["sigmoid"]},
    "f_alpha_divergence_coef": {
        "f_alpha_divergence_coef": 0.4,
        "f_divergence_type": "alpha_divergence",
        "loss_type": ["sigmoid"],
    },
    "label_smoothing": {"label_smoothing": 0.1, "loss_type": ["sigmoid"]},
    "beta": {"beta": 0.2},
    "use_weighting": {"use_weighting": True},
    "discopop_tau": {"discopop_tau": 0.1, "loss_type": ["discopop"]},
    "sync_ref_model": {"sync_ref_model": True},
    "ref_model_mixup_alpha": {"sync_ref_model": True, "ref_model_mixup_alpha": 0.5},
    "ref_model_sync_steps": {"sync_ref_model": True, "ref_model_sync_steps": 1},
    "pad_token": {"pad_token": "<unk>"},
}
NOT_HERE = {  # why a row of the table is not tried on this machine and this model
    "activation_offloading": "it streams to an accelerator",
    "router_aux_loss_coef": "TRL refuses it for a model without experts",
}


def table() -> dict[str, str]:
    """The documented fields and what becomes of each: honoured or padded."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+)", DOCS.read_text("utf-8"), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "each field once"
    return dict(rows)


def test_every_field_that_dpo_config_adds_stands_in_the_documented_table():
    general = {field.name for field in dataclasses.fields(TrainingArguments)}
    added = {f.name for f in dataclasses.fields(DPOConfig)} - general
    redefined = set(DPOConfig.__annotations__) & general
    assert set(table()) == added | redefined
    assert set(table()) == set(ANOTHER) | set(NOT_HERE)


@pytest.mark.parametrize("field", ANOTHER)
def test_a_field_is_honoured_in_trees_or_pads_as_the_table_says(field, trainer):
    mine = trainer(model=make_model(), **ANOTHER[field])
    layout = {"honoured": "shared_prefix", "padded": "padded"}[table()[field]]
    assert mine.pair_layout == layout
    mine.ref_model.float()
    mine.train()
    assert mine.state.global_step == 2


# --- and what the fields do, where trees could lose it


def outcomes_of(mine):
    """Loss, and metrics of one batch of seven pairs."""
    mine.model.train()
    loss = mine.compute_loss(mine.model, batch(mine)).item()
    logs = {}
    mine.log(logs)
    return {"loss": loss, **logs}


def test_beta_and_loss_weights_scale_rewards_and_loss(trainer):
    once, twice = (outcomes_of(trainer(beta=beta)) for beta in (0.1, 0.2))
    log_ratio = once["logps/chosen"] - once["ref_logps/chosen"]
    assert once["rewards/chosen"] == pytest.approx(0.1 * log_ratio)
    assert twice["rewards/chosen"] == pytest.approx(0.2 * log_ratio)
    assert abs(log_ratio) > 0.1
    half = outcomes_of(trainer(loss_weights=[0.5]))
    assert half["loss"] == pytest.approx(once["loss"] / 2)


def test_dropout_acts_in_trees_where_it_is_not_disabled(trainer):
    lora = LoraConfig(target_modules=["q_proj"], r=4, lora_dropout=0.5, init_lora_weights=False)
    different = []
    for disabled in (True, False):
        mine = trainer(model=make_model(), peft_config=lora, disable_dropout=disabled)
        different.append(len({outcomes_of(mine)["loss"] for _ in range(2)}))
    assert different == [1, 2]


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_what_max_length_cuts_is_not_seen(trainer, mode):
    mine = trainer(max_length=14, truncation_mode=mode)
    found = outcomes_of(mine)
    logps, tokens = [], []
    for row in mine.train_dataset:
        prompt, answer = row["prompt_ids"], row["chosen_ids"]
        over = max(len(prompt) + len(answer) - 14, 0)
        if mode == "keep_start":
            answer = answer[: len(answer) - over]
        else:
            prompt = prompt[over:]
        assert prompt and answer, "as the rows are made"
        logps.append(separate_logps(mine.model, prompt, answer).sum().item())
        tokens.append(len(answer))
    whole = sum(len(row["chosen_ids"]) for row in mine.train_dataset)
    assert (sum(tokens) < whole) is (mode == "keep_start")
    assert found["lengths/chosen"] == pytest.approx(sum(tokens) / 7)
    assert found["logps/chosen"] == pytest.approx(sum(logps) / 7, rel=1e-7)


def test_a_reference_that_follows_is_mixed_after_each_step(trainer):
    mine = trainer(
        sync_ref_model=True, ref_model_sync_steps=1, ref_model_mixup_alpha=0.3, max_steps=1
    )
    before = [weight.clone() for weight in mine.ref_model.parameters()]
    mine.train()
    pairs = zip(mine.model.parameters(), mine.ref_model.parameters(), before, strict=True)
    for policy, reference, first in pairs:
        torch.testing.assert_close(reference, 0.3 * policy + 0.7 * first)
        assert not torch.equal(reference, first)


def test_the_batch_of_the_reference_changes_its_forwards_and_no_weight(
    trainer, monkeypatch, tmp_path
):
    seen = []
    real = row_runner.shared_prefix_forward

    def watched(model, row, **options):
        if not torch.is_grad_enabled():
            seen.append(len(row["input_ids"]) // 2)
        return real(model, row, **options)

    monkeypatch.setattr(row_runner, "shared_prefix_forward", watched)
    found = [
        trained(trainer(precompute_ref_batch_size=size, reference_cache=str(tmp_path / str(size))))
        for size in (1, 7)
    ]
    assert seen == [1] * 7 + [7]
    assert (found[0] - found[1]).abs().max() < 1e-9
