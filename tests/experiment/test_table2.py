"""The paper's grid as it is shipped: what it counts, and a walk through it with tiny models."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from clair_apo.experiment import ExperimentConfig, run_experiment
from clair_apo.experiment.cells import candidates
from clair_apo.experiment.estimate import estimate, estimate_table
from clair_apo.experiment.plan import ExperimentPlan
from tests.helpers import ROOT
from tests.helpers.chat_server import Asked, ChatServer, Reply
from tests.helpers.tiny_chat import save_tiny_chat
from tests.helpers.tiny_mixeval import write_data

SHIPPED = ROOT / "configs" / "experiments"
EPOCHS = 18


@pytest.fixture
def config(monkeypatch):
    monkeypatch.chdir(ROOT)
    return ExperimentConfig.from_command_line(["--config", str(SHIPPED / "table2.yaml")])


def test_the_grid_is_that_of_the_paper(config):
    found = estimate(ExperimentPlan(config))
    assert (found.cells, found.evaluated) == (4 * 5, 4 * 5 * EPOCHS)
    console = Console(width=200, record=True)
    console.print(estimate_table(config, found))
    text = console.export_text()
    assert "disk: 1,152 GB at most" in text and "reckoned, not measured" in text
    page = (ROOT / "docs" / "reproduce.md").read_text("utf-8")
    hours, dollars = sum(p.hours for p in found.parts), sum(p.usd for p in found.parts)
    assert f"{hours:.0f} hours, {dollars:,.0f} USD and 1.2 TB of disk" in page


def test_a_step_has_16_pairs_in_every_cell(config):
    plan = ExperimentPlan(config)
    processes = yaml.safe_load(config.accelerate_config.read_text())["num_processes"]
    for objective in config.objectives:
        training = plan.training(candidates(config, "clair", objective)[0])
        rows = 2 if training["loss_type"] == "kto" else 1
        batch = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
        assert batch * processes == 16 * rows, objective
        assert training["num_train_epochs"] == EPOCHS
        assert training["learning_rate"] == 2e-7 and training["max_length"] == 1024


def _reply(asked: Asked) -> Reply:
    """A reviser, a judge of two answers, and a judge of the benchmark, by what they are asked."""
    text = asked.text
    if "<answer_2>" in text:
        first, second = text.split("<answer_2>")
        better = 1 if first.split("<answer_1>")[1] > second else 2
        return Reply(f"<reasoning>by the letters</reasoning>\n<verdict>{better}</verdict>")
    if "<revision>" in text:
        return Reply("<reasoning>shorter</reasoning>\n<revision>\nw1 w2 w3\n</revision>")
    if "[[" in text:
        return Reply(f"[[{'A' if 'letter' in text else 0.5}]]")
    return Reply("w4 w5 w6")


def _tiny(folder: Path, url: str) -> None:
    """The shipped files with tiny models, few prompts, a server in place of vLLM, two epochs."""
    model = save_tiny_chat(folder / "models" / "llama-3-8b-instruct")
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 2048}))
    write_data(folder / "data" / "mixeval")
    rows = [
        {
            "prompt": f"w{n} w{n + 1}",
            "answers": [{"content": "w7 w8", "score": n % 3}, {"content": "w9 w7", "score": 1.5}],
        }
        for n in range(16)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data" / "ultrafeedback_prompts.jsonl").write_text(text)
    shutil.copytree(SHIPPED, folder / "configs" / "experiments")
    for path in (folder / "configs" / "experiments" / "table2").glob("*.yaml"):
        path.write_text(yaml.safe_dump(_shrunk(yaml.safe_load(path.read_text()), url)))
    training = folder / "configs" / "experiments" / "table2" / "train.yaml"
    small = {"num_train_epochs": 2, "use_cpu": True, "bf16": False, "held_out": 0.2}
    values = yaml.safe_load(training.read_text()) | small | {"gradient_checkpointing": False}
    training.write_text(yaml.safe_dump(values))


def _shrunk(value, url):
    """Models without vLLM and with short answers; the reviser and judge is a server."""
    if isinstance(value, list):
        return [_shrunk(inner, url) for inner in value]
    if not isinstance(value, dict):
        return value
    found = {key: _shrunk(inner, url) for key, inner in value.items()}
    if found.pop("serve", None):
        found |= {"max_tokens": 200}
        del found["dtype"]
    if found.pop("serve_args", None):
        found |= {"base_url": url}
    return found


@pytest.mark.real
def test_the_shipped_grid_goes_from_prompts_to_the_table_with_tiny_models(tmp_path, monkeypatch):
    """About 2 min: ten cells of two epochs, each checkpoint on ten rows of MixEval."""
    with ChatServer(_reply) as server:
        _tiny(tmp_path, server.url)
        monkeypatch.chdir(tmp_path)
        path = "configs/experiments/table2.yaml"
        config = ExperimentConfig.from_command_line(["--config", path])
        few = {name: config.data[name] for name in ("clair", "off_policy_judge")}
        changes = {"data": few, "accelerate_config": None, "baseline": "off_policy_judge/dpo"}
        record = run_experiment(config.model_copy(update=changes))
    assert {cell.state for cell in record.cells} == {"done"}, record.cells
    assert len(record.cells) == 2 * 5
    assert {cell.checkpoints for cell in record.cells} == {2}
    views = {(one.data, one.objective, one.view) for one in record.comparisons}
    assert len(views) == 10 * 3
    assert {one.figure for one in record.comparisons} >= set(config.figures)
    assert all(made.pairs == record.data["clair"].pairs for made in record.data.values())
    assert not list(tmp_path.glob("runs/table2/cells/*/model/*.safetensors"))
