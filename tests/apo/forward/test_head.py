"""What a model does around its head is found by running it, whatever its settings are called."""

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from clair_apo.apo.forward.head import UnknownHeadError, head_input
from clair_apo.apo.forward.label_logprobs import LogitMap
from tests.helpers.tiny_pairs import sharp_model

IDS = torch.arange(2, 9)[None]


def of_llama(change, before=lambda states: states):
    """A Llama whose logits are changed, or the states before its head."""

    class Changed(LlamaForCausalLM):
        def forward(self, **inputs):
            states = before(self.model(**inputs).last_hidden_state)
            return type("Output", (), {"logits": change(self.lm_head(states))})

    return Changed(sharp_model("llama").config).double()


def asked(model):
    return head_input(model.forward, model.lm_head, {"input_ids": IDS})


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda x: x, LogitMap(1.0, None)),
        (lambda x: x * 0.0625, LogitMap(0.0625, None)),
        (lambda x: x / 13, LogitMap(1 / 13, None)),
        (lambda x: -x, LogitMap(-1.0, None)),
        (lambda x: x.mul_(3.0), LogitMap(3.0, None)),
        (lambda x: x.float() * 0.7, LogitMap(0.7, None)),
        (lambda x: 30 * torch.tanh(x / 30), LogitMap(1.0, 30.0)),
        (lambda x: 5 * torch.tanh(0.3 * x / 5), LogitMap(0.3, 5.0)),
    ],
)
def test_a_scale_and_a_cap_are_found(change, wanted):
    states, found = asked(of_llama(change))
    assert states.shape == (1, 7, 32)
    assert found.scale == pytest.approx(wanted.scale, rel=1e-6)
    assert found.softcap == (None if wanted.softcap is None else pytest.approx(wanted.softcap))


def test_what_happens_to_states_before_the_head_is_in_them():
    model = of_llama(lambda x: x, before=lambda states: states / 4)
    states, _ = asked(model)
    torch.testing.assert_close(model.lm_head(states), model(input_ids=IDS).logits)


scale = nn.Parameter(torch.tensor(2.0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x + 0.1, "more to its logits than to scale and to cap"),
        (lambda x: x + torch.arange(97) / 97, "more to its logits"),
        (lambda x: x.relu(), "more to its logits"),
        (lambda x: x.masked_fill(torch.arange(97) == 5, -1e4), "more to its logits"),
        (lambda x: x.log_softmax(-1), "more to its logits"),
        (lambda x: x * scale, "trains what it makes of its logits"),
        (lambda x: x[..., :90], "makes .* logits of"),
    ],
)
def test_what_scored_labels_do_not_know_is_refused(change, said):
    with pytest.raises(UnknownHeadError, match=said):
        asked(of_llama(change))


def test_a_head_that_is_called_twice_or_not_at_all_is_refused():
    model = sharp_model("llama")

    def twice(**inputs):
        model(**inputs)
        return model(**inputs)

    with pytest.raises(UnknownHeadError, match="calls its head 2 times"):
        head_input(twice, model.lm_head, {"input_ids": IDS})
    with pytest.raises(UnknownHeadError, match="calls its head 0 times"):
        head_input(model.model, model.lm_head, {"input_ids": IDS})


def test_the_head_is_its_own_afterwards_also_after_an_error():
    model = sharp_model("llama")
    before = model(IDS).logits
    head_input(model.forward, model.lm_head, {"input_ids": IDS})
    with pytest.raises(IndexError):
        head_input(model.forward, model.lm_head, {"input_ids": IDS + 1000})
    assert "forward" not in vars(model.lm_head)
    assert torch.equal(model(IDS).logits, before)
