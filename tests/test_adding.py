"""`docs/adding.md` is followed to the letter, with its own toys."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import clair_apo
from clair_apo.llm import ScriptedChat
from tests.helpers import ROOT

PAGE = (ROOT / "docs" / "adding.md").read_text("utf-8")


def blocks(title):
    """The code blocks of a section."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


TRAIN = """
from datasets import Dataset
from clair_apo.apo import APOConfig, APOTrainer
from tests.helpers.tiny_apo import make_model, make_rows, make_tokenizer

args = APOConfig(
    "out", loss_type=["apo_hinge"], beta=5.0, max_steps=3, learning_rate=1e-2, report_to="none",
    gradient_checkpointing=False, disable_tqdm=True, logging_steps=1, save_strategy="no",
    reference_cache="cache", lr_scheduler_type="constant",
)
trainer = APOTrainer(
    model=make_model(), args=args, train_dataset=Dataset.from_list(make_rows(8)),
    processing_class=make_tokenizer(),
)
trainer.train()
print([log["loss"] for log in trainer.state.log_history if "loss" in log])
"""


def test_an_objective_that_is_added_as_the_page_says_trains(tmp_path):
    """In a copy of the package: the edits are those of a person with an editor."""
    function, entry = blocks("An objective")
    shutil.copytree(Path(clair_apo.__file__).parent, tmp_path / "clair_apo")
    file = tmp_path / "clair_apo" / "apo" / "objectives.py"
    above, below = file.read_text("utf-8").split("PAIR_OBJECTIVES: Mapping")
    head, tail = below.split("    }\n)", 1)
    file.write_text(f"{above}{function}\n\nPAIR_OBJECTIVES: Mapping{head}{entry}    }}\n){tail}")
    done = subprocess.run(
        [sys.executable, "-c", TRAIN],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, *later = json.loads(done.stdout.splitlines()[-1])
    assert first == 2.0 and later[-1] < first


def test_a_backend_that_is_written_as_the_page_says_answers_a_run(tmp_path, monkeypatch):
    backend, use = blocks("A backend")
    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_text('{"prompt": "name a color"}\n{"prompt": "name a bird"}\n')
    names = {"target": ScriptedChat(["a color that is red", "a bird that is a wren"])}
    exec(backend, names)
    exec(use, names)
    assert (names["result"].pairs, names["result"].asked) == (2, 4)
    pairs = [
        json.loads(line) for line in Path("runs/shouting/pairs.jsonl").read_text().splitlines()
    ]
    assert sorted(pair["chosen"][-1]["content"] for pair in pairs) == [
        "NAME A BIRD",
        "NAME A COLOR",
    ]
