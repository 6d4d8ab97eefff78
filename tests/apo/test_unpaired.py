import json

import pytest
import yaml
from datasets import Dataset
from trl import KTOConfig, ModelConfig
from trl.data_utils import unpair_preference_dataset

from clair_apo.apo.arguments import PairArguments, is_unpaired, parse_into
from clair_apo.apo.unpaired import unpaired_rows
from clair_apo.cli import train_and_report
from clair_apo.errors import TrainingError
from clair_apo.ingest.pairs import load_pairs, pair_from_row
from clair_apo.run_folder import RunFolder
from tests.helpers import ROOT
from tests.helpers.tiny_apo import make_rows

CONFIGS = sorted((ROOT / "configs" / "unpaired").glob("*.yaml"))


def pairs(count=8):
    return [pair_from_row(row, "a test") for row in make_rows(count)]


def key(row):
    return json.dumps([row["prompt"], row["completion"], row["label"]], sort_keys=True)


def test_the_rows_are_those_that_trl_makes_in_another_order():
    rows = unpaired_rows(pairs())
    columns = ["prompt", "chosen", "rejected"]
    paired = Dataset.from_list([pair.to_trl_row() for pair in pairs()]).select_columns(columns)
    theirs = unpair_preference_dataset(paired).to_list()
    assert sorted(map(key, rows)) == sorted(map(key, theirs))
    assert len(rows) == 2 * len(pairs())


@pytest.mark.parametrize("count", [4, 7, 8])
def test_winners_and_losers_alternate_and_a_prompt_is_never_next_to_itself(count):
    rows = unpaired_rows(pairs(count))
    assert [row["label"] for row in rows] == [True, False] * count
    places = {}
    for place, row in enumerate(rows):
        places.setdefault(row["id"], []).append(place)
    apart = [abs(a - b) for a, b in places.values()]
    assert min(apart) >= count - 2
    assert max(apart) <= 2 * count - (count - 2)


def test_a_single_pair_gives_its_two_rows():
    assert [row["label"] for row in unpaired_rows(pairs(1))] == [True, False]


def test_both_unpaired_configs_are_here_and_load_with_exactly_their_values():
    assert [path.stem for path in CONFIGS] == ["apo_zero_unpaired", "kto"]
    for path in CONFIGS:
        text = path.read_text(encoding="utf-8")
        assert all(part in text for part in ("# Purpose: ", "# Command: ", "# Expect: "))
        parsed = parse_into(["--config", str(path)], (PairArguments, KTOConfig, ModelConfig))
        for name, value in yaml.safe_load(text).items():
            found = next(getattr(part, name) for part in parsed if hasattr(part, name))
            assert found == ([] if name == "report_to" else value), name
        assert parsed[1].loss_type == path.stem


@pytest.fixture
def run_train(tiny_folder, tmp_path):
    """Runs `clair-apo train` on 24 pairs with a config and options, in this process."""
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in make_rows(24)))
    usual = {
        "model_name_or_path": tiny_folder,
        "dataset_name": data,
        "output_dir": tmp_path / "out",
        "held_out": 0.3,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "gradient_accumulation_steps": 1,
        "logging_steps": 1,
        "disable_tqdm": True,
        "save_strategy": "no",
    }

    def run(path, **options):
        words = (usual | options).items()
        argv = [str(part) for name, value in words for part in (f"--{name}", value)]
        train_and_report(["--config", str(path), *argv])

    return run


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_train_goes_the_unpaired_way_and_prints_held_out_rewards(path, run_train, tmp_path, capsys):
    run_train(path)
    assert (tmp_path / "out" / "model.safetensors").is_file()
    printed = capsys.readouterr().out
    assert "'loss': '0.5" in printed, "the first loss is that of log-ratios of 0"
    assert "eval_rewards/margins" in printed
    assert len(load_pairs(str(tmp_path / "pairs.jsonl"))) == 24
    stage = RunFolder(tmp_path / "out").manifest()["stages"]["train"]
    assert (stage["objective"], stage["steps"], stage["beta"]) == (path.stem, 4, 0.1)
    assert (tmp_path / "out" / "training.html").is_file()


def test_keys_of_paired_training_are_left_out_with_a_line(run_train, tmp_path, capsys):
    config = tmp_path / "kto.yaml"
    values = yaml.safe_load(CONFIGS[1].read_text("utf-8"))
    config.write_text(yaml.safe_dump(values | {"pair_layout": "padded", "watch_prompts": 0}))
    run_train(config, max_steps=1)
    assert "without a meaning for this loss_type: pair_layout, watch_prompts" in (
        " ".join(capsys.readouterr().err.split())
    )


def test_the_loss_of_the_command_line_decides():
    config = ["--config", str(CONFIGS[1])]
    assert is_unpaired(config) and is_unpaired(["--loss_type=kto"])
    assert not is_unpaired([*config, "--loss_type", "apo_zero"]) and not is_unpaired([])


def test_it_resumes_from_the_last_whole_checkpoint(run_train, tmp_path, capsys, caplog):
    saving = {"save_strategy": "steps", "save_steps": 2, "held_out": 0}
    with pytest.raises(TrainingError, match="there is no complete checkpoint to resume from"):
        run_train(CONFIGS[1], **saving, resume_from_checkpoint="true")
    run_train(CONFIGS[1], **saving)
    state = tmp_path / "out" / "checkpoint-4" / "trainer_state.json"
    steps = [entry["step"] for entry in json.loads(state.read_text())["log_history"]]
    state.unlink()  # killed while it saved
    capsys.readouterr()
    run_train(CONFIGS[1], **saving, resume_from_checkpoint="true")
    assert "checkpoint-4 is passed over: its trainer_state.json cannot be read" in caplog.text
    assert capsys.readouterr().out.count("'loss'") == 2, "steps 3 and 4 are trained again"
    resumed = json.loads(state.read_text())["log_history"]
    assert [entry["step"] for entry in resumed] == steps
    with pytest.raises(TrainingError, match="holds checkpoint-4 of an earlier run"):
        run_train(CONFIGS[1], **saving)
