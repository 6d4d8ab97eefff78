import math

import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from peft import LoraConfig, get_peft_model
from torch.nn.functional import logsigmoid
from transformers import MixtralConfig, MixtralForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer

from clair_apo.apo.trainer import APOTrainer
from clair_apo.errors import ConfigError
from tests.helpers.tiny_apo import make_model, make_rows, make_trainer

# Two ways through the same arithmetic; measured difference 2e-7 on losses near 1.
SAME = 1e-6


def a_batch(trainer):
    """The first batch of training, in the order of the data set."""
    rows = [trainer.train_dataset[i] for i in range(4)]
    return trainer.data_collator(rows)


def moved(model, seed=3, by=0.15):
    """The model with every weight moved a little: a policy that is not its reference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += by * torch.randn(weight.shape, generator=generator)
    return model


def train_logs(trainer):
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    "losses",
    [
        ["apo_zero"],
        ["apo_down"],
        ["sigmoid"],
        ["sft"],
        ["apo_zero", "sigmoid"],
        ["apo_down", "sft"],
    ],
    ids="+".join,
)
def test_loss_gradient_and_rewards_equal_those_of_trl(losses, config, tokenizer, pairs):
    weights = [0.7, 0.2][: len(losses)]
    found = {}
    for kind in (DPOTrainer, APOTrainer):
        trainer = make_trainer(
            kind,
            config(loss_type=losses, loss_weights=weights),
            tokenizer,
            pairs,
            moved(make_model()),
            ref_model=make_model(),
        )
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, a_batch(trainer))
        loss.backward()
        logs = {}
        trainer.log(logs)
        found[kind] = loss, [p.grad for p in trainer.model.parameters()], logs
    theirs, ours = found[DPOTrainer], found[APOTrainer]
    assert abs(ours[0] - theirs[0]) < SAME
    for mine, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(mine, other, atol=SAME, rtol=1e-4)
    shared = [k for k in theirs[2] if k in ours[2]]
    assert {"rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen"} <= set(shared)
    for key in shared:
        within = SAME if key.startswith("rewards/") else 1e-5  # log-probs are sums near -40
        assert ours[2][key] == pytest.approx(theirs[2][key], abs=within), key
    assert abs(theirs[2]["rewards/margins"]) > 0.1, "the policy differs from its reference"


def test_length_normalised_dpo_is_what_trl_calls_sigmoid_norm(config, tokenizer, pairs):
    theirs, ours = (
        make_trainer(
            kind, config(**options), tokenizer, pairs, moved(make_model()), ref_model=make_model()
        )
        for kind, options in (
            (DPOTrainer, {"loss_type": "sigmoid_norm", "beta": 5.0}),
            (APOTrainer, {"loss_type": "sigmoid", "beta": 5.0, "length_normalize": True}),
        )
    )
    expected = theirs.compute_loss(theirs.model, a_batch(theirs))
    found = ours.compute_loss(ours.model, a_batch(ours))
    assert abs(found - expected) < SAME * expected
    assert abs(expected - math.log(2)) > 0.01, "the policy differs from its reference"


def test_label_smoothing_reaches_the_loss_of_a_run(apo_trainer):
    trainer = apo_trainer(
        moved(make_model()),
        ref_model=make_model(),
        eval_dataset=Dataset.from_list(make_rows(4)),
        loss_type="sigmoid",
        beta=1.0,
        label_smoothing=0.2,
    )
    loss = trainer.evaluate()["eval_loss"]
    margins = torch.tensor(trainer.evaluation_rewards.margins)
    clean, swapped = -logsigmoid(margins), -logsigmoid(-margins)
    assert loss == pytest.approx((0.8 * clean + 0.2 * swapped).mean().item(), abs=1e-5)
    assert loss != pytest.approx(clean.mean().item(), abs=1e-2)


def test_label_smoothing_is_refused_where_the_loss_is_trls_because_of_the_model(apo_trainer):
    experts = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=86,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=2,
            pad_token_id=0,
        )
    )
    with pytest.raises(ConfigError, match=r"label_smoothing 0.1 would be ignored: .* auxiliary"):
        apo_trainer(experts, loss_type="sigmoid", label_smoothing=0.1)


def test_other_losses_and_options_take_trls_own_way(config, tokenizer, pairs):
    for options in (
        {"loss_type": ["ipo"]},
        {"loss_type": ["sigmoid"], "f_divergence_type": "js_divergence"},
        {"ld_alpha": 0.5},
        {"use_weighting": True},
    ):
        found = [
            make_trainer(
                kind,
                config(precompute_ref_log_probs=False, **options),
                tokenizer,
                pairs,
                moved(make_model()),
                make_model(),
            )
            for kind in (DPOTrainer, APOTrainer)
        ]
        theirs, ours = (t.compute_loss(t.model, a_batch(t)) for t in found)
        assert not found[1].computes_pairs, options
        assert torch.equal(theirs, ours), options


def test_a_plain_dpo_config_and_no_config_work(config, tokenizer, pairs, tmp_path, monkeypatch):
    plain = DPOConfig(str(tmp_path / "plain"), use_cpu=True, bf16=False)
    assert make_trainer(APOTrainer, plain, tokenizer, pairs, make_model()).loss_types == ["sigmoid"]
    monkeypatch.chdir(tmp_path)
    assert make_trainer(APOTrainer, None, tokenizer, pairs, make_model()).loss_types == ["apo_zero"]


def test_training_raises_the_winner_and_lowers_the_loser(config, tokenizer, pairs):
    trainer = make_trainer(
        APOTrainer, config(max_steps=12), tokenizer, pairs, make_model(), eval_dataset=pairs
    )
    first = train_logs(trainer)[0]
    after = trainer.evaluate()
    assert first["loss"] == pytest.approx(1.0, abs=1e-4)
    assert after["eval_rewards/chosen"] > 0.1
    assert after["eval_rewards/rejected"] < -0.1
    assert after["eval_quadrants/chosen_up_rejected_down"] > 0.5


def test_logs_carry_both_sides_quadrants_and_saturation_in_train_and_eval(config, tokenizer, pairs):
    trainer = make_trainer(
        APOTrainer,
        config(eval_strategy="steps", eval_steps=1),
        tokenizer,
        pairs,
        make_model(),
        eval_dataset=pairs,
    )
    trainer.train()
    names = {
        *("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
        *("quadrants/chosen_up_rejected_down", "quadrants/chosen_up_rejected_up"),
        *("quadrants/chosen_down_rejected_down", "quadrants/chosen_down_rejected_up"),
        *("logps/chosen", "logps/rejected", "ref_logps/chosen", "ref_logps/rejected"),
        *("kl/chosen_k1", "kl/rejected_k1", "kl/chosen_k3", "kl/rejected_k3"),
        *("logratios_per_token/chosen", "logratios_per_token/rejected"),
        *("lengths/chosen", "lengths/rejected", "first_difference"),
        *("saturation", "entropy", "mean_token_accuracy"),
        *("end_logps/chosen", "end_logps/rejected"),
        *("end_logratios/chosen", "end_logratios/rejected"),
        *("first_difference_logps/chosen", "first_difference_logps/rejected"),
        *("first_difference_logratios/chosen", "first_difference_logratios/rejected"),
        *("hardest_logps/chosen", "followed/share", "followed/whole"),
    }
    train = [e for e in trainer.state.log_history if "loss" in e]
    evaluated = [e for e in trainer.state.log_history if "eval_loss" in e]
    assert len(train) == len(evaluated) == 2
    assert all(names <= set(entry) for entry in train)
    assert all({f"eval_{name}" for name in names} <= set(entry) for entry in evaluated)
    for prefix, entries in (("", train), ("eval_", evaluated)):
        for entry in entries:
            shares = [v for k, v in entry.items() if k.startswith(f"{prefix}quadrants/")]
            assert sum(shares) == pytest.approx(1)
    assert train[0]["kl/chosen_k3"] == pytest.approx(0, abs=1e-6), "the policy is its reference"
    assert train[1]["kl/chosen_k3"] > 1e-4
    last = evaluated[-1]
    assert last["eval_rewards/chosen"] == pytest.approx(
        trainer.beta * (last["eval_logps/chosen"] - last["eval_ref_logps/chosen"]), abs=1e-5
    )


def test_a_log_speaks_of_the_pairs_since_the_last_one(config, tokenizer, pairs):
    trainer = make_trainer(
        APOTrainer, config(), tokenizer, pairs, moved(make_model()), ref_model=make_model()
    )
    trainer.model.train()
    found = []
    for rows in (range(4), range(4, 8)):
        trainer.compute_loss(
            trainer.model, trainer.data_collator([trainer.train_dataset[i] for i in rows])
        )
        found.append({})
        trainer.log(found[-1])
    nothing = {}
    trainer.log(nothing)
    metrics = trainer.evaluate(pairs)
    assert found[0]["rewards/chosen"] != found[1]["rewards/chosen"]
    halves = (found[0]["rewards/chosen"] + found[1]["rewards/chosen"]) / 2
    assert halves == pytest.approx(metrics["eval_rewards/chosen"], abs=1e-5)
    assert "rewards/chosen" not in nothing


def test_evaluation_gives_every_pair_in_order_whatever_the_batch(config, tokenizer):
    pairs = Dataset.from_list(make_rows(7))
    found = []
    for size in (1, 3, 7):
        trainer = make_trainer(
            APOTrainer,
            config(per_device_eval_batch_size=size),
            tokenizer,
            pairs,
            moved(make_model()),
            ref_model=make_model(),
        )
        metrics = trainer.evaluate(pairs)
        found.append((metrics, trainer.evaluation_rewards))
    alone, rewards = found[0]
    assert len(rewards.chosen) == len(rewards.rejected) == 7
    for metrics, others in found[1:]:
        assert others.chosen == pytest.approx(rewards.chosen, abs=1e-5)
        assert others.rejected == pytest.approx(rewards.rejected, abs=1e-5)
        assert metrics.keys() == alone.keys()
        for key in (key for key in alone if "runtime" not in key and "per_second" not in key):
            assert metrics[key] == pytest.approx(alone[key], abs=1e-4), key
    assert alone["eval_rewards/chosen"] == pytest.approx(sum(rewards.chosen) / 7, abs=1e-6)
    by_hand = [
        2 - 1 / (1 + math.exp(-w)) - 1 / (1 + math.exp(v))
        for w, v in zip(rewards.chosen, rewards.rejected, strict=True)
    ]
    assert alone["eval_loss"] == pytest.approx(sum(by_hand) / 7, abs=1e-6)


@pytest.mark.parametrize("length_normalize", [False, True], ids=["by_token", "by_answer"])
def test_the_sft_term_is_the_same_however_the_global_batch_is_split(
    length_normalize, config, tokenizer
):
    pairs = Dataset.from_list(make_rows(8))
    steps, evaluated = [], []
    for size, accumulated in ((8, 1), (4, 2), (1, 8)):
        trainer = make_trainer(
            APOTrainer,
            config(
                loss_type=["apo_zero", "sft"],
                loss_weights=[1.0, 0.5],
                length_normalize=length_normalize,
                per_device_train_batch_size=size,
                per_device_eval_batch_size=size,
                gradient_accumulation_steps=accumulated,
                max_steps=2,
            ),
            tokenizer,
            pairs,
            make_model(),
        )
        logs = train_logs(trainer)
        steps.append([(e["loss"], e["grad_norm"], e["logps/chosen"]) for e in logs])
        evaluated.append(trainer.evaluate(pairs)["eval_loss"])
    whole, *split = torch.tensor(steps)
    for found in split:
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-4)
    assert evaluated == pytest.approx([evaluated[0]] * 3, rel=1e-4)
    trainer = make_trainer(APOTrainer, config(), tokenizer, pairs, make_model())
    masks = trainer.data_collator(list(trainer.train_dataset))["completion_mask"][:8, 1:]
    by_batch = masks.sum(1).float()
    assert by_batch.std() > 1, "winners are of uneven length, so a mean of means would show"


def test_every_metric_is_the_same_in_both_layouts_and_however_a_batch_is_cut(config, tokenizer):
    pairs = Dataset.from_list(make_rows(8))
    found = []
    for options in (
        config(pair_layout="padded", max_tokens_per_batch=None),
        config(pair_layout="shared_prefix", max_tokens_per_batch=None),
        config(pair_layout="shared_prefix", max_tokens_per_batch=40),
    ):
        trainer = make_trainer(APOTrainer, options, tokenizer, pairs, make_model())
        found.append((train_logs(trainer)[-1], trainer.evaluate(pairs)))
    for padded, *others in zip(*found, strict=True):
        of_time = ("runtime", "second", "speed/")
        timeless = {k: v for k, v in padded.items() if not any(part in k for part in of_time)}
        assert {"saturation", "eval_saturation"} & set(timeless)
        for other in others:
            for key, value in timeless.items():
                if not key.endswith("num_tokens"):
                    assert other[key] == pytest.approx(value, abs=1e-4, rel=1e-4), key


def test_a_dict_of_evaluation_sets_keeps_their_names_apart(config, tokenizer, pairs):
    sets = DatasetDict(easy=pairs, hard=Dataset.from_list(make_rows(5, seed=9)))
    trainer = make_trainer(
        APOTrainer,
        config(),
        tokenizer,
        pairs,
        moved(make_model()),
        ref_model=make_model(),
        eval_dataset=dict(sets),
    )
    metrics = trainer.evaluate()
    assert metrics["eval_easy_rewards/chosen"] != metrics["eval_hard_rewards/chosen"]
    assert len(trainer.evaluation_rewards.chosen) == 5, "those of the last one"
    assert trainer.evaluate(pairs)["eval_rewards/chosen"] == metrics["eval_easy_rewards/chosen"]


def test_rewards_of_pairs_are_gone_where_trl_computes_the_loss(config, tokenizer, pairs):
    trainer = make_trainer(APOTrainer, config(loss_type="ipo"), tokenizer, pairs, make_model())
    assert "eval_loss" in trainer.evaluate(pairs)
    assert trainer.evaluation_rewards is None


def test_text_rows_and_streams_train_like_conversations(config, tokenizer):
    rows = make_rows(8, conversational=False)
    stream = IterableDataset.from_generator(lambda: iter(rows))
    for data in (Dataset.from_list(rows), stream):
        logs = train_logs(
            make_trainer(APOTrainer, config(max_steps=12), tokenizer, data, make_model())
        )
        assert logs[0]["loss"] == pytest.approx(1.0, abs=1e-4)
        assert logs[-1]["loss"] < 0.99


def test_a_new_adapter_trains_against_the_model_without_it(config, tokenizer, pairs):
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], r=4, task_type="CAUSAL_LM")
    trainer = make_trainer(
        APOTrainer, config(max_steps=4), tokenizer, pairs, make_model(), peft_config=lora
    )
    logs = train_logs(trainer)
    assert trainer.ref_model is None
    assert logs[0]["rewards/chosen"] == pytest.approx(0, abs=1e-6)
    assert logs[-1]["rewards/margins"] > 0
    base = make_model()
    kept = trainer.model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight
    assert torch.equal(kept, base.model.layers[0].self_attn.q_proj.weight)


def test_a_passed_adapter_is_its_own_reference(config, tokenizer, pairs):
    lora = LoraConfig(target_modules=["q_proj"], r=4, task_type="CAUSAL_LM")
    adapted = moved(get_peft_model(make_model(), lora), by=0.02)
    logs = train_logs(make_trainer(APOTrainer, config(), tokenizer, pairs, adapted))
    assert logs[0]["rewards/chosen"] == pytest.approx(0, abs=1e-6)


def test_callbacks_are_called(config, tokenizer, pairs):
    class Counter(TrainerCallback):
        steps = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.steps += 1

    counter = Counter()
    make_trainer(APOTrainer, config(), tokenizer, pairs, make_model(), callbacks=[counter]).train()
    assert counter.steps == 2


def test_compute_metrics_gets_logits(config, tokenizer, pairs):
    shapes = []
    trainer = make_trainer(
        APOTrainer,
        config(),
        tokenizer,
        pairs,
        make_model(),
        compute_metrics=lambda found: shapes.append(found.predictions.shape) or {"seen": 1.0},
    )
    metrics = trainer.evaluate(pairs)
    assert metrics["eval_seen"] == 1.0
    assert shapes[0][-1] == make_model().config.vocab_size


def test_gradient_accumulation_does_not_change_training(config, tokenizer):
    pairs = Dataset.from_list(make_rows(8))
    losses = []
    for size, accumulated in ((4, 1), (1, 4)):
        trainer = make_trainer(
            APOTrainer,
            config(
                per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulated,
                max_steps=4,
            ),
            tokenizer,
            pairs,
            make_model(),
        )
        losses.append([(e["loss"], e["rewards/chosen"]) for e in train_logs(trainer)])
    assert torch.allclose(torch.tensor(losses[0]), torch.tensor(losses[1]), atol=1e-4)


def test_the_card_names_objective_beta_and_rewards_and_no_path(config, tokenizer, pairs, tmp_path):
    trainer = make_trainer(
        APOTrainer, config(beta=0.25), tokenizer, pairs, make_model(), eval_dataset=pairs
    )
    trainer.train()
    trainer.evaluate()
    trainer.create_model_card("my-model")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# my-model" in card
    assert "| Objective | apo_zero |" in card
    assert "| beta | 0.25 |" in card
    assert f"(n={len(pairs)})" in card
    assert str(tmp_path) not in card
