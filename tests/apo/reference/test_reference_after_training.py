"""Who answers for the reference once training began: never the policy under another's name."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.distributed.fsdp import FullyShardedDataParallel

from clair_apo.apo.reference import cache as module
from clair_apo.apo.reference.logprobs import SUM_COLUMNS
from clair_apo.errors import TrainingError
from tests.helpers.tiny_apo import make_model, make_rows

NEW = make_rows(4, seed=5)


def lora(**options):
    return LoraConfig(
        **({"target_modules": ["q_proj"], "r": 4, "task_type": "CAUSAL_LM"} | options)
    )


@pytest.fixture
def make(apo_trainer):
    return lambda model=None, adapter=None, **options: apo_trainer(
        model, peft_config=adapter, **options
    )


def by_hand(model, rows):
    """log pi(chosen | prompt) of prepared rows, each in a forward of its own."""
    sums = []
    for row in rows:
        ids = torch.tensor([row["prompt_ids"] + row["chosen_ids"]])
        with torch.no_grad():
            logps = model.eval()(ids).logits.log_softmax(-1)[0, :-1]
        picked = logps.gather(1, ids[0, 1:, None])[:, 0]
        sums.append(picked[len(row["prompt_ids"]) - 1 :].sum())
    return torch.stack(sums)


def answers(trainer, data):
    """What batches of new pairs carry, and the pairs, after an evaluation of them."""
    trainer.evaluate(data)
    ready = list(trainer._prepare_dataset(data, trainer.processing_class, trainer.args, "eval"))
    return trainer.data_collator(ready)[SUM_COLUMNS[0]], ready


@pytest.mark.parametrize("adapter", [None, lora()], ids=["full", "adapter"])
@pytest.mark.parametrize("trained", [False, True])
def test_a_named_reference_that_was_let_go_answers_for_new_pairs_itself(
    make, tiny_folder, adapter, trained
):
    trainer = make(make_model(1), adapter, reference=str(tiny_folder))
    assert trainer.ref_model is None
    if trained:
        trainer.train()
    found, rows = answers(trainer, Dataset.from_list(NEW))
    torch.testing.assert_close(found, by_hand(make_model(0), rows), atol=1e-4, rtol=0)
    assert (found - by_hand(make_model(1), rows)).abs().min() > 1e-2
    assert trainer.ref_model is None, "it is let go again"


def test_the_padded_layout_asks_a_reference_that_was_loaded_again_too(make, tiny_folder):
    trainer = make(make_model(1), reference=str(tiny_folder), pair_layout="padded")
    found, rows = answers(trainer, Dataset.from_list(NEW))
    torch.testing.assert_close(found, by_hand(make_model(0), rows), atol=1e-4, rtol=0)


def test_a_named_reference_that_changed_since_is_refused(make, tiny_folder):
    trainer = make(make_model(1), reference=str(tiny_folder))
    make_model(2).save_pretrained(tiny_folder)
    with pytest.raises(TrainingError, match="holds other weights than when this run began"):
        trainer.evaluate(Dataset.from_list(NEW))


def test_under_fsdp_a_reference_that_was_let_go_is_not_asked(make, tiny_folder, monkeypatch):
    trainer = make(make_model(1), reference=str(tiny_folder))
    monkeypatch.setattr(module, "is_spread", lambda accelerator: True)
    with pytest.raises(TrainingError, match=r"lacks 4 of 4 pairs, and the reference was let go"):
        trainer.evaluate(Dataset.from_list(NEW))
    with pytest.raises(TrainingError, match="verify in one process"):
        trainer.reference_cache.differences(trainer.train_dataset, 2, 2)


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["lm_head"]}], ids=str)
@pytest.mark.parametrize("cached", [True, False])
def test_what_an_adapter_replaces_is_back_for_the_reference(make, options, cached):
    trainer = make(adapter=lora(**options), precompute_ref_log_probs=cached)
    trainer.train()
    data = Dataset.from_list(NEW)
    ready = trainer._prepare_dataset(data, trainer.processing_class, trainer.args, "eval")
    expected, policy = by_hand(make_model(), ready), by_hand(trainer.model, ready)
    assert (expected - policy).abs().max() > 1e-2
    rewards = trainer.evaluate(data)["eval_rewards/chosen"]
    assert rewards == pytest.approx((trainer.beta * (policy - expected)).mean().item(), abs=1e-4)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_train_with_the_adapter_make_the_policy_no_reference_after_it(make, bias):
    trainer = make(make_model(attention_bias=True), lora(bias=bias))
    found, rows = answers(trainer, Dataset.from_list(NEW))
    expected = by_hand(make_model(attention_bias=True), rows)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0, msg="before, it still is")
    trainer.train()
    first = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-6)
    trainer.evaluate(Dataset.from_list(NEW))  # the cache knows them
    with pytest.raises(
        TrainingError, match=r"lacks 3 of 3 pairs, and \d weights below the adapter"
    ):
        trainer.evaluate(Dataset.from_list(make_rows(3, seed=6)))


@pytest.mark.parametrize("unfrozen", [True, False])
def test_without_a_cache_a_policy_whose_base_trains_is_refused_by_name(make, unfrozen):
    adapter = lora() if unfrozen else lora(bias="all")
    trainer = make(make_model(attention_bias=True), adapter, precompute_ref_log_probs=False)
    if unfrozen:
        trainer.model.get_base_model().model.norm.weight.requires_grad_(True)
    name = r"model\.norm\.weight" if unfrozen else r"\.bias"
    with pytest.raises(TrainingError, match=rf"{name} is one.*set precompute_ref_log_probs"):
        trainer.train()


@pytest.fixture
def process_group():
    """One process that believes to be several."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # of FSDP1: that it is old, that one process shards nothing
@pytest.mark.parametrize("layout", ["shared_prefix", "padded"])
def test_an_adapter_inside_of_fsdp1_is_switched_off_for_its_reference(make, process_group, layout):
    """Trainer then has the wrapper for its model."""
    trainer = make(
        adapter=lora(init_lora_weights=False), precompute_ref_log_probs=False, pair_layout=layout
    )
    rows = list(trainer.train_dataset)[:3]
    expected, policy = by_hand(make_model(), rows), by_hand(trainer.model, rows)
    assert (expected - policy).abs().min() > 1e-2
    trainer.model = FullyShardedDataParallel(
        trainer.model, device_id=torch.device("cpu"), use_orig_params=True
    )
    found = trainer.reference.logps(trainer.data_collator(rows)).chosen
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
