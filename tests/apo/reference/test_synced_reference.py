"""A reference that moves is part of a checkpoint: the resumed run is the one without a stop."""

import pytest
import torch

from clair_apo.apo.checkpoints import REFERENCE
from clair_apo.errors import TrainingError
from tests.helpers.tiny_apo import make_model


@pytest.fixture
def make(apo_trainer):
    syncing = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5}
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4}
    return lambda **options: apo_trainer(
        make_model(tie_word_embeddings=True), **(syncing | saving | options)
    )


def state(model):
    return torch.cat([weight.flatten().clone() for weight in model.parameters()])


def test_policy_and_reference_end_with_the_same_bits(make, tmp_path):
    whole = make()
    whole.train()
    first = state(make_model(tie_word_embeddings=True))
    assert (state(whole.ref_model) - first).abs().max() > 1e-3, "it moved"
    resumed = make()
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert torch.equal(state(resumed.model), state(whole.model))
    assert torch.equal(state(resumed.ref_model), state(whole.ref_model))
    rewards = [
        [e["rewards/chosen"] for e in t.state.log_history if "loss" in e] for t in (resumed, whole)
    ]
    assert rewards[0] == rewards[1]


def test_a_checkpoint_without_the_reference_is_refused(make, tmp_path):
    make(max_steps=1).train()
    checkpoint = tmp_path / "out" / "checkpoint-1"
    (checkpoint / REFERENCE).unlink()
    with pytest.raises(TrainingError):
        make().train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / "checkpoint.json").unlink()  # of a version that saved none
    with pytest.raises(TrainingError, match="does not hold it as it was then"):
        make().train(resume_from_checkpoint=str(checkpoint))


def test_a_reference_that_stays_is_not_saved(make, tmp_path):
    make(sync_ref_model=False, max_steps=1).train()
    assert not (tmp_path / "out" / "checkpoint-1" / REFERENCE).exists()
