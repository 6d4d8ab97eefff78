"""The cache with several processes: filled by two for one to read, and by a sharded policy."""

import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from clair_apo.apo.build_reference import main
from tests.helpers.launching import ENVIRONMENT, LONGEST_S, ROOT, command, finished, launch

pytestmark = pytest.mark.real
COUNTS = r"(\d+) pairs: (\d+) were in the cache, (\d+) computed now"


@pytest.fixture
def write(write_config):
    """Writes a config for the tiny model on 20 pairs, named after its output folder."""

    def write(name: str, **options) -> Path:
        values = {
            "held_out": 0.3,
            "per_device_train_batch_size": 3,
            "per_device_eval_batch_size": 2,
        }
        return write_config(name, 20, **(values | options))

    return write


def output_of(*run: str) -> str:
    done = finished([*run])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_processes_fill_the_cache_that_one_reads(write):
    """75 seconds beside other busy processes, two starts."""
    config, build = write("run"), "scripts/build_reference.py"
    assert "20 pairs: 0 were in the cache, 20 computed now" in output_of(*command(config, 2, build))
    assert "20 pairs: 20 were in the cache, 0 computed now" in output_of(*command(config, 1, build))


def test_two_machines_share_the_pairs_and_both_die_at_random(write, tmp_path, capsys):
    """Both write into one cache; what was written before the kill is not computed again."""
    config = write("shared", per_device_eval_batch_size=1)
    chance = random.Random(0)
    folder = tmp_path / "cache-shared"
    lives = {number: _life(config, number) for number in (1, 2)}
    alive = {number: chance.randint(1, 6) for number in lives}
    while alive:
        time.sleep(0.02)
        written = len(list(folder.glob("*/*.safetensors")))
        for number, files in list(alive.items()):
            assert lives[number].poll() is None, "it came to its end before it was killed"
            if written >= files:
                lives[number].kill()
                lives[number].communicate()
                del alive[number]
    kept = len(list(folder.glob("*/*.safetensors")))
    assert 0 < kept < 20
    said = [_life(config, number).communicate(timeout=LONGEST_S)[0] for number in lives]
    pairs, found, computed = (
        sum(int(number) for number in column)
        for column in zip(*(re.search(COUNTS, text).groups() for text in said), strict=True)
    )
    assert (pairs, found, computed) == (20, kept, 20 - kept)
    main(["--config", str(config)])
    assert "20 pairs: 20 were in the cache, 0 computed now" in capsys.readouterr().out


def _life(config: Path, number: int) -> subprocess.Popen[str]:
    slowly = str(ROOT / "tests" / "helpers" / "reference_slowly.py")
    run = [sys.executable, slowly, "--config", str(config), "--shard", f"{number}/2"]
    return subprocess.Popen(
        run, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def test_a_sharded_policy_trains_as_one_process_and_is_its_own_reference(write, tmp_path):
    """166 seconds beside other busy processes, a start of one process and two of two.

    Rows are so short that the processes need different numbers of them for their three pairs.
    """
    shard = yaml.safe_load((ROOT / "configs" / "accelerate" / "fsdp2.yaml").read_text())
    shard |= {"num_processes": 2, "mixed_precision": "no"}
    (tmp_path / "fsdp2.yaml").write_text(yaml.safe_dump(shard))

    def sharded(config: Path, script: str) -> list[str]:
        disguised = [str(ROOT / "tests" / "helpers" / "fsdp_on_cpu.py"), str(ROOT / script)]
        return launch(tmp_path / "fsdp2.yaml", [*disguised, "--config", str(config)])

    whole = write("whole", per_device_train_batch_size=6, watch_prompts=3)
    output_of(*command(whole, 1))
    spread = write("sharded", max_tokens_per_batch=44, watch_prompts=3)
    said = output_of(*sharded(spread, "scripts/train.py"))
    added = [int(rows) for rows in re.findall(r"empty rows: (\d+)", said)]
    assert len(added) == 2
    assert min(added) > 0, "each process has fewer rows than the other in some step"
    rewards = [
        json.loads((tmp_path / name / "evaluation.json").read_text())
        for name in ("whole", "sharded")
    ]
    for side in ("chosen", "rejected"):
        assert rewards[1][side] == pytest.approx(rewards[0][side], abs=1e-4)
    assert max(map(abs, rewards[0]["chosen"])) > 0.1
    whole, spread, start = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "whole", tmp_path / "sharded", tmp_path / "tiny")
    )
    assert spread.keys() == whole.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(spread[name], weight, atol=1e-5, rtol=0)
        assert (weight - start[name]).abs().max() > 1e-3
    answers = [_answers(tmp_path / name) for name in ("whole", "sharded")]
    assert [row[:2] for row in answers[0]] == [row[:2] for row in answers[1]]
    assert answers[0][:3] == answers[1][:3], "of the same weights, before any step"
    digests = [
        [path.name for path in (tmp_path / f"cache-{name}").iterdir()]
        for name in ("whole", "sharded")
    ]
    assert digests[0] == digests[1]
    manifest = json.loads((tmp_path / "sharded" / "manifest.json").read_text())
    (compared,) = manifest["stages"]["train"]["layout"]["compared"]
    assert (compared["weights"], compared["fault"]) == (12, None), "gradients are, in pieces"
    assert compared["gradient_difference"] < compared["gradient_allowed"]
    built = output_of(*sharded(write("built"), "scripts/build_reference.py"))
    assert "20 pairs: 0 were in the cache, 20 computed now" in built


def _answers(folder: Path) -> list[tuple[int, str, str]]:
    """Step, prompt and text of what a policy answered while it trained."""
    lines = (folder / "watched_answers.jsonl").read_text().split("\n")[:-1]
    rows = map(json.loads, lines)
    return [(row["step"], row["id"], row["answer"]) for row in rows]
