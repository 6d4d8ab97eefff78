"""A reference is known by what it computes, its tokenizer and its dtype, on every process."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model

from clair_apo.apo.reference import fingerprint as module
from clair_apo.apo.reference.fingerprint import (
    agreed_identity,
    tokenizer_digest,
    trained_base_weights,
)
from clair_apo.errors import TrainingError
from tests.helpers.tiny_apo import make_model, make_tokenizer


def lora(**options) -> LoraConfig:
    return LoraConfig(**({"target_modules": ["q_proj"], "r": 4} | options))


def adapted(**options) -> PeftModel:
    torch.manual_seed(1)
    return get_peft_model(make_model(), lora(init_lora_weights=False, **options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [3]},
        {"target_modules": ["embed_tokens"]},
    ],
    ids=str,
)
def test_an_adapter_of_any_kind_trains_nothing_below_itself(options):
    model = adapted(**options)
    assert any(weight.requires_grad for weight in model.parameters())
    assert trained_base_weights(model) == []
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert trained_base_weights(get_peft_model(make_model(), prompt)) == []


def test_weights_that_train_below_an_adapter_are_named():
    def names(bias):
        return trained_base_weights(
            get_peft_model(make_model(attention_bias=True), lora(bias=bias))
        )

    assert len(names("all")) == 2 * 4, "of q, k, v and o in both layers"
    assert len(names("lora_only")) == 2
    model = adapted()
    model.get_base_model().lm_head.weight.requires_grad_(True)
    assert trained_base_weights(model) == ["base_model.model.lm_head.weight"]


def test_a_tokenizer_is_its_vocabulary_and_template_not_its_latest_call(tmp_path):
    tokenizer = make_tokenizer()
    before = tokenizer_digest(tokenizer)
    tokenizer(["w1 w2", "w3"], padding=True, truncation=True, max_length=5)
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_digest(type(tokenizer).from_pretrained(tmp_path)) == before
    assert tokenizer_digest(tokenizer) == before
    other = copy.deepcopy(tokenizer)
    other.chat_template += " "
    assert tokenizer_digest(other) != before
    tokenizer.add_tokens(["w999"])
    assert tokenizer_digest(tokenizer) != before


def identity(**options):
    usual = {
        "weights": "aa",
        "processing_class": make_tokenizer(),
        "dtype": torch.float32,
        "mixed_precision": "no",
        "spread": False,
    }
    return agreed_identity(**(usual | options))


def test_dtype_means_weights_and_arithmetic():
    assert identity().dtype == "float32"
    assert identity(mixed_precision="bf16").dtype == "float32, bf16 autocast"
    assert identity(dtype=torch.bfloat16).dtype == "bfloat16"


def test_processes_with_different_weights_are_refused_unless_only_the_first_has_any(monkeypatch):
    monkeypatch.setattr(module, "gather_object", lambda mine: ["first", *mine])
    with pytest.raises(TrainingError, match="hold different reference weights"):
        identity(weights="second")
    assert identity(weights="first").weights == "first"
    assert identity(weights="nothing yet", spread=True).weights == "first"
