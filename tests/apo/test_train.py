import dataclasses
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from clair_apo.advice.advise import advise
from clair_apo.advice.config import AdviseConfig
from clair_apo.apo import load_pairs, split_pairs
from clair_apo.apo.arguments import parse_arguments, resolved_yaml
from clair_apo.apo.checkpoints import last_checkpoint
from clair_apo.apo.dry_run.run import preview
from clair_apo.apo.train import main, resume_point, summary, train
from clair_apo.cli import app, train_and_report
from clair_apo.errors import ConfigError, ModelNotFoundError, TrainingError
from clair_apo.records import digest
from clair_apo.report.training_run import read_training
from clair_apo.run_folder import RunFolder
from tests.helpers import ROOT
from tests.helpers.tiny_apo import make_rows


@pytest.fixture
def run(tiny_folder, tmp_path):
    """A folder with pairs, and the YAML of a quick training on them; keywords override."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in make_rows(24)))

    def arguments(**options) -> list[str]:
        values = {
            "model_name_or_path": str(tiny_folder),
            "dataset_name": str(folder / "pairs.jsonl"),
            "output_dir": str(folder / "checkpoint"),
            "held_out": 0.3,
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "gradient_checkpointing": False,
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
        }
        path = folder / "train.yaml"
        path.write_text(yaml.safe_dump(values | options))
        return ["--config", str(path)]

    arguments.folder = folder
    return arguments


def test_a_run_leaves_a_model_its_card_its_settings_and_the_rewards_of_each_pair(run, capsys):
    main(run())
    out = run.folder / "checkpoint"
    split = split_pairs(load_pairs(str(run.folder / "pairs.jsonl")), 0.3)
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["ids"] == [pair.id for pair in split.held_out]
    assert len(evaluation["chosen"]) == evaluation["rewards"]["chosen"]["n"] == len(split.held_out)
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 3
    assert f"{len(split.train)} pairs trained on, {len(split.held_out)} held out, digest" in (
        (out / "README.md").read_text()
    )
    stage = json.loads((out / "manifest.json").read_text())["stages"]["train"]
    assert (stage["trained"], stage["held_out"]) == (len(split.train), len(split.held_out))
    AutoTokenizer.from_pretrained(out)
    AutoModelForCausalLM.from_pretrained(out)
    printed = capsys.readouterr().out
    assert "held-out rewards" in printed
    assert printed.count(f"(n={len(split.held_out)})") == 3
    assert str(out) in printed


def test_the_manifest_holds_objective_digests_truncation_anchors_and_alarms(run, tiny_folder):
    main(run(loss_type=["apo_zero", "sft"], loss_weights=[1.0, 0.1], max_length=16))
    out = run.folder / "checkpoint"
    stage = json.loads((out / "manifest.json").read_text())["stages"]["train"]
    assert stage["objective"] == "apo_zero + 0.1 sft"
    assert stage["why"][0].startswith("apo_zero raises the chosen answers")
    assert stage["model"] == "tiny"
    assert stage["pair_layout"] == "shared_prefix"
    (compared,) = stage["layout"]["compared"]
    assert (compared["way"], compared["fault"]) == ("attention_per_branch", None)
    assert 0 < compared["difference"] < compared["allowed"] == 1e-3
    assert 0 < compared["gradient_difference"] < compared["gradient_allowed"] == 5e-3
    assert re.fullmatch("[0-9a-f]{32}", stage["reference_digest"])
    template = AutoTokenizer.from_pretrained(tiny_folder).chat_template
    assert stage["template_digest"] == digest(template)
    assert stage["lengths"]["pairs"] == stage["trained"]
    assert stage["lengths"]["truncated_chosen"] > 0
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    trained = [entry for entry in history if "loss" in entry][-1]
    evaluated = [entry for entry in history if "eval_loss" in entry][-1]
    assert stage["anchors"]["rewards/chosen"] == trained["rewards/chosen"]
    assert stage["held_out_anchors"]["kl/chosen_k3"] == evaluated["eval_kl/chosen_k3"]
    assert stage["alarms"] == []
    state = json.loads((out / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["clair_apo.run"]["layout"] == stage["layout"]
    card = (out / "README.md").read_text()
    for said in (
        "| Objective | apo_zero + 0.1 sft |",
        f"| Reference | the initial policy, digest {stage['reference_digest'][:12]} |",
        f"| Chat template | digest {stage['template_digest'][:12]} |",
        f"| Truncated | {stage['lengths']['truncated_chosen']} chosen and ",
        f"| `rewards/chosen` | {trained['rewards/chosen']:.3f} | ",
        "## Alarms\n\nNone.",
        f"| Pair layout | shared_prefix through attention per branch; log-probs of "
        f"{compared['tokens']} answer tokens within {compared['difference']:.2g} nats",
    ):
        assert said in card


def test_an_alarm_stops_a_run_with_what_to_do_and_stands_in_the_manifest_of_the_next(run):
    collapse = {"loss_type": "apo_down", "beta": 0.05, "learning_rate": 3e-2, "max_steps": 16}
    with pytest.raises(TrainingError) as caught:
        main(run(**collapse, on_alarm="stop"))
    said = str(caught.value)
    assert said.startswith("stopped by on_alarm: chosen_collapses at step ")
    assert "--resume_from_checkpoint true" in said
    assert last_checkpoint(run.folder / "checkpoint") is not None
    main(run(**collapse, resume_from_checkpoint=True))
    stage = json.loads((run.folder / "checkpoint" / "manifest.json").read_text())["stages"]["train"]
    assert stage["alarms"][0]["name"] == "chosen_collapses"
    assert "- chosen_collapses at step " in (run.folder / "checkpoint" / "README.md").read_text()


def test_the_command_draws_the_run_and_report_draws_it_again(run, capsys):
    train_and_report(run())
    out = run.folder / "checkpoint"
    assert f"training report: {out / 'training.html'}" in capsys.readouterr().out
    page = (out / "training.html").read_text()
    assert "apo_zero raises the chosen answers" in page
    drawn = {path.stem for path in out.glob("*.png")}
    assert drawn == {"rewards", "logps", "quadrants", "tokens", "ends", "followed", "watch"}
    assert page.count("<img ") == len(drawn)
    (out / "training.html").unlink()
    assert CliRunner().invoke(app, ["report", str(out)]).exit_code == 0
    assert (out / "training.html").read_text() == page


def test_the_written_settings_run_again_and_give_the_same_weights(run):
    main(run(beta=0.3, loss_type=["apo_down"], optim="sgd"))
    first = run.folder / "first"
    (run.folder / "checkpoint").rename(first)
    again = parse_arguments(["--config", str(first / "training.yaml")])
    assert resolved_yaml(again) == (first / "training.yaml").read_text()
    assert (again.args.beta, again.args.loss_type, again.args.optim) == (0.3, ["apo_down"], "sgd")
    train(again)
    before, after = (
        AutoModelForCausalLM.from_pretrained(path).state_dict()
        for path in (first, run.folder / "checkpoint")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_two_trainings_below_one_run_folder_have_a_record_each(run):
    RunFolder(run.folder).record_stage("pair", {"pairs": 24})
    before = (run.folder / "manifest.json").read_bytes()
    for name, beta in (("checkpoint", 0.1), ("adapter", 0.7)):
        main(run(output_dir=str(run.folder / name), beta=beta, held_out=0.0, max_steps=1))
    assert (run.folder / "manifest.json").read_bytes() == before
    for name, beta in (("checkpoint", 0.1), ("adapter", 0.7)):
        facts = read_training(run.folder / name).facts
        assert (facts["beta"], Path(facts["output_dir"]).name) == (beta, name)
        assert facts["rewards"] is None


def test_a_test_split_that_the_data_brings_is_held_out(run):
    data = run.folder / "dataset"
    data.mkdir()
    rows = make_rows(24)
    (data / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:20]))
    (data / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[20:]))
    result = train(parse_arguments(run(dataset_name=str(data), max_steps=1)))
    assert (result.trained, result.held_out) == (20, 4)
    assert result.held_out_by == f"the test split of {data}"
    shown = preview(parse_arguments(run(dataset_name=str(data))))
    assert (shown.pairs, shown.trained, shown.held_out) == (24, 20, 4)


def test_options_on_the_command_line_win_over_the_file(run):
    setup = parse_arguments([*run(beta=0.3), "--beta", "0.7", "--learning_rate=1e-4"])
    assert (setup.args.beta, setup.args.learning_rate) == (0.7, 1e-4)
    assert parse_arguments(run(learning_rate="2e-7")).args.learning_rate == 2e-7


def test_every_own_field_has_an_effect(run):
    def counts(**options):
        result = train(parse_arguments(run(max_steps=1, **options)))
        shutil.rmtree(run.folder / "checkpoint")
        return result.trained, result.held_out

    usual = counts()
    assert sum(usual) == 24
    assert counts(held_out=0.6)[1] > usual[1]
    assert counts(max_pairs=5) == (5, usual[1])
    splits = DatasetDict(
        train=Dataset.from_list(make_rows(24)), other=Dataset.from_list(make_rows(12))
    )
    splits.save_to_disk(run.folder / "splits")
    assert counts(dataset_name=str(run.folder / "splits")) == usual
    assert sum(counts(dataset_name=str(run.folder / "splits"), dataset_train_split="other")) == 12


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bta": 0.1}, "train.yaml: unknown key 'bta'; did you mean 'beta'?"),
        ({"held_out": 1.0}, "held_out must be from 0 to below 1, got 1.0"),
        ({"max_pairs": 0}, "max_pairs must be at least 1, got 0"),
        ({"beta": 0.0}, "beta must be above 0, got 0.0"),
        ({"save_strategy": "sometimes"}, "sometimes is not a valid SaveStrategy"),
        ({"loss_weights": [1.0, 2.0]}, "must have the same length"),
        ({"model_name_or_path": None}, "model_name_or_path is missing"),
        ({"f_divergence_type": "forward_kl"}, "reverse_kl only"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(run, options, said):
    with pytest.raises(ConfigError) as caught:
        parse_arguments(run(**options))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--lerning_rate", "1"], "unknown key 'lerning_rate'; did you mean 'learning_rate'?"),
        (["--beta", "much"], "--beta: invalid float value: 'much'"),
        (["stray"], "stray"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(run, option, said):
    with pytest.raises(ConfigError) as caught:
        parse_arguments([*run(), *option])
    assert said in str(caught.value)


def test_a_model_that_is_not_there_is_said_and_nothing_is_written(run):
    with pytest.raises(ModelNotFoundError, match="there is no such folder"):
        main(run(model_name_or_path="./nowhere"))
    assert not (run.folder / "checkpoint").exists()


def test_a_model_without_chat_template_is_said_in_one_line(run, tiny_folder):
    (tiny_folder / "chat_template.jinja").unlink()
    with pytest.raises(TrainingError, match="chat_template") as caught:
        main(run())
    assert "\n" not in str(caught.value)


def test_a_prompt_over_the_limit_is_said_with_its_pair_and_nothing_is_written(run):
    with pytest.raises(TrainingError, match=r"train pair [0-9a-f]{16}: the prompt alone has"):
        main(run(max_length=8))
    assert not (run.folder / "checkpoint").exists()


def test_the_script_prints_one_line_and_exits_with_2(run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", *run(bta=1)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "scripts" / "train.py"), run_name="__main__")
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("clair-apo: error: ")


def test_a_folder_with_checkpoints_is_neither_overwritten_nor_mixed(run):
    main(run(save_strategy="steps", save_steps=1))
    with pytest.raises(TrainingError, match=r"holds checkpoint-3 of an earlier run"):
        main(run())


def test_resuming_takes_the_last_whole_checkpoint_or_the_one_named(run):
    main(run(save_strategy="steps", save_steps=1))
    out = run.folder / "checkpoint"

    def point(value):
        return resume_point(parse_arguments(run(resume_from_checkpoint=value)).args)

    assert point(True) == point("true") == str(out / "checkpoint-3")
    assert point(str(out / "checkpoint-1")) == str(out / "checkpoint-1")
    (out / "checkpoint-3" / "trainer_state.json").write_text('{"torn')
    (out / "checkpoint-20").mkdir()
    assert last_checkpoint(out) == out / "checkpoint-2"
    with pytest.raises(TrainingError, match="checkpoint-20: there is no complete checkpoint"):
        point(str(out / "checkpoint-20"))
    shutil.rmtree(out)
    with pytest.raises(TrainingError, match="there is no complete checkpoint to resume from"):
        point(True)
    assert point(False) is None


def test_resuming_with_other_pairs_is_refused(run):
    main(run(save_strategy="steps", save_steps=1, max_steps=2))
    with pytest.raises(TrainingError, match="the run began with other pairs"):
        main(run(max_pairs=5, resume_from_checkpoint=True))


def test_the_summary_says_where_nothing_was_held_out(run):
    result = train(parse_arguments(run(held_out=0.0, max_steps=1)))
    assert "no held-out rewards: no pair was held out (held_out is 0)" in summary(result)
    of_trl = dataclasses.replace(result, held_out=3)
    assert "no held-out rewards: the loss is TRL's own" in summary(of_trl)


def test_the_objectives_load_no_trl():
    code = "import sys; from clair_apo.apo import apo_zero_loss; assert 'trl' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_every_exported_name_is_there():
    import clair_apo.apo

    for name in clair_apo.apo.__all__:
        assert getattr(clair_apo.apo, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = clair_apo.apo.nothing


def write_advice(folder, shares):
    rows = [
        {"prompt_id": str(n), "chosen_share": share, "consistent": True}
        for n, share in enumerate(shares)
    ]
    path = folder / "comparisons.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return advise(AdviseConfig(run_dir=folder / "advice", comparisons=path))


@pytest.mark.parametrize(("share", "objective"), [(1.0, "apo_zero"), (0.0, "apo_down")])
def test_loss_type_auto_takes_the_objective_of_an_advice_and_says_why(
    run, tmp_path, share, objective
):
    found = write_advice(tmp_path, [share] * 20)
    main(run(loss_type="auto", advice=str(tmp_path / "advice"), report_to="none"))
    out = run.folder / "checkpoint"
    assert f"Chosen by clair-apo advise: {found.reason}." in (out / "README.md").read_text()
    stage = json.loads((out / "manifest.json").read_text())["stages"]["train"]
    assert stage["objective"] == objective
    assert any(found.reason in sentence for sentence in stage["why"])
    again = yaml.safe_load((out / "training.yaml").read_text())
    assert again.get("loss_type", ["apo_zero"]) == [objective] and "advice" not in again


def test_loss_type_auto_stands_beside_others(run, tmp_path):
    write_advice(tmp_path, [0.0] * 20)
    where = str(tmp_path / "advice" / "advise.json")
    setup = parse_arguments(run(loss_type=["auto", "sft"], length_normalize=True, advice=where))
    assert setup.args.loss_type == ["apo_down", "sft"]


@pytest.mark.parametrize(
    ("shares", "expected"), [([0.5] * 9, "the advice is undecided"), (None, "cannot be read")]
)
def test_loss_type_auto_does_not_train_on_an_advice_that_decides_nothing(
    run, tmp_path, shares, expected
):
    if shares:
        write_advice(tmp_path, shares)
    with pytest.raises(ConfigError, match=expected) as caught:
        parse_arguments(run(loss_type="auto", advice=str(tmp_path / "advice")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"loss_type": "auto"}, {"advice": "somewhere"}])
def test_loss_type_auto_and_an_advice_belong_together(run, options):
    with pytest.raises(ConfigError, match="belong together"):
        parse_arguments(run(**options))


def test_an_advice_does_not_go_with_what_its_objective_refuses(run, tmp_path):
    write_advice(tmp_path, [1.0] * 20)
    options = {"loss_type": "auto", "advice": str(tmp_path / "advice")}
    with pytest.raises(ConfigError, match="reverse_kl only"):
        parse_arguments(run(f_divergence_type="js_divergence", **options))
