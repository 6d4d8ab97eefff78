"""Four ways in which TRL 1.16 gets its reference wrong or twice (D1 to D4), and none of ours."""

import logging

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tiny_apo import make_model, make_rows
from trl import DPOConfig, DPOTrainer

from clair_apo.apo.reference import frozen_copy
from clair_apo.apo.trainer import APOTrainer
from clair_apo.errors import TrainingError


def first_rewards(kind, config, tokenizer, pairs, model):
    """Mean rewards of winners and losers on the first batch, before any update."""
    trainer = kind(model=model, args=config, train_dataset=pairs, processing_class=tokenizer)
    trainer.model.train()
    trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[0]]))
    logs = {}
    trainer.log(logs)
    return logs["rewards/chosen"], logs["rewards/rejected"]


def reference_column(kind, config, tokenizer, pairs, model):
    trainer = kind(model=model, args=config, train_dataset=pairs, processing_class=tokenizer)
    return torch.tensor(trainer.train_dataset["ref_chosen_logps"])


def by_hand(model, row):
    """log pi(chosen | prompt), token by token."""
    ids = torch.tensor([row["prompt_ids"] + row["chosen_ids"]])
    with torch.no_grad():
        logps = model.eval()(ids).logits.log_softmax(-1)[0, :-1]
    picked = logps.gather(1, ids[0, 1:, None])[:, 0]
    return picked[len(row["prompt_ids"]) - 1 :].sum()


@pytest.fixture
def changed(tiny_folder):
    """A model loaded from a folder whose weights were changed in memory afterwards."""
    model = type(make_model()).from_pretrained(tiny_folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
    return model


def test_the_reference_is_the_model_that_was_passed_where_trl_reloads_it_by_name(
    config, tokenizer, pairs, changed
):
    theirs = first_rewards(DPOTrainer, config(), tokenizer, pairs, changed)
    assert max(map(abs, theirs)) > 0.1, "D3: TRL's reference is not the initial policy"
    ours = first_rewards(APOTrainer, config(), tokenizer, pairs, changed)
    assert ours == pytest.approx((0, 0), abs=1e-6)


def test_the_reference_stays_while_the_policy_trains(config, tokenizer, pairs, changed):
    trainer = APOTrainer(
        model=changed, args=config(), train_dataset=pairs, processing_class=tokenizer
    )
    before = [w.clone() for w in trainer.ref_model.parameters()]
    trainer.train()
    assert all(map(torch.equal, before, trainer.ref_model.parameters()))
    assert not all(map(torch.equal, before, trainer.model.parameters()))
    assert not any(w.requires_grad for w in trainer.ref_model.parameters())


def test_a_second_trainer_on_a_trained_model_takes_it_as_it_is_now(config, tokenizer, pairs, model):
    for _ in range(2):
        trainer = APOTrainer(
            model=model, args=config(), train_dataset=pairs, processing_class=tokenizer
        )
        trainer.train()
        first, last = (e for e in trainer.state.log_history if "loss" in e)
        assert first["rewards/chosen"] == pytest.approx(0, abs=1e-6)
        assert abs(last["rewards/margins"]) > 1e-3, "the reference does not follow the policy"


def test_a_model_given_by_name_is_its_own_reference(config, tokenizer, pairs, tiny_folder):
    found = first_rewards(APOTrainer, config(), tokenizer, pairs, str(tiny_folder))
    assert found == pytest.approx((0, 0), abs=1e-6)


def test_a_precomputed_reference_is_the_passed_model_and_in_the_order_of_the_data(
    config, tokenizer, pairs, changed
):
    trainer = APOTrainer(
        model=changed,
        args=config(precompute_ref_log_probs=True, precompute_ref_batch_size=3),
        train_dataset=pairs,
        eval_dataset=pairs,
        processing_class=tokenizer,
    )
    expected = torch.stack([by_hand(changed, row) for row in trainer.train_dataset])
    for data in (trainer.train_dataset, trainer.eval_dataset):
        found = torch.tensor(data["ref_chosen_logps"])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    trainer.train()
    metrics = trainer.evaluate()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(1, abs=1e-4)
    assert abs(metrics["eval_rewards/margins"]) > 1e-3


def test_precomputing_leaves_the_model_in_the_mode_it_was_in(config, tokenizer, pairs):
    for training in (True, False):
        trainer = APOTrainer(
            model=make_model(attention_dropout=0.5).train(training),
            args=config(precompute_ref_log_probs=True, disable_dropout=False),
            train_dataset=pairs,
            processing_class=tokenizer,
        )
        assert trainer.model.training is training
        expected = by_hand(trainer.model, trainer.train_dataset[0])
        found = trainer.train_dataset[0]["ref_chosen_logps"]
        assert found == pytest.approx(expected.item(), abs=1e-4), "dropout was off meanwhile"


@pytest.fixture
def on_disk(pairs, tmp_path):
    """Pairs with cache files, so that a disk cache can hit."""
    pairs.save_to_disk(tmp_path / "pairs")
    return lambda: Dataset.load_from_disk(str(tmp_path / "pairs"))


def test_a_sweep_over_beta_finds_the_same_reference_and_writes_no_cache(
    config, tokenizer, on_disk, tmp_path
):
    before = sorted(p.name for p in (tmp_path / "pairs").iterdir())
    columns = [
        reference_column(
            APOTrainer,
            config(precompute_ref_log_probs=True, beta=beta, max_length=None),
            tokenizer,
            on_disk(),
            make_model(),
        )
        for beta in (0.1, 0.5)
    ]
    assert torch.equal(*columns), "D1: nothing about beta is in the reference"
    after = {p.name for p in (tmp_path / "pairs").iterdir()} - set(before)
    assert not any("ref" in name for name in after)


def test_another_max_length_never_meets_a_stale_reference(config, tokenizer, on_disk, tmp_path):
    def column(kind, max_length):
        options = {"precompute_ref_log_probs": True, "max_length": max_length}
        plain = {"output_dir": str(tmp_path / "o"), "use_cpu": True, "bf16": False}
        args = config(**options) if kind is APOTrainer else DPOConfig(**plain, **options)
        args.truncation_mode = "keep_end"  # there, TRL's key of the cache ignores max_length
        return reference_column(kind, args, tokenizer, on_disk(), make_model())

    theirs = [column(DPOTrainer, n) for n in (None, 9)]
    assert torch.equal(*theirs), "D2: TRL reads what it computed for another max_length"
    whole, cut = (column(APOTrainer, n) for n in (None, 9))
    torch.testing.assert_close(whole, theirs[0])
    assert (cut - whole).abs().max() > 0.1


def test_changed_weights_never_meet_a_stale_reference(config, tokenizer, on_disk):
    args = config(precompute_ref_log_probs=True)
    first, second = (
        reference_column(APOTrainer, args, tokenizer, on_disk(), make_model(seed))
        for seed in (0, 1)
    )
    assert (first - second).abs().max() > 0.1


def test_pairs_in_memory_leave_no_cache_files_behind(config, tokenizer, tmp_path, monkeypatch):
    # D4: the cache path of an in-memory data set is random, so TRL writes files it never finds
    written = []
    monkeypatch.setattr(
        Dataset, "_get_cache_file_path", lambda self, key: written.append(key) or "/nowhere"
    )
    pairs = Dataset.from_list(make_rows(4))
    trainer = APOTrainer(
        model=make_model(),
        args=config(),
        train_dataset=pairs,
        processing_class=tokenizer,
    )
    written.clear()
    done = trainer._precompute_ref_logps(trainer.train_dataset, "train", 2)
    assert {"ref_chosen_logps", "ref_rejected_logps"} <= set(done.column_names)
    assert not written


def test_the_reference_of_an_adapter_is_the_model_without_it(config, tokenizer, pairs):
    lora = LoraConfig(target_modules=["q_proj"], r=4, init_lora_weights=False)
    trainer = APOTrainer(
        model=make_model(),
        args=config(precompute_ref_log_probs=True),
        train_dataset=pairs,
        processing_class=tokenizer,
        peft_config=lora,
    )
    expected = by_hand(make_model(), trainer.train_dataset[0])
    assert trainer.train_dataset[0]["ref_chosen_logps"] == pytest.approx(expected.item(), abs=1e-4)
    with pytest.raises(TrainingError, match=r"step 0: a reward is .*init_lora_weights"):
        trainer.train()


def test_dropout_that_stays_on_is_refused_at_step_0(config, tokenizer, pairs):
    trainer = APOTrainer(
        model=make_model(attention_dropout=0.5),
        args=config(disable_dropout=False),
        train_dataset=pairs,
        processing_class=tokenizer,
    )
    with pytest.raises(TrainingError, match=r"step 0: a reward is .*disable_dropout"):
        trainer.train()


def test_weights_changed_after_the_trainer_was_made_are_refused(config, tokenizer, pairs, model):
    trainer = APOTrainer(
        model=model, args=config(), train_dataset=pairs, processing_class=tokenizer
    )
    with torch.no_grad():
        model.lm_head.weight.mul_(1.01)
    with pytest.raises(TrainingError, match="step 0: a reward is"):
        trainer.train()


def test_another_reference_given_on_purpose_is_reported_in_one_line(
    config, tokenizer, pairs, caplog
):
    trainer = APOTrainer(
        model=make_model(0),
        ref_model=make_model(1),
        args=config(),
        train_dataset=pairs,
        processing_class=tokenizer,
    )
    with caplog.at_level(logging.WARNING, "clair_apo"):
        trainer.train()
    (line,) = [r.getMessage() for r in caplog.records if r.name.startswith("clair_apo")]
    assert line.startswith("step 0: another reference was passed; mean rewards")


def test_a_frozen_copy_shares_nothing_with_its_model(model):
    copied = frozen_copy(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert all(w.abs().sum() > 0 for n, w in copied.named_parameters() if "norm" not in n)
    assert not copied.training


def resumed(config, tokenizer, pairs, model, **options):
    trainer = APOTrainer(
        model=model, args=config(**options), train_dataset=pairs, processing_class=tokenizer
    )
    trainer.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-1")
    return trainer


def test_a_resumed_run_is_not_refused_with_its_own_reference_but_with_another(
    config, tokenizer, pairs
):
    trainer = APOTrainer(
        model=make_model(0),
        args=config(save_strategy="steps", save_steps=1, max_steps=1),
        train_dataset=pairs,
        processing_class=tokenizer,
    )
    trainer.train()
    assert resumed(config, tokenizer, pairs, make_model(0)).state.global_step == 2
    with pytest.raises(TrainingError, match=r"the run began with a reference that gives"):
        resumed(config, tokenizer, pairs, make_model(1))
