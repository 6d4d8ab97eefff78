"""The head in tiles against logits that are held whole, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clair_apo.apo.forward import label_logprobs
from clair_apo.apo.forward.label_logprobs import LogitMap, score_labels, score_labels_by_trl

LABELS, WIDTH, VOCABULARY = 37, 16, 1013


@pytest.fixture(autouse=True)
def many_tiles(monkeypatch):
    """Tiles of 100 columns, so that there are eleven, and the last is narrower."""
    monkeypatch.setattr(label_logprobs, "TILE", LABELS * 100)
    monkeypatch.setattr(label_logprobs, "NARROWEST", 10)


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(0)

    def make(*shape, by=1.0):
        return (by * torch.randn(shape, generator=g, dtype=torch.float64)).requires_grad_()

    labels = torch.randint(VOCABULARY, (LABELS,), generator=g)
    labels[:3] = torch.tensor([0, 99, VOCABULARY - 1])  # the edges of tiles
    return make(LABELS, WIDTH), make(VOCABULARY, WIDTH, by=2.0), make(VOCABULARY), labels


def whole(hidden, weight, bias, labels):
    logps = F.linear(hidden, weight, bias).log_softmax(1)
    return logps, logps.gather(1, labels[:, None])[:, 0]


@pytest.mark.parametrize("with_bias", [False, True])
def test_log_probs_and_gradients_are_those_of_whole_logits(inputs, with_bias):
    hidden, weight, bias, labels = inputs
    used = [hidden, weight, *([bias] if with_bias else [])]
    bias = bias if with_bias else None
    mine = score_labels(hidden, weight, bias, labels, statistics=False).logps
    _, theirs = whole(hidden, weight, bias, labels)
    assert (mine - theirs).abs().max() < 1e-12
    upstream = torch.linspace(-2, 1, LABELS, dtype=torch.float64)
    for found, wanted in zip(
        torch.autograd.grad(mine, used, upstream),
        torch.autograd.grad(theirs, used, upstream),
        strict=True,
    ):
        assert (found - wanted).norm() / wanted.norm() < 1e-12


def test_entropy_and_likeliest_token_are_those_of_whole_logits(inputs):
    hidden, weight, bias, labels = inputs
    logps, _ = whole(hidden, weight, bias, labels)
    labels[:9] = logps[:9].argmax(1)
    scores = score_labels(hidden, weight, bias, labels, statistics=True)
    wanted = -(logps.exp() * logps).sum(1)
    assert (scores.entropies - wanted).abs().max() < 1e-12
    assert torch.equal(scores.is_top1.bool(), logps.argmax(1) == labels)
    assert not scores.entropies.requires_grad
    without = score_labels(hidden, weight, bias, labels, statistics=False)
    assert without.entropies.isnan().all()
    assert without.is_top1.isnan().all()


def test_logits_of_any_size_stay_finite(inputs):
    hidden, weight, _, labels = inputs
    scores = score_labels(1e4 * hidden, weight, None, labels, statistics=True)
    assert all(values.isfinite().all() for values in scores)


def test_a_frozen_head_gets_no_gradient(inputs):
    hidden, weight, _, labels = inputs
    weight.requires_grad_(False)
    score_labels(hidden, weight, None, labels, statistics=False).logps.sum().backward()
    assert weight.grad is None
    assert hidden.grad.abs().sum() > 0


def test_no_labels_are_a_differentiable_nothing(inputs):
    hidden, weight, _, labels = inputs
    scores = score_labels(hidden[:0], weight, None, labels[:0], statistics=True)
    scores.logps.sum().backward()
    assert len(scores.logps) == 0
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_no_tensor_is_as_large_as_the_logits(inputs):
    """Of all that is made in forward and backward, the largest is the weight's gradient."""
    hidden, weight, _, labels = inputs
    hidden, labels = hidden.repeat(8, 1), labels.repeat(8)
    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            tensors = (x for x in tree_leaves(result) if isinstance(x, torch.Tensor))
            made.extend(x.numel() for x in tensors)
            return result

    with Watch():
        score_labels(hidden, weight, None, labels, statistics=True).logps.sum().backward()
    assert max(made) == weight.numel() < len(labels) * VOCABULARY


def test_autocast_takes_products_in_bfloat16_and_sums_in_float32(inputs):
    hidden, weight, _, labels = (x.float() if x.is_floating_point() else x for x in inputs)
    with torch.autocast("cpu", torch.bfloat16):
        mine = score_labels(hidden, weight, None, labels, statistics=False).logps
    logits = F.linear(hidden.bfloat16(), weight.bfloat16()).float()
    wanted = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    assert mine.dtype == torch.float32
    torch.testing.assert_close(mine, wanted)


MAPS = [LogitMap(), LogitMap(scale=0.3), LogitMap(softcap=25.0), LogitMap(-0.7, softcap=25.0)]


def mapped(logits, logit_map):
    scaled = logits * logit_map.scale
    cap = logit_map.softcap
    return scaled if cap is None else cap * torch.tanh(scaled / cap)


def with_gradients(score, hidden, weight, bias, labels, logit_map):
    scores = score(hidden, weight, bias, labels, statistics=True, logit_map=logit_map)
    upstream = torch.linspace(-2, 1, LABELS, dtype=scores.logps.dtype)
    return scores, torch.autograd.grad(scores.logps, (hidden, weight, bias), upstream)


@pytest.mark.parametrize("logit_map", MAPS)
def test_scaled_and_capped_logits_are_those_of_whole_ones(inputs, logit_map):
    hidden, weight, bias, labels = inputs
    scores, grads = with_gradients(score_labels, *inputs, logit_map)
    logps = mapped(F.linear(hidden, weight, bias), logit_map).log_softmax(1)
    wanted = logps.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(scores.logps, wanted)
    torch.testing.assert_close(scores.entropies, -(logps.exp() * logps).sum(1))
    upstream = torch.linspace(-2, 1, LABELS, dtype=torch.float64)
    theirs = torch.autograd.grad(wanted, (hidden, weight, bias), upstream)
    for mine, other in zip(grads, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("logit_map", MAPS)
def test_the_function_of_trls_head_which_serves_on_gpus_says_the_same(inputs, logit_map):
    """By its path in torch: float32, and no kernel of Triton."""
    *states, labels = inputs
    given = [x.detach().float().requires_grad_() for x in states]
    mine, my_grads = with_gradients(score_labels, *given, labels, logit_map)
    theirs, their_grads = with_gradients(score_labels_by_trl, *given, labels, logit_map)
    for one, other in zip((*mine, *my_grads), (*theirs, *their_grads), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    plain = score_labels_by_trl(*given, labels, statistics=False, logit_map=logit_map)
    assert plain.entropies.isnan().all()
    assert plain.is_top1.isnan().all()
