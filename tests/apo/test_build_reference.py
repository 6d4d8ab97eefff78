"""`clair-apo reference build|info|verify`, and training on a folder with an adapter."""

import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import torch
import yaml
from peft import LoraConfig, get_peft_model
from typer.testing import CliRunner

from clair_apo.apo.arguments import parse_arguments
from clair_apo.apo.build_reference import build_reference, main, reference_margins
from clair_apo.apo.train import load_split, make_trainer, train
from clair_apo.cli import app
from clair_apo.errors import ConfigError, DataError, ModelNotFoundError
from clair_apo.records import digest
from tests.helpers.tiny_apo import make_model, make_rows, make_tokenizer


@pytest.fixture
def config_file(tiny_folder, tmp_path):
    """Writes the YAML of a quick training on 12 pairs; keywords override."""
    rows = make_rows(12)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(**options) -> str:
        values = {
            "model_name_or_path": str(tiny_folder),
            "dataset_name": str(tmp_path / "pairs.jsonl"),
            "output_dir": str(tmp_path / "run" / "checkpoint"),
            "reference_cache": str(tmp_path / "cache"),
            "held_out": 0.3,
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "gradient_checkpointing": False,
            "learning_rate": 1e-2,
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
        }
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump(values | options))
        return str(path)

    return write


def command(*args: str):
    return CliRunner().invoke(app, ["reference", *args])


def test_build_computes_what_is_lacking_once_and_training_finds_it(config_file, capsys, tmp_path):
    arguments = ["--config", config_file()]
    main([*arguments, "--held_out", "0"])
    assert "12 pairs: 0 were in the cache, 12 computed now" in capsys.readouterr().out
    main([*arguments, "--beta", "0.7", "--loss_type", "sigmoid"])
    assert "12 pairs: 12 were in the cache, 0 computed now" in capsys.readouterr().out
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    setup = parse_arguments(arguments)
    assert not make_trainer(setup, load_split(setup)).reference_cache.computed
    assert train(setup).rewards.margin.n > 0


def test_build_computes_although_the_config_would_ask_in_every_step(config_file):
    setup = parse_arguments(["--config", config_file(precompute_ref_log_probs=False)])
    assert build_reference(setup).computed == 12


def test_shards_are_disjoint_and_together_all_pairs(config_file, tmp_path, capsys):
    counts = []
    for shard in ("1/3", "2/3", "3/3"):
        main(["--config", config_file(), "--shard", shard])
        counts.append(int(re.search(r"(\d+) computed now", capsys.readouterr().out)[1]))
    assert sum(counts) == 12
    assert max(counts) < 12
    main(["--config", config_file()])
    assert "12 pairs: 12 were in the cache, 0 computed now" in capsys.readouterr().out


def test_caches_of_several_machines_are_merged_into_one(config_file, tmp_path, capsys):
    caches = [str(tmp_path / name) for name in ("one", "other")]
    for number, cache in enumerate(caches, 1):
        main(["--config", config_file(reference_cache=cache), "--shard", f"{number}/2"])
    whole = ["--reference_cache", str(tmp_path / "whole")]
    for _ in range(2):  # the second time there is nothing to do
        assert command("merge", *caches, *whole).exit_code == 0
    capsys.readouterr()
    main(["--config", config_file(), *whole])
    assert "12 pairs: 12 were in the cache, 0 computed now" in capsys.readouterr().out
    damaged = min((tmp_path / "one").glob("*/*.safetensors"))
    damaged.write_bytes(b"nonsense")
    result = command("merge", caches[0], "--reference_cache", str(tmp_path / "again"))
    assert result.exit_code == 2
    assert str(damaged) in result.stderr
    assert command("merge", str(tmp_path / "nowhere")).exit_code == 2


@pytest.mark.parametrize("shard", ["0/2", "3/2", "half"])
def test_a_shard_that_is_none_is_refused(config_file, shard):
    with pytest.raises(ConfigError, match="shard: expected i/n"):
        main(["--config", config_file(), "--shard", shard])


def test_a_shard_without_pairs_says_so(config_file):
    with pytest.raises(DataError, match="holds none of the 12 pairs; take fewer shards"):
        for number in range(1, 40):
            main(["--config", config_file(), "--shard", f"{number}/500"])


def test_info_lists_each_reference_with_its_size(config_file, tmp_path, tiny_folder):
    for options in ({}, {"dtype": "bfloat16"}):
        main(["--config", config_file(**options)])
    result = command("info", "--reference_cache", str(tmp_path / "cache"))
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if "float" in line]
    assert len(lines) == 2
    assert {line.split("│")[3].strip() for line in lines} == {"float32", "bfloat16"}
    assert {line.split("│")[4].strip() for line in lines} == {"12"}
    assert {line.split("│")[2].strip() for line in lines} == {tiny_folder.name}
    missing = command("info", "--reference_cache", str(tmp_path / "nothing"))
    assert missing.exit_code == 2


def shard_of(tmp_path):
    """One of the two: the pairs trained on, and those held out."""
    return min((tmp_path / "cache").glob("*/*.safetensors"))


def test_verify_finds_a_damaged_file_without_a_model(config_file, tmp_path, capsys):
    main(["--config", config_file()])
    cache = ["--reference_cache", str(tmp_path / "cache")]
    sound = command("verify", *cache)
    assert (sound.exit_code, "12 pairs in sound files" in sound.stdout) == (0, True)
    shard_of(tmp_path).write_bytes(b"nonsense")
    assert command("verify", *cache).exit_code == 2


def test_verify_with_a_config_finds_answers_that_are_not_the_references(config_file, tmp_path):
    config = config_file()
    main(["--config", config])
    sound = command("verify", "--config", config)
    assert sound.exit_code == 0
    assert "24 answers were asked again" in sound.stdout
    path = shard_of(tmp_path)
    arrays = safetensors.numpy.load_file(path)
    content = safetensors.numpy.save(arrays | {"values": arrays["values"] - np.float32(0.1)})
    path.unlink()  # a false file under the name that its content has
    path.with_stem(hashlib.sha256(content).hexdigest()).write_bytes(content)
    assert command("verify", "--reference_cache", str(tmp_path / "cache")).exit_code == 0
    false = command("verify", "--config", config)
    assert false.exit_code == 2
    assert re.search(r"pair [0-9a-f]{16} differs by 0\.\d+ nats", false.stderr)


def test_verify_asks_a_named_reference_and_not_the_policy(config_file, tmp_path):
    make_model(1).save_pretrained(tmp_path / "named")
    config = config_file(reference=str(tmp_path / "named"))
    main(["--config", config])
    sound = command("verify", "--config", config)
    assert (sound.exit_code, "24 answers were asked again" in sound.stdout) == (0, True)


def test_an_option_of_a_config_without_one_is_refused(tmp_path, capfd):
    assert command("verify", "--beta", "0.1").exit_code == 2


def test_an_adapter_from_a_folder_is_trained_on_and_starts_at_itself(
    config_file, tiny_folder, tmp_path
):
    torch.manual_seed(2)
    lora = LoraConfig(target_modules=["q_proj"], r=4, init_lora_weights=False)
    lora.task_type = "CAUSAL_LM"
    adapted = get_peft_model(make_model(), lora)
    adapted.save_pretrained(tmp_path / "sft")
    make_tokenizer().save_pretrained(tmp_path / "sft")
    setup = parse_arguments(["--config", config_file(model_name_or_path=str(tmp_path / "sft"))])
    with pytest.raises(ModelNotFoundError, match="names no model"):
        train(setup)
    adapted.peft_config["default"].base_model_name_or_path = str(tiny_folder)
    adapted.save_pretrained(tmp_path / "sft")
    train(setup)
    state = json.loads((tmp_path / "run" / "checkpoint" / "trainer_state.json").read_text())
    first = next(entry for entry in state["log_history"] if "rewards/chosen" in entry)
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-6)
    saved, before = (
        safetensors.numpy.load_file(folder / "adapter_model.safetensors")
        for folder in (tmp_path / "run" / "checkpoint", tmp_path / "sft")
    )
    assert saved.keys() == before.keys()
    assert all(not np.array_equal(saved[name], before[name]) for name in saved)
    assert not (tmp_path / "run" / "checkpoint" / "model.safetensors").exists()


def test_looking_at_a_cache_loads_no_torch():
    code = "import sys, clair_apo.apo.reference.listing; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_the_log_ratio_margin_of_a_pair_is_what_its_model_says_of_both_answers(config_file):
    setup = parse_arguments(["--config", config_file(), "--held_out", "0"])
    margins = reference_margins(setup)
    assert len(margins) == 12
    split = load_split(setup)
    trainer = make_trainer(setup, split)
    assert not trainer.reference_cache.computed
    rows = {
        digest(p.to_trl_row()): r for p, r in zip(split.train, trainer.train_dataset, strict=True)
    }
    for key, row in rows.items():
        chosen, rejected = (
            answer_log_prob(trainer.model, row["prompt_ids"], row[f"{side}_ids"])
            for side in ("chosen", "rejected")
        )
        assert margins[key] == pytest.approx(chosen - rejected, abs=1e-4)


def answer_log_prob(model, prompt, answer):
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        log_probs = model(ids).logits[0, :-1].log_softmax(-1)
    return float(log_probs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum())
