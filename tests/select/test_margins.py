"""Selection by the log-ratio margin under the reference of a training config, on a tiny model."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from clair_apo.cli import app
from tests.helpers.clair_runs import write_rows
from tests.helpers.tiny_chat import save_tiny_chat


def turn(role, text):
    return [{"role": role, "content": text}]


def logp(model, tokenizer, prompt, answer):
    """The log-probability of an answer in nats, by a forward of its own."""
    before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    ids = tokenizer.apply_chat_template(prompt + answer, return_dict=False)
    with torch.inference_mode():
        logps = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logps[place - 1, ids[place]]) for place in range(len(before), len(ids)))


def test_margins_are_those_of_the_reference_for_every_pair_whatever_max_pairs(tmp_path):
    folder = save_tiny_chat(tmp_path / "model")
    rows = [
        {
            "prompt": turn("user", f"w{n} w{n + 7}"),
            "chosen": turn("assistant", f"w{n + 1} w{n + 2} w{3 * n}"),
            "rejected": turn("assistant", f"w{2 * n} w5"),
        }
        for n in range(6)
    ]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    config = tmp_path / "train.yaml"
    config.write_text(
        f"model_name_or_path: {folder}\nmax_length: 60\nmax_pairs: 2\nheld_out: 0.5\n"
        f"output_dir: {tmp_path / 'trained'}\nreport_to: none\ndataset_name: other.jsonl\n"
    )
    options = ["--by", "logratio_margin", "--config", str(config), "--count", "2"]
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["select", str(data), *options, "--out", str(out)])
    assert done.exit_code == 0, done.output
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = [
        logp(model, tokenizer, row["prompt"], row["chosen"])
        - logp(model, tokenizer, row["prompt"], row["rejected"])
        for row in rows
    ]
    found = json.loads((out / "select.json").read_text("utf-8"))
    assert (found["n"], found["kept"], found["left_out"]) == (6, 2, {"not in the top 2": 4})
    assert found["before"]["minimum"] == pytest.approx(min(expected), abs=1e-4)
    assert found["after"]["maximum"] == pytest.approx(max(expected), abs=1e-4)
    assert found["after"]["minimum"] == pytest.approx(sorted(expected)[-2], abs=1e-4)
