"""Tiny models with layers that share nothing, and references that keep packed sequences apart."""

import sys

import torch
import transformers as hf

from tests.helpers.tiny_pairs import GROUPED, SIZES

MAMBA = {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 16}
MODELS = {
    "mamba2": lambda: hf.Mamba2ForCausalLM(
        hf.Mamba2Config(
            **{k: SIZES[k] for k in ("vocab_size", "hidden_size")},
            **MAMBA,
            expand=2,
            num_hidden_layers=2,
            initializer_range=0.3,
        )
    ),
    "lfm2": lambda: hf.Lfm2ForCausalLM(
        hf.Lfm2Config(
            **SIZES,
            **GROUPED,
            layer_types=["conv", "full_attention"],
            conv_L_cache=4,
            block_auto_adjust_ff_dim=False,
        )
    ),
    "qwen3_5": lambda: hf.Qwen3_5ForCausalLM(
        hf.Qwen3_5TextConfig(
            **SIZES,
            **GROUPED,
            head_dim=8,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            layer_types=["linear_attention", "full_attention"],
        )
    ),
    "granite 4": lambda: hf.GraniteMoeHybridForCausalLM(
        hf.GraniteMoeHybridConfig(
            **SIZES,
            **GROUPED,
            **{
                f"mamba_{k}": v
                for k, v in {
                    "n_heads": 8,
                    "d_head": 8,
                    "d_state": 8,
                    "n_groups": 2,
                    "chunk_size": 16,
                    "expand": 2,
                }.items()
            },
            layer_types=["mamba", "attention"],
            num_local_experts=0,
            shared_intermediate_size=32,
        )
    ),
}
"""One layer with a state or a convolution, and one of attention; Mamba 2 has two of the first."""


def packed_model(family, dtype=torch.float64):
    """A tiny model whose answers hang on all of their sequence."""
    torch.manual_seed(0)
    model = MODELS[family]().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(2.0)
    return model.to(dtype)


def _spans(boundaries, length):
    seq_idx, starts = boundaries.get("seq_idx"), boundaries.get("cu_seqlens")
    if starts is not None:
        return list(zip(starts.tolist(), starts.tolist()[1:], strict=False))
    if seq_idx is None:
        return [(0, length)]
    _, counts = seq_idx[0].unique_consecutive(return_counts=True)
    ends = counts.cumsum(0).tolist()
    return list(zip([0, *ends], ends, strict=False))


def _apart(function, dim, tokens):
    """The function of a layer, called for one sequence after the other."""

    def kept_apart(*given, **named):
        length = given[0].shape[dim]
        boundaries = {k: named.pop(k, None) for k in ("seq_idx", "cu_seqlens")}

        def part(value, start, end):
            return (
                value.narrow(dim, start, end - start) if isinstance(value, torch.Tensor) else value
            )

        found = []
        for start, end in _spans(boundaries, length):
            cut = [part(x, start, end) if i in tokens else x for i, x in enumerate(given)]
            also = {k: part(x, start, end) if k in tokens else x for k, x in named.items()}
            found.append(function(*cut, **also))
        if isinstance(found[0], tuple):
            return torch.cat([x for x, _ in found], 1), found[-1][1]
        return torch.cat(found, dim)

    return kept_apart


_LAYERS = {
    "causal_conv1d_fn": (2, {0}),
    "mamba2_chunk_scan": (1, {0, 1, 3, 4}),
    "torch_chunk_gated_delta_rule": (1, {0, 1, 2, "g", "beta"}),
}
"""The dimension of the tokens, and the arguments that have one."""


def keep_apart(monkeypatch, model, ignoring=()):
    """Let the layers of a model heed boundaries, as kernels do, or ignore them; in float64."""
    module = sys.modules[type(model).__module__]
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    for name, (dim, tokens) in _LAYERS.items():
        if hasattr(module, name):
            reference = getattr(module, name).__wrapped__
            while hasattr(reference, "__wrapped__"):
                reference = reference.__wrapped__
            heeds = name not in ignoring
            monkeypatch.setattr(
                module, name, _apart(reference, dim, tokens) if heeds else reference
            )
