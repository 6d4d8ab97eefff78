"""Who is asked as the reference, without a trainer."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model

from clair_apo.apo.forward.logps import padded_forward
from clair_apo.apo.reference.logprobs import TOKEN_COLUMNS
from clair_apo.apo.reference.model import Reference
from clair_apo.apo.trl_compat import add_fused_lm_head
from tests.helpers.tiny_apo import make_model


def with_head(model):
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    return model


def adapted(seed=0, **options):
    torch.manual_seed(seed)
    settings = LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj"], **options)
    return get_peft_model(with_head(make_model()), settings)


def reference_of(policy, ref_model=None, **options):
    host = SimpleNamespace(
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        accelerator=Accelerator(cpu=True),
        model=policy,
        model_wrapped=policy,
        ref_model=ref_model,
    )
    forward = lambda model, batch, *, statistics: padded_forward(model, batch)  # noqa: E731
    return Reference(host, forward, **options)


@pytest.fixture
def batch():
    ids = torch.randint(6, 80, (2, 9), generator=torch.Generator().manual_seed(0))
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": (torch.arange(9) >= 4).long().repeat(2, 1),
    }


def by_hand(model, batch):
    """The log-prob of the chosen answer: 5 tokens from position 4 on."""
    logps = model.eval()(batch["input_ids"][:1]).logits.log_softmax(-1)[0, 3:8]
    return logps.gather(1, batch["input_ids"][0, 4:9, None]).sum()


def test_a_reference_model_of_its_own_is_asked(batch):
    found = reference_of(with_head(make_model()), with_head(make_model(1))).logps(batch).chosen
    torch.testing.assert_close(found[0], by_hand(make_model(1), batch))
    assert not found.requires_grad


def test_a_policy_with_an_adapter_is_asked_without_it_and_has_it_again(batch):
    policy = adapted()
    with torch.no_grad():
        before = by_hand(policy, batch)
    found = reference_of(policy).logps(batch).chosen
    torch.testing.assert_close(found[0], by_hand(make_model(), batch))
    assert (found[0] - before).abs() > 1e-3
    torch.testing.assert_close(by_hand(policy, batch).detach(), before)


@pytest.mark.parametrize("from_base", [False, True])
def test_trls_frozen_copy_of_the_adapter_is_asked_unless_the_base_is_meant(from_base, batch):
    policy = adapted()
    torch.manual_seed(5)
    policy.add_adapter("ref", policy.peft_config["default"])
    reference = reference_of(policy, from_base=from_base)
    with torch.no_grad():
        policy.set_adapter("ref")
        expected = by_hand(make_model() if from_base else policy, batch)
        policy.set_adapter("default")
    torch.testing.assert_close(reference.logps(batch).chosen[0], expected.detach())
    reference.forget_copy()
    assert ("ref" in policy.peft_config) is not from_base


def test_what_a_batch_carries_is_believed(batch):
    values, lengths = torch.arange(5.0), torch.tensor([5])
    carried = dict(zip(TOKEN_COLUMNS, (values, lengths, -values, lengths), strict=True))
    found = reference_of(None).logps(batch | carried)
    assert (found.chosen.item(), found.rejected.item()) == (10, -10)


def test_a_trained_policy_stays_its_reference_only_below_an_adapter():
    assert reference_of(make_model()).policy_moved_reason() == "the policy has been trained"
    assert reference_of(adapted()).policy_moved_reason() is None
    unfrozen = adapted()
    unfrozen.base_model.model.lm_head.weight.requires_grad_(True)
    assert "1 weights below the adapter are trained" in reference_of(unfrozen).policy_moved_reason()
