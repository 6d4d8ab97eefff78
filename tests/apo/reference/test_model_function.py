"""Two models have one digest exactly where they compute the same function of the same tokens."""

import functools

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from clair_apo.apo.reference.model_function import model_function
from tests.helpers.tiny_apo import make_model


def lora(**options) -> LoraConfig:
    return LoraConfig(**({"target_modules": ["q_proj"], "r": 4} | options))


def adapted(seed=1, **options) -> PeftModel:
    model = make_model()
    torch.manual_seed(seed)
    return get_peft_model(model, lora(init_lora_weights=False, **options))


def two_adapters(seed=2) -> PeftModel:
    model = adapted()
    torch.manual_seed(seed)
    model.add_adapter("other", lora(target_modules=["k_proj"], init_lora_weights=False))
    return model


def digest(model) -> str:
    found = model_function(model)
    assert found.unreadable == ()
    return found.digest


def digest_off(model) -> str:
    with model.disable_adapter():
        return digest(model)


def test_a_model_has_the_digest_of_its_saved_self_under_any_name(tmp_path):
    for name in ("one", "two"):
        make_model().save_pretrained(tmp_path / name)
    loaded = [AutoModelForCausalLM.from_pretrained(tmp_path / n) for n in ("one", "two")]
    assert {digest(m) for m in loaded} == {digest(make_model())}


def test_training_and_eval_mode_have_one_digest():
    model = adapted(lora_dropout=0.5)
    assert digest(model.train()) == digest(model.eval())


@pytest.mark.parametrize("tied", [True, False])
def test_one_changed_number_anywhere_changes_the_digest(tied):
    model = make_model(tie_word_embeddings=tied)
    tensors = [*model.parameters(), *model.buffers()]
    seen = {digest(model)}
    for tensor in tensors:
        with torch.no_grad():
            tensor.view(-1)[-1] += 1
        seen.add(digest(model))
    assert len(seen) == 1 + len(tensors)


class Gain:
    def __init__(self, factor):
        self.factor = factor


class Scaled(nn.Module):
    """A module of a user's own, with what a forward may use beside weights."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain, self.object, self.tensor = gain, Gain(gain), torch.tensor(gain)
        self.hidden = [nn.Linear(2, 2)]
        torch.manual_seed(3)
        nn.init.normal_(self.hidden[0].weight)
        nn.init.zeros_(self.hidden[0].bias)


def scaled(change=lambda module: None):
    model = make_model()
    model.model.layers[0].scaled = Scaled()
    change(model.model.layers[0].scaled)
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.config.rope_parameters.update(rope_theta=5.0),
        lambda m: setattr(m.config, "rms_norm_eps", 0.5),
        lambda m: setattr(m.config, "final_logit_softcapping", 30.0),
        lambda m: setattr(m.config, "num_experts_per_tok", 2),
        lambda m: m.to(torch.bfloat16),
        lambda m: m.model.rotary_emb.inv_freq.mul_(2),  # kept in no file
        lambda m: m.register_buffer("noise", torch.ones(1), persistent=False),
        lambda m: setattr(m.model.rotary_emb, "attention_scaling", 2.0),
        lambda m: setattr(m.model.layers[1].self_attn, "scaling", 0.5),
        lambda m: setattr(m.model.norm, "variance_epsilon", 0.5),
        lambda m: setattr(m.model.layers[0].mlp, "act_fn", nn.ReLU()),
        lambda m: m.model.layers.append(m.model.layers[0]),
    ],
)
def test_what_changes_the_function_beside_the_weights_changes_the_digest(change):
    model = make_model()
    before = digest(model)
    change(model)
    assert digest(model) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "gain", 2.0),
        lambda m: setattr(m.object, "factor", 2.0),
        lambda m: m.tensor.add_(1),
        lambda m: m.hidden[0].bias.data.add_(1),
        lambda m: m.hidden.append(nn.ReLU()),
    ],
)
def test_what_a_users_module_holds_is_read(change):
    assert digest(scaled()) == digest(scaled())
    assert digest(scaled(change)) != digest(scaled())


def test_names_kernels_padding_and_dropout_do_not_change_the_digest():
    model = make_model()
    before = digest(model)
    model.config._name_or_path = "elsewhere"
    model.config.pad_token_id = 3
    model.config.use_cache = False
    model.config.attention_dropout = model.model.layers[0].self_attn.attention_dropout = 0.3
    model.set_attn_implementation("eager")
    assert digest(model) == before


def test_the_kernel_is_in_the_digest_of_a_model_whose_attention_is_not_plain():
    model = make_model()
    model.config.attn_logit_softcapping = 20.0  # some kernels know no cap
    before = digest(model)
    model.set_attn_implementation("eager")
    assert digest(model) != before


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [3]},
        {"lora_dropout": 0.1},
    ],
    ids=str,
)
def test_an_adapter_that_is_off_leaves_the_digest_of_the_model_alone(options):
    model = adapted(**options)
    model.add_adapter("ref", lora())
    assert digest_off(model) == digest(make_model()) != digest(model)


def test_a_learnt_prompt_is_in_the_digest_while_it_is_on():
    def prompted(seed):
        model = make_model()
        torch.manual_seed(seed)
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        return get_peft_model(model, config)

    assert digest_off(prompted(1)) == digest(make_model())
    assert len({digest(make_model()), digest(prompted(1)), digest(prompted(2))}) == 3
    assert digest(prompted(1)) == digest(prompted(1))


def test_the_weights_of_an_adapter_are_in_the_digest_and_its_name_is_not():
    model = adapted()
    before = digest(model)
    model.add_adapter("ref", model.peft_config["default"])
    for name, weight in model.named_parameters():
        if ".default." in name:
            model.get_parameter(name.replace(".default.", ".ref.")).data.copy_(weight.data)
    model.set_adapter("ref")
    assert digest(model) == before
    weight = next(w for n, w in model.named_parameters() if "lora_B.ref" in n)
    with torch.no_grad():
        weight.view(-1)[0] += 1
    assert digest(model) != before
    model.set_adapter("default")
    assert digest(model) == before, "what is off does not count"


def test_every_adapter_that_is_on_is_in_the_digest():
    seen = set()
    for seed, active in ((2, ["default", "other"]), (3, ["default", "other"]), (2, ["other"])):
        model = two_adapters(seed)
        model.base_model.set_adapter(active)
        seen.add(digest(model))
    model.base_model.set_adapter(["default"])
    seen.add(digest(model))
    model.base_model.disable_adapter_layers()
    assert digest(model) == digest(make_model())
    assert len(seen) == 4


def test_adapters_that_transformers_itself_loads_are_read_the_same_way():
    def native(seed):
        model = make_model()
        torch.manual_seed(seed)
        model.add_adapter(lora(init_lora_weights=False), adapter_name="mine")
        return model

    on = native(1)
    assert len({digest(make_model()), digest(on), digest(native(2))}) == 3
    assert digest(on) == digest(native(1)) == digest(adapted(1))
    on.disable_adapters()
    assert digest(on) == digest(make_model())


def test_the_scale_of_an_adapter_is_in_the_digest_as_it_is_now():
    assert digest(adapted(lora_alpha=8)) != digest(adapted(lora_alpha=16))
    model = adapted()
    before = digest(model)
    model.base_model.model.model.layers[0].self_attn.q_proj.scale_layer(0.5)
    assert digest(model) != before


def test_a_merged_adapter_is_in_the_digest():
    model = adapted()
    seen = {digest(model), digest_off(model)}
    model.merge_adapter()
    seen.add(digest(model))
    assert len(seen) == 3


def mine(*args, **kwargs):
    return None


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.model.layers[0].register_forward_hook(mine),
        lambda m: m.register_forward_pre_hook(mine),
        lambda m: setattr(m.model.layers[0].mlp, "forward", mine),
        # what is wrapped looks like the library's own
        lambda m: setattr(m.model.norm, "forward", functools.wraps(m.model.norm.forward)(mine)),
        lambda m: setattr(m.model.norm, "forward", torch.no_grad()(lambda *a: None)),
        lambda m: setattr(m.model.layers[0].self_attn, "scale_with", functools.partial(mine, 2)),
    ],
)
def test_code_that_no_digest_can_read_is_named(change):
    model = make_model()
    change(model)
    assert model_function(model).unreadable


def test_a_class_that_was_patched_is_named(monkeypatch):
    monkeypatch.setattr(LlamaMLP, "forward", mine)
    assert model_function(make_model()).unreadable == (
        "LlamaMLP.forward is the user's own function",
    )


def test_attention_of_the_users_own_is_named():
    AttentionInterface.register("mine", mine)
    model = make_model()
    model.config._attn_implementation = "mine"
    assert model_function(model).unreadable == (
        "attn_implementation mine is the user's own function",
    )


def test_what_libraries_hook_and_wrap_is_no_users_code():
    model = adapted()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    assert digest(model) == digest(adapted())


def test_an_adapter_loaded_from_a_folder_has_the_digest_of_the_one_that_was_saved(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(make_model(), tmp_path / "adapter", is_trainable=True)
    assert digest(loaded) == digest(model)
