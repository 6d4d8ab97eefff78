"""A collator of one's own works as with TRL: the columns it asks for, and the batches it makes."""

import pytest
import torch
from datasets import Dataset, IterableDataset
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from clair_apo.apo.trainer import APOTrainer
from tests.helpers.tiny_apo import make_model, make_rows

TRLS = DataCollatorForPreference(pad_token_id=0, max_length=64)


def asks_for_a_score(rows):
    assert all(isinstance(row["score"], float) for row in rows)
    return TRLS(rows)


def adds_columns(rows):
    batch = TRLS(rows)
    return batch | {"score": torch.tensor([row["score"] for row in rows]), "source": "a name"}


def other_names(rows):
    renamed = ("prompt_ids", "chosen_ids", "rejected_ids")
    return TRLS([{name: row[f"my_{name}"] for name in renamed} for row in rows])


def other_dtypes(rows):
    batch = TRLS(rows)
    return batch | {
        "attention_mask": batch["attention_mask"].bool(),
        "completion_mask": batch["completion_mask"].bool(),
    }


def padded_to_64(rows):
    batch = TRLS(rows)
    width = 64 - batch["input_ids"].shape[1]
    return {key: torch.nn.functional.pad(rows, (0, width)) for key, rows in batch.items()}


def wants_no_more_than_trl_gives(rows):
    assert all(set(row) == {"prompt_ids", "chosen_ids", "rejected_ids"} for row in rows)
    return TRLS(rows)


def with_positions(rows):
    """Learned or rotary ones that begin at 3: a column that the model has a name for."""
    batch = TRLS(rows)
    places = 3 * torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
    return batch | {"position_ids": places}


@pytest.fixture
def trained(config, tokenizer, tmp_path):
    """Trains with a collator on rows with a score, and gives the losses and the layout."""

    def train(kind, collator, keep_columns, rename=False):
        args = config(remove_unused_columns=not keep_columns, max_tokens_per_batch=60)
        if kind is DPOTrainer:
            names = ("max_steps", "per_device_train_batch_size", "learning_rate", "logging_steps")
            args = DPOConfig(
                output_dir=str(tmp_path / "trl"),
                loss_type=["apo_zero"],
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                save_strategy="no",
                report_to=[],
                seed=7,
                remove_unused_columns=not keep_columns,
                **{name: getattr(args, name) for name in names},
            )
        rows = [row | {"score": float(number)} for number, row in enumerate(make_rows(8))]
        data = Dataset.from_list(rows)
        if rename:
            for row in rows:
                for side in ("prompt", "chosen", "rejected"):
                    turns = row["prompt"] + (row[side] if side != "prompt" else [])
                    text = tokenizer.apply_chat_template(
                        turns, add_generation_prompt=side == "prompt", tokenize=False
                    )
                    row[f"my_{side}_ids"] = tokenizer(text)["input_ids"]
                for side in ("chosen", "rejected"):
                    row[f"my_{side}_ids"] = row[f"my_{side}_ids"][len(row["my_prompt_ids"]) :]
            data = Dataset.from_list(rows)
        trainer = kind(
            model=make_model(),
            ref_model=make_model(1),
            args=args,
            data_collator=collator,
            train_dataset=data,
            processing_class=tokenizer,
        )
        trainer.train()
        found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return found, getattr(trainer, "pair_layout", None)

    return train


@pytest.mark.parametrize(
    ("collator", "keep_columns", "layout"),
    [
        (asks_for_a_score, True, "shared_prefix"),
        (adds_columns, True, "shared_prefix"),
        (other_names, True, "shared_prefix"),
        (other_dtypes, False, "shared_prefix"),
        (padded_to_64, False, "shared_prefix"),
        (wants_no_more_than_trl_gives, False, "shared_prefix"),
        (with_positions, False, "padded"),
    ],
)
def test_losses_are_those_of_trl(collator, keep_columns, layout, trained):
    rename = collator is other_names
    wanted, _ = trained(DPOTrainer, collator, keep_columns, rename)
    found, mine = trained(APOTrainer, collator, keep_columns, rename)
    assert found == pytest.approx(wanted, rel=1e-4)
    assert mine == layout


def test_a_stream_gives_its_first_pairs_to_the_comparison_and_loses_none(config, tokenizer):
    rows = make_rows(8)
    data = IterableDataset.from_generator(lambda: iter(rows))
    trainer = APOTrainer(
        model=make_model(),
        args=config(),
        train_dataset=data,
        processing_class=tokenizer,
        data_collator=other_dtypes,
    )
    assert trainer.pair_layout == "shared_prefix"
    assert next(iter(trainer.get_train_dataloader()))["rows"].tolist() == [0, 1, 2, 3]
