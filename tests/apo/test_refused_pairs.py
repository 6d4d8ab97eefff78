"""What TRL drops or cuts in silence is refused by name."""

import pytest
from datasets import Dataset
from tiny_apo import make_model, make_rows

from clair_apo.apo.trainer import APOTrainer
from clair_apo.errors import TrainingError


def make_trainer(config, tokenizer, pairs, model, **options):
    return APOTrainer(
        model=model, args=config, train_dataset=pairs, processing_class=tokenizer, **options
    )


def test_a_pair_that_max_length_would_empty_is_named_not_dropped(config, tokenizer):
    rows = make_rows(4)
    rows[2]["prompt"][0]["content"] = " ".join(["w1"] * 40)
    with pytest.raises(TrainingError, match=r"train pair 2: the prompt alone has 43 tokens"):
        make_trainer(config(max_length=30), tokenizer, Dataset.from_list(rows), make_model())


def test_a_pair_with_an_id_is_named_by_it_and_in_an_evaluation_set_too(config, tokenizer, pairs):
    rows = make_rows(2)
    rows[1]["prompt"][0]["content"] = " ".join(["w1"] * 40)
    named = Dataset.from_list([row | {"id": f"pair-{n}"} for n, row in enumerate(rows)])
    with pytest.raises(TrainingError, match=r"eval pair pair-1: the prompt alone"):
        make_trainer(
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
        make_trainer(config(), tokenizer, pairs, make_model())
