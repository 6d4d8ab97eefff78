"""Which reference a run has, and that it is the one; what the cache adds is in its own test file.

Three ways in which TRL 1.16 gets its reference wrong or twice are shown in `test_reference_cache`
(D1, D2, D4), one here (D3).
"""

import copy
import logging

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from trl import DPOTrainer
from trl.trainer.utils import use_adapter

from clair_apo.apo.reference.choose import frozen_copy
from clair_apo.apo.trainer import APOTrainer
from clair_apo.errors import ConfigError, ModelNotFoundError, TrainingError
from tests.helpers.tiny_apo import make_model


def first_rewards(kind, config, tokenizer, pairs, model):
    """Mean rewards of winners and losers on the first batch, before any update."""
    trainer = kind(model=model, args=config, train_dataset=pairs, processing_class=tokenizer)
    trainer.model.train()
    trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[0]]))
    logs = {}
    trainer.log(logs)
    return logs["rewards/chosen"], logs["rewards/rejected"]


def first_reference(trainer):
    """What a batch of the first training pair carries: log pi_ref(chosen | prompt)."""
    batch = trainer.data_collator([trainer.train_dataset[0]])
    return trainer.reference.logps(batch).chosen.item()


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


def test_a_frozen_copy_stays_while_the_policy_trains(config, tokenizer, pairs, changed):
    trainer = APOTrainer(
        model=changed,
        args=config(precompute_ref_log_probs=False),
        train_dataset=pairs,
        processing_class=tokenizer,
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


def test_precomputing_leaves_the_model_in_the_mode_it_was_in(config, tokenizer, pairs):
    for training in (True, False):
        trainer = APOTrainer(
            model=make_model(attention_dropout=0.5).train(training),
            args=config(disable_dropout=False),
            train_dataset=pairs,
            processing_class=tokenizer,
        )
        assert trainer.model.training is training
        expected = by_hand(trainer.model, trainer.train_dataset[0])
        found = first_reference(trainer)
        assert found == pytest.approx(expected.item(), abs=1e-4), "dropout was off meanwhile"


def test_the_reference_of_an_adapter_is_the_model_without_it(config, tokenizer, pairs):
    lora = LoraConfig(target_modules=["q_proj"], r=4, init_lora_weights=False)
    trainer = APOTrainer(
        model=make_model(),
        args=config(),
        train_dataset=pairs,
        processing_class=tokenizer,
        peft_config=lora,
    )
    expected = by_hand(make_model(), trainer.train_dataset[0])
    assert first_reference(trainer) == pytest.approx(expected.item(), abs=1e-4)
    with pytest.raises(TrainingError, match=r"step 0: a reward is .*init_lora_weights"):
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


@pytest.fixture
def sft():
    """A model with an adapter that was trained before: it is not what the model alone is."""
    torch.manual_seed(2)
    lora = LoraConfig(
        target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    return get_peft_model(make_model(), lora)


@pytest.mark.parametrize("cached", [True, False])
def test_a_trained_adapter_is_trained_on_against_a_frozen_copy_of_itself(
    config, tokenizer, pairs, sft, cached
):
    before = by_hand(sft, {"prompt_ids": [6, 7], "chosen_ids": [8, 9]})
    trainer = APOTrainer(
        model=sft,
        args=config(max_steps=4, precompute_ref_log_probs=cached),
        train_dataset=pairs,
        processing_class=tokenizer,
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert (logs[0]["rewards/chosen"], logs[0]["rewards/rejected"]) == pytest.approx(
        (0, 0), abs=1e-6
    )
    assert logs[-1]["rewards/margins"] > 1e-3
    after = by_hand(trainer.model, {"prompt_ids": [6, 7], "chosen_ids": [8, 9]})
    assert abs(after - before) > 1e-3, "the adapter was trained"
    with use_adapter(trainer.model, "ref"):
        kept = by_hand(trainer.model, {"prompt_ids": [6, 7], "chosen_ids": [8, 9]})
    assert kept == pytest.approx(before.item(), abs=1e-6), "its copy was not"
    rewards = trainer.evaluate(pairs)
    assert rewards["eval_rewards/margins"] > 1e-3, "new data meets the copy, not the trained one"


@pytest.mark.parametrize("cached", [True, False])
def test_base_is_the_model_without_the_adapter_it_came_with(
    config, tokenizer, pairs, sft, cached, caplog
):
    trainer = APOTrainer(
        model=sft,
        args=config(reference="base", precompute_ref_log_probs=cached),
        train_dataset=pairs,
        processing_class=tokenizer,
    )
    expected = by_hand(make_model(), trainer.train_dataset[0]).item()
    assert first_reference(trainer) == pytest.approx(expected, abs=1e-4)
    with caplog.at_level(logging.WARNING, "clair_apo"):
        trainer.train()
    assert "another reference was passed" in caplog.text
    assert abs(trainer.state.log_history[0]["rewards/chosen"]) > 1e-3


def test_base_is_the_reference_of_trls_own_losses_too(config, tokenizer, pairs, sft):
    losses = []
    for kind, model, options in (
        (APOTrainer, sft, {"reference": "base"}),
        (DPOTrainer, copy.deepcopy(sft), {"ref_model": make_model()}),
    ):
        reference = options.pop("ref_model", None)
        trainer = kind(
            model=model,
            ref_model=reference,
            args=config(loss_type="ipo", precompute_ref_log_probs=False, **options),
            train_dataset=pairs,
            processing_class=tokenizer,
        )
        rows = trainer.data_collator([trainer.train_dataset[0]])
        losses.append(trainer.compute_loss(trainer.model, rows).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_base_of_a_new_adapter_is_the_initial_policy(config, tokenizer, pairs):
    lora = LoraConfig(target_modules=["q_proj"], r=4, task_type="CAUSAL_LM")
    trainer = APOTrainer(
        model=make_model(),
        args=config(reference="base"),
        train_dataset=pairs,
        processing_class=tokenizer,
        peft_config=lora,
    )
    assert trainer.starts_at_reference
    trainer.train()


def test_base_without_an_adapter_is_refused(config, tokenizer, pairs, model):
    with pytest.raises(ConfigError, match="without its adapter, and this policy has none"):
        APOTrainer(
            model=model,
            args=config(reference="base"),
            train_dataset=pairs,
            processing_class=tokenizer,
        )


@pytest.mark.parametrize("cached", [True, False])
def test_a_named_folder_is_the_reference_and_is_let_go_once_it_has_answered(
    config, tokenizer, pairs, tiny_folder, cached
):
    trainer = APOTrainer(
        model=make_model(1),
        args=config(reference=str(tiny_folder), precompute_ref_log_probs=cached),
        train_dataset=pairs,
        processing_class=tokenizer,
    )
    expected = by_hand(make_model(0), trainer.train_dataset[0]).item()
    assert first_reference(trainer) == pytest.approx(expected, abs=1e-4)
    assert (trainer.ref_model is None) == cached
    trainer.train()
    assert not trainer.starts_at_reference


def test_a_named_folder_may_hold_an_adapter(config, tokenizer, pairs, sft, tiny_folder, tmp_path):
    sft.peft_config["default"].base_model_name_or_path = str(tiny_folder)
    sft.save_pretrained(tmp_path / "adapter")
    trainer = APOTrainer(
        model=make_model(1),
        args=config(reference=str(tmp_path / "adapter")),
        train_dataset=pairs,
        processing_class=tokenizer,
    )
    expected = by_hand(sft, trainer.train_dataset[0]).item()
    assert first_reference(trainer) == pytest.approx(expected, abs=1e-4)


def test_a_reference_that_is_no_model_or_is_given_twice_is_refused(config, tokenizer, pairs, model):
    def make(name, **options):
        APOTrainer(
            model=model,
            args=config(reference=name),
            train_dataset=pairs,
            processing_class=tokenizer,
            **options,
        )

    with pytest.raises(ModelNotFoundError, match="there is no such folder"):
        make("./nowhere")
    with pytest.raises(ConfigError, match="nowhere and a ref_model were both given"):
        make("./nowhere", ref_model=make_model(1))


@pytest.mark.parametrize("precompute", [True, False])
def test_a_reference_with_an_adapter_is_what_it_is_when_merged(
    config, tokenizer, pairs, precompute
):
    def reference():
        model = make_model()
        torch.manual_seed(4)
        lora = LoraConfig(target_modules=["q_proj"], r=4, init_lora_weights=False, use_dora=True)
        return get_peft_model(model, lora)

    losses = []
    for passed in (reference(), reference().merge_and_unload()):
        trainer = APOTrainer(
            model=make_model(),
            ref_model=passed,
            args=config(precompute_ref_log_probs=precompute, pair_layout="padded"),
            train_dataset=pairs,
            processing_class=tokenizer,
        )
        trainer.train()
        losses.append([e["loss"] for e in trainer.state.log_history if "loss" in e])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert abs(losses[0][0] - 1) > 1e-3, "it is another than the policy"


def test_a_reference_whose_adapter_acts_from_outside_is_refused(config, tokenizer, pairs):
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ConfigError, match=r"its adapter \(PROMPT_TUNING\) acts from outside"):
        APOTrainer(
            model=make_model(),
            ref_model=get_peft_model(make_model(), prompt),
            args=config(),
            train_dataset=pairs,
            processing_class=tokenizer,
        )
