"""A policy that answers while it trains, and trains as if it had not."""

import json
import logging
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig
from torch import nn
from transformers import GenerationConfig, TrainerCallback

from clair_apo.apo.watch import generate
from clair_apo.errors import ConfigError
from tests.helpers.tiny_apo import make_model, make_rows

END = 1


@pytest.fixture
def watched(apo_trainer):
    """Makes a trainer that watches three held-out prompts; keywords override."""

    def make(model=None, **options):
        usual = {
            "watch_prompts": 3,
            "eval_dataset": Dataset.from_list(make_rows(5, seed=3)),
            "eval_strategy": "steps",
            "eval_steps": 2,
            "max_steps": 4,
        }
        return apo_trainer(model, **(usual | options))

    return make


def answers(trainer) -> list[dict]:
    path = Path(trainer.args.output_dir) / "watched_answers.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def watch_logs(trainer) -> list[dict]:
    return [entry for entry in trainer.state.log_history if "watch/ended" in entry]


def greedy(model, tokenizer, prompt: list[int], limit: int) -> tuple[str, int, bool]:
    """An answer from decoding one prompt alone."""
    ids = torch.tensor([prompt])
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=END, pad_token_id=0
    )
    with torch.no_grad():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    tokens = found[0, len(prompt) :].tolist()
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    return text, len(tokens), tokens[-1] == END


def test_answers_are_those_of_greedy_decoding_at_the_start_and_at_the_end(watched, tokenizer):
    trainer = watched()
    trainer.train()
    found = answers(trainer)
    assert [row["step"] for row in found] == [0, 0, 0, 2, 2, 2, 4, 4, 4]
    held_out = trainer.eval_dataset
    for step, model in ((0, make_model()), (4, trainer.model.eval())):
        rows = [row for row in found if row["step"] == step]
        for row, pair in zip(rows, held_out, strict=False):
            wanted = greedy(model, tokenizer, pair["prompt_ids"], 64)
            assert (row["answer"], row["tokens"], row["ended"]) == wanted
            assert row["prompt"] == pair["prompt"][0]["content"]
            assert row["chosen"] == pair["chosen"][0]["content"]
    assert len({len(pair["prompt_ids"]) for pair in held_out}) > 1, "prompts are padded"
    logs = watch_logs(trainer)
    assert [log["step"] for log in logs] == [0, 2, 4]
    ended = [row["ended"] for row in found]
    assert [log["watch/ended"] for log in logs] == [sum(ended[i : i + 3]) / 3 for i in (0, 3, 6)]
    assert len({row["answer"] for row in found if row["id"] == "0"}) > 1, "the policy has moved"


@pytest.mark.parametrize("lora", [False, True], ids=["whole model", "adapter with dropout"])
def test_a_run_that_is_watched_trains_the_same_bits(watched, lora):
    runs = []
    for prompts in (0, 8):
        adapter = LoraConfig(target_modules="all-linear", r=2, lora_dropout=0.5) if lora else None
        trainer = watched(
            watch_prompts=prompts,
            peft_config=adapter,
            disable_dropout=False,
            gradient_checkpointing=True,
        )
        trainer.train()
        timed = ("speed/", "runtime", "second", "watch/")
        logs = [
            {key: value for key, value in entry.items() if not any(t in key for t in timed)}
            for entry in trainer.state.log_history
            if "watch/ended" not in entry
        ]
        weights = [weight.detach().clone() for weight in trainer.model.parameters()]
        runs.append((logs, weights, random.random(), np.random.rand(), torch.rand(1).item()))
        assert len(watch_logs(trainer)) == (3 if prompts else 0)
    without, watched_run = runs
    assert without[0] == watched_run[0]
    assert all(torch.equal(a, b) for a, b in zip(without[1], watched_run[1], strict=True))
    assert without[2:] == watched_run[2:], "random numbers go on where they were"


class Snapshot(TrainerCallback):
    """Notes what generating could change, around an evaluation."""

    def __init__(self):
        self.found = []

    def note(self, model):
        bare = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.found.append(
            {
                "training": [module.training for module in model.modules()],
                "checkpointing": [
                    getattr(module, "gradient_checkpointing", None) for module in model.modules()
                ],
                "hooks": [
                    (len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()
                ],
                "use_cache": bare.config.use_cache,
                "settings": (id(bare.generation_config), bare.generation_config.to_json_string()),
                "names": [sorted(vars(module)) for module in model.modules()],
                "adapter": getattr(model, "active_adapter", None),
                "grad": torch.is_grad_enabled(),
            }
        )


class Before(Snapshot):
    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.note(model)

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self.note(model)


ADAPTERS = {
    "whole model": None,
    "adapter": LoraConfig(target_modules=["q_proj"], r=2),
    "adapter of a causal model": LoraConfig("CAUSAL_LM", target_modules=["q_proj"], r=2),
    "learnt prompt": PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=2),
}


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_the_model_is_afterwards_as_it_was(watched, adapter):
    before, after = Before(), Before()
    trainer = watched(
        peft_config=adapter,
        gradient_checkpointing=True,
        callbacks=[before],
    )
    trainer.add_callback(after)  # behind the watch
    trainer.train()
    assert len(watch_logs(trainer)) == 3
    assert len(before.found) == 3
    for was, is_now in zip(before.found, after.found, strict=True):
        for name, value in was.items():
            assert is_now[name] == value, name


def test_settings_of_the_model_do_not_sample_or_cut_its_answers(watched):
    plain = watched()
    plain.train()
    model = make_model()
    model.generation_config.update(do_sample=True, temperature=5.0, max_new_tokens=1, top_k=3)
    model.generation_config.repetition_penalty = 9.0
    before = model.generation_config.to_json_string()
    first = answers(plain)
    shutil.rmtree(plain.args.output_dir)
    odd = watched(model)
    odd.train()
    assert answers(odd) == first
    assert model.generation_config.to_json_string() == before


def test_more_prompts_than_go_at_once_are_answered_in_their_order(watched, monkeypatch):
    whole = watched(watch_prompts=5)
    whole.train()
    first = answers(whole)
    monkeypatch.setattr(generate, "AT_ONCE", 2)
    parts = watched(watch_prompts=5)
    parts.train()
    assert answers(parts) == first


# --- when


def test_by_default_eight_prompts_are_watched_where_pairs_are_held_out(watched):
    trainer = watched(watch_prompts=None, max_steps=1)
    trainer.train()
    assert [log["step"] for log in watch_logs(trainer)] == [0, 1]
    assert len(answers(trainer)) == 2 * 5, "all that are held out"
    many = watched(
        watch_prompts=None, max_steps=1, eval_dataset=Dataset.from_list(make_rows(12, seed=5))
    )
    many.train()
    assert len(answers(many)) == 2 * 8


def test_without_held_out_pairs_nothing_is_watched_and_nothing_said(watched, caplog):
    trainer = watched(watch_prompts=None, eval_dataset=None, eval_strategy="no")
    trainer.train()
    assert watch_logs(trainer) == []
    assert not (Path(trainer.args.output_dir) / "watched_answers.jsonl").exists()
    assert "watch_prompts" not in caplog.text


def test_prompts_that_were_asked_for_without_held_out_pairs_are_said_to_be_off(watched, caplog):
    with caplog.at_level(logging.WARNING, logger="clair_apo"):
        watched(watch_prompts=4, eval_dataset=None, eval_strategy="no")
    assert "watch_prompts: off, because no pair is held out" in caplog.text


def test_a_model_that_cannot_generate_is_said_to_be_unwatched(watched, caplog, monkeypatch):
    model = make_model()
    monkeypatch.setattr("transformers.LlamaForCausalLM.can_generate", lambda self: False)
    with caplog.at_level(logging.WARNING, logger="clair_apo"):
        trainer = watched(model)
    assert "watch_prompts: off, because the model cannot generate" in caplog.text
    trainer.train()
    assert watch_logs(trainer) == []


def test_an_evaluation_outside_of_training_and_several_at_one_step_are_watched_once(watched):
    sets = {name: Dataset.from_list(make_rows(3, seed=seed)) for name, seed in (("a", 1), ("b", 2))}
    trainer = watched(eval_dataset=sets)
    trainer.evaluate()
    assert watch_logs(trainer) == []
    trainer.train()
    trainer.evaluate()
    assert [log["step"] for log in watch_logs(trainer)] == [0, 2, 4]


def test_a_failure_to_answer_is_said_once_and_training_goes_on(watched, caplog, monkeypatch):
    def broken(self, *args, **kwargs):
        raise RuntimeError("no such kernel\nat all")

    monkeypatch.setattr("transformers.LlamaForCausalLM.generate", broken)
    trainer = watched()
    with caplog.at_level(logging.WARNING, logger="clair_apo"):
        trainer.train()
    assert trainer.state.global_step == 4
    said = [r.getMessage() for r in caplog.records if "watch_prompts" in r.getMessage()]
    assert said == [
        "step 0: watch_prompts is off from now on, because the policy cannot answer "
        "(RuntimeError: no such kernel at all)"
    ]


# --- checks


def test_the_share_of_answers_that_keeps_to_each_check_is_logged(watched, tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text("checks:\n- {name: never, contains_any: [zzz]}\n- {name: always, lacks: zzz}")
    trainer = watched(watch_checks=str(rules))
    trainer.train()
    for log in watch_logs(trainer):
        assert (log["watch/checks/never"], log["watch/checks/always"]) == (0, 1)
    assert answers(trainer)[0]["checks"] == {"never": False, "always": True}


def test_a_file_of_checks_that_is_none_is_refused_before_anything_is_loaded(config, tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        config(watch_checks=str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="watch_prompts must be 0 or more, got -1"):
        config(watch_prompts=-1)


# --- resuming


class Killed(TrainerCallback):
    """Ends a run after an evaluation, before its checkpoint is written."""

    def __init__(self, step):
        self.step = step

    def on_evaluate(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("killed_at", [4, 6])
def test_a_resumed_run_has_the_answers_of_one_that_was_never_killed(watched, killed_at):
    """Killed at 4 its answers at 4 are written, and its last checkpoint is of step 3."""
    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    whole = watched(**options)
    whole.train()
    expected, logs = answers(whole), watch_logs(whole)
    out = Path(whole.args.output_dir)
    shutil.rmtree(out)
    killed = watched(**options)
    killed.add_callback(Killed(killed_at))
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    assert max(row["step"] for row in answers(killed)) == killed_at
    resumed = watched(**options)
    resumed.train(resume_from_checkpoint=True)
    assert answers(resumed) == expected
    assert watch_logs(resumed) == logs
    assert [log["step"] for log in logs] == [0, 2, 4, 6]


def test_a_run_resumed_without_its_file_begins_one(watched):
    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    whole = watched(**options)
    whole.train()
    out = Path(whole.args.output_dir)
    (out / "watched_answers.jsonl").unlink()
    resumed = watched(**options)
    resumed.train(resume_from_checkpoint=str(out / "checkpoint-3"))
    assert sorted({row["step"] for row in answers(resumed)}) == [3, 4, 6]


def test_hooks_of_the_users_see_training_alone_where_they_ask_for_it(watched):
    """A hook that acts in training mode does not act on watched answers."""
    model, seen = make_model(), []

    def hook(module: nn.Module, inputs, output):
        if module.training:
            seen.append(inputs[0].shape)

    handle = model.model.layers[0].mlp.register_forward_hook(hook)
    trainer = watched(model, pair_layout="padded")
    trainer.train()
    handle.remove()
    assert len(watch_logs(trainer)) == 3
    assert len(seen) == 4, "one forward for each step"
