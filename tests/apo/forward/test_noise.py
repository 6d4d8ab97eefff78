"""Noise of training mode is told from a wrong reference, and named with what ends it."""

import logging

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig
from torch import nn

from clair_apo.apo.forward.noise import (
    in_eval_mode,
    noise_sources,
    starts_elsewhere,
    switch_off_dropout,
)
from clair_apo.apo.trainer import APOTrainer
from clair_apo.errors import TrainingError
from tests.helpers.tiny_apo import make_model, make_rows


@pytest.fixture
def train(apo_trainer, caplog):
    """Trains for a step, and gives the reward that the first log shows and what was said."""

    def run(model=None, **options):
        trainer = apo_trainer(model, Dataset.from_list(make_rows(4)), max_steps=1, **options)
        with caplog.at_level(logging.WARNING, "clair_apo"):
            trainer.train()
        return trainer.state.log_history[0]["rewards/chosen"], caplog.text

    return run


def test_dropout_of_attention_is_switched_off_with_the_other(train):
    model = make_model(attention_dropout=0.3)
    reward, said = train(model)
    assert reward == pytest.approx(0, abs=1e-5)
    assert "step 0" not in said
    assert model.config.attention_dropout == 0.3, "what is saved says what the model is"


def test_dropout_that_was_left_on_is_named_and_trained_with(train):
    reward, said = train(make_model(attention_dropout=0.3), disable_dropout=False)
    assert abs(reward) > 1e-3
    assert "noise of training mode, and training goes on" in said
    assert "attention_dropout 0.3 (disable_dropout true" in said


def test_neftune_is_named_and_trained_with(train):
    reward, said = train(neftune_noise_alpha=5.0)
    assert abs(reward) > 1e-4
    assert "neftune_noise_alpha 5 (leave it out)" in said


class Jitter(nn.Module):
    """A layer norm whose input is scaled at random in training mode, as routers do it."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.router_jitter_noise = norm, 0.3

    def forward(self, hidden):
        if self.training:
            hidden = hidden + self.router_jitter_noise * torch.randn_like(hidden)
        return self.norm(hidden)


def test_noise_of_a_router_is_named_and_trained_with(train):
    model = make_model()
    model.model.layers[0].input_layernorm = Jitter(model.model.layers[0].input_layernorm)
    reward, said = train(model, pair_layout="padded")
    assert abs(reward) > 1e-3
    assert "router_jitter_noise 0.3 (model_init_kwargs: {router_jitter_noise: 0})" in said


@pytest.mark.parametrize(
    "prompt",
    [
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_a_learnt_prompt_starts_where_it_starts(train, prompt):
    reward, said = train(peft_config=prompt)
    assert abs(reward) > 1e-3
    assert "the adapter learns a prompt, which does not start at zero" in said


def test_an_adapter_that_starts_elsewhere_is_refused_by_its_setting(train):
    lora = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    with pytest.raises(TrainingError, match=r"init_lora_weights is False, .* does not start at"):
        train(peft_config=lora)


def test_weights_that_changed_are_refused_however_noisy_the_model_is(config, tokenizer):
    model = make_model(attention_dropout=0.3)
    trainer = APOTrainer(
        model=model,
        args=config(max_steps=1, disable_dropout=False),
        train_dataset=Dataset.from_list(make_rows(4)),
        processing_class=tokenizer,
    )
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    with pytest.raises(
        TrainingError, match=r"step 0: a reward is .* Found: attention_dropout 0\.3"
    ):
        trainer.train()


def test_a_mode_is_given_back_module_by_module():
    model = make_model().train()
    model.model.norm.eval()
    with in_eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [m for m in model.modules() if not m.training] == [model.model.norm]


def test_a_quiet_model_has_no_source_of_noise(config):
    model = make_model(attention_dropout=0.1)
    assert noise_sources(config(), model)
    switch_off_dropout(model)
    model.config.attention_dropout = 0.0
    assert noise_sources(config(), model) == []
    assert starts_elsewhere(model) == []
