"""What TRL drops, cuts or stumbles over is refused by name."""

import resource

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, get_peft_model

from clair_apo.apo.checkpoints import named_write_failure
from clair_apo.apo.checks import has_coarse_weights
from clair_apo.apo.trainer import APOTrainer
from clair_apo.errors import ConfigError, TrainingError
from tests.helpers.tiny_apo import make_model, make_rows, make_trainer


def test_a_pair_that_max_length_would_empty_is_named_not_dropped(config, tokenizer):
    rows = make_rows(4)
    rows[2]["prompt"][0]["content"] = " ".join(["w1"] * 40)
    with pytest.raises(TrainingError, match=r"train pair 2: the prompt alone has 43 tokens"):
        make_trainer(
            APOTrainer, config(max_length=30), tokenizer, Dataset.from_list(rows), make_model()
        )


def test_a_pair_with_an_id_is_named_by_it_and_in_an_evaluation_set_too(config, tokenizer, pairs):
    rows = make_rows(2)
    rows[1]["prompt"][0]["content"] = " ".join(["w1"] * 40)
    named = Dataset.from_list([row | {"id": f"pair-{n}"} for n, row in enumerate(rows)])
    with pytest.raises(TrainingError, match=r"eval pair pair-1: the prompt alone"):
        make_trainer(
            APOTrainer,
            config(max_length=30),
            tokenizer,
            pairs,
            make_model(),
            eval_dataset=named,
        )


def test_a_prompt_that_is_no_prefix_is_refused(config, tokenizer, pairs):
    tokenizer = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>", eos_token="<eos>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}> {{ m.content }} <eos> {% endfor %}"
        "{% if add_generation_prompt %}<assistant> w7 w8{% endif %}"
    )
    with pytest.raises(TrainingError, match=r"pair 0: .* not a prefix .*'w7 w8' would be left out"):
        make_trainer(APOTrainer, config(), tokenizer, pairs, make_model())


@pytest.mark.parametrize("answer", [[], [{"role": "assistant", "content": " "}]], ids=str)
def test_a_pair_without_an_answer_is_named(config, tokenizer, answer):
    rows = make_rows(3)
    rows[1]["rejected"] = answer
    with pytest.raises(TrainingError, match="train pair 1: 'rejected' is empty"):
        make_trainer(APOTrainer, config(), tokenizer, Dataset.from_list(rows), make_model())


def test_a_missing_text_is_named(config, tokenizer):
    rows = make_rows(2, conversational=False)
    rows[1]["chosen"] = None
    with pytest.raises(TrainingError, match="train pair 1: 'chosen' is empty"):
        make_trainer(APOTrainer, config(), tokenizer, Dataset.from_list(rows), make_model())


def test_a_data_set_without_a_pair_is_named(config, tokenizer, pairs):
    nothing = pairs.select([])
    stream = IterableDataset.from_generator(lambda: iter(()))
    for empty in (nothing, stream):
        with pytest.raises(TrainingError, match="train_dataset holds no pair"):
            make_trainer(APOTrainer, config(), tokenizer, empty, make_model())
    for evaluated, name in ((nothing, "eval_dataset"), ({"a": nothing}, "eval_dataset a")):
        with pytest.raises(TrainingError, match=f"{name} holds no pair"):
            make_trainer(
                APOTrainer, config(), tokenizer, pairs, make_model(), eval_dataset=evaluated
            )


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_data_set_that_gives_arrays_trains_as_one_that_gives_lists(
    config, tokenizer, pairs, kind
):
    losses = []
    for data in (pairs, pairs.with_format(kind)):
        trainer = make_trainer(APOTrainer, config(), tokenizer, data, make_model())
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[0] == losses[1]


def test_an_adapter_that_trl_cannot_find_is_named(config, tokenizer, pairs):
    model = get_peft_model(make_model(), LoraConfig(target_modules=["q_proj"]), "mine")
    with pytest.raises(TrainingError, match=r"adapter is called mine, .* the one called default"):
        make_trainer(APOTrainer, config(), tokenizer, pairs, model)


@pytest.mark.parametrize("precompute", [True, False])
def test_a_head_without_weights_of_its_own_is_refused(config, tokenizer, pairs, precompute):
    model = make_model(tie_word_embeddings=True)
    lora = LoraConfig(target_modules=["q_proj"], trainable_token_indices=[3, 4])
    args = config(precompute_ref_log_probs=precompute)
    with pytest.raises(TrainingError, match="trainable_token_indices also wraps the model's head"):
        make_trainer(APOTrainer, args, tokenizer, pairs, model, peft_config=lora)


def test_a_loss_of_a_subclass_is_the_one_that_trains(config, tokenizer, pairs, caplog):
    class Tripled(APOTrainer):
        def _compute_loss(self, *args, **kwargs):
            return super()._compute_loss(*args, **kwargs) * 3

    def first_loss(kind, **options):
        trainer = kind(
            make_model(), args=config(**options), train_dataset=pairs, processing_class=tokenizer
        )
        trainer.train()
        return trainer.state.log_history[0]["loss"]

    with caplog.at_level("WARNING", "clair_apo"):
        assert first_loss(Tripled) == pytest.approx(3 * first_loss(APOTrainer), rel=1e-5)
    assert "padded, because _compute_loss is overridden" in caplog.text
    with pytest.raises(ConfigError, match="_compute_loss is overridden"):
        first_loss(Tripled, pair_layout="shared_prefix")


def test_a_checkpoint_that_the_disk_does_not_take_is_named(config, tokenizer, pairs):
    """Files of 20,000 bytes are all that this process may write; the model has more."""
    options = {"save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(APOTrainer, config(**options), tokenizer, pairs, make_model())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(TrainingError, match=r"step 1: .*checkpoint-1 cannot be written \("):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("error", ["PytorchStreamWriter failed writing file data/0", "no space"])
def test_what_torch_says_of_a_full_disk_is_said_in_words(tmp_path, error):
    expected = TrainingError if "Stream" in error else RuntimeError
    with pytest.raises(expected), named_write_failure(tmp_path, 8):
        raise RuntimeError(error)


def test_quantized_weights_may_miss_by_as_much_as_short_ones():
    model = make_model()
    assert not has_coarse_weights(model)
    adapted = get_peft_model(make_model(), LoraConfig(target_modules=["q_proj"]))
    assert not has_coarse_weights(adapted)
    adapted.get_base_model().quantization_method = "bitsandbytes"
    assert has_coarse_weights(adapted)
    model.lm_head.to(torch.bfloat16)
    assert has_coarse_weights(model)
