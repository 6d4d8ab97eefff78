"""The generator against live revisers: the embedded model, in this process and behind a server."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from clair_apo.demo.recording import data_file
from clair_apo.models import find_model

PROMPTS = 2


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """The first prompts of the demo, with the answers to be revised."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(data_file("prompts.jsonl").read_text().splitlines()[:PROMPTS]))
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`transformers serve` with the embedded model; its base URL."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = shutil.which("transformers", path=str(Path(sys.executable).parent))
    assert command, "transformers[serving] is not installed: make test-real installs it"
    log = (tmp_path_factory.mktemp("server") / "log").open("w")
    location = find_model("smollm2-135m").location
    process = subprocess.Popen(
        [command, "serve", location, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


def _wait_for(url: str, process: subprocess.Popen[bytes], attempts: int = 240) -> None:
    for _ in range(attempts):
        assert process.poll() is None, "the server has stopped"
        try:
            if httpx2.get(url, timeout=5).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.5)
    pytest.fail(f"{url} did not answer")


def generate(folder: Path, prompts: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-c", "from clair_apo.cli import main; main()", "generate"),
            *("--run_dir", str(folder / "run"), "--prompts.path", str(prompts)),
            *("--target.model", "smollm2-135m", "--target.max_tokens", "48"),
            *("--target.temperature", "0.2", "--reviser.max_tokens", "48"),
            *("--revision.format", "full", "--revision.rubric", str(data_file("rubric.md"))),
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=280,
    )


def ends_whole(result: subprocess.CompletedProcess[str], run: Path) -> bool:
    """Whether every prompt came out at one end, whatever the reviser made of it."""
    assert result.returncode in (0, 2), result.stderr  # 2: it made not one pair
    assert "Traceback" not in result.stderr
    rows = [len((run / name).read_text().splitlines()) for name in ("pairs.jsonl", "dropped.jsonl")]
    return sum(rows) == PROMPTS


@pytest.mark.real
def test_the_embedded_model_revises_its_own_answers_live(tmp_path: Path, prompts: Path) -> None:
    """About 15 seconds alone on two cores."""
    result = generate(tmp_path, prompts, "--reviser.model", "smollm2-135m")
    assert ends_whole(result, tmp_path / "run")


@pytest.mark.real
def test_a_server_revises_and_a_second_run_asks_it_nothing(
    tmp_path: Path, prompts: Path, server: str
) -> None:
    """About 25 seconds alone on two cores, the start of the server included."""
    reviser = ("--reviser.model", find_model("smollm2-135m").location, "--reviser.base_url")
    result = generate(tmp_path, prompts, *reviser, server)
    assert ends_whole(result, tmp_path / "run")
    pairs = (tmp_path / "run" / "pairs.jsonl").read_bytes()
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening: whoever asks is refused
        nowhere = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        again = generate(tmp_path, prompts, *reviser, nowhere)
    assert again.returncode == result.returncode, again.stderr
    assert (tmp_path / "run" / "pairs.jsonl").read_bytes() == pairs
