"""What a run says of itself: its pairs by digest, its reference by name."""

from types import SimpleNamespace

import pytest
import yaml
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


def test_a_card_says_why_a_layout_was_given_up_in_one_cell_and_names_no_folder(make):
    trainer = make(loss_type="ipo")
    reason = "it fails (OSError: /home/me/.cache/kernel-1.so is a|b)"
    proof = trainer.layout.proof.model_copy(update={"reason": reason})
    trainer.layout = SimpleNamespace(proof=proof, name="padded")
    card = model_card(trainer, "name", [])
    assert "| Pair layout | padded; it fails (OSError: kernel-1.so is a/b) |" in card


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_a_card_tells_the_hub_what_is_known_and_no_path_of_the_machine(make, tmp_path):
    trainer = make(eval_dataset=Dataset.from_list(make_rows(4)))
    trainer.evaluate()
    (tmp_path / "base").mkdir()
    trainer.model.config.name_or_path = str(tmp_path / "base")
    found = front_matter(model_card(trainer, "mine", ["tone"], str(tmp_path / "pairs.jsonl")))
    assert not {"base_model", "license", "datasets"} & set(found)
    assert str(tmp_path) not in model_card(trainer, "mine", [], str(tmp_path))
    assert found["pipeline_tag"] == "text-generation" and "tone" in found["tags"]
    (results,) = found["model-index"][0]["results"]
    rewards = trainer.evaluation_rewards.intervals()
    values = {metric["type"]: metric["value"] for metric in results["metrics"]}
    assert values["rewards/margin"] == pytest.approx(rewards.margin.mean, abs=1e-4)
    assert "(n=4)" in results["metrics"][0]["name"]
    (tmp_path / "base" / "README.md").write_text("---\nbase_model: owner/base\nlicense: mit\n---\n")
    found = front_matter(model_card(trainer, "mine", [], "owner/pairs"))
    assert (found["base_model"], found["license"]) == ("owner/base", "mit")
    assert found["datasets"] == ["owner/pairs"]


@pytest.mark.parametrize("card", ["", "---\n: [\n---\n", "no front matter"])
def test_a_base_model_whose_card_cannot_be_read_is_left_out(make, tmp_path, card):
    trainer = make()
    (tmp_path / "README.md").write_text(card)
    trainer.model.config.name_or_path = str(tmp_path)
    assert "base_model" not in front_matter(model_card(trainer, "mine", []))


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
