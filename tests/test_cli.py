"""The command as a user runs it: a real process for every case."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from clair_apo.cli import main; main()"]
MODELS = ("--target.model", "smollm2-135m", "--reviser.model", "recorded:nobody")


def run(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
    return subprocess.run(
        [*COMMAND, *args], cwd=cwd, env=clean | env, capture_output=True, text=True, timeout=120
    )


def refused(*args: str, cwd: Path) -> str:
    """Run a command that must fail kindly; its one line."""
    result = run(*args, cwd=cwd)
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert len(lines) == 1 and lines[0].startswith("clair-apo: error: "), result.stderr
    return lines[0]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"instruction": "Say hello.", "output": "Hello"}\n')
    return path


def test_an_unknown_key_on_the_command_line_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    line = refused("generate", "--run_dir", "r", "--reviser.modle", "x", cwd=tmp_path)
    assert "'reviser.modle'" in line and "did you mean 'reviser.model'" in line


def test_an_unknown_key_in_a_yaml_file_is_refused_with_file_and_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("run_dir: r\npromts: {path: p.jsonl}\n")
    line = refused("generate", "--config", "c.yaml", cwd=tmp_path)
    assert "c.yaml" in line and "'promts'" in line and "did you mean 'prompts'" in line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"prompt": "a"}\nnot json\n', "p.jsonl:2: not JSON"),
        ('{"headline": "a"}\n', "p.jsonl:1: expected one of the columns messages, prompt"),
        ('{"prompt": "  "}\n', "p.jsonl:1: 'prompt' is an empty prompt"),
        ('["a"]\n', "p.jsonl:1: expected a JSON object, found list"),
        ("", "p.jsonl: holds no prompts"),
        (json.dumps({"prompt": "a" * 40_000}), "p.jsonl:1: the prompt has 40000 characters"),
    ],
)
def test_bad_prompts_are_refused_with_file_and_line_and_leave_nothing_behind(
    tmp_path: Path, content: str, expected: str
) -> None:
    (tmp_path / "p.jsonl").write_text(content)
    line = refused(
        "generate", "--run_dir", "r/x", "--prompts.path", "p.jsonl", *MODELS, cwd=tmp_path
    )
    assert expected in line
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]


def test_a_model_path_that_does_not_exist_is_refused(tmp_path: Path, prompts: Path) -> None:
    line = refused(
        *("generate", "--run_dir", "r", "--prompts.path", prompts.name),
        *("--target.model", "recorded:nobody", "--reviser.model", "./no/such/model"),
        cwd=tmp_path,
    )
    assert "'./no/such/model'" in line and "no such folder" in line
    assert not (tmp_path / "r").exists()


def test_a_hosted_model_without_a_key_is_refused_before_anything_is_written(
    tmp_path: Path, prompts: Path
) -> None:
    line = refused(
        *("generate", "--run_dir", "r", "--prompts.path", prompts.name, *MODELS),
        *("--reviser.base_url", "https://models.example.org/v1", "--reviser.api_key_env", "MY_KEY"),
        cwd=tmp_path,
    )
    assert "models.example.org" in line and "MY_KEY" in line
    assert [p.name for p in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_training_on_zero_pairs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("")
    line = refused(
        *("train", "--model_name_or_path", "smollm2-135m", "--dataset_name", "pairs.jsonl"),
        *("--output_dir", "out"),
        cwd=tmp_path,
    )
    assert "pairs.jsonl" in line
    assert not (tmp_path / "out").exists()


def test_a_report_of_no_run_is_refused(tmp_path: Path) -> None:
    assert "no such run folder" in refused("report", "nothing", cwd=tmp_path)


def test_an_unknown_command_names_the_nearest_one(tmp_path: Path) -> None:
    result = run("generat", cwd=tmp_path)
    assert result.returncode == 2
    assert "generate" in result.stderr


def test_help_of_generate_describes_every_key(tmp_path: Path) -> None:
    result = run("generate", "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "--reviser.api_key_env" in result.stdout
    assert "The most requests to a server at the same time" in " ".join(result.stdout.split())
