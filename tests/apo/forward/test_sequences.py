"""Rows of whole sequences: for layers that share nothing, where they heed boundaries."""

import pytest
import torch

from clair_apo.apo.forward.attention import SEQUENCES
from clair_apo.apo.forward.layout_check import compare_layouts
from clair_apo.apo.forward.layout_choice import choose_layout, sequence_obstacle
from clair_apo.apo.forward.shared_prefix import sequence_boundaries, shared_prefix_forward
from clair_apo.apo.forward.tree import packed_row, pair_trees, tree_sizes
from tests.helpers.packed_layers import MODELS, keep_apart, packed_model
from tests.helpers.tiny_pairs import Pair, padded_batch, sharp_model

HEEDING = [family for family in MODELS if family != "mamba2"]
"""Mamba 2 hands its layers no boundaries on: transformers drops them below its head."""
CPU = torch.device("cpu")
PAIRS = [
    Pair([10, 11, 12, 13, 14], [20, 21, 22, 23, 24, 25], [20, 31, 32]),
    Pair([40, 41, 42], [50, 51], [60, 61, 62, 63]),
]


def separate(model, pairs):
    """Log-probs of answer tokens from a forward for each sequence, chosen ones first."""
    found = []
    for side in ("chosen", "rejected"):
        for pair in pairs:
            ids = torch.tensor([pair.prompt + getattr(pair, side)])
            logps = model(ids, use_cache=False).logits[0, :-1].log_softmax(-1)
            answer = logps.gather(1, ids[0, 1:, None])[len(pair.prompt) - 1 :, 0]
            found.append(answer)
    return torch.cat(found)


def in_rows(model, pairs):
    found = shared_prefix_forward(model, padded_batch(pairs), statistics=False, kernel=SEQUENCES)
    return torch.cat([found.chosen.values, found.rejected.values])


@pytest.mark.parametrize("family", HEEDING)
def test_a_row_of_sequences_gives_what_separate_forwards_give(family, monkeypatch):
    model = packed_model(family)
    keep_apart(monkeypatch, model)
    weights = list(model.parameters())
    weigh = torch.linspace(-1, 2, 15, dtype=torch.float64)
    results = []
    for forward in (separate, in_rows):
        logps = forward(model, PAIRS)
        grads = torch.autograd.grad((logps * weigh).sum(), weights, allow_unused=True)
        results.append((logps.detach(), grads))
    (own, own_grads), (found, grads) = results
    torch.testing.assert_close(found, own, rtol=0, atol=1e-10)
    for grad, wanted in zip(grads, own_grads, strict=True):
        if wanted is not None:
            torch.testing.assert_close(grad, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", HEEDING)
def test_no_sequence_sees_another(family, monkeypatch):
    model = packed_model(family)
    keep_apart(monkeypatch, model)
    other = [Pair([70, 71, 72, 73, 74], [80, 81, 82, 83, 84, 85], [20, 31, 32]), PAIRS[1]]
    with torch.no_grad():
        one, two = in_rows(model, PAIRS), in_rows(model, other)
    assert not torch.allclose(one[:6], two[:6])
    torch.testing.assert_close(one[6:8], two[6:8], rtol=0, atol=1e-12)
    torch.testing.assert_close(one[-4:], two[-4:], rtol=0, atol=1e-12)


def proven(model, dtype=torch.float64):
    return compare_layouts(
        model.to(dtype), lambda count: padded_batch(PAIRS), CPU, SEQUENCES, trained=True
    )


@pytest.mark.parametrize("family", HEEDING)
def test_the_proof_takes_layers_that_heed_boundaries(family, monkeypatch):
    model = packed_model(family)
    keep_apart(monkeypatch, model)
    found = proven(model)
    assert found.reason is None and found.weights
    assert (
        found.tokens
        == sum(map(len, (p + c for p, c, _ in PAIRS))) + sum(len(p + r) for p, _, r in PAIRS) - 4
    )  # each but the first of a sequence
    assert "log-probs of 27 tokens within" in str(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "layer"),
    [
        ("lfm2", "causal_conv1d_fn"),
        ("qwen3_5", "causal_conv1d_fn"),
        ("qwen3_5", "torch_chunk_gated_delta_rule"),
        ("granite 4", "causal_conv1d_fn"),
        ("granite 4", "mamba2_chunk_scan"),
    ],
)
def test_the_proof_finds_one_layer_that_ignores_boundaries(family, layer, dtype, monkeypatch):
    model = packed_model(family)
    keep_apart(monkeypatch, model, ignoring=[layer])
    assert "layers ignore where a sequence begins" in str(proven(model, dtype).reason)


@pytest.mark.parametrize("family", HEEDING)
def test_layers_of_torch_alone_say_that_they_cannot_keep_sequences_apart(family):
    reason = proven(packed_model(family)).reason
    assert "can't keep packed sequences apart without" in reason


def test_a_model_that_drops_boundaries_is_found(monkeypatch):
    model = packed_model("mamba2")
    keep_apart(monkeypatch, model)
    assert "layers ignore where a sequence begins" in proven(model).reason


def test_boundaries_are_given_in_every_form_and_empty_sequences_in_none():
    row = packed_row(pair_trees(padded_batch([PAIRS[1], Pair([5], [], [6])]), shared=False))
    assert row.lengths.flatten().tolist() == [0, 4, 6, 0, 0, 1]
    given = sequence_boundaries(row.lengths, CPU)
    assert given["seq_idx"].tolist() == [[0] * 4 + [1] * 6 + [2]]
    assert given["cu_seq_lens_q"].tolist() == given["cu_seq_lens_k"].tolist() == [0, 4, 10, 11]
    assert given["max_length_q"] == given["max_length_k"] == 6
    assert given["seq_idx"].dtype == given["cu_seq_lens_q"].dtype == torch.int32


def test_sequences_count_what_both_begin_with_and_take_all_of_their_tokens():
    batch = padded_batch(PAIRS)
    apart, trees = (packed_row(pair_trees(batch, shared=shared)) for shared in (False, True))
    assert apart.first_differences.tolist() == trees.first_differences.tolist() == [1, 0]
    assert tree_sizes(batch, shared=False) == [10 + 7, 4 + 6]


@pytest.mark.parametrize("family", [*HEEDING, "mamba2"])
def test_a_run_tries_sequences_and_pads_with_the_reason(family, config, monkeypatch):
    args = config(router_aux_loss_coef=0.0)
    choice = choose_layout(args, packed_model(family))
    assert choice.layout == SEQUENCES and choice.reason is None and choice.shares_nothing


def test_models_that_share_take_no_rows_of_sequences():
    assert sequence_obstacle(sharp_model("llama")) == "every layer can share"
