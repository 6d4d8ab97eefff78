"""Trees are taken only where they say what the model says itself: tried before anything is kept."""

import copy
import logging
import random
import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from clair_apo.apo.forward import layout as layout_module
from clair_apo.apo.forward import layout_choice
from clair_apo.apo.forward.attention import PER_BRANCH, UnknownKeywordError, tree_attention
from clair_apo.apo.forward.layout import PairLayout
from clair_apo.apo.forward.layout_check import compare_layouts, foreign_hooks
from clair_apo.apo.forward.layout_measure import few_pairs
from clair_apo.errors import ConfigError
from tests.helpers.tiny_apo import make_model, make_rows
from tests.helpers.tiny_pairs import edge_pairs, padded_batch, sharp_model

CPU = torch.device("cpu")
PAIRS = padded_batch(edge_pairs())
PAIRS["input_ids"] %= 86  # the smaller of the tiny models' vocabularies


def compared(model):
    return compare_layouts(model, lambda count: PAIRS, CPU, PER_BRANCH, trained=True)


@pytest.fixture
def make(apo_trainer):
    return lambda model, reference=None, data=None, collator=None, **options: apo_trainer(
        model, data, ref_model=reference, data_collator=collator, **options
    )


def losses(trainer):
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def why_padded(caplog):
    (line,) = [m for m in caplog.messages if m.startswith("pair_layout auto: ")]
    return line


# --- keywords


def states():
    return [torch.randn(1, heads, 5, 4) for heads in (2, 1, 1)]


@pytest.mark.parametrize(
    "keyword",
    [
        {"sliding_window": 4},
        {"position_bias": torch.zeros(1, 2, 5, 5)},
        {"is_causal": False},
        {"something_new": 0.0},
    ],
    ids=lambda keyword: next(iter(keyword)),
)
def test_a_keyword_that_may_change_the_function_is_refused_by_name(keyword):
    lengths = torch.tensor([[[[2, 2, 1, 0]]]])
    neutral = {"sliding_window": None, "softcap": None, "is_causal": True, "use_cache": False}
    tree_attention(torch.nn.Module(), *states(), lengths, **neutral)
    names = {"is_causal": "causal", "sliding_window": "a window of 4, and its mask has none"}
    name = names.get(next(iter(keyword)), next(iter(keyword)))
    with pytest.raises(UnknownKeywordError, match=name):
        tree_attention(torch.nn.Module(), *states(), lengths, **keyword)


# --- what no list knows


class Scaled(LlamaForCausalLM):
    """Multiplies its logits, which are none of its head's, and tells nobody."""

    factor = 0.7

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        if outputs.logits.dtype != torch.float64:  # not those that a head is asked by
            outputs.logits = outputs.logits * self.factor
        return outputs


class Broken(LlamaForCausalLM):
    """Cannot go through anything but whole sequences of its own."""

    def __init__(self, config):
        super().__init__(config)
        self.model.register_forward_pre_hook(self.look, with_kwargs=True)

    def look(self, module, args, kwargs):
        if len(kwargs["input_ids"]) == 1:
            raise LookupError("no such row")


def of_kind(kind):
    torch.manual_seed(0)
    return kind(make_model().config)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Scaled, "own forward by"), (Broken, r"\(LookupError: no such row\)")],
)
def test_a_difference_or_an_error_pads_and_one_line_says_what_was_off(kind, reason, make, caplog):
    with caplog.at_level(logging.WARNING, "clair_apo"):
        trainer = make(of_kind(kind))
    assert trainer.pair_layout == "padded"
    assert why_padded(caplog).startswith("pair_layout auto: padded, because ")
    assert re.search(reason, why_padded(caplog))
    with pytest.raises(ConfigError, match=reason):
        make(of_kind(kind), pair_layout="shared_prefix")


def test_how_far_apart_they_are_is_said_in_nats():
    """Scaled logits z: log-probs change by -0.3 z[y] and the change of their log-sum-exp."""
    model = of_kind(Scaled).eval()
    pairs = few_pairs(lambda count: PAIRS)
    with torch.no_grad():
        logits = LlamaForCausalLM.forward(model, input_ids=pairs["input_ids"]).logits[:, :-1]
    labels = pairs["input_ids"][:, 1:, None]
    plain, scaled = (
        (factor * logits).log_softmax(-1).gather(2, labels)[..., 0] for factor in (1.0, 0.7)
    )
    wanted = ((plain - scaled) / scaled.abs().clamp(min=1)).abs()
    seen = pairs["completion_mask"][:, 1:].bool()
    found = compared(model)
    assert found.tokens == seen.sum()
    assert found.difference == pytest.approx(wanted[seen].max().item(), rel=1e-3)
    assert f"{found.difference:.2g} nats (allowed: 0.001)" in found.reason


def test_a_reference_of_another_kind_is_looked_at_too(make, caplog):
    reference = of_kind(Scaled)
    with caplog.at_level(logging.WARNING, "clair_apo"):
        trainer = make(make_model(), reference)
    assert trainer.pair_layout == "padded"
    assert "because the reference: log-probs" in why_padded(caplog)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gpt_neox"])
def test_models_that_trees_are_exact_for_agree_in_every_dtype(family, dtype):
    found = compared(sharp_model(family, dtype))
    assert found.reason is None
    assert found.tokens > 20


def test_where_another_process_finds_a_difference_this_one_pads_too(make, monkeypatch, caplog):
    monkeypatch.setattr(layout_module, "gather_object", lambda found: [*found, "rank 1 says so"])
    with caplog.at_level(logging.WARNING, "clair_apo"):
        assert make(make_model()).pair_layout == "padded"
    assert why_padded(caplog).endswith("because rank 1 says so")


# --- hooks and adapters


def noise(module, inputs, output):
    """NEFTune's: by the square root of length times width."""
    if not module.training:
        return output
    size = 50 / (output.shape[1] * output.shape[2]) ** 0.5
    return output + torch.empty_like(output).uniform_(-size, size)


def places(module, inputs, output):
    """A position of its own for every place of a row."""
    return output + torch.arange(output.shape[1])[None, :, None].sin() / 3


def reads(module, inputs, output):
    module.seen = output.shape


def hooked(hook, seed=0):
    model = make_model(seed)
    model.get_input_embeddings().register_forward_hook(hook)
    return model


@pytest.mark.parametrize("hook", [noise, places])
def test_a_hook_that_expects_sequences_pads_and_leaves_batches_whole(hook, make, caplog):
    with caplog.at_level(logging.WARNING, "clair_apo"):
        trainer = make(hooked(hook), make_model(1), max_tokens_per_batch=20)
    assert "you have hooks on model.embed_tokens" in why_padded(caplog)
    found = losses(trainer)
    whole = make(hooked(hook), make_model(1), pair_layout="padded", max_tokens_per_batch=None)
    assert losses(whole) == found


def test_a_hook_that_only_reads_keeps_trees(make):
    assert make(hooked(reads)).pair_layout == "shared_prefix"


def test_a_hook_that_is_registered_later_is_found_when_training_begins(make, caplog):
    trainer = make(make_model(), make_model(1))
    assert trainer.pair_layout == "shared_prefix"
    trainer.model.model.layers[0].register_forward_hook(places)
    with caplog.at_level(logging.WARNING, "clair_apo"):
        trainer.train()
    assert trainer.pair_layout == "padded"
    assert "model.layers.0" in why_padded(caplog)


def test_a_forward_that_was_replaced_counts_as_a_hook():
    model = make_model()
    embed = model.get_input_embeddings()
    own = embed.forward
    embed.forward = lambda ids: noise(embed, None, own(ids))
    assert list(foreign_hooks(model)) == ["model.embed_tokens"]
    assert "model.embed_tokens" in compared(model).reason


def test_hooks_of_the_libraries_are_no_reason():
    model = make_model()
    model.enable_input_require_grads()
    lora = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    assert not foreign_hooks(get_peft_model(model, lora))


@pytest.mark.parametrize("limit", [None, 20])
def test_neftune_is_as_with_trl_in_every_layout_and_row(limit, make, tokenizer, tmp_path, caplog):
    from trl import DPOConfig, DPOTrainer

    options = {"neftune_noise_alpha": 50.0, "max_tokens_per_batch": limit}
    with caplog.at_level(logging.WARNING, "clair_apo"):
        mine = make(make_model(), make_model(1), **options)
    assert "neftune_noise_alpha" in why_padded(caplog)
    found, args = losses(mine), mine.args
    names = ("max_steps", "per_device_train_batch_size", "learning_rate", "logging_steps", "seed")
    theirs = DPOTrainer(
        model=make_model(),
        ref_model=make_model(1),
        args=DPOConfig(
            output_dir=str(tmp_path / "trl"),
            loss_type=["apo_zero"],
            neftune_noise_alpha=50.0,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to=[],
            **{name: getattr(args, name) for name in names},
        ),
        train_dataset=Dataset.from_list(make_rows(8)),
        processing_class=tokenizer,
    )
    assert found == pytest.approx(losses(theirs), rel=1e-5)
    with pytest.raises(ConfigError, match="neftune_noise_alpha"):
        make(make_model(), make_model(1), pair_layout="shared_prefix", **options)


def test_statistics_over_a_batch_pad_and_leave_it_whole(make, caplog):
    class Norm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.over_tokens = torch.nn.BatchNorm1d(32)

        def forward(self, states):
            return self.over_tokens(states.transpose(1, 2)).transpose(1, 2)

    def model(seed):
        made = make_model(seed)
        made.model.norm = Norm()
        return made

    with caplog.at_level(logging.WARNING, "clair_apo"):
        cut = make(model(0), model(1), max_tokens_per_batch=20)
    assert "model.norm.over_tokens takes statistics" in why_padded(caplog)
    assert losses(cut) == losses(make(model(0), model(1), max_tokens_per_batch=None))


def counting_adapter():
    """Acts on the tokens from its invocation on, which it looks for in each row."""
    return LoraConfig(
        target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", alora_invocation_tokens=[4]
    )


def test_an_adapter_that_counts_from_the_end_pads(make, caplog):
    with caplog.at_level(logging.WARNING, "clair_apo"):
        make(make_model(), peft_config=counting_adapter())
    assert "counts tokens from the end" in why_padded(caplog)


def test_a_new_adapter_is_looked_at_although_it_does_nothing_yet(make, monkeypatch, caplog):
    """No list of kinds is needed: its zeros have values while the layouts are compared."""
    monkeypatch.setattr(layout_choice, "_counting_adapter", lambda model: None)
    with caplog.at_level(logging.WARNING, "clair_apo"):
        trainer = make(make_model(), peft_config=counting_adapter())
    assert "nats" in why_padded(caplog)
    weights = dict(trainer.model.named_parameters())
    zeros = [weight for name, weight in weights.items() if "lora_B" in name]
    assert zeros
    assert not any(weight.any() for weight in zeros)


def test_a_plain_new_adapter_keeps_trees(make):
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    assert make(make_model(), peft_config=lora).pair_layout == "shared_prefix"


# --- nothing stays changed


def test_a_comparison_leaves_no_trace():
    model = hooked(noise).train()
    model.model.layers[0].eval()
    sum(weight.sum() for weight in model.parameters()).backward()
    before = copy.deepcopy(model)
    modes = [module.training for module in model.modules()]
    grads = [weight.grad.clone() for weight in model.parameters()]

    def drawn():
        return torch.rand(3).tolist(), random.random(), np.random.rand()

    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    wanted = drawn()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    one, two = compared(model), compared(model)
    assert drawn() == wanted
    assert one == two
    assert one.reason is not None
    assert [module.training for module in model.modules()] == modes
    assert model.config._attn_implementation == before.config._attn_implementation
    assert vars(model).keys() == vars(before).keys()
    for weight, was, grad in zip(model.parameters(), before.parameters(), grads, strict=True):
        assert torch.equal(weight, was)
        assert torch.equal(weight.grad, grad)


def test_training_is_bit_for_bit_as_without_the_comparison(make, monkeypatch):
    with_it = losses(make(make_model(), make_model(1)))
    monkeypatch.setattr(PairLayout, "settle", lambda self, *given: None)
    assert losses(make(make_model(), make_model(1))) == with_it
