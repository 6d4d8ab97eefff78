"""Weights of pairs: what a step is with them, whatever it is split into, and what is refused."""

import json

import pytest
import torch
from datasets import Dataset, IterableDataset

from clair_apo.apo.data import PairSplit, data_digest
from clair_apo.errors import ConfigError, DataError, TrainingError
from clair_apo.ingest.pairs import load_pairs
from tests.helpers.tiny_apo import make_model, make_rows

WEIGHTS = [0.25, 2.0, 0.0, 1.0, 3.0, 0.5, 1.5, 0.125]


def weighted(weights, seed=0):
    rows = make_rows(len(weights), seed=seed)
    return [row | {"weight": weight} for row, weight in zip(rows, weights, strict=True)]


def answer_logps(model, prompt, answer):
    """Log-probs of an answer's tokens in a forward of their own."""
    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(answer)), answer]


def weights_after_one_step(rows, sft=0.5, beta=0.1, rate=0.5):
    """One step of plain gradient descent, pair by pair, on sum(w * loss) / sum(w)."""
    policy, reference = make_model(1).double(), make_model(2).double().requires_grad_(False)
    losses, nats, tokens = [], [], []
    for row in rows:
        ratios = {}
        for side in ("chosen", "rejected"):
            ids = row["prompt_ids"], row[f"{side}_ids"]
            logps = answer_logps(policy, *ids)
            ratios[side] = beta * (logps.sum() - answer_logps(reference, *ids).sum())
            if side == "chosen":
                nats.append(-logps.sum())
                tokens.append(len(logps))
        losses.append(torch.sigmoid(-ratios["chosen"]) + torch.sigmoid(ratios["rejected"]))
    w = torch.tensor([row.get("weight", 1.0) for row in rows], dtype=torch.float64)
    mean = (w * torch.stack(losses)).sum() / w.sum()
    by_token = (w * torch.stack(nats)).sum() / (w * torch.tensor(tokens)).sum()
    loss = mean + sft * by_token
    loss.backward()
    return loss.item(), [p.detach() - rate * p.grad for p in policy.parameters()]


SPLITS = {
    "one batch": {"per_device_train_batch_size": 8},
    "accumulated": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "cut into rows": {"per_device_train_batch_size": 8, "max_tokens_per_batch": 60},
    "padded": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    | {"pair_layout": "padded", "max_tokens_per_batch": 90},
}


@pytest.mark.parametrize("split", SPLITS)
def test_a_step_is_the_weighted_mean_over_its_pairs_however_it_is_split(split, apo_trainer):
    policy = make_model(1).double()
    trainer = apo_trainer(
        policy,
        Dataset.from_list(weighted(WEIGHTS)),
        ref_model=make_model(2).double(),
        loss_type=["apo_zero", "sft"],
        loss_weights=[1.0, 0.5],
        max_steps=1,
        max_grad_norm=0.0,
        optim="sgd",
        learning_rate=0.5,
        lr_scheduler_type="constant",
        **SPLITS[split],
    )
    loss, expected = weights_after_one_step(list(trainer.train_dataset))
    trainer.train()
    log = next(entry for entry in trainer.state.log_history if "loss" in entry)
    # RMSNorm takes fp32, whatever the dtype
    assert log["loss"] == pytest.approx(loss, abs=1e-5)
    for found, wanted in zip(policy.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-5, atol=1e-6)


def test_equal_weights_train_as_none_do(apo_trainer):
    found = []
    for rows in (make_rows(8), weighted([3.0] * 8)):
        trainer = apo_trainer(data=Dataset.from_list(rows))
        trainer.train()
        found.append([e["loss"] for e in trainer.state.log_history if "loss" in e])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_metrics_count_each_pair_once_and_the_loss_of_an_evaluation_is_weighted(apo_trainer):
    rows = weighted([0.0, 5.0, 1.0, 0.0])
    trainer = apo_trainer(
        make_model(1),
        Dataset.from_list(rows),
        ref_model=make_model(2),
        eval_dataset=Dataset.from_list(rows),
        per_device_eval_batch_size=3,
        logging_steps=1,
        max_steps=1,
    )
    found = trainer.evaluate()
    rewards = trainer.evaluation_rewards
    chosen, rejected = torch.tensor(rewards.chosen), torch.tensor(rewards.rejected)
    losses = torch.sigmoid(-chosen) + torch.sigmoid(rejected)
    assert len(chosen) == 4
    assert found["eval_rewards/chosen"] == pytest.approx(chosen.mean().item(), abs=1e-5)
    weighted_loss = (5 * losses[1] + losses[2]).item() / 6
    assert found["eval_loss"] == pytest.approx(weighted_loss, abs=1e-5)
    trainer.train()
    log = next(entry for entry in trainer.state.log_history if "rewards/chosen" in entry)
    assert log["rewards/chosen"] == pytest.approx(chosen.mean().item(), abs=1e-4)


def test_a_stream_of_weighted_pairs_trains_like_the_data_set(apo_trainer):
    rows, logs = weighted(WEIGHTS[:4]), []
    for data in (Dataset.from_list(rows), IterableDataset.from_generator(lambda: iter(rows))):
        trainer = apo_trainer(data=data, max_steps=1)
        trainer.train()
        logs.append(next(e for e in trainer.state.log_history if "loss" in e))
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], abs=1e-6)
    assert logs[0]["grad_norm"] == pytest.approx(logs[1]["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_cannot_be_is_named_with_its_pair(wrong, apo_trainer):
    with pytest.raises(TrainingError, match=r"train pair 1: 'weight' must be a number, 0 or above"):
        apo_trainer(data=Dataset.from_list(weighted([1.0, wrong])))


def test_a_missing_weight_of_a_stream_is_named_with_its_pair(apo_trainer):
    rows = [row | {"id": str(n)} for n, row in enumerate(weighted([1.0, None]))]
    trainer = apo_trainer(data=IterableDataset.from_generator(lambda: iter(rows)))
    with pytest.raises(TrainingError, match=r"pair 1: 'weight' must be a number, .* got None"):
        trainer.train()


def test_pairs_that_all_weigh_nothing_are_refused(apo_trainer):
    with pytest.raises(TrainingError, match="every pair has weight 0"):
        apo_trainer(data=Dataset.from_list(weighted([0.0, 0.0])))


def test_weights_are_refused_where_trl_has_the_loss_and_would_ignore_them(apo_trainer):
    with pytest.raises(ConfigError, match=r"the column weight of the data would be ignored: .*ipo"):
        apo_trainer(data=Dataset.from_list(weighted([1.0, 2.0])), loss_type="ipo")


def test_the_card_says_that_pairs_are_weighted(apo_trainer, tmp_path):
    trainer = apo_trainer(data=Dataset.from_list(weighted([1.0, 2.0])))
    trainer.create_model_card("mine")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| Objective | apo_zero, pairs weighted by the data |" in card


# --- read from files


def written(folder, rows):
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_weights_are_read_and_said(tmp_path):
    pairs = load_pairs(written(tmp_path, weighted([0, 0.5, 2])))
    assert [pair.weight for pair in pairs] == [0, 0.5, 2]
    split = PairSplit(tuple(pairs), ())
    assert split.weights_in_words == (
        "weighted by their column weight: 0 to 2, mean 0.833, 1 of them 0"
    )
    plain = load_pairs(written(tmp_path, make_rows(3)))
    assert PairSplit(tuple(plain), ()).weights_in_words == ""
    assert "weight" not in plain[0].to_trl_row()
    assert data_digest(plain) != data_digest(pairs), "they train another model"


@pytest.mark.parametrize("wrong", [-0.5, float("nan"), float("inf"), "much", True])
def test_a_weight_in_a_file_that_cannot_be_is_named_with_its_line(wrong, tmp_path):
    path = written(tmp_path, weighted([1, wrong]))
    with pytest.raises(DataError, match=r"pairs.jsonl:2: 'weight' must be a number, 0 or above"):
        load_pairs(path)


def test_a_weight_in_some_rows_alone_is_refused(tmp_path):
    path = written(tmp_path, weighted([1, None, 2]))
    with pytest.raises(DataError, match=r"pairs.jsonl:2: no 'weight', which other rows have"):
        load_pairs(path)
