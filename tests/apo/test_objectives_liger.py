"""Our objectives against those of Liger's chunked losses, an implementation that is not ours."""

import pytest
import torch

from clair_apo.apo.objectives import PAIR_OBJECTIVES, Objective

# its install asks for triton, which these losses do not need
chunked_loss = pytest.importorskip(
    "liger_kernel.chunked_loss", reason="liger-kernel is not installed"
)

BETA = 0.3
IGNORED = -100


def a_batch():
    """Hidden states and labels of 3 winners, then 3 losers, of uneven lengths; two LM heads."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(6, 7, 8, generator=generator, dtype=torch.float64)
    reference_hidden = torch.randn(6, 7, 8, generator=generator, dtype=torch.float64)
    heads = torch.randn(2, 11, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(11, (6, 7), generator=generator)
    for row, length in enumerate((7, 3, 5, 2, 6, 4)):
        labels[row, length:] = IGNORED
    return hidden.requires_grad_(), reference_hidden, heads, labels


def token_logps(hidden, head, labels):
    logps = (hidden @ head.T).log_softmax(-1)
    found = logps.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return found.masked_fill(labels == IGNORED, 0).sum(1)


@pytest.mark.parametrize("length_normalize", [False, True], ids=["summed", "length_normalised"])
@pytest.mark.parametrize("name", PAIR_OBJECTIVES)
def test_loss_and_gradient_equal_those_of_liger(name, length_normalize):
    hidden, reference_hidden, (head, reference_head), labels = a_batch()
    theirs, *_ = chunked_loss.LigerFusedLinearDPOLoss(
        loss_type=name, beta=BETA, compiled=False, average_log_prob=length_normalize
    )(head, hidden, labels, ref_input=reference_hidden, ref_weight=reference_head)
    (their_gradient,) = torch.autograd.grad(theirs, hidden)

    objective = Objective(((name, 1.0),), beta=BETA, length_normalize=length_normalize)
    tokens = (labels != IGNORED).sum(1)
    chosen, rejected = objective.log_ratios(
        token_logps(hidden, head, labels),
        token_logps(reference_hidden, reference_head, labels),
        tokens,
    ).chunk(2)
    ours = objective.anchored(chosen, rejected).mean()
    (our_gradient,) = torch.autograd.grad(ours, hidden)
    # liger takes the softmax in float32
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(our_gradient, their_gradient.double(), rtol=1e-5, atol=1e-7)
