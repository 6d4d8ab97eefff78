"""The paper's grid as it is shipped: what it counts, and a walk through it with tiny models."""

import json
import re
import shutil

import pytest
import yaml
from datasets import Dataset
from rich.console import Console

from clair_apo.experiment import ExperimentConfig, run_experiment
from clair_apo.experiment.cells import candidates, groups
from clair_apo.experiment.estimate import estimate, estimate_table
from clair_apo.experiment.plan import ExperimentPlan
from tests.helpers import ROOT
from tests.helpers.chat_server import Asked, ChatServer, Reply
from tests.helpers.clair_runs import write_rows
from tests.helpers.tiny_chat import save_tiny_chat
from tests.helpers.tiny_mixeval import write_data

SHIPPED = ROOT / "configs" / "experiments"
GRID = "configs/experiments/table2.yaml"
PAGE = (ROOT / "docs" / "reproduce.md").read_text("utf-8")
EPOCHS = 18
PROMPTS = 16
PUBLISHED = re.compile(r"(?m)^  # (\w+): \{pairs: (\S+)\}$")
"""A line of the grid that takes the authors' pairs in place of pairs that are made."""


def _config(*options):
    return ExperimentConfig.from_command_line(["--config", GRID, *options])


@pytest.fixture
def config(monkeypatch):
    monkeypatch.chdir(ROOT)
    return _config()


def test_the_grid_is_that_of_the_paper(config):
    found = estimate(ExperimentPlan(config))
    assert len(groups(config)) == 4 * 5
    assert (found.cells, found.evaluated) == (4 * 5, 4 * 5 * EPOCHS)
    console = Console(record=True)
    console.print(estimate_table(config, found))
    text = " ".join(console.export_text().split())
    assert "20 cells: 4 data sets, 5 objectives" in text
    # of 18 checkpoints, each with model and optimizer, and the last model
    disk = EPOCHS * (32 + 32) + 32
    assert f"{disk:,} GB of disk while it is at work, 0 GB afterwards" in text
    assert f"disk: {disk:,} GB at most" in text
    assert config.rates.source in text


def test_the_page_says_what_the_dry_run_says(config):
    found = estimate(ExperimentPlan(config))
    hours, dollars = sum(p.hours for p in found.parts), sum(p.usd for p in found.parts)
    cell = found.cell.training_hours, found.cell.evaluation_hours
    assert f"{hours:.0f} hours, {dollars:,.0f} USD and {found.peak_gigabytes / 1000:.1f} TB" in PAGE
    assert f"{cell[0]:.1f} hours of training and {cell[1]:.1f} of evaluation" in PAGE


def test_the_rates_follow_from_the_figures_that_their_source_names(config):
    rates = config.rates
    assert rates.training_tokens_per_second == pytest.approx(0.8 * 8 * 5762, rel=0.001)
    answer, revision, verdict, prompt = 350, 667, 150, 200
    asked = 2 * answer + revision + answer + 2 * verdict
    assert rates.tokens_per_prompt == pytest.approx(asked / len(config.data), abs=1)
    assert rates.tokens_per_pair == prompt + 2 * answer
    assert rates.tokens_per_answer == 150 + verdict
    for figure in ("5,762", "2,573", "667", "350", "200", "150", "505", "120 s", "20 USD"):
        assert figure in rates.source, figure


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


def test_all_data_sets_ask_the_same_prompts_and_share_the_models_answers(config):
    plan = ExperimentPlan(config)
    made = [plan.generating(name) for name in config.data]
    assert len({(one.prompts.path, one.prompts.limit, one.prompts.seed) for one in made}) == 1
    asking = [one.target for one in made if one.recipe != "off_policy_judge"]
    assert len(asking) == 3 and all(one == asking[0] for one in asking)
    assert len({one.store_path for one in made}) == 1


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The shipped files in a folder of their own, with few prompts in the form of UltraFeedback."""
    shutil.copytree(SHIPPED, tmp_path / "configs" / "experiments")
    rows = [
        {
            "source": "flan",
            "instruction": f"w{n} w{n + 1}",
            "models": ["a", "b"],
            "completions": [
                {"model": "a", "response": "w7 w8", "overall_score": n % 3, "critique": "So."},
                {"model": "b", "response": "w9 w7", "overall_score": 1.5, "critique": "Thus."},
            ],
        }
        for n in range(PROMPTS)
    ]
    (tmp_path / "data" / "ultrafeedback").mkdir(parents=True)
    for name, part in (("flan", rows[::2]), ("sharegpt", rows[1::2])):
        write_rows(tmp_path / "data" / "ultrafeedback" / f"{name}.jsonl", part)
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


def _shrink(folder, url):
    """Tiny models, a server in place of vLLM, short answers, two epochs; nothing else changes."""
    model = save_tiny_chat(folder / "models" / "llama-3-8b-instruct")
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 2048}))
    write_data(folder / "data" / "mixeval")
    for path in (folder / "configs" / "experiments" / "table2").glob("*.yaml"):
        path.write_text(yaml.safe_dump(_shrunk(yaml.safe_load(path.read_text()), url)))
    training = folder / "configs" / "experiments" / "table2" / "train.yaml"
    small = {"num_train_epochs": 2, "use_cpu": True, "bf16": False, "held_out": 0.2}
    values = yaml.safe_load(training.read_text()) | small | {"gradient_checkpointing": False}
    training.write_text(yaml.safe_dump(values))


def _shrunk(value, url):
    if isinstance(value, list):
        return [_shrunk(inner, url) for inner in value]
    if not isinstance(value, dict):
        return value
    found = {key: _shrunk(inner, url) for key, inner in value.items()}
    if found.pop("serve", None):
        found = {key: found[key] for key in found if key not in ("dtype", "serve_args")}
        found |= {"max_tokens": 200}
        if found["model"] == "models/reviser":
            found |= {"base_url": url}
    return found | ({"max_tokens": 20} if "suite" in found else {})


def test_the_shipped_files_make_four_data_sets_over_the_same_prompts(files):
    with ChatServer(_reply) as server:
        _shrink(files, server.url)
        config = _config("--only", "data")
        # without a reference, which a process of its own would compute for each data set
        few = {"objectives": {"sft": {"loss_type": "sft"}}, "baseline": "clair/sft"}
        record = run_experiment(config.model_copy(update=few))
    assert list(record.data) == list(config.data)
    assert len({made.pairs for made in record.data.values()}) == 1
    assert record.data["clair"].prompts > PROMPTS / 2
    revised, stronger = (_pairs_of(files, name) for name in ("clair", "stronger_preferred"))
    assert revised.keys() == stronger.keys()
    for id, row in revised.items():
        assert row["rejected"] == stronger[id]["rejected"], "one answer of the model for both"
        assert row["chosen"][0]["content"] == "w1 w2 w3"
        assert stronger[id]["chosen"][0]["content"] == "w4 w5 w6"


def _pairs_of(folder, name):
    text = (folder / "runs" / "table2" / "data" / name / "pairs.jsonl").read_text("utf-8")
    return {row["id"]: row for row in map(json.loads, text.splitlines())}


def test_the_published_pairs_may_take_the_place_of_those_that_are_made(files):
    text = (files / GRID).read_text("utf-8")
    named = dict(PUBLISHED.findall(text))
    made = re.compile(r"(?m)^  \w+: \{generate: .*\}\n")
    assert len(named) == len(made.findall(text)) == 4
    assert all(f"`{name}`" in PAGE for name in named.values())
    swapped = PUBLISHED.sub(r"  \1: {pairs: \2}", made.sub("", text))
    (files / GRID).write_text(swapped)
    config = _config()
    assert {name: one.pairs for name, one in config.data.items()} == named
    assert estimate(ExperimentPlan(config)).parts[0].hours == 0

    for number, (name, hub) in enumerate(named.items()):
        swapped = swapped.replace(hub, _published(files / "data" / name, number))
    (files / GRID).write_text(swapped)
    few = {"objectives": {"sft": {"loss_type": "sft"}}, "baseline": "clair/sft"}
    record = run_experiment(_config("--only", "data").model_copy(update=few))
    assert {name: made.prompts for name, made in record.data.items()} == dict.fromkeys(named, 7)


def _published(folder, number):
    """A folder in the form of a published set: messages, in `data`, with splits; some prompts."""
    rows = [
        {
            "prompt": f"Question {n}?",
            "chosen": [user(n), {"role": "assistant", "content": f"Better {number}."}],
            "rejected": [user(n), {"role": "assistant", "content": f"Worse {number}."}],
        }
        for n in range(12)
        if n not in (number, 11)
    ]
    (folder / "data").mkdir(parents=True)
    Dataset.from_list(rows).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    Dataset.from_list(rows[:1]).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return str(folder)


def user(number):
    return {"role": "user", "content": f"Question {number}?"}


CELLS = (
    "clair.kto.beta0.1.seed0",
    "clair.apo_zero.beta0.1.seed0",
    "on_policy_judge.dpo.beta0.1.seed0",
)


@pytest.mark.real
def test_the_shipped_grid_goes_from_prompts_to_the_table_with_tiny_models(files):
    """About a minute: three cells of two epochs, each checkpoint on ten rows of MixEval."""
    with ChatServer(_reply) as server:
        _shrink(files, server.url)
        config = _config("--only", json.dumps(CELLS))
        few = {name: config.data[name] for name in ("clair", "on_policy_judge")}
        changes = {"data": few, "accelerate_config": None}
        record = run_experiment(config.model_copy(update=changes))
    done = {cell.name: cell for cell in record.cells if cell.state == "done"}
    assert set(done) == set(CELLS), record.cells
    assert {cell.checkpoints for cell in done.values()} == {2}
    assert {cell.state for cell in record.cells if cell.name not in CELLS} == {"open"}
    views = {(one.data, one.objective, one.view) for one in record.comparisons}
    assert {view for _, _, view in views} == {"last", "mean", "best"} and len(views) == 3 * 3
    assert {one.figure for one in record.comparisons} >= set(config.figures)
    assert record.data["clair"].pairs == record.data["on_policy_judge"].pairs
    assert not list(files.glob("runs/table2/cells/*/model/checkpoint-*"))
    assert not list(files.glob("runs/table2/cells/*/model/*.safetensors"))
    table = (files / "runs" / "table2" / "experiment.md").read_text("utf-8")
    assert "mixeval_hard.overall (best checkpoint)" in table
