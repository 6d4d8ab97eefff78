"""Pairs with images train as with TRL, whichever way a processor lays its images out."""

import copy

import pytest
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

from clair_apo.apo.forward import row_runner
from clair_apo.apo.trainer import APOTrainer
from tests.helpers.tiny_vlm import KINDS, vision_rows

# llava's processor takes one picture a prompt here; the others some with one, some with two
PICTURES = {"llava": (1,), "qwen2_vl": (1, 2), "idefics2": (1, 2)}


@pytest.fixture
def make(config, tmp_path):
    def trainer(trainers, kind, ref_seed=1, peft_config=None, **options):
        model, processor = KINDS[kind]
        options = {"max_length": None, "loss_type": ["apo_zero"], **options}
        args = config(**options)
        if trainers is DPOTrainer:
            names = (
                "max_steps",
                "per_device_train_batch_size",
                "per_device_eval_batch_size",
                "gradient_accumulation_steps",
                "learning_rate",
                "logging_steps",
                "seed",
                "loss_type",
                "max_length",
            )
            shared = {name: getattr(args, name) for name in names}
            args = DPOConfig(
                output_dir=str(tmp_path / "trl"),
                use_cpu=True,
                bf16=False,
                report_to=[],
                save_strategy="no",
                gradient_checkpointing=False,
                disable_tqdm=True,
                **shared,
            )
        return trainers(
            model=model(),
            ref_model=None if ref_seed is None else model(ref_seed),
            args=args,
            train_dataset=vision_rows(8, images=PICTURES[kind]),
            eval_dataset=vision_rows(5, images=PICTURES[kind], seed=3),
            processing_class=processor(),
            peft_config=peft_config,
        )

    return trainer


def losses(trainer):
    """Of each step, and of an evaluation afterwards."""
    trainer.train()
    steps = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return [*steps, trainer.evaluate()["eval_loss"]]


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_trl_whole_and_cut_into_rows(kind, make, monkeypatch):
    rows = []
    real = row_runner.padded_forward

    def watched(model, row):
        rows.append(len(row["input_ids"]) // 2)
        return real(model, row)

    monkeypatch.setattr(row_runner, "padded_forward", watched)
    wanted = losses(make(DPOTrainer, kind))
    assert losses(make(APOTrainer, kind)) == pytest.approx(wanted, rel=1e-4)
    assert max(rows) == 4
    rows.clear()
    assert losses(make(APOTrainer, kind, max_tokens_per_batch=1)) == pytest.approx(wanted, rel=1e-4)
    assert set(rows) == {1}, "a pair a row, of policy and reference"


def test_a_row_without_any_image_is_a_row_of_text(make, monkeypatch):
    monkeypatch.setitem(PICTURES, "qwen2_vl", (0, 2, 1))
    wanted = losses(make(DPOTrainer, "qwen2_vl"))
    found = losses(make(APOTrainer, "qwen2_vl", max_tokens_per_batch=1))
    assert found == pytest.approx(wanted, rel=1e-4)


def test_the_reference_is_the_initial_policy_where_none_is_passed(make):
    """TRL reloads one by name; a copy of the same model is what it should be."""
    wanted = losses(make(DPOTrainer, "llava", ref_seed=0))
    mine = make(APOTrainer, "llava", ref_seed=None)
    assert losses(mine) == pytest.approx(wanted, rel=1e-4)
    assert wanted[0] == pytest.approx(1.0, abs=1e-5), "apo_zero of log-ratios of 0: 0.5 + 0.5"


def test_an_adapter_trains_as_with_trl(make):
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], r=4, task_type="CAUSAL_LM")
    found = [
        losses(make(kind, "qwen2_vl", ref_seed=None, peft_config=copy.deepcopy(lora)))
        for kind in (DPOTrainer, APOTrainer)
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_a_step_of_several_micro_batches_is_the_step_of_one_batch(make):
    whole = losses(make(APOTrainer, "qwen2_vl"))
    split = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    assert losses(make(APOTrainer, "qwen2_vl", **split)) == pytest.approx(whole, rel=1e-4)
