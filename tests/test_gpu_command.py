"""`python benchmarks/gpu.py`: what runs, what resumes, what is said of failures; on a CPU."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from tests.helpers import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    """The program as a module; it puts its folder on the path."""
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("gpu_command", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


H200 = {
    "device": "cuda",
    "name": "an H200",
    "devices": 1,
    "torch": "2.11.0",
    "GiB free": 138.0,
    "flash_attn": "not there",
}


def test_a_gpu_gets_every_part_and_several_get_those_of_several(gpu):
    names = gpu.part_names(H200)
    assert {gpu.why_not(name, H200, []) for name in names} == {None, "there is one GPU"}
    eight = H200 | {"devices": 8}
    assert {gpu.why_not(name, eight, []) for name in names} == {None}
    assert "step/8b/trl_flash" in gpu.part_names(H200 | {"flash_attn": "2.8"})
    assert "step/8b/trl_flash" not in names and "step/8b/trl_sdpa" in names


def test_a_part_that_does_not_fit_or_lacks_a_package_says_why(gpu):
    small = H200 | {"GiB free": 40.0}
    assert gpu.why_not("step/8b/clair_apo", small, []) == "needs 90 GiB of memory, 40.0 are free"
    assert gpu.why_not("step/1b/clair_apo", small, []) is None
    bare = ["trl", "peft"]
    assert gpu.why_not("exact/padded", H200, bare) == "missing: trl, peft"
    assert gpu.why_not("machine", H200, bare) is None, "torch alone suffices"


# --- resuming


@pytest.fixture
def run(gpu, tmp_path, monkeypatch):
    """Runs all parts with results that are given, and returns the names of those that ran."""
    ran = []
    answers = {}

    def apart(name, args, target, seconds):
        if name == "describe":
            return {"status": "ok", "seconds": 1, "figures": H200 | answers.get("describe", {})}
        ran.append(name)
        of_steps = {kind: {"seconds": 1.0, "MFU": 0.3} for kind in ("real", "edits")}
        figures = of_steps if name.startswith("step/") else {"x": 1.0}
        return answers.get(name, {"status": "ok", "seconds": 1, "figures": figures})

    monkeypatch.setattr(gpu, "apart", apart)

    def run(minutes=8.0, **given):
        ran.clear()
        answers.clear()
        answers.update(given)
        usual = {"device": "cuda", "out": tmp_path / "gpu.json", "minutes": minutes}
        options = {"retry": bool(given.pop("retry", False)), "only": given.pop("only", "")}
        failed = gpu.run_all(argparse.Namespace(**usual, **options), None, given.pop("missing", []))
        return failed, list(ran)

    return run


BROKEN = {"status": "failed", "seconds": 2, "error": "Traceback ...\nValueError: a mask is off"}


def test_a_part_that_is_there_is_not_run_again_and_one_that_failed_only_when_asked(
    run, gpu, tmp_path, capsys
):
    failed, ran = run(**{"exact/padded": BROKEN})
    assert failed == 1 and ran == [n for n in gpu.part_names(H200) if "parallel" not in n]
    assert "FAILED exact/padded: ValueError: a mask is off" in capsys.readouterr().out
    assert run() == (1, [])
    assert run(retry=True) == (0, ["exact/padded"])
    table = (tmp_path / "gpu.md").read_text()
    assert "| `exact/padded` | ok | 1 | x 1 |" in table and "Failed: nothing." in table
    assert "| `parallel/ddp` | skipped | 0 | there is one GPU |" in table


def test_what_the_time_does_not_suffice_for_is_left_to_the_next_call(run, tmp_path, capsys):
    assert run(minutes=0.0) == (0, [])
    assert "not run yet: machine" in capsys.readouterr().out
    assert json.loads((tmp_path / "gpu.json").read_text())["machine"]["name"] == "an H200"
    assert run(only="exact/padded")[1] == ["exact/padded"]


def test_a_part_that_was_skipped_runs_once_its_reason_is_gone(run):
    assert run(missing=["trl"])[1] == ["machine"]
    assert "generation" in run()[1]


def test_results_of_another_machine_are_not_mixed_in(run):
    run(minutes=0.0)
    with pytest.raises(SystemExit, match=r"another machine .*'an H200', here 'an A100'"):
        run(describe={"name": "an A100"})


def test_a_part_that_hangs_is_ended_and_one_that_dies_shows_its_last_words(gpu, tmp_path):
    def finished(code, seconds):
        log = tmp_path / "log"
        command = [sys.executable, "-c", code]
        return gpu._finished(command, gpu.environment(None), log, seconds), log.read_text()

    assert finished("import time; time.sleep(60)", 0.5)[0] == "took longer than 0 s"
    fault, said = finished("import os; print('last words', flush=True); os._exit(7)", 60)
    assert fault == "ended with status 7 and no result" and said == "last words\n"


def test_a_part_sees_one_gpu_alone_unless_it_is_about_several(gpu, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert gpu.environment(None)["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert gpu.environment(None, one_device=True)["CUDA_VISIBLE_DEVICES"] == "3"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu.environment(None, one_device=True)["CUDA_VISIBLE_DEVICES"] == "0"


# --- wheels


def wheel(folder, name):
    """A wheel with one module that says its own name."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
        info = f"{name}-1.0.dist-info"
        file.writestr(f"{name}.py", f"NAME = {name!r}\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


def test_wheels_are_installed_into_a_folder_and_torch_is_left_alone(gpu, tmp_path):
    for name in ("useful", "torch", "triton", "nvidia_cublas"):
        wheel(tmp_path / "wheels", name)
    target = tmp_path / "packages"
    gpu.wheels.install(tmp_path / "wheels", target)
    gpu.wheels.describe_package(target)
    assert {path.name for path in target.glob("*.py")} == {"useful.py"}
    code = "import useful, importlib.metadata as m; print(useful.NAME, m.version('clair-apo'))"
    said = subprocess.check_output(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(target)}, text=True
    )
    assert said == "useful 0.1.0\n"


def test_a_folder_without_wheels_and_missing_packages_are_answered_with_what_to_do(gpu, tmp_path):
    with pytest.raises(SystemExit, match="no wheels there but torch's"):
        gpu.wheels.install(tmp_path, tmp_path / "packages")
    assert gpu.wheels.missing() == [], "in the environment of the tests nothing is"
    said = gpu.wheels.how_to_get(["trl", "peft"])
    assert "missing here: trl, peft" in said and "pip download -d wheels trl peft" in said


def test_the_packages_that_are_looked_for_are_dependencies_of_the_project(gpu):
    project = (ROOT / "pyproject.toml").read_text()
    assert all(f'"{package}>=' in project for package in gpu.wheels.NEEDED.values())


# --- what the parts measure


def test_rows_have_the_lengths_that_they_are_to_have(gpu):
    from on_gpu.models import pair_lengths, rows, tokenizer

    for kind in ("real", "edits"):
        lengths = pair_lengths(kind, 6, 3, scale=0.3)
        for pair, row in zip(lengths, rows(lengths, 512, 3), strict=True):
            ids = {name: tokenizer(512)(text)["input_ids"] for name, text in row.items()}
            assert len(ids["prompt"]) == pair.prompt
            assert len(ids["chosen"]) + 1 == pair.chosen, "and the end token"
            assert len(ids["rejected"]) + 1 == pair.rejected
            first = [a == b for a, b in zip(ids["chosen"], ids["rejected"], strict=False)]
            assert first.index(False) == pair.shared
            assert 2 not in ids["chosen"], "no unknown word"
    edits = pair_lengths("edits", 50, 0)
    assert {pair.prompt for pair in edits} == {512}
    assert all(pair.tree < 0.72 * pair.sequences for pair in edits)


def test_ratios_are_of_trls_fastest_on_the_same_pairs(gpu):
    from on_gpu.ratios import ratios, ratios_in_words

    def result(real, edits):
        return {
            "status": "ok",
            "figures": {
                k: {"seconds": v, "MFU": 0.3} for k, v in (("real", real), ("edits", edits))
            },
        }

    parts = {
        "step/8b/clair_apo": result(1.0, 1.0),
        "step/8b/trl_sdpa": result(2.0, 3.0),
        "step/8b/trl_flash": result(1.5, 4.0),
        "step/1b/trl_sdpa": result(1.0, 1.0),
    }
    assert ratios(parts) == {("8b", "real"): 1.5, ("8b", "edits"): 3.0}
    assert "1.50 times ours (target 1.5); MFU of ours 0.30 (target 0.4)" in ratios_in_words(parts)
    assert ratios_in_words({}) == ""


@pytest.fixture
def eager():
    """Compiled functions run as they are written, as on a CPU the exactness part has it."""
    yield
    torch.compiler.set_stance("default")


def test_a_forward_that_is_a_little_off_is_found_in_log_probs_and_in_gradients(
    gpu, monkeypatch, eager
):
    from on_gpu import exactness
    from on_gpu.models import families

    config = families()["llama"]

    def compare(path="attention_per_branch"):
        return exactness.compare(config, torch.float32, path, "cpu")["faults"]

    assert compare() == []
    real = exactness.shared_prefix_forward

    def off(change):
        def forward(*args, **options):
            found = real(*args, **options)
            chosen = found.chosen._replace(values=change(found.chosen.values))
            return found._replace(chosen=chosen)

        monkeypatch.setattr(exactness, "shared_prefix_forward", forward)
        return compare()

    assert ["log-probs miss by" in fault for fault in off(lambda x: x + 1e-3)] == [True]
    scaled = off(lambda x: x.detach() + 1.01 * (x - x.detach()))
    assert ["gradients miss by" in fault for fault in scaled] == [True]
    monkeypatch.setattr(exactness, "shared_prefix_forward", real)
    torch.compiler.set_stance("force_eager")
    assert compare("flex_attention") == [], "FlexAttention, forward"


def test_a_path_that_is_not_really_taken_is_a_fault(gpu):
    from on_gpu.paths import BRANCHES, FLEX, Calls, faults_of

    called, silent = Calls(), Calls()
    called.flex = 4
    assert faults_of(FLEX, silent) == ["FlexAttention was not called"]
    assert faults_of(BRANCHES, called) == ["FlexAttention was called 4 times"]
    assert faults_of(FLEX, called) == faults_of(BRANCHES, silent) == []


# --- the program itself


def command(out, *options):
    run = [sys.executable, str(SCRIPT), "--device", "cpu", "--out", str(out), "--minutes", "10"]
    return subprocess.run([*run, *options], capture_output=True, text=True, check=False)


def test_the_program_measures_this_machine_and_marks_the_table_as_a_trial(tmp_path):
    done = command(tmp_path / "trial.json", "--only", "machine")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "trial.json").read_text())
    figures = found["parts"]["machine"]["figures"]
    assert figures["fp32 TFLOP/s"] > 0 and found["machine"]["torch"] == torch.__version__
    table = (tmp_path / "trial.md").read_text()
    assert "trial run of the program on a CPU" in table
    assert "none of its numbers is a figure of a GPU" in table


def test_a_machine_without_cuda_is_told_so_in_a_line(tmp_path):
    run = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "gpu.json")]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=hidden)
    assert done.returncode == 1 and not (tmp_path / "gpu.json").exists()
    assert done.stderr.startswith("torch does not work on cuda: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.real
def test_training_and_generating_parts_run_on_a_cpu(tmp_path):
    for part in ("three_steps/attention_per_branch", "step/toy", "generation"):
        done = command(tmp_path / "trial.json", "--only", part)
        assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((tmp_path / "trial.json").read_text())["parts"]
    steps = parts["three_steps/attention_per_branch"]["figures"]
    assert steps["losses"][0] == pytest.approx(1, abs=1e-3) and len(steps["step seconds"]) == 3
    assert parts["step/toy/clair_apo"]["figures"]["edits"]["pairs/s"] > 0
    assert parts["generation"]["figures"]["4 at once, tokens/s"] > 0
    assert "TRL's fastest" not in (tmp_path / "trial.md").read_text(), "no ratio of toys"


def test_the_table_in_the_documentation_is_marked_as_a_trial():
    text = Path(ROOT / "docs" / "gpu_trial.md").read_text("utf-8")
    assert "none of its numbers is a figure of a GPU" in text
    assert "gpu_trial.md" in (ROOT / "docs" / "benchmarks.md").read_text("utf-8")


def test_the_paths_that_are_named_are_those_of_the_trainer(gpu):
    from on_gpu.paths import PATHS

    assert gpu.PATHS == PATHS
