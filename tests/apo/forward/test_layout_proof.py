"""The way of a run is proven: each fault is found, said in a line, and the next way is taken."""

import logging

import pytest
import torch
import transformers as hf
from accelerate import Accelerator
from torch import nn
from transformers import LlamaForCausalLM

from clair_apo.apo.forward import attention, layout_check, layout_choice, shared_prefix
from clair_apo.apo.forward.attention import FLEX_ATTENTION, PER_BRANCH, SEQUENCES, tree_attention
from clair_apo.apo.forward.layout import PairLayout
from clair_apo.apo.forward.layout_check import PADDED, WAYS, compare_layouts
from clair_apo.apo.forward.layout_measure import MOST_WEIGHTS, few_weights
from clair_apo.apo.forward.shared_prefix import shared_prefix_forward
from clair_apo.apo.trl_compat import add_fused_lm_head
from clair_apo.errors import ConfigError
from tests.helpers.tiny_apo import make_model
from tests.helpers.tiny_pairs import (
    FAMILIES,
    GROUPED,
    SIZES,
    edge_pairs,
    padded_batch,
    separate_logps,
    sharp_model,
)

CPU = torch.device("cpu")
PAIRS = padded_batch(edge_pairs())


@pytest.fixture
def settle(config, caplog):
    """Settles the way of a model; gives the layout, and what was said."""

    def settled(model, asked="auto", **forwards):
        layout = PairLayout(config(pair_layout=asked), model, Accelerator(cpu=True))
        for forward in (model, *forwards.values()):
            add_fused_lm_head(forward, outputs=("log_probs", "entropy", "is_top1"))
        caplog.clear()
        with caplog.at_level(logging.WARNING, "clair_apo"):
            layout.settle(model, {"": model, **forwards}, lambda count: PAIRS)
        ours = [r.getMessage() for r in caplog.records if r.name.startswith("clair_apo")]
        return layout, ours

    return settled


def llama(kind=LlamaForCausalLM):
    torch.manual_seed(0)
    return kind(sharp_model("llama", torch.float32).config).float()


# --- a kernel for all trees at once that is wrong


@pytest.fixture
def fused(monkeypatch):
    """Puts a kernel in FlexAttention's place, and lets the CPU have it."""

    def put(kernel):
        monkeypatch.setattr(attention, "_flexes", lambda device: True)
        monkeypatch.setattr(attention, "NARROWEST_FLEX_HEAD", 8)
        monkeypatch.setattr(attention, "_flex_attention", kernel)

    return put


def right(query, key, value, mask, scoring):
    states = query, key, value, mask
    return tree_attention(nn.Module(), *states, scaling=scoring.scaling, kernel=PER_BRANCH)[0]


def mask_off_by_one(query, key, value, mask, scoring):
    """Rejected branches do not see the last token of their trunk."""
    moved = (mask[..., 0] > 0).long()
    shift = torch.stack([-moved, moved, 0 * moved, 0 * moved], -1)
    return right(query, key, value, mask + shift, scoring)


def nan_in_one_place(*states):
    found = right(*states)
    return found.masked_fill(torch.arange(found.shape[1])[:, None, None] == 3, torch.nan)


def nan_backward(*states):
    found = right(*states)
    if found.requires_grad:
        found.register_hook(lambda grad: grad * torch.nan)
    return found


def raises(*states):
    raise RuntimeError("no kernel image\nis available")


def value_detached(query, key, value, mask, scoring):
    return right(query, key, value.detach(), mask, scoring)


def key_of_one_head_scaled_backward(query, key, value, mask, scoring):
    key = key + (key[:, :1] - key[:, :1].detach()) * 0.05
    return right(query, key, value, mask, scoring)


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (mask_off_by_one, "log-probs of 52 answer tokens through FlexAttention differ"),
        (nan_in_one_place, "own forward by NaN or infinity nats (allowed: 0.001)"),
        (nan_backward, "own forward by NaN or infinity of their size (allowed: 0.005)"),
        (raises, "through FlexAttention fails (RuntimeError: no kernel image is available)"),
        (value_detached, "gradients of 12 weights through FlexAttention differ"),
        (key_of_one_head_scaled_backward, "gradients of 12 weights through FlexAttention differ"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
@pytest.mark.parametrize("asked", ["auto", "shared_prefix"])
def test_a_wrong_kernel_is_found_and_branches_are_taken_one_by_one(
    kernel, said, asked, fused, settle
):
    fused(kernel)
    layout, (line,) = settle(llama(), asked)
    assert layout.way == PER_BRANCH
    assert line.startswith(f"pair_layout {asked}: attention per branch, because ")
    assert said in line
    failed, taken = layout.proof.compared
    assert (failed.way, taken.way) == (FLEX_ATTENTION, PER_BRANCH)
    assert failed.reason in line
    assert taken.reason is None and taken.tokens == 52 and taken.weights == MOST_WEIGHTS
    assert str(layout.proof).startswith("shared_prefix through attention per branch; log-probs")
    assert f"not FlexAttention: {failed.reason}" in str(layout.proof)


def test_a_right_kernel_is_taken_and_nothing_is_said(fused, settle):
    fused(right)
    layout, said = settle(llama())
    assert (layout.way, said) == (FLEX_ATTENTION, [])
    (found,) = layout.proof.compared
    assert found.difference < 1e-5 and found.gradient_difference < 1e-5


def test_log_probs_alone_would_not_have_found_a_detached_value(fused):
    fused(value_detached)
    agreement = compare_layouts(llama(), lambda count: PAIRS, CPU, FLEX_ATTENTION, trained=False)
    assert agreement.reason is None
    assert agreement.weights == 0


def test_flex_attention_that_has_no_backward_here_is_given_up(monkeypatch, settle):
    """torch's own, on a CPU: its forward is right."""
    monkeypatch.setattr(attention, "_flexes", lambda device: True)
    monkeypatch.setattr(attention, "NARROWEST_FLEX_HEAD", 8)
    with torch.compiler.set_stance("force_eager"):  # compiling takes a minute
        layout, (line,) = settle(llama())
    assert layout.way == PER_BRANCH
    assert "backward through FlexAttention fails (NotImplementedError: " in line


def test_a_reference_that_fails_takes_the_policy_along_which_is_compared_anew(fused, settle):
    reference = llama()
    layer = reference.model.layers[0].self_attn
    layer.scaling *= 1.5  # by which it is known

    def wrong_for_it(*states):
        found = right(*states)
        return found * 2 if states[-1].scaling == layer.scaling else found

    fused(wrong_for_it)
    layout, (line,) = settle(llama(), **{"the reference: ": reference})
    assert layout.way == PER_BRANCH
    assert "because the reference: log-probs" in line
    tried = [(found.model, found.way, found.weights) for found in layout.proof.compared]
    assert tried == [
        ("", FLEX_ATTENTION, MOST_WEIGHTS),
        ("the reference: ", FLEX_ATTENTION, 0),
        ("", PER_BRANCH, MOST_WEIGHTS),
        ("the reference: ", PER_BRANCH, 0),
    ]


# --- trees that are wrong on any kernel


def position_moved(monkeypatch):
    """Rejected branches count from one too far."""
    real = shared_prefix.packed_row

    def packed(trees):
        row = real(trees)
        starts = torch.cumsum(row.lengths.flatten(), 0) - row.lengths.flatten()
        for start, size in zip(starts[2::3], row.lengths.flatten()[2::3], strict=True):
            row.positions[0, start : start + size] += 1
        return row

    monkeypatch.setattr(shared_prefix, "packed_row", packed)


def test_a_wrong_position_is_padded_and_refused_by_name(monkeypatch, settle):
    position_moved(monkeypatch)
    layout, (line,) = settle(llama())
    assert layout.is_padded
    assert line.startswith(
        "pair_layout auto: padded, because log-probs of 52 answer tokens through attention per "
        "branch differ from the model's own forward by "
    )
    padded = layout.proof.compared[-1]
    assert padded.way == PADDED and padded.reason is None and padded.tokens == 52
    with pytest.raises(ConfigError, match=r"pair_layout shared_prefix: log-probs .* set .* auto"):
        settle(llama(), "shared_prefix")


def test_each_way_that_fails_has_a_line_of_its_own(monkeypatch, fused, settle):
    fused(right)
    position_moved(monkeypatch)
    layout, said = settle(llama())
    assert layout.is_padded
    assert [line.split(",")[0] for line in said] == [
        "pair_layout auto: attention per branch",
        "pair_layout auto: padded",
    ]
    assert [found.way for found in layout.proof.compared] == [FLEX_ATTENTION, PER_BRANCH, PADDED]


class ScaledLogits(LlamaForCausalLM):
    """Multiplies its logits, under a name that no list has."""

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.logits = outputs.logits * 0.9
        return outputs


class BiasedHead(LlamaForCausalLM):
    """Adds a bias that its head does not have."""

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        bias = torch.linspace(-0.1, 0.1, outputs.logits.shape[-1])
        outputs.logits = outputs.logits + bias
        return outputs


def test_a_scale_that_no_list_has_is_found_by_asking_the_model(settle):
    model = llama(ScaledLogits)
    layout, said = settle(model, "shared_prefix")
    assert layout.way == PER_BRANCH
    assert not said
    assert layout.proof.compared[0].difference < 1e-4


def test_a_head_that_does_more_is_padded_and_it_is_said_that_trls_head_does_not(settle):
    layout, (why, warning) = settle(llama(BiasedHead))
    assert layout.is_padded
    assert why.endswith("the model does more to its logits than to scale and to cap them")
    assert warning.startswith("pair_layout: log-probs of 52 answer tokens through padded rows")
    assert "That is the head of TRL" in warning
    with pytest.raises(ConfigError, match="than to scale and to cap them"):
        settle(llama(BiasedHead), "shared_prefix")


KINDS = {
    "sliding": lambda: hf.MistralForCausalLM(
        hf.MistralConfig(**SIZES, **GROUPED, sliding_window=4)
    ),
    "scaled": lambda: hf.CohereForCausalLM(hf.CohereConfig(**SIZES, **GROUPED, logit_scale=0.1)),
    "capped": lambda: hf.Gemma2ForCausalLM(
        hf.Gemma2Config(
            **SIZES, **GROUPED, head_dim=8, attn_logit_softcapping=0.1, sliding_window=4
        )
    ),
    "with a state": lambda: hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=97, hidden_size=16, num_hidden_layers=2, state_size=4)
    ),
    "with attention of its own": lambda: hf.BloomForCausalLM(
        hf.BloomConfig(vocab_size=97, hidden_size=16, n_layer=2, n_head=2)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_list_of_kinds_a_model_is_padded_or_exact(kind, monkeypatch, settle):
    monkeypatch.setattr(layout_choice, "_OBSTACLES", ())
    monkeypatch.setattr(layout_choice, "_OBSTACLES_TO_SHARING", ())
    monkeypatch.setattr(layout_choice, "_other_layers", lambda config: None)
    torch.manual_seed(0)
    model = KINDS[kind]()
    layout, said = settle(model)
    if layout.is_padded:
        assert len(said) == 1 and said[0].startswith("pair_layout auto: padded, because ")
        return
    found = shared_prefix_forward(model, PAIRS, statistics=False, kernel=layout.way)
    for pair, logps in zip(edge_pairs(), found.rejected.split(), strict=True):
        torch.testing.assert_close(
            logps.double(), separate_logps(model, pair.prompt, pair.rejected), atol=1e-4, rtol=1e-4
        )


# --- what it costs, and on what it rests


def test_it_costs_two_forwards_and_two_backwards_of_few_tokens(monkeypatch):
    model = make_model()
    tokens, backwards = [], []
    model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: tokens.append(inputs[0].numel())
    )
    real = torch.autograd.grad

    def counted(*given, **more):
        backwards.append(given)
        return real(*given, **more)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    ids = PAIRS["input_ids"] % 86
    batch = PAIRS | {"input_ids": ids}
    found = compare_layouts(model, lambda count: batch, CPU, PER_BRANCH, trained=True)
    assert found.reason is None
    assert len(tokens) == len(backwards) == 2
    assert max(tokens) <= 1024


def test_few_weights_are_trained_ones_from_the_first_to_the_last():
    model = sharp_model("llama")
    names = [name for name, _ in model.named_parameters()]
    few = list(few_weights(model))
    assert len(few) == MOST_WEIGHTS
    assert (few[0], few[-1]) == (names[0], names[-1])
    assert {name.split(".")[2] for name in few if ".layers." in name} == {"0", "1"}
    model.requires_grad_(False)
    model.model.layers[1].mlp.up_proj.weight.requires_grad_(True)
    assert list(few_weights(model)) == ["model.layers.1.mlp.up_proj.weight"]


def test_gradients_are_compared_under_autocast_as_well():
    found = compare_layouts(
        llama(),
        lambda count: PAIRS,
        CPU,
        PER_BRANCH,
        trained=True,
        autocast=lambda: torch.autocast("cpu", torch.bfloat16),
    )
    assert found.reason is None
    assert found.difference > 1e-4, "rounded to 16 bits"
    assert 1e-3 < found.gradient_difference < found.gradient_allowed == layout_check.HALF.gradients


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_right_trees_stay_well_within_the_tolerances_in_every_family(half):
    allowed = layout_check.HALF if half else layout_check.FP32
    for family in FAMILIES:
        model = sharp_model(family, torch.bfloat16 if half else torch.float32)
        found = compare_layouts(model, lambda count: PAIRS, CPU, PER_BRANCH, trained=True)
        assert (found.allowed, found.gradient_allowed) == allowed
        assert 0 < found.difference < allowed.logps / 5, family
        assert 0 < found.gradient_difference < allowed.gradients / 4, family


def test_every_way_has_words():
    assert set(WAYS) == {FLEX_ATTENTION, PER_BRANCH, SEQUENCES, PADDED}
