"""What a run says of itself: its pairs by digest, its reference by name."""

import pytest
from datasets import Dataset, IterableDataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from clair_apo.apo.run_summary import model_card, run_facts, tokens_digest
from clair_apo.errors import TrainingError
from tests.helpers.tiny_apo import make_model, make_rows


@pytest.fixture
def make(apo_trainer):
    return lambda model=None, ref_model=None, **options: apo_trainer(
        model, ref_model=ref_model, **options
    )


def test_the_card_of_a_bare_trainer_has_the_digest_of_its_pairs(make):
    trainer = make()
    found = tokens_digest(trainer.train_dataset)
    assert f"| Data | 8 pairs, digest {found[:12]} |" in model_card(trainer, "name", [])
    stream = make(data=IterableDataset.from_generator(lambda: iter(make_rows(8))))
    assert "| Data | a stream of pairs |" in model_card(stream, "name", [])


def test_the_digest_of_pairs_is_of_their_tokens_in_their_order():
    rows = [
        {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5], "id": str(number)}
        for number in range(1500)
    ]
    rows[7]["chosen_ids"] = [9, 9]
    found = tokens_digest(Dataset.from_list(rows))
    again = Dataset.from_list([row | {"id": "other"} for row in rows])
    assert tokens_digest(again) == found
    assert tokens_digest(again.select(range(1499, -1, -1)).select(range(1499, -1, -1))) == found
    for other in (
        [*rows[:-1], rows[-1] | {"rejected_ids": [4, 6]}],
        [rows[7], *rows[1:7], rows[0], *rows[8:]],
        [rows[0] | {"prompt_ids": [1], "chosen_ids": [2, 3]}, *rows[1:]],
        [rows[0] | {"prompt_ids": [1]}, rows[1] | {"prompt_ids": [2, 1, 2]}, *rows[2:]],
    ):
        assert tokens_digest(Dataset.from_list(other)) != found


def test_resuming_a_bare_trainer_with_other_pairs_is_refused(make, pairs):
    def run(pairs, **options):
        return make(data=pairs, save_strategy="steps", save_steps=1, **options)

    run(pairs, max_steps=1).train()
    # the reference says the same of the first pair, which is the same
    others = Dataset.from_list([make_rows(1)[0], *make_rows(8, seed=9)[1:]])
    with pytest.raises(TrainingError, match=r"began with other pairs \(8 pairs, digest "):
        run(others).train(resume_from_checkpoint=True)
    run(pairs).train(resume_from_checkpoint=True)


def test_the_reference_is_named(make, tmp_path):
    named = tmp_path / "sft-model"
    make_model(1).save_pretrained(named)
    passed = AutoModelForCausalLM.from_pretrained(named)
    lora = LoraConfig(target_modules=["q_proj"], r=4, task_type="CAUSAL_LM")
    adapted = get_peft_model(make_model(), lora)

    def reference(*models, **options):
        return run_facts(make(*models, **options)).reference

    assert reference(make_model()) == "the initial policy"
    assert reference(make_model(), passed) == "ref_model (sft-model)"
    assert reference(make_model(), make_model(1)) == "ref_model (unnamed)"
    assert reference(make_model(), reference=str(named)) == "sft-model"
    assert reference(adapted, reference="base") == "the model without its adapter"
