"""What a beta implies for the log-ratio at which a term loses its gradient."""

import pytest
import torch

from clair_apo.advice.saturation import HALF, TENTH, saturation_of
from clair_apo.apo.objectives import SATURATED_REWARD, apo_zero_loss


def gradient(log_ratio, beta):
    x = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    apo_zero_loss(x, torch.zeros(1, dtype=torch.float64), beta=beta).sum().backward()
    return x.grad.item()


@pytest.mark.parametrize("beta", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_gradient_is_half_and_a_tenth_of_its_first_value_at_the_nats_named(beta, sign):
    found, first = saturation_of(beta), gradient(0.0, beta)
    assert gradient(sign * found.half_at_nats, beta) == pytest.approx(first / 2)
    assert gradient(sign * found.tenth_at_nats, beta) == pytest.approx(first / 10)


def test_the_constants_are_those_of_the_objectives():
    assert pytest.approx(1.763, abs=5e-4) == HALF
    assert pytest.approx(SATURATED_REWARD) == TENTH


def test_what_deciding_tokens_have_to_gain_says_which_beta_leaves_them_a_gradient():
    found = saturation_of(0.1, chosen_logps=[-100.0, -80.0], deciding_logps=[-40.0, -48.0])
    assert (found.chosen_nats, found.deciding_nats) == (90.0, 44.0)
    assert found.beta_for_deciding == pytest.approx(HALF / 44)
    assert "44.0 nats to gain" in found.sentence and "0.04 or less" in found.sentence
    assert "can be learned" in saturation_of(0.02, deciding_logps=[-44.0]).sentence


def test_a_beta_of_zero_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        saturation_of(0.0)
