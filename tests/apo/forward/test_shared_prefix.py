"""Shared-prefix log-probs and gradients against two separate forwards of the untouched model."""

import functools
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from clair_apo.apo.config import APOConfig
from clair_apo.apo.forward import attention, shared_prefix
from clair_apo.apo.forward.attention import TREE_ATTENTION, attends_to_trees, tree_attention
from clair_apo.apo.forward.layout_choice import choose_layout, tree_obstacle
from clair_apo.apo.forward.logps import padded_forward
from clair_apo.apo.forward.shared_prefix import shared_prefix_forward
from clair_apo.apo.forward.tree import packed_row
from clair_apo.apo.trl_compat import attention_names
from tests.helpers.tiny_pairs import (
    FAMILIES,
    GROUPED,
    MIXED,
    MORE_FAMILIES,
    SIZES,
    Pair,
    edge_pairs,
    padded_batch,
    separate_logps,
    sharp_model,
    tokens,
)
from tests.helpers.tiny_vlm import llava, qwen2_vl

PAIRS = edge_pairs()
OURS = {str(path) for path in Path(attention.__file__).parent.glob("*.py")}
SIDES = ("chosen", "rejected")


def forward(model, pairs=PAIRS):
    return shared_prefix_forward(model, padded_batch(pairs), statistics=True)


def expected(model, pairs=PAIRS):
    """Log-probs of the tokens of each answer, winners first."""
    return {
        side: [separate_logps(model, pair.prompt, getattr(pair, side)) for pair in pairs]
        for side in SIDES
    }


def worst_miss(found, wanted) -> float:
    misses = [
        (mine - theirs).abs().max()
        for side in SIDES
        for mine, theirs in zip(getattr(found, side).split(), wanted[side], strict=True)
    ]
    return torch.stack(misses).max().item()


def gradients(model, sums) -> dict[str, torch.Tensor]:
    """Of a weighted sum over answers, with a weight for each."""
    weights = torch.randn(len(sums), generator=torch.Generator().manual_seed(5)).to(sums.dtype)
    model.zero_grad()
    (sums * weights).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def both_gradients(model, pairs=PAIRS):
    found = forward(model, pairs)
    mine = gradients(model, torch.cat(found.logps))
    wanted = expected(model, pairs)
    sums = torch.stack([logps.sum() for side in SIDES for logps in wanted[side]])
    return mine, gradients(model, sums)


def worst_gradient(mine, theirs) -> float:
    assert mine.keys() == theirs.keys()
    relative = [(mine[name] - theirs[name]).norm() / theirs[name].norm() for name in theirs]
    return torch.stack(relative).max().item()


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_and_gradients_are_those_of_two_separate_forwards(family):
    model = sharp_model(family)
    assert worst_miss(forward(model), expected(model)) < 1e-10
    # RMSNorm computes in float32 whatever the dtype of the model
    assert worst_gradient(*both_gradients(model)) < (1e-9 if family == "gpt_neox" else 1e-6)


@pytest.fixture
def wide_softmax(monkeypatch):
    """Models whose own attention takes its softmax in float32 take it in float64."""
    softmax = F.softmax
    monkeypatch.setattr(F, "softmax", lambda x, dim=-1, dtype=None: softmax(x, dim=dim))


@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_windows_caps_sinks_scales_and_experts_are_those_of_separate_forwards(family, wide_softmax):
    model = sharp_model(family)
    assert tree_obstacle(model, longest=64) is None
    # the router of DeepSeek V3 chooses experts in float32, whatever the dtype of the model
    assert worst_miss(forward(model), expected(model)) < (
        1e-6 if family == "deepseek_v3" else 1e-10
    )
    assert worst_gradient(*both_gradients(model)) < 1e-6


@pytest.mark.parametrize("family", ["mistral, windows", "gemma2", "gpt_oss", "deepseek_v2"])
def test_torchs_own_attention_knows_windows_caps_and_sinks(family, wide_softmax, monkeypatch):
    model = sharp_model(family)
    by_torch = functools.partial(attention._torch_attention, dropout=0.0)
    monkeypatch.setattr(attention, "causal_attention", by_torch)
    assert worst_miss(forward(model), expected(model)) < 1e-10
    assert worst_gradient(*both_gradients(model)) < 1e-6


def gemma3_that_sees(seed=0):
    torch.manual_seed(seed)
    text = hf.Gemma3TextConfig(**SIZES, **GROUPED, **MIXED, head_dim=8)
    vision = hf.SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
    )
    config = hf.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return hf.Gemma3ForConditionalGeneration(config)


def text_pairs():
    """Of tokens that stand for no image."""
    g = torch.Generator().manual_seed(2)
    prompt, start, one, other = (
        torch.randint(20, 80, (n,), generator=g).tolist() for n in (9, 4, 7, 5)
    )
    return [Pair(prompt, start + one, start + other), Pair(one, other, prompt)]


@pytest.mark.parametrize("make", [llava, qwen2_vl, gemma3_that_sees])
@pytest.mark.parametrize("training", [False, True])
def test_text_goes_through_the_language_model_of_one_that_sees(make, training):
    model = make().double().train(training)
    model.set_attn_implementation({"": "sdpa", "vision_config": "eager"})
    names = attention_names(model.config)
    assert tree_obstacle(model) is None
    pairs = text_pairs()
    assert worst_miss(forward(model, pairs), expected(model, pairs)) < 1e-10
    assert worst_gradient(*both_gradients(model, pairs)) < 1e-6
    assert attention_names(model.config) == names


def test_torchs_own_attention_which_serves_beside_cpus_is_as_exact(monkeypatch):
    model = sharp_model("llama")
    by_torch = functools.partial(attention._torch_attention, dropout=0.0)
    monkeypatch.setattr(attention, "causal_attention", by_torch)
    assert worst_miss(forward(model), expected(model)) < 1e-10
    assert worst_gradient(*both_gradients(model)) < 1e-6


@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_a_row_of_one_pair_is_exact_whatever_is_odd_about_it(number):
    model = sharp_model("gpt_neox")
    pairs = [PAIRS[number]]
    assert worst_miss(forward(model, pairs), expected(model, pairs)) < 1e-10
    assert worst_gradient(*both_gradients(model, pairs)) < 1e-9


def test_a_prompt_that_truncation_cut_away_leaves_branches_without_a_trunk():
    """Cut at the start, the sides of a pair may begin with different tokens, or in an answer."""
    model = sharp_model("llama")
    batch = padded_batch([PAIRS[0]._replace(prompt=[])])
    found = shared_prefix_forward(model, batch, statistics=False)
    for side in SIDES:
        answer = getattr(PAIRS[0], side)
        wanted = separate_logps(model, answer[:1], answer[1:])  # nothing predicts the first
        assert (getattr(found, side).values - wanted).abs().max() < 1e-10


def test_entropy_likeliest_tokens_and_first_difference_are_those_of_the_padded_layout():
    from trl.trainer.utils import add_fused_lm_head  # what DPOTrainer does to its model

    model = sharp_model("llama", torch.float32)
    mine = forward(model)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    theirs = padded_forward(model, padded_batch(PAIRS))
    for side in SIDES:
        torch.testing.assert_close(getattr(mine, side), getattr(theirs, side))
    torch.testing.assert_close(mine.entropy_sums, theirs.entropy_sums)
    torch.testing.assert_close(mine.top1_tokens, theirs.top1_tokens.to(torch.float32))
    assert torch.equal(mine.first_differences, theirs.first_differences)
    assert mine.first_differences.tolist() == [0, 9, 9, 9, 0, 0, 10, 0, 4]


# --- leaks


def changed(pair, side, position):
    """The pair with another token at a position of one answer."""
    answer = list(getattr(pair, side))
    answer[position] = 2 + (answer[position] - 1) % 90
    return pair._replace(**{side: answer})


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("side", SIDES)
def test_no_token_of_one_branch_is_seen_by_the_other_or_by_a_neighbour(side, family):
    """Bit for bit, for each token after the first difference of the middle pair of three."""
    model = sharp_model(family, torch.float32)
    pairs = [PAIRS[0], PAIRS[8], PAIRS[7]]
    before = forward(model, pairs)
    other = SIDES[1 - SIDES.index(side)]
    for position in range(5, len(getattr(pairs[1], side))):
        after = forward(model, [pairs[0], changed(pairs[1], side, position), pairs[2]])
        assert torch.equal(getattr(after, other).values, getattr(before, other).values)
        mine, was = getattr(after, side).split(), getattr(before, side).split()
        assert torch.equal(mine[0], was[0])
        assert torch.equal(mine[2], was[2])
        assert torch.equal(mine[1][:position], was[1][:position]), "nor by what comes before it"
        assert not torch.equal(mine[1][position:], was[1][position:]), "but by what comes after"


def without_branches(*inputs, **options):
    """Attention in which the loser's branch goes on from the end of the winner's."""
    *states, mask = inputs
    trunk, chosen, rejected, window = mask.unbind(-1)
    parts = torch.stack([trunk + chosen, rejected, 0 * rejected, window], -1)
    return tree_attention(*states, parts, **options)


def without_pairs(*inputs, **options):
    """Attention in which all pairs are one sequence."""
    *states, mask = inputs
    total = mask[..., :3].sum((2, 3))
    return tree_attention(*states, total * torch.tensor([[[[1, 0, 0, 0]]]]), **options)


def without_trunk(*inputs, **options):
    """Attention in which the loser's branch does not see its prompt."""
    *states, mask = inputs
    trunk, chosen, rejected, window = mask.unbind(-1)
    none = 0 * trunk
    parts = torch.stack([trunk, chosen, none, window, rejected, none, none, window], -1)
    return tree_attention(*states, parts.reshape(1, 1, -1, 4), **options)


@pytest.mark.parametrize("broken", [without_branches, without_pairs, without_trunk])
def test_a_broken_mask_would_be_noticed(broken, monkeypatch):
    model = sharp_model("llama")
    wanted = expected(model)
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, TREE_ATTENTION, broken)
    assert worst_miss(forward(model), wanted) > 1e-2


def test_a_label_lost_at_the_branch_would_be_noticed(monkeypatch):
    """The classic mistake: the last shared token predicts one next token only."""
    model = sharp_model("llama")
    wanted = expected(model)

    def shifted(trees):
        row = packed_row(trees)
        first = row.lengths[0, 0, 0, :2].sum()  # where the first loser's branch opens
        row.labels[0, first] = row.labels[0, row.lengths[0, 0, 0, 0]]  # predict the winner's token
        return row

    monkeypatch.setattr(shared_prefix, "packed_row", shifted)
    assert worst_miss(forward(model), wanted) > 1e-2


# --- beside other features


@pytest.fixture
def on_flex(monkeypatch):
    """FlexAttention as on CUDA, its forward alone: it has no backward on a CPU, and no GPU has run
    it here. The list grows by one with every call."""
    calls = []
    real = attention._flex_attention

    def counted(*inputs):
        calls.append(inputs)
        return real(*inputs)

    monkeypatch.setattr(attention, "_flexes", lambda device: True)
    monkeypatch.setattr(attention, "NARROWEST_FLEX_HEAD", 4)
    monkeypatch.setattr(attention, "_flex_attention", counted)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # compiling takes a minute
        yield calls


def of_gpt2(**options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "n_positions": 256, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return GPT2LMHeadModel(GPT2Config(**sizes, **options)).eval()


def of_bigcode():
    """One head of keys for all heads of queries."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "n_positions": 256, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return hf.GPTBigCodeForCausalLM(hf.GPTBigCodeConfig(**sizes)).eval()


def of_olmoe():
    torch.manual_seed(0)
    sizes = SIZES | {"num_experts": 4, "num_experts_per_tok": 2}
    return hf.OlmoeForCausalLM(hf.OlmoeConfig(**sizes, **GROUPED)).eval()


UNDER_NO_NAME = {"gpt2": of_gpt2, "gpt_bigcode": of_bigcode, "olmoe": of_olmoe}
"""Models that transformers does not let attend by FlexAttention under its own name."""


@pytest.mark.parametrize(
    "family", [*UNDER_NO_NAME, "llama", "mistral, windows", "gemma2", "gpt_oss", "deepseek_v2"]
)
def test_flex_attention_says_the_same_with_its_block_mask(family, on_flex, monkeypatch):
    made, real = [], attention.tree_block_mask
    monkeypatch.setattr(
        attention, "tree_block_mask", lambda *given: made.append(given) or real(*given)
    )
    make = UNDER_NO_NAME.get(family, lambda: sharp_model(family, torch.float32))
    model = make()
    assert worst_miss(forward(model), expected(model)) < 2e-4
    assert len(on_flex) == 2, "in each layer"
    mixed = family in ("gemma2", "gpt_oss")
    assert len(made) == 1 + mixed, "one mask for all layers with the same window"


def test_no_layer_waits_for_the_device(on_flex, monkeypatch):
    """What reads a value of a tensor into Python waits until a GPU has computed it."""
    reads = []
    for name in ("item", "tolist", "nonzero", "__bool__", "__int__", "cpu", "numpy"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda tensor, *more, real=real, name=name: (
                reads.append(name) if sys._getframe(1).f_code.co_filename in OURS else None,
                real(tensor, *more),
            )[1],
        )
    counts = []
    for layers in (1, 5):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**SIZES | {"num_hidden_layers": layers}, **GROUPED))
        del reads[:]
        forward(model)
        counts.append(sorted(reads))
    assert len(on_flex) == 6
    assert counts[0], "a row has some"
    assert counts[0] == counts[1]


def test_rows_of_twenty_lengths_are_compiled_for_a_few_times(monkeypatch):
    """Once for the first length, once for any; more of it where a dimension is 1."""
    compiled = []

    def counted(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(attention, "_flexes", lambda device: True)
    monkeypatch.setattr(attention, "NARROWEST_FLEX_HEAD", 8)
    kernel = torch.compile(attention.flex_attention, backend=counted)
    monkeypatch.setattr(attention, "_compiled_flex_attention", lambda: kernel)
    model = sharp_model("llama", torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for size in range(20):
            pair = Pair(*(tokens(generator, 40 + 31 * size + k) for k in range(3)))
            found = forward(model, [pair] * (1 + size % 3))
    assert worst_miss(found, expected(model, [pair] * 2)) < 2e-4
    assert 1 <= len(compiled) <= 4


def test_under_autocast_flex_attention_gets_states_of_one_dtype(on_flex):
    model = sharp_model("llama", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        forward(model)
    assert {call[2].dtype for call in on_flex} == {torch.bfloat16}


def test_where_flex_attention_has_no_dropout_or_no_kernel_torchs_attention_serves(
    on_flex, monkeypatch
):
    monkeypatch.setattr(attention, "NARROWEST_FLEX_HEAD", 16)
    model = sharp_model("llama", torch.float32)
    assert worst_miss(forward(model), expected(model)) < 2e-4, "heads of 8"
    monkeypatch.setattr(attention, "NARROWEST_FLEX_HEAD", 8)
    dropping = of_gpt2(attn_pdrop=0.5, resid_pdrop=0.0, embd_pdrop=0.0).train()
    assert worst_miss(forward(dropping), expected(dropping.eval())) > 1e-3
    assert not on_flex


@pytest.mark.parametrize("options", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_adapters_get_the_gradients_of_separate_forwards(options):
    torch.manual_seed(0)
    lora = LoraConfig(
        target_modules=["query_key_value", "dense"], r=3, init_lora_weights=False, **options
    )
    model = get_peft_model(sharp_model("gpt_neox"), lora, autocast_adapter_dtype=False).double()
    mine, theirs = both_gradients(model)
    assert mine
    assert all("lora" in name for name in mine)
    assert worst_gradient(mine, theirs) < 1e-9


def test_adapters_of_a_model_in_four_bits_get_the_gradients_of_separate_forwards(tmp_path):
    sharp_model("llama", torch.float32).save_pretrained(tmp_path)
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, quantization_config=four_bits, device_map="cpu"
    )
    assert type(model.model.layers[1].mlp.up_proj).__name__ == "Linear4bit"
    args = APOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[])
    assert choose_layout(args, model).layout == "shared_prefix"
    lora = LoraConfig(target_modules="all-linear", r=3, init_lora_weights=False)
    model = get_peft_model(model, lora).train()  # eval() asks bitsandbytes for a kernel of a hub
    assert worst_miss(forward(model), expected(model)) < 1e-4
    mine, theirs = both_gradients(model)
    assert worst_gradient(mine, theirs) < 1e-4
    assert all("lora" in name for name in mine)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(reentrant):
    model = sharp_model("gpt_neox").train()
    sums = torch.cat(forward(model).logps)
    wanted = gradients(model, sums)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    with attends_to_trees(model):
        found = gradients(model, torch.cat(forward(model).logps))
    assert worst_gradient(found, wanted) < 1e-12


def test_a_backward_that_lost_the_trees_is_an_error_and_no_silent_change():
    model = sharp_model("gpt_neox").train()
    model.gradient_checkpointing_enable()
    sums = torch.cat(forward(model).logps)
    with pytest.raises(RuntimeError, match="mask"):
        gradients(model, sums)


def test_after_a_forward_the_model_is_as_it_was():
    model = sharp_model("llama")
    ids = torch.tensor([tokens(torch.Generator().manual_seed(1), 12)])
    before, own = model(ids).logits, model.config._attn_implementation
    forward(model)
    assert model.config._attn_implementation == own != TREE_ATTENTION
    assert "forward" not in vars(model)
    assert torch.equal(model(ids).logits, before)


def test_a_forward_that_fails_leaves_the_model_as_it_was():
    model = sharp_model("llama")
    own = model.config._attn_implementation
    batch = padded_batch(PAIRS)
    batch["input_ids"][0, 0] = model.config.vocab_size  # one beyond the last
    with pytest.raises(IndexError):
        shared_prefix_forward(model, batch, statistics=False)
    assert model.config._attn_implementation == own
    assert "forward" not in vars(model)


def test_bfloat16_autocast_stays_near_float32():
    model = sharp_model("smollm2", torch.float32)
    exact = forward(model)
    with torch.autocast("cpu", torch.bfloat16):
        near = forward(model)
    assert near.chosen.values.dtype == torch.float32
    misses = (near.chosen.values - exact.chosen.values).abs()
    assert 0 < misses.mean() < 0.3
