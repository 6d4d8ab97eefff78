"""A loss that is no number, and a batch that is too large, are said with their pairs."""

import pytest
import torch
from datasets import Dataset, IterableDataset

from clair_apo.apo.error_context import MOST_NAMED, is_out_of_memory
from clair_apo.apo.trainer import APOTrainer
from clair_apo.errors import TrainingError
from tests.helpers.tiny_apo import make_model, make_rows


def trainer_of(rows, config, tokenizer, model=None, **options):
    return APOTrainer(
        model=model or make_model(),
        args=config(train_sampling_strategy="sequential", **options),
        train_dataset=rows if isinstance(rows, IterableDataset) else Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def poisoned(model, tokenizer, word):
    """A model whose embedding of one word is NaN: every answer with the word has a NaN loss."""
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(word)] = torch.nan
    return model


def rows_with_word_in(numbers, word="w79", count=8, ids=True):
    rows = make_rows(count)
    for number, row in enumerate(rows):
        for side in ("prompt", "chosen", "rejected"):
            row[side][0]["content"] = row[side][0]["content"].replace(word, "w1")
        if number in numbers:
            row["chosen"][0]["content"] += f" {word} w2"
        if ids:
            row["id"] = f"pair-{number}"
    return rows


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def break_after_start(trainer, tokenizer, word="w79"):
    """The policy breaks after the reference was taken from it."""
    poisoned(trainer.model, tokenizer, word)
    return trainer


@pytest.mark.parametrize("loss", ["apo_zero", "sft"])
def test_a_loss_that_is_nan_stops_before_the_update_and_names_its_pairs(loss, config, tokenizer):
    rows = rows_with_word_in({1, 2})
    trainer = break_after_start(trainer_of(rows, config, tokenizer, loss_type=loss), tokenizer)
    before = weights(trainer.model)
    with pytest.raises(TrainingError) as caught:
        trainer.train()
    said = str(caught.value)
    assert "after step 0: the loss of 2 of 4 pairs is not finite: pairs pair-1, pair-2." in said
    assert "The weights themselves are no longer finite" in said, "an embedding is"
    after = trainer.model.state_dict()
    assert all(torch.equal(before[n], after[n]) or before[n].isnan().any() for n in before)


def test_pairs_without_an_id_are_named_by_their_number_in_a_set_and_a_stream(config, tokenizer):
    rows = rows_with_word_in({5}, ids=False)
    stream = IterableDataset.from_generator(lambda: iter(rows))
    for data in (rows, stream):
        trainer = break_after_start(trainer_of(data, config, tokenizer), tokenizer)
        with pytest.raises(TrainingError, match=r"after step 1: the loss of 1 of 4 .* pair 5\."):
            trainer.train()


def test_a_long_list_of_pairs_is_cut(config, tokenizer):
    count = MOST_NAMED + 3
    rows = rows_with_word_in(range(count), count=count)
    trainer = trainer_of(rows, config, tokenizer, per_device_train_batch_size=count)
    with pytest.raises(TrainingError, match=f"pair-{MOST_NAMED - 1} and 3 more"):
        break_after_start(trainer, tokenizer).train()


def test_a_nan_in_an_evaluation_names_the_pairs_of_that_data(config, tokenizer):
    options = {"precompute_ref_log_probs": False}
    trainer = trainer_of(rows_with_word_in({}), config, tokenizer, **options)
    break_after_start(trainer, tokenizer)
    held_out = [row | {"id": f"held-out-{n}"} for n, row in enumerate(rows_with_word_in({3}))]
    with pytest.raises(TrainingError, match=r"the loss of 1 of 4 .* pair held-out-3\."):
        trainer.evaluate(Dataset.from_list(held_out))


def test_finite_weights_turn_the_eye_to_the_pairs(config, tokenizer):
    rows = rows_with_word_in({})
    trainer = trainer_of(rows, config, tokenizer, precompute_ref_log_probs=False)
    poisoned(trainer.ref_model, tokenizer, "<assistant>")
    with pytest.raises(TrainingError, match="The weights are still finite: look at these pairs"):
        trainer.train()


def out_of_memory(kind):
    def forward(*args, **kwargs):
        if kind == "cpu":
            torch.empty(10**17)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return forward


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_out_of_memory_names_the_batch_and_the_settings_to_lower(kind, config, tokenizer):
    trainer = trainer_of(rows_with_word_in({}), config, tokenizer, max_length=64)
    trainer.model.base_model.forward = out_of_memory(kind)
    with pytest.raises(TrainingError) as caught:
        trainer.train()
    said = str(caught.value)
    assert "after step 0: out of memory in a batch of 4 pairs, padded to 8 x " in said
    assert "pairs pair-0, pair-1, pair-2, pair-3." in said
    assert "lower per_device_train_batch_size (4) and raise gradient_accumulation_steps (1)" in said
    assert "set gradient_checkpointing true" in said
    assert "lower max_length (64)" in said
    assert isinstance(caught.value.__cause__, RuntimeError), "the library's own words are kept"


def test_out_of_memory_in_an_evaluation_names_its_own_batch_size(config, tokenizer):
    rows = rows_with_word_in({})
    trainer = trainer_of(rows, config, tokenizer, per_device_eval_batch_size=2)
    trainer.model.base_model.forward = out_of_memory("cuda")
    with pytest.raises(TrainingError, match=r"pairs pair-0, pair-1\. .*eval_batch_size \(2\)"):
        trainer.evaluate(Dataset.from_list(rows))


def test_another_runtime_error_is_left_as_it_is(config, tokenizer):
    trainer = trainer_of(rows_with_word_in({}), config, tokenizer)

    def forward(*args, **kwargs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    trainer.model.base_model.forward = forward
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trainer.train()
    assert not is_out_of_memory(RuntimeError("shapes"))


@pytest.mark.parametrize("loss", [{"loss_type": "ipo"}, {"loss_type": "sigmoid", "ld_alpha": 0.5}])
def test_where_trl_computes_the_loss_the_pairs_of_the_batch_are_named(loss, config, tokenizer):
    rows, options = rows_with_word_in({5}), loss | {"precompute_ref_log_probs": False}
    trainer = break_after_start(trainer_of(rows, config, tokenizer, **options), tokenizer)
    assert not trainer.computes_pairs
    with pytest.raises(TrainingError) as caught:
        trainer.train()
    said = str(caught.value)
    assert "after step 1: the loss of a batch of 4 pairs is not finite" in said
    assert "one or more of pairs pair-4, pair-5, pair-6, pair-7." in said
    assert trainer.state.global_step == 1
    held_out = [row | {"id": f"held-out-{n}"} for n, row in enumerate(rows_with_word_in({3}))]
    with pytest.raises(TrainingError, match="held-out-0, held-out-1, held-out-2, held-out-3"):
        trainer.evaluate(Dataset.from_list(held_out))


def test_a_users_own_column_named_row_is_not_taken_for_the_number_of_a_pair(config, tokenizer):
    rows = [row | {"row": f"sheet 2, line {n}"} for n, row in enumerate(rows_with_word_in({1}))]
    for data in (rows, IterableDataset.from_generator(lambda: iter(rows))):
        trainer = break_after_start(trainer_of(data, config, tokenizer), tokenizer)
        with pytest.raises(TrainingError, match=r"the loss of 1 of 4 .* pair (pair-)?1\."):
            trainer.train()


def test_a_part_of_the_prepared_pairs_is_numbered_anew(config, tokenizer):
    trainer = trainer_of(rows_with_word_in({5}), config, tokenizer)
    break_after_start(trainer, tokenizer)
    with pytest.raises(TrainingError, match=r"the loss of 1 of 2 .* pair pair-5\."):
        trainer.evaluate(trainer.train_dataset.select([4, 5]))


def test_out_of_memory_in_the_reference_names_its_own_batch_size(config, tokenizer):
    model = make_model()
    model.base_model.forward = out_of_memory("cuda")
    rows = rows_with_word_in({}, count=2)
    with pytest.raises(TrainingError) as caught:
        trainer_of(rows, config, tokenizer, model=model, precompute_ref_batch_size=2)
    said = str(caught.value)
    assert "after step 0: out of memory in a reference batch of 2 pairs, padded to 4 x " in said
    assert "pair-0" in said
    assert "pair-1" in said
    assert "lower max_tokens_per_batch (" in said
    assert "lower precompute_ref_batch_size (2)" in said
    assert "gradient_checkpointing" not in said, "there is no backward pass"


def test_out_of_memory_in_the_optimizer_is_said_to_be_there(config, tokenizer, monkeypatch):
    def step(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    trainer = trainer_of(rows_with_word_in({}), config, tokenizer)
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(TrainingError, match=r"after step 0: .* outside of any batch.* adafactor"):
        trainer.train()


def test_a_batch_size_that_is_to_be_found_is_found_and_what_failed_is_not_logged(config, tokenizer):
    trainer = trainer_of(
        rows_with_word_in({}), config, tokenizer, auto_find_batch_size=True, max_tokens_per_batch=1
    )
    forward, calls = trainer.model.base_model.forward, []

    def fails_once(*args, **kwargs):
        trains = trainer.model.training  # while layouts are compared it does not
        calls.extend([args] if trains else [])
        if len(calls) == 2 and trains:  # the first pair of the four is kept by then
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(*args, **kwargs)

    trainer.model.base_model.forward = fails_once
    trainer.train()
    assert trainer.state.train_batch_size == 3, "accelerate takes a tenth off 4, and rounds down"
    assert trainer.state.global_step == 2
    lengths = [len(ids) for ids in trainer.train_dataset["chosen_ids"][:3]]
    logged = trainer.state.log_history[0]["lengths/chosen"]
    assert logged == pytest.approx(sum(lengths) / 3)


def test_memory_that_lacks_in_an_evaluation_is_named_also_where_a_batch_size_is_found(
    config, tokenizer
):
    rows = rows_with_word_in({})
    trainer = trainer_of(rows, config, tokenizer, auto_find_batch_size=True)
    trainer.model.base_model.forward = out_of_memory("cuda")
    with pytest.raises(TrainingError, match=r"lower per_device_eval_batch_size \(4\)"):
        trainer.evaluate(Dataset.from_list(rows))
