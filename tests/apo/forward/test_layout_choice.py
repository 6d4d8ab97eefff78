"""Which models' attention can be laid over trees: a tiny one for each reason against it."""

import re

import pytest
import torch
import transformers as hf
from peft import PromptTuningConfig, get_peft_model

from clair_apo.apo.forward.layout_choice import (
    choose_layout,
    computes_pairs,
    half_precision_warning,
    tree_obstacle,
)
from clair_apo.apo.forward.shared_prefix import shared_prefix_forward
from clair_apo.apo.trainer import APOTrainer
from tests.helpers.tiny_pairs import (
    GROUPED,
    SIZES,
    edge_pairs,
    padded_batch,
    separate_logps,
    sharp_model,
)

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
AGAINST = {
    "llama4, chunks": (
        "attends in chunks|of the kind chunked_attention",
        lambda: hf.Llama4ForCausalLM(
            hf.Llama4TextConfig(
                **SIZES, **GROUPED, head_dim=8, intermediate_size_mlp=48, num_local_experts=2
            )
        ),
    ),
    "lfm2, convolutions": (
        "1 of its 2 layers are of the kind conv, not attention|carries a state",
        lambda: hf.Lfm2ForCausalLM(
            hf.Lfm2Config(**SIZES, **GROUPED, layer_types=["conv", "full_attention"])
        ),
    ),
    "llama, dynamic rope": (
        "change with the longest sequence of a batch beyond 256 tokens; set max_length to 256",
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, **GROUPED, rope_parameters=DYNAMIC)),
    ),
    "mamba": (
        "carries a state",
        lambda: hf.MambaForCausalLM(
            hf.MambaConfig(vocab_size=97, hidden_size=16, num_hidden_layers=2, state_size=4)
        ),
    ),
    "bloom": (
        "not replaceable",
        lambda: hf.BloomForCausalLM(
            hf.BloomConfig(vocab_size=97, hidden_size=16, n_layer=2, n_head=2)
        ),
    ),
    "t5": (
        "an encoder",
        lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(vocab_size=97, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ),
    ),
}


@pytest.mark.parametrize("name", AGAINST)
def test_a_model_that_would_not_be_exact_is_known_by_a_reason(name):
    reason, make = AGAINST[name]
    assert re.search(reason, tree_obstacle(make()))


@pytest.mark.parametrize("longest", [256, 257, None])
def test_positions_that_follow_the_length_are_no_obstacle_where_none_is_so_long(longest):
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, **GROUPED, rope_parameters=DYNAMIC))
    assert (tree_obstacle(model, longest) is None) is (longest == 256)


def test_max_length_is_what_no_answer_exceeds(config):
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, **GROUPED, rope_parameters=DYNAMIC))
    assert choose_layout(config(max_length=256), model).layout == "shared_prefix"
    assert choose_layout(config(max_length=257), model).layout == "padded"


def mixtral():
    torch.manual_seed(0)
    sizes = SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2}
    model = hf.MixtralForCausalLM(hf.MixtralConfig(**sizes, **GROUPED))
    model.set_experts_implementation("eager")  # the grouped kernel knows no float64
    return model


@pytest.mark.parametrize("make", [mixtral, lambda: sharp_model("qwen2"), lambda: gpt2()])
def test_a_model_without_a_reason_against_it_is_exact(make):
    """Experts choose token by token, and learned positions are told: neither stands against it."""
    model, pairs = make().double().eval(), edge_pairs()
    assert tree_obstacle(model) is None
    found = shared_prefix_forward(model, padded_batch(pairs), statistics=False)
    for side in ("chosen", "rejected"):
        for pair, logps in zip(pairs, getattr(found, side).split(), strict=True):
            wanted = separate_logps(model, pair.prompt, getattr(pair, side))
            assert (logps - wanted).abs().max() < 1e-10


@pytest.mark.parametrize("weight", [None, 0.0, 0.01])
def test_an_auxiliary_loss_is_known_before_there_is_a_trainer(weight, config, tokenizer, pairs):
    model, args = mixtral(), config(router_aux_loss_coef=weight)
    choice = choose_layout(args, model)
    trainer = APOTrainer(model=model, args=args, train_dataset=pairs, processing_class=tokenizer)
    assert computes_pairs(args, model) is not trainer.aux_loss_enabled
    assert choice.layout == trainer.pair_layout
    assert ("router_aux_loss_coef 0 omits it" in str(choice.reason)) is (weight != 0)


def test_a_prompt_that_is_learned_and_images_stand_against_trees(config):
    prompt = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    learned = get_peft_model(sharp_model("llama"), prompt)
    assert choose_layout(config(), learned).reason.startswith("the adapter learns a prompt")
    seeing = choose_layout(config(), sharp_model("llama"), sees_images=True)
    assert seeing.reason == "the model sees images"


def gpt2():
    torch.manual_seed(0)
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=97, n_positions=256, n_embd=32, n_layer=2, n_head=4)
    )


def test_trainable_weights_in_16_bits_are_counted_and_frozen_ones_are_not():
    model = sharp_model("llama", torch.bfloat16)
    count = len(list(model.parameters()))
    assert half_precision_warning(model).startswith(f"{count} trainable weights")
    model.lm_head.requires_grad_(False)
    assert half_precision_warning(model).startswith(f"{count - 1} trainable weights")
    model.requires_grad_(False)
    assert half_precision_warning(model) is None
    assert half_precision_warning(sharp_model("llama", torch.float32)) is None
