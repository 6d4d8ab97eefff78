"""Two references have one digest exactly where they compute the same function."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from tiny_apo import make_model, make_tokenizer
from transformers import AutoModelForCausalLM

from clair_apo.apo import reference_identity as module
from clair_apo.apo.reference_identity import (
    agreed_identity,
    tokenizer_digest,
    trained_base_weights,
    weights_digest,
)
from clair_apo.errors import TrainingError


def lora(**options) -> LoraConfig:
    return LoraConfig(**({"target_modules": ["q_proj"], "r": 4} | options))


def adapted(**options) -> PeftModel:
    torch.manual_seed(1)
    return get_peft_model(make_model(), lora(init_lora_weights=False, **options))


def test_a_model_has_the_digest_of_its_saved_self_under_any_name(tmp_path):
    for name in ("one", "two"):
        make_model().save_pretrained(tmp_path / name)
    loaded = [AutoModelForCausalLM.from_pretrained(tmp_path / n) for n in ("one", "two")]
    assert {weights_digest(m) for m in loaded} == {weights_digest(make_model())}


@pytest.mark.parametrize("tied", [True, False])
def test_one_changed_number_anywhere_changes_the_digest(tied):
    model = make_model(tie_word_embeddings=tied)
    seen = {weights_digest(model)}
    for weight in model.parameters():
        with torch.no_grad():
            weight.view(-1)[-1] += 1
        seen.add(weights_digest(model))
    assert len(seen) == 1 + len(list(model.parameters()))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.config.rope_parameters.update(rope_theta=5.0),
        lambda m: setattr(m.config, "rms_norm_eps", 0.5),
        lambda m: m.to(torch.bfloat16),
    ],
)
def test_what_changes_the_function_beside_the_weights_changes_the_digest(change):
    model = make_model()
    before = weights_digest(model)
    change(model)
    assert weights_digest(model) != before


def test_names_kernels_and_padding_do_not_change_the_digest():
    model = make_model()
    before = weights_digest(model)
    model.config._name_or_path = "elsewhere"
    model.config.pad_token_id = 3
    model.config.use_cache = False
    model.set_attn_implementation("eager")
    assert weights_digest(model) == before


@pytest.mark.parametrize(
    "options", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}], ids=str
)
def test_an_adapter_that_is_off_leaves_the_digest_of_the_model_alone(options):
    model = adapted(**options)
    model.add_adapter("ref", lora())
    assert weights_digest(model) == weights_digest(make_model())
    assert weights_digest(model, "default") != weights_digest(make_model())


def test_the_weights_of_an_adapter_are_in_the_digest_and_its_name_is_not():
    model = adapted()
    before = weights_digest(model, "default")
    model.add_adapter("ref", model.peft_config["default"])
    for name, weight in model.named_parameters():
        if ".default." in name:
            model.get_parameter(name.replace(".default.", ".ref.")).data.copy_(weight.data)
    assert weights_digest(model, "default") == weights_digest(model, "ref") == before
    weight = next(w for n, w in model.named_parameters() if "lora_B.ref" in n)
    with torch.no_grad():
        weight.view(-1)[0] += 1
    assert weights_digest(model, "ref") != before == weights_digest(model, "default")


def test_the_scale_of_an_adapter_is_in_the_digest():
    assert weights_digest(adapted(lora_alpha=8), "default") != weights_digest(
        adapted(lora_alpha=16), "default"
    )


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


def test_an_adapter_loaded_from_a_folder_has_the_digest_of_the_one_that_was_saved(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(make_model(), tmp_path / "adapter", is_trainable=True)
    assert weights_digest(loaded, "default") == weights_digest(model, "default")


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
