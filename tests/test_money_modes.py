"""The modes of `clair-apo generate` that speak of money, and its push, as a user calls them."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from clair_apo.clair import dataset
from clair_apo.clair.planning import estimate as estimating
from clair_apo.cli import app
from tests.helpers.chat_server import Asked, ChatServer, Reply

ANSWER = "An answer of six plain words."
REVISION = "<reasoning>\nr\n</reasoning>\n<revision>\nAn answer of six good words.\n</revision>"


def reply(asked: Asked) -> Reply:
    return Reply(REVISION if asked.body["model"] == "reviser" else ANSWER)


@pytest.fixture
def server():
    with ChatServer(reply) as server:
        yield server


@pytest.fixture
def config(tmp_path, server, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(12))
    )

    def model(name):
        price = {"input": 1.0, "output": 4.0, "source": "contract 7", "date": "2026-11-01"}
        return {"model": name, "base_url": server.url, "price": price}

    values = {
        "run_dir": "run",
        "prompts": {"path": "p.jsonl"},
        "target": model("target"),
        "reviser": model("reviser"),
        "revision": {"format": "full"},
        "output": {"test_size": 0.5},
    }
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def generate(config, *args):
    return CliRunner().invoke(app, ["generate", "--config", str(config), *args])


class WordCounter:
    def __init__(self, model):
        self.name = model

    def text(self, text):
        return len(text.split())

    def conversation(self, messages):
        return sum(self.text(message.content) for message in messages)


def test_an_estimate_names_tokenizer_price_source_and_date_and_asks_nothing(
    config, server, monkeypatch
):
    monkeypatch.setattr(estimating, "TokenCounter", WordCounter)
    result = generate(config, "--estimate", "--tokenizer", "somebody/words")
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert "12 prompts, recipe clair" in shown
    assert "tokenizer of 'somebody/words'" in shown
    assert "$1 in, $4 out per million tokens (contract 7, read 2026-11-01)" in shown
    assert "no price" in shown  # through the Batch API, for which none was given
    assert server.asked == []
    numbers = json.loads((config.parent / "run" / "estimate.json").read_text())
    assert [model["requests"] for model in numbers["models"]] == [12, 12]
    assert numbers["batch"] is None and numbers["live"]["low"] > 0


def test_an_estimate_says_how_to_give_a_price_that_is_not_known(config, monkeypatch):
    monkeypatch.setattr(estimating, "TokenCounter", WordCounter)
    result = generate(config, "--estimate", "--reviser.price", "null")
    shown = " ".join(result.stdout.split())
    assert "reviser reviser: no price is known at this server" in shown
    assert "reviser.price.input" in shown


def test_a_pilot_prints_shares_tokens_and_cost_with_intervals_and_the_run_goes_on(config, server):
    result = generate(config, "--pilot", "4")
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert "Pilot of 4 prompts (95 % intervals)" in shown
    assert "kept 100.0% [" in shown and "(n=4)" in shown
    assert "the other 8 prompts: about 8 [" in shown
    assert "they will cost about $0.00 [0.00, 0.00]" in shown
    assert (config.parent / "run-pilot" / "pilot.json").exists()
    assert not (config.parent / "run").exists()
    assert len(server.asked) == 8
    whole = generate(config)
    assert whole.exit_code == 0, whole.output
    assert "asked 16 requests, 8 were answered before" in whole.stdout
    assert "cost of the run, all its invocations: $" in whole.stdout
    assert len(server.asked) == 24


def test_a_limit_that_is_reached_is_one_line_and_the_exit_status_of_a_users_error(config, server):
    result = generate(config, "--max_cost", "0.0025")
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if "error" in line]
    assert line.startswith("clair-apo: error: stopped before max_cost: $")
    assert "Traceback" not in result.stderr
    assert 0 < len(server.asked) < 24


def test_parquet_splits_lie_beside_the_jsonl_and_go_when_they_are_not_wanted(config):
    assert generate(config, "--output.parquet", "true").exit_code == 0
    folder = config.parent / "run" / "dataset"
    both = {f"{split}.{kind}" for split in ("train", "test") for kind in ("jsonl", "parquet")}
    assert {path.name for path in folder.iterdir()} == both | {"README.md"}
    from datasets import load_dataset

    loaded = load_dataset(str(folder), cache_dir=str(config.parent / "cache"))
    pairs = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert list(loaded["train"]) == pairs
    assert generate(config).exit_code == 0
    assert {path.suffix for path in folder.iterdir()} == {".jsonl", ".md"}


def test_a_push_takes_the_card_and_one_file_a_split(config, monkeypatch):
    pushed = []
    monkeypatch.setattr(dataset, "check_push", lambda: None)
    monkeypatch.setattr(dataset, "push_to_hub", lambda files, name: pushed.append((files, name)))
    assert generate(config, "--push_to_hub", "me/pairs", "--output.parquet", "true").exit_code == 0
    ((files, name),) = pushed
    folder = config.parent / "run" / "dataset"
    assert name == "me/pairs"
    assert {there: here.resolve() for there, here in files.items()} == {
        there: folder / there for there in ("README.md", "train.parquet", "test.parquet")
    }


def test_a_push_that_cannot_be_is_told_before_anything_is_asked(config, server):
    result = generate(config, "--push_to_hub", "me/pairs")
    assert result.exit_code == 2 and "HF_HUB_OFFLINE" in result.stderr
    assert server.asked == []


def test_help_names_the_modes(config):
    result = CliRunner().invoke(app, ["generate", "--help"])
    for mode in ("--estimate", "--pilot", "--push_to_hub", "--max_cost", "--reviser.price"):
        assert mode in result.stdout
