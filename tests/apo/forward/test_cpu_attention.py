"""Causal attention by blocks against torch's own, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from clair_apo.apo.forward.cpu import BLOCK, Scoring, causal_attention

HEADS, WIDTH = 6, 8


def states(
    queries: int, keys: int, kv_heads: int, dtype=torch.float64, of_values=WIDTH
) -> list[torch.Tensor]:
    """Sharp ones, laid out as a model's projections are: positions before heads."""
    generator = torch.Generator().manual_seed(queries + keys)
    shapes = ((queries, HEADS, WIDTH), (keys, kv_heads, WIDTH), (keys, kv_heads, of_values))
    drawn = (torch.randn(1, *shape, generator=generator).to(dtype) for shape in shapes)
    return [2 * x.transpose(1, 2).requires_grad_() for x in drawn]


def torchs_own(query, key, value, scaling):
    count, seen = query.shape[2], key.shape[2]
    return F.scaled_dot_product_attention(
        query,
        *(x.repeat_interleave(HEADS // key.shape[1], 1) for x in (key, value)),
        attn_mask=torch.ones(count, seen, dtype=torch.bool).tril(seen - count),
        scale=scaling,
    ).transpose(1, 2)


def with_gradients(attend, inputs, scaling):
    found = attend(*inputs, scaling)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(found.dtype)
    return [found, *torch.autograd.grad(found, inputs, weights)]


@pytest.mark.parametrize("kv_heads", [1, 2, HEADS])
@pytest.mark.parametrize(
    ("queries", "keys"),
    [
        (1, 1),
        (1, 200),
        (BLOCK, BLOCK),
        (BLOCK + 1, BLOCK + 1),
        (2 * BLOCK + 20, 2 * BLOCK + 20),
        (2 * BLOCK + 20, 2 * BLOCK + 27),
        (3, 150),
    ],
)
def test_values_and_gradients_are_those_of_torch(queries, keys, kv_heads):
    inputs = states(queries, keys, kv_heads)
    for scaling in (None, 0.7):
        mine = with_gradients(causal_attention, inputs, Scoring(scaling))
        theirs = with_gradients(torchs_own, inputs, scaling)
        for found, wanted in zip(mine, theirs, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("of_values", [3, 13])
def test_values_may_be_narrower_or_wider_than_keys(of_values):
    """As in DeepSeek's attention, 128 beside 192."""
    inputs = states(BLOCK + 20, BLOCK + 27, 2, of_values=of_values)
    mine = with_gradients(causal_attention, inputs, Scoring(0.7))
    theirs = with_gradients(torchs_own, inputs, 0.7)
    assert mine[0].shape[-1] == of_values
    for found, wanted in zip(mine, theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


def test_a_later_key_changes_no_bit():
    query, key, value = states(150, 157, 2, torch.float32)
    before = causal_attention(query, key, value, Scoring())
    with torch.no_grad():
        key[:, :, 107:] += 1
        value[:, :, 107:] -= 1
    after = causal_attention(query, key, value, Scoring())
    assert torch.equal(after[:, :100], before[:, :100])
    assert not torch.isclose(after[:, 100:], before[:, 100:]).any(-1).all()


def test_inputs_of_16_bits_are_attended_to_in_float32():
    inputs = states(150, 150, 2, torch.bfloat16)
    found = causal_attention(*inputs, Scoring())
    assert found.dtype == torch.float32
    wanted = torchs_own(*(x.double() for x in inputs), None)
    assert (found - wanted).abs().max() < 1e-5


def dense(query, key, value, scoring):
    """The same over whole matrices, with a column for the sink."""
    sharing, count, seen = query.shape[1] // key.shape[1], query.shape[2], key.shape[2]
    keys, values = (x.repeat_interleave(sharing, 1) for x in (key, value))
    scores = query @ keys.transpose(2, 3) * scoring.scaling
    if scoring.softcap is not None:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    distance = torch.arange(seen - count, seen)[:, None] - torch.arange(seen)
    hidden = (distance < 0) | (distance >= (scoring.window or seen))
    scores = scores.masked_fill(hidden, -torch.inf)
    if scoring.sinks is not None:
        sinks = scoring.sinks[None, :, None, None].expand(1, -1, count, 1)
        scores = torch.cat([scores, sinks], -1)
    return (scores.softmax(-1)[..., :seen] @ values).transpose(1, 2)


@pytest.mark.parametrize("window", [None, 1, 2, BLOCK - 1, BLOCK, BLOCK + 60, 1000])
@pytest.mark.parametrize(("softcap", "with_sinks"), [(None, False), (1.5, False), (2.0, True)])
@pytest.mark.parametrize(
    ("queries", "keys"), [(2 * BLOCK + 20, 2 * BLOCK + 20), (150, 190), (3, 9)]
)
def test_windows_caps_and_sinks_are_those_of_whole_matrices(
    window, softcap, with_sinks, queries, keys
):
    inputs = states(queries, keys, 2)
    sinks = torch.linspace(-2, 3, HEADS, dtype=torch.float64, requires_grad=True)
    scoring = Scoring(0.7, window, softcap, sinks if with_sinks else None)
    wanted_of = [*inputs, sinks] if with_sinks else inputs
    weights = torch.randn(1, queries, HEADS, WIDTH, generator=torch.Generator().manual_seed(1))
    found = []
    for attend in (causal_attention, dense):
        attended = attend(*inputs, scoring)
        grads = torch.autograd.grad(attended, wanted_of, weights.double())
        found.append([attended, *grads])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
