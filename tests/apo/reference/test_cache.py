"""The reference is computed once for each pair, whatever the run, and never for another's pair."""

import itertools

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from trl import DPOConfig, DPOTrainer

from clair_apo.apo.reference import cache as module
from clair_apo.apo.reference.logprobs import SUM_COLUMNS
from clair_apo.apo.reference.model import Reference
from clair_apo.apo.trainer import APOTrainer
from clair_apo.errors import TrainingError
from tests.helpers.tiny_apo import make_model, make_rows, make_tokenizer


@pytest.fixture
def forwards(monkeypatch):
    """A list that grows by one with every forward of any tiny model: the pairs in it."""
    seen: list[int] = []
    embed = functional.embedding  # a patched model would be another reference

    def counting(ids, *args, **kwargs):
        seen.append(len(ids) // 2)
        return embed(ids, *args, **kwargs)

    monkeypatch.setattr(functional, "embedding", counting)
    return seen


@pytest.fixture
def make(apo_trainer):
    return lambda kind=APOTrainer, **options: apo_trainer(
        kind=kind, **({"pair_layout": "padded"} | options)
    )


@pytest.fixture
def on_disk(pairs, tmp_path):
    """Opens the same pairs with cache files, so that TRL's cache can hit."""
    pairs.save_to_disk(tmp_path / "pairs")
    return lambda: Dataset.load_from_disk(str(tmp_path / "pairs"))


@pytest.fixture
def plain(tmp_path):
    """A `DPOConfig` that computes its reference beforehand; keywords override."""

    def make_config(**options):
        usual = {"output_dir": str(tmp_path / "o"), "use_cpu": True, "bf16": False}
        return DPOConfig(**(usual | {"precompute_ref_log_probs": True} | options))

    return make_config


def tokens_by_hand(model, row, max_length=None, end=False):
    """log pi(token | before) of a winner's tokens that are left and have a token before them."""
    ids = row["prompt_ids"] + row["chosen_ids"]
    answer = [False] * len(row["prompt_ids"]) + [True] * len(row["chosen_ids"])
    cut = slice(None) if max_length is None else slice(-max_length, None) if end else max_length
    cut = slice(cut) if isinstance(cut, int) else cut
    ids, answer = torch.tensor([ids[cut]]), torch.tensor(answer[cut])
    with torch.no_grad():
        logps = model.eval()(ids).logits.log_softmax(-1)[0, :-1]
    return logps.gather(1, ids[0, 1:, None])[:, 0][answer[1:]]


@pytest.mark.parametrize(
    ("max_length", "mode"), [(None, "keep_start"), (16, "keep_start"), (9, "keep_end")]
)
def test_each_token_has_its_log_prob_in_the_order_of_the_batch(make, max_length, mode):
    trainer = make(max_length=max_length, truncation_mode=mode, precompute_ref_batch_size=3)
    rows = [trainer.train_dataset[i] for i in (6, 1, 5, 0, 2)]
    found = trainer.reference.tokens(trainer.data_collator(rows)).chosen
    expected = [tokens_by_hand(make_model(), r, max_length, mode == "keep_end") for r in rows]
    assert found.lengths.tolist() == [len(tokens) for tokens in expected]
    torch.testing.assert_close(found.values, torch.cat(expected), atol=1e-4, rtol=0)


BETAS = (0.01, 0.05, 0.1, 0.5, 1.0)
OBJECTIVES = ("apo_zero", "apo_down", "sigmoid")
RATES = (1e-6, 1e-4, 1e-2)
FOUR_OF_THEM = [(0.01, "apo_zero", 1e-6), (1.0, "apo_zero", 1e-6)]
FOUR_OF_THEM += [(0.1, "apo_down", 1e-4), (0.1, "sigmoid", 1e-2)]


@pytest.mark.parametrize(
    "sweep",
    [
        pytest.param(FOUR_OF_THEM, id="4 runs"),
        pytest.param(
            list(itertools.product(BETAS, OBJECTIVES, RATES)), id="45 runs", marks=pytest.mark.real
        ),
    ],
)
def test_a_sweep_asks_the_reference_in_its_first_run_alone(make, forwards, sweep):
    """12 seconds for the 45 runs, beside other busy processes."""
    asked = []
    for beta, objective, rate in sweep:
        trainer = make(beta=beta, loss_type=objective, learning_rate=rate, max_steps=1)
        asked.append(sum(forwards))
        forwards.clear()
        trainer.train()
        assert forwards == [4], "the one step asked the policy, and nobody else"
        forwards.clear()
    assert asked == [8] + [0] * (len(sweep) - 1)


def test_trl_asks_its_reference_again_when_beta_changes(make, forwards, on_disk, plain):
    asked = []
    for beta in (0.1, 0.5):
        make(DPOTrainer, data=on_disk(), args=plain(beta=beta, max_length=64))
        asked.append(sum(forwards))
        forwards.clear()
    assert asked == [8, 8], "D1: the learning rate, beta and loss are in TRL's key"
    for beta in (0.1, 0.5):
        make(data=on_disk(), beta=beta, max_length=64)
        asked.append(sum(forwards))
        forwards.clear()
    assert asked[2:] == [8, 0]


def test_another_max_length_never_meets_a_stale_reference(make, on_disk, plain):
    def column(max_length):
        # there, TRL's key ignores max_length
        args = plain(max_length=max_length, truncation_mode="keep_end")
        trainer = make(DPOTrainer, data=on_disk(), args=args)
        return torch.tensor(trainer.train_dataset["ref_chosen_logps"])

    assert torch.equal(column(None), column(9)), "D2: TRL reads what it computed for another length"
    for max_length in (None, 9):
        trainer = make(data=on_disk(), max_length=max_length, truncation_mode="keep_end")
        batch = trainer.data_collator(list(trainer.train_dataset))
        expected = [
            tokens_by_hand(make_model(), row, max_length, end=True).sum()
            for row in trainer.train_dataset
        ]
        torch.testing.assert_close(batch[SUM_COLUMNS[0]], torch.stack(expected), atol=1e-4, rtol=0)


def test_pairs_made_in_memory_are_found_again_where_trl_never_finds_them(make, forwards, plain):
    for expected in (8, 8):  # D4: where such a data set is cached is drawn by chance
        make(DPOTrainer, data=Dataset.from_list(make_rows(8)), args=plain())
        assert sum(forwards) == expected
        forwards.clear()
    for expected in (8, 0):
        make(data=Dataset.from_list(make_rows(8)))
        assert sum(forwards) == expected
        forwards.clear()


def test_another_order_more_rows_and_other_columns_cost_only_the_new_pairs(make, forwards):
    make(data=Dataset.from_list(make_rows(8)))
    assert sum(forwards) == 8
    forwards.clear()
    rows = [row | {"note": "new"} for row in reversed(make_rows(8))]
    make(data=Dataset.from_list(rows[:3] + make_rows(3, seed=9) + rows[3:] + rows[:2]))
    assert sum(forwards) == 3


def test_equal_pairs_are_computed_once(make, forwards):
    make(data=Dataset.from_list(make_rows(3) * 3))
    assert sum(forwards) == 3


def other_template(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("<eos>", "<eos> <eos>")
    return tokenizer


@pytest.mark.parametrize(
    "change",
    [
        lambda: {"model": make_model(1)},
        lambda: {"model": make_model().to(torch.bfloat16)},
        lambda: {"bf16": True},
        lambda: {"max_length": 16},
        lambda: {"processing_class": other_template(make_tokenizer())},
    ],
    ids=["weights", "dtype", "autocast", "truncation", "template"],
)
def test_whatever_changes_the_answer_is_computed_anew(make, forwards, change):
    make()
    forwards.clear()
    make(**change())
    assert sum(forwards) >= 1


def test_an_adapter_that_is_new_shares_the_reference_of_the_model_below_it(make, forwards):
    make()
    forwards.clear()
    make(peft_config=LoraConfig(target_modules=["q_proj"], r=4, task_type="CAUSAL_LM"))
    assert forwards == []


def trained(trainer):
    trainer.train()
    return torch.cat([weight.flatten() for weight in trainer.model.parameters()])


def test_a_full_cache_an_empty_one_and_none_train_the_same_weights(make):
    lively = {"max_steps": 4, "disable_dropout": True, "seed": 3}
    empty, full = trained(make(**lively)), trained(make(**lively))
    assert torch.equal(empty, full), "what computing it drew by chance changed nothing"
    on_the_fly = trained(make(precompute_ref_log_probs=False, **lively))
    torch.testing.assert_close(on_the_fly, full, atol=1e-5, rtol=0)
    assert (full - trained(make(max_steps=1))).abs().max() > 1e-3


def test_computing_the_reference_draws_no_random_number(make):
    states = []
    for _ in range(2):  # an empty cache, then a full one
        make()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_where_the_answer_begins_is_part_of_what_is_asked(make, forwards):
    early = {"prompt": "w1 w2", "chosen": " w3 w4 w5", "rejected": " w3 w4 w6"}
    late = {"prompt": "w1 w2 w3", "chosen": " w4 w5", "rejected": " w4 w6"}
    trainer = make(data=Dataset.from_list([early, late]))
    assert sum(forwards) == 2, "the same tokens, and two different answers"
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert batch["ref_chosen_lengths"].tolist() == [4, 3], "with the end of the sequence"


def test_an_interrupted_computation_keeps_what_it_has(make, forwards, monkeypatch):
    answers = Reference.tokens
    asked = []

    def third_time_dies(*args):
        asked.append(args)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answers(*args)

    monkeypatch.setattr(Reference, "tokens", third_time_dies)
    with pytest.raises(KeyboardInterrupt):
        make(precompute_ref_batch_size=2)
    forwards.clear()
    make(precompute_ref_batch_size=2)
    assert sum(forwards) == 4


def test_a_long_computation_is_kept_as_it_goes(make, monkeypatch):
    monkeypatch.setattr(module, "FLUSH_SECONDS", -1)
    trainer = make()
    files = list(trainer.reference_cache.store.folder.glob("*.safetensors"))
    assert len(files) == 8
    assert not make().reference_cache.computed


def test_a_reference_that_is_no_number_is_refused_and_not_kept(make, tmp_path):
    broken = make_model()
    with torch.no_grad():
        broken.model.norm.weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match="train: the reference gives NaN or infinity to pair"):
        make(model=broken)
    assert not list((tmp_path / "reference").rglob("*.safetensors"))


def test_a_damaged_file_is_computed_again_and_named(make, forwards, caplog):
    store = make().reference_cache.store
    (path,) = store.folder.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    forwards.clear()
    make()
    assert sum(forwards) == 8
    assert str(path) in caplog.text


def test_an_entry_of_another_length_is_refused(make):
    trainer = make()
    known = trainer.reference_cache.known
    for key, pair in known.items():
        known[key] = pair._replace(chosen=pair.chosen[1:])
    with pytest.raises(TrainingError, match="log-probs of another number of tokens"):
        trainer.train()


def test_new_pairs_after_training_are_taken_from_the_cache_else_refused(make, forwards):
    trainer = make(max_steps=1)
    trainer.train()
    new = Dataset.from_list(make_rows(4, seed=5))
    with pytest.raises(TrainingError, match=r"lacks 4 of 4 pairs, .* clair-apo reference build"):
        trainer.evaluate(new)
    make(data=new)  # as `reference build` does
    forwards.clear()
    metrics = trainer.evaluate(new)
    assert sum(forwards) == 4, "the policy alone"
    expected = [tokens_by_hand(make_model(), row).sum() for row in make(data=new).train_dataset]
    policy = [tokens_by_hand(trainer.model, row).sum() for row in make(data=new).train_dataset]
    rewards = trainer.beta * (torch.stack(policy) - torch.stack(expected))
    assert metrics["eval_rewards/chosen"] == pytest.approx(rewards.mean().item(), abs=1e-4)
    assert rewards.abs().max() > 1e-2
    assert set(trainer.evaluate({"a": new, "b": new})) > {"eval_a_loss", "eval_b_loss"}


def test_an_adapter_can_be_evaluated_on_new_pairs_at_any_time(make):
    lora = LoraConfig(target_modules=["q_proj"], r=4, task_type="CAUSAL_LM")
    trainer = make(peft_config=lora)
    trainer.train()
    assert "eval_rewards/chosen" in trainer.evaluate(Dataset.from_list(make_rows(4, seed=5)))


def test_a_stream_asks_an_explicit_reference_or_the_adapter_in_every_step(make, forwards):
    stream = IterableDataset.from_generator(lambda: iter(make_rows(8)))
    lora = LoraConfig(target_modules=["q_proj"], r=4, task_type="CAUSAL_LM")
    for options in ({"ref_model": make_model()}, {"peft_config": lora}, {}):
        trainer = make(data=stream, **options)
        assert not trainer.precompute_ref_logps
        forwards.clear()
        trainer.train()
        steps = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert steps[0]["rewards/chosen"] == pytest.approx(0, abs=1e-6)
        assert len(forwards) == 2 * len(steps), "the policy and the reference, in each"


def test_no_second_model_is_held_by_default(make):
    assert make().ref_model is None


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": ["ipo"]},
        {"loss_type": ["sigmoid"], "ld_alpha": 0.3},
        {"loss_type": ["sigmoid"], "f_divergence_type": "js_divergence"},
    ],
    ids=str,
)
def test_trls_own_losses_get_their_reference_from_the_same_entries(make, forwards, options):
    make()
    forwards.clear()
    ours = make(**options)
    assert forwards == []
    theirs = make(DPOTrainer, ref_model=make_model(), precompute_ref_log_probs=False, **options)
    losses = []
    for trainer in (ours, theirs):
        with torch.no_grad():
            trainer.model.lm_head.weight.mul_(1.1)
        rows = [trainer.train_dataset[i] for i in range(4)]
        losses.append(trainer.compute_loss(trainer.model, trainer.data_collator(rows)).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_the_cache_lies_where_the_config_says(make, tmp_path):
    make(reference_cache=str(tmp_path / "elsewhere"))
    assert list((tmp_path / "elsewhere").glob("*/*.safetensors"))
    assert not (tmp_path / "reference").exists()


def test_under_fsdp_the_policy_answers_when_training_begins_and_not_before(make, monkeypatch):
    monkeypatch.setattr(module, "is_spread", lambda accelerator: True)
    trainer = make()
    assert not trainer.reference_cache.computed
    with pytest.raises(TrainingError, match=r"not known\. Under FSDP .* clair-apo reference build"):
        trainer.data_collator([trainer.train_dataset[0]])
    trainer.train()
    assert len(trainer.reference_cache.computed) == 8
    assert trainer.state.log_history[0]["rewards/chosen"] == pytest.approx(0, abs=1e-6)
    assert not make().reference_cache.computed, "what the cache has is there at once"
    assert make().data_collator([trainer.train_dataset[0]])


def test_under_fsdp_a_resumed_policy_is_not_asked(make, monkeypatch, tmp_path):
    make(max_steps=1, save_strategy="steps", save_steps=1).train()
    monkeypatch.setattr(module, "is_spread", lambda accelerator: True)
    trainer = make(reference_cache=str(tmp_path / "empty"))
    with pytest.raises(TrainingError, match="the policy has been trained, so it cannot be asked"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))


def test_a_stream_that_is_to_be_computed_beforehand_is_refused(make):
    stream = IterableDataset.from_generator(lambda: iter(make_rows(8)))
    with pytest.raises(TrainingError, match="needs a data set with a length, not a stream"):
        make(data=stream, precompute_ref_log_probs=True)


def two_adapters(seed, active):
    """A reference with two trained adapters; `active` are on."""
    model = make_model()
    for number, name in enumerate(("default", "other")):
        torch.manual_seed(1 + number * seed)
        target = [f"{'qk'[number]}_proj"]
        lora = LoraConfig(r=4, init_lora_weights=False, target_modules=target)
        model = get_peft_model(model, lora) if number == 0 else model
        if number:
            model.add_adapter(name, lora)
    if active:
        model.base_model.set_adapter(active)
    else:
        model.base_model.disable_adapter_layers()
    return model


@pytest.mark.parametrize(
    ("seed", "active"), [(3, ["default", "other"]), (2, []), (2, ["default"]), (2, ["other"])]
)
def test_other_adapters_that_are_on_are_another_reference(make, seed, active):
    def asked(*state):
        options = {"peft_config": LoraConfig(r=2, target_modules=["v_proj"])}
        trainer = make(ref_model=two_adapters(*state), **options)
        return len(trainer.reference_cache.computed)

    assert asked(2, ["default", "other"]) == 8
    assert asked(2, ["default", "other"]) == 0
    assert asked(seed, active) == 8


def test_a_reference_with_a_hook_is_asked_in_every_run_and_kept_in_none(make, tmp_path, caplog):
    def doubled():
        model = make_model()
        model.model.norm.register_forward_hook(lambda module, args, out: 2 * out)
        return model

    make(ref_model=make_model())
    kept = sorted((tmp_path / "reference").rglob("*"))
    for _ in range(2):
        with caplog.at_level("WARNING", "clair_apo"):
            trainer = make(ref_model=doubled(), pair_layout="padded")
        assert len(trainer.reference_cache.computed) == 8
        assert "a hook on model.norm is the user's own function" in caplog.text
        assert trainer.reference_cache.digest is None
        batch = trainer.data_collator(list(trainer.train_dataset))
        with torch.no_grad():
            row = trainer.train_dataset[0]
            expected = tokens_by_hand(doubled(), row).sum()
        torch.testing.assert_close(batch[SUM_COLUMNS[0]][0], expected, atol=1e-4, rtol=0)
    assert sorted((tmp_path / "reference").rglob("*")) == kept
