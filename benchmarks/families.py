"""Every causal kind of model that transformers knows, tiny and random: trees beside its forward.

    python benchmarks/families.py                 # all kinds, about ten minutes on two cores
    python benchmarks/families.py gemma2 gpt_oss  # some of them, into the table that is there

A kind is its configuration with sizes cut down by the names of its fields. Its log-probs of both
answers of a few pairs, through shared beginnings and from one forward for each sequence, and their
gradients, are compared in float64. Nothing is fetched. What is found is written to
`benchmarks/families.json` and `docs/families.md`, and in short to `docs/training.md`.
"""

import argparse
import contextlib
import json
import os
import signal
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from clair_apo.apo.forward.layout_choice import tree_obstacle
from clair_apo.apo.forward.shared_prefix import shared_prefix_forward
from clair_apo.errors import ClairApoError

ROOT = Path(__file__).resolve().parent.parent
JSON = ROOT / "benchmarks" / "families.json"
TABLE = ROOT / "docs" / "families.md"
SUMMARY = ROOT / "docs" / "training.md"
SECONDS_PER_KIND = 60
EXACT = 1e-5
"""Nats: some models compute in float32 whatever their dtype."""

WINDOW = 8
VOCABULARY = 97
SIZES: dict[str, Any] = {
    "attention_chunk_size": WINDOW,
    "bos_token_id": 2,
    "conv_kernel": 4,
    "d_ff": 48,
    "d_kv": 8,
    "d_model": 32,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "decoder_layers": 2,
    "dim": 32,
    "embedding_size": 32,
    "eos_token_id": 1,
    "expert_ffn_hidden_size": 16,
    "ffn_dim": 48,
    "ffn_hidden_size": 48,
    "first_k_dense_replace": 1,
    "global_head_dim": 8,
    "head_dim": 8,
    "hidden_size": 32,
    "hidden_size_per_layer_input": 8,
    "initializer_range": 0.2,
    "intermediate_size": 48,
    "intermediate_size_mlp": 48,
    "kv_lora_rank": 16,
    "linear_key_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_head_dim": 16,
    "mamba_n_groups": 1,
    "mamba_n_heads": 4,
    "mamba_num_heads": 4,
    "max_position_embeddings": 256,
    "moe_intermediate_size": 16,
    "moe_k": 2,
    "moe_num_experts": 4,
    "moe_topk": 2,
    "n_embd": 32,
    "n_group": 1,
    "n_head": 4,
    "n_inner": 48,
    "n_layer": 2,
    "n_layers": 2,
    "n_positions": 256,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_attention_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_kv_heads": 2,
    "num_layers": 2,
    "num_local_experts": 4,
    "pad_token_id": 0,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "query_pre_attn_scalar": 8,
    "rotary_dim": 8,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 48,
    "sliding_window": WINDOW,
    "state_size": 8,
    "topk_group": 1,
    "v_head_dim": 4,
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
}
"""What a field of a configuration becomes, wherever it has a value."""
HEADS = {"head_dim": 8}
CONVOLUTIONS = {"layer_types": ["conv", "full_attention"]}
OF_KIND: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "hunyuan_v1_dense": HEADS,
    "hunyuan_v1_moe": HEADS,
    "lfm2": CONVOLUTIONS,
    "lfm2_moe": CONVOLUTIONS,
    "mamba2": {"head_dim": 16},
    "ministral": HEADS,
    "nemotron": {"num_key_value_heads": 2} | HEADS,
    "zaya": {"num_experts_per_tok": 1},
}
"""What a kind needs beside that, so that its sizes agree."""


@dataclass
class Kind:
    """What was found of one kind."""

    name: str
    layout: str = "failed"
    shared: str = ""
    largest_difference: float | None = None
    gradient_difference: float | None = None
    reason: str = ""


class OutOfTimeError(Exception):
    """A kind took too long."""


def main() -> None:
    """Compare all kinds, or those named, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help="all by default")
    asked = parser.parse_args().kinds
    names = asked or sorted({kind.model_type for kind in MODEL_FOR_CAUSAL_LM_MAPPING})
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    found = {} if not asked else {kind.name: kind for kind in read()}
    for name in names:
        found[name] = look_at(name)
        print(*row(found[name]), sep=" | ", flush=True)
    keep([found[name] for name in sorted(found)])


def look_at(name: str) -> Kind:
    """What trees do with one kind, whatever goes wrong."""
    try:
        with time_limit(SECONDS_PER_KIND):
            return compared(name)
    except Exception as error:  # the next kind is looked at all the same
        words = " ".join(str(error).split())[:160]
        return Kind(name, reason=f"{type(error).__name__}: {words}")


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Break off what takes longer."""

    def over(*_: Any) -> None:
        raise OutOfTimeError(f"more than {seconds} seconds of the processor")

    signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of the processor, however busy the machine is
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def compared(name: str) -> Kind:
    """Both forwards of one tiny model."""
    model = tiny_model(name)
    reason = tree_obstacle(model, longest=128)
    if reason:
        return Kind(name, "padded", reason=reason)
    pairs = some_pairs()
    batch = padded_batch(pairs)
    own = torch.cat([separate_logps(model, pairs, side) for side in (1, 2)])
    own_gradient = gradient(model, own)
    try:
        trees = shared_prefix_forward(model, batch, statistics=False)
    except ClairApoError as error:
        return Kind(name, "padded", reason=str(error))
    values = torch.cat([trees.chosen.values, trees.rejected.values])
    miss = (values - own).abs().max().item()
    rough = (gradient(model, values) - own_gradient).norm() / own_gradient.norm()
    if not miss <= EXACT:
        return Kind(name, "padded", "", miss, rough.item(), "log-probs differ (self-check)")
    return Kind(name, "shared_prefix", what_is_shared(model), miss, rough.item())


# --- a tiny model


def tiny_model(name: str) -> Any:
    """A random model of a kind in float64, whose weights are large enough to attend by."""
    torch.manual_seed(0)
    config = shrunk(AutoConfig.for_model(name))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with contextlib.suppress(Exception):
        model.set_experts_implementation("eager")  # the grouped kernel knows no float64
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.is_floating_point() and not weight.abs().sum() > 0:  # sinks, biases
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return model.double().eval()


def shrunk(config: Any) -> Any:
    """A configuration of the same kind with small sizes."""
    changes: dict[str, Any] = {}
    for key, value in config.to_dict().items():
        if key in config.sub_configs and getattr(config, key, None) is not None:
            changes[key] = shrunk(getattr(config, key))
        elif key in SIZES and not isinstance(value, list | dict):
            if value is not None or key.endswith("_token_id"):
                changes[key] = SIZES[key]
        elif key in ("layer_types", "layers_block_type", "mlp_layer_types"):
            changes[key] = both_kinds(value)
        elif is_setting(key, value):
            changes[key] = value
    if "kv_lora_rank" in changes:  # each head has keys of its own there
        changes["num_key_value_heads"] = SIZES["num_attention_heads"]
    if "is_decoder" in changes:
        changes["is_decoder"] = True
    return type(config)(**(changes | OF_KIND.get(config.model_type, {})))


def is_setting(key: str, value: Any) -> bool:
    """Whether a field says of what kind a model is, and is no size."""
    if key in ("model_type", "transformers_version", "architectures", "dtype", "_name_or_path"):
        return False
    if key == "rope_parameters":
        return isinstance(value, dict) and not any(isinstance(v, list) for v in value.values())
    return isinstance(value, str | bool | float)


def both_kinds(kinds: list[str] | None) -> list[str] | None:
    """One layer of the first kind and one of another, if there is another."""
    if not kinds:
        return None
    others = [kind for kind in kinds if kind != kinds[0]]
    return [kinds[0], (others or kinds)[0]]


# --- pairs


def some_pairs() -> list[tuple[list[int], list[int], list[int]]]:
    """Prompt, chosen and rejected answer of three pairs, longer than the window."""
    generator = torch.Generator().manual_seed(3)

    def tokens(count: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()

    start = tokens(5)
    return [
        (tokens(12), [*start, *tokens(20)], [*start, *tokens(9)]),
        (tokens(3), tokens(4), tokens(15)),
        (tokens(30), tokens(2), tokens(2)),
    ]


def padded_batch(pairs: list[tuple[list[int], list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """The pairs as TRL's collator lays them out."""
    rows = [(pair[0], pair[side]) for side in (1, 2) for pair in pairs]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    batch = torch.zeros(3, len(rows), width, dtype=torch.long)
    for number, (prompt, answer) in enumerate(rows):
        size = len(prompt) + len(answer)
        batch[0, number, :size] = torch.tensor(prompt + answer)
        batch[1, number, :size] = 1
        batch[2, number, len(prompt) : size] = 1
    return dict(zip(("input_ids", "attention_mask", "completion_mask"), batch, strict=True))


def separate_logps(
    model: Any, pairs: list[tuple[list[int], list[int], list[int]]], side: int
) -> torch.Tensor:
    """Log-probs of one answer of each pair, from a forward for each sequence."""
    found = []
    for pair in pairs:
        ids = torch.tensor([pair[0] + pair[side]])
        logits = model(ids, use_cache=False).logits[0, :-1].double()
        logps = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        found.append(logps[len(pair[0]) - 1 :])
    return torch.cat(found)


def gradient(model: Any, logps: torch.Tensor) -> torch.Tensor:
    """Of a weighted sum over the tokens, for all weights in one vector."""
    weights = torch.randn(len(logps), generator=torch.Generator().manual_seed(5)).to(logps.dtype)
    wanted = [weight for weight in model.parameters() if weight.requires_grad]
    found = torch.autograd.grad((logps * weights).sum(), wanted, allow_unused=True)
    pairs = zip(found, wanted, strict=True)
    return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for g, w in pairs])


def what_is_shared(model: Any) -> str:
    """In words, which layers share a beginning."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or []
    windows = sum(kind == "sliding_attention" for kind in kinds)
    if not windows and getattr(config, "sliding_window", None) and not kinds:
        windows = config.num_hidden_layers
    return "all layers" + (", some with a window" if windows else "")


# --- what is kept


def row(kind: Kind) -> list[str]:
    """The cells of a kind in the table."""
    numbers = (kind.largest_difference, kind.gradient_difference)
    cells = ["" if number is None else f"{number:.0e}" for number in numbers]
    reason = kind.reason.replace("|", "/").replace("<", "&lt;")
    return [f"`{kind.name}`", kind.layout, kind.shared, *cells, reason]


def read() -> list[Kind]:
    """What was kept before."""
    return [Kind(**kind) for kind in json.loads(JSON.read_text())["kinds"]] if JSON.exists() else []


def keep(kinds: list[Kind]) -> None:
    """Write all that was found, as JSON and as a page of the documentation."""
    made_by = {name: version(name) for name in ("torch", "transformers")}
    record = {"versions": made_by, "kinds": [asdict(kind) for kind in kinds]}
    JSON.write_text(json.dumps(record, indent=1) + "\n")
    TABLE.write_text(page(kinds, made_by))
    before, _, rest = SUMMARY.read_text().partition(BEGINS)
    _, _, after = rest.partition(ENDS)
    SUMMARY.write_text(f"{before}{BEGINS}\n{summary(kinds)}{ENDS}{after}")


def summary(kinds: list[Kind]) -> str:
    """The table of the families that most people train."""
    by_name = {kind.name: kind for kind in kinds}
    lines = [
        "| family | layout | what is shared | largest difference | why not |",
        "|---|---|---|---:|---|",
    ]
    for family, names in KNOWN.items():
        for group in grouped([by_name[name] for name in names]):
            first = group[0]
            worst = max((kind.largest_difference or 0 for kind in group), default=0)
            some = ", ".join(f"`{kind.name}`" for kind in group)
            called = family if len(group) == len(names) else f"{family}: {some}"
            difference = f"{worst:.0e}" if worst else ""
            cells = (called, f"`{first.layout}`", first.shared, difference, first.reason)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def grouped(kinds: list[Kind]) -> list[list[Kind]]:
    """Kinds of which the same is to be said, together."""
    groups: dict[tuple[str, str, str], list[Kind]] = {}
    for kind in kinds:
        groups.setdefault((kind.layout, kind.shared, kind.reason), []).append(kind)
    return list(groups.values())


def page(kinds: list[Kind], made_by: dict[str, str]) -> str:
    """The table of all kinds in Markdown."""
    counts = {name: sum(kind.layout == name for kind in kinds) for name in LAYOUTS}
    lines = [
        "# Families of models",
        "",
        f"Every causal kind that transformers {made_by['transformers']} knows, tiny and random, in "
        f"float64, with torch {made_by['torch']} on a CPU (`python benchmarks/families.py`). The "
        "largest difference is that of a log-prob of an answer token, in nats, between shared "
        "beginnings and one forward for each sequence; that of gradients is relative, over all "
        "weights. Some models compute in float32 whatever their dtype.",
        "",
        *(f"- {counts[name]} kinds: {meaning}" for name, meaning in LAYOUTS.items()),
        "",
        "| kind | layout | what is shared | largest difference | of gradients | why not |",
        "|---|---|---|---:|---:|---|",
        *("| " + " | ".join(row(kind)) + " |" for kind in kinds),
    ]
    return "\n".join(lines) + "\n"


BEGINS, ENDS = "<!-- families begin -->", "<!-- families end -->"
KNOWN = {
    "Llama, Qwen 2 and 3, OLMo 2, SmolLM 3": ["llama", "qwen2", "qwen3", "olmo2", "smollm3"],
    "Mistral, Ministral": ["mistral", "ministral"],
    "OLMo 3": ["olmo3"],
    "Gemma 2 (capped scores and logits)": ["gemma2"],
    "Gemma 3 and 4, text": ["gemma3", "gemma3_text", "gemma4_text"],
    "gpt-oss (sinks)": ["gpt_oss"],
    "Cohere, Cohere 2 (scaled logits)": ["cohere", "cohere2"],
    "Granite (scaled logits)": ["granite", "granitemoe"],
    "MiniCPM 3 (scaled states)": ["minicpm3"],
    "DeepSeek V2 and V3, Youtu (narrow values)": ["deepseek_v2", "deepseek_v3", "youtu"],
    "Mixtral, Qwen 3 MoE, OLMoE": ["mixtral", "qwen3_moe", "olmoe"],
    "GPT-2, BigCode, GPT-NeoX": ["gpt2", "gpt_bigcode", "gpt_neox"],
    "Phi 3": ["phi3"],
    "Llama 4": ["llama4_text"],
    "LFM2": ["lfm2", "lfm2_moe"],
    "Qwen3-Next, Qwen 3.5": ["qwen3_next", "qwen3_5_text"],
    "Granite 4, Bamba, Nemotron-H": ["granitemoehybrid", "bamba", "nemotron_h"],
    "Mamba, Mamba 2": ["mamba", "mamba2"],
    "Doge": ["doge"],
    "Falcon, BLOOM, MPT, GPT-J": ["falcon", "bloom", "mpt", "gptj"],
}
"""Families by their kinds; those of which the same is to be said share a line."""
LAYOUTS = {
    "shared_prefix": "`shared_prefix`, pairs share their beginning.",
    "padded": "`padded`, for the reason given.",
    "failed": "not compared: no tiny model of the kind could be made or run here.",
}

if __name__ == "__main__":
    main()
