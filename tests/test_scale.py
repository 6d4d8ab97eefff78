"""The arithmetic of how long a run takes."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/scale.py"
STAGE = ("--stage", "revise", "300", "50")


def lines(*options):
    output = subprocess.check_output([sys.executable, str(SCRIPT), *options], text=True)
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines()[2:]]


def test_twice_the_prompts_take_twice_and_twice_the_servers_half_the_time():
    table = lines("--prompts", "1000", "2000", "--servers", "1", "2", *STAGE)
    # 1,000 prompts x 300 tokens / 50 tokens a second = 6,000 s
    assert [row[2] for row in table] == ["1:40:00", "0:50:00", "3:20:00", "1:40:00"]


BOUNDS = {
    # 1,000 prompts; the servers alone would take 60 s
    "in flight": (["--latency_s", "8", "--in_flight", "4"], "0:33:20"),
    "requests per minute": (["--requests_per_minute", "100"], "0:10:00"),
    "tokens per minute": (["--tokens_per_minute", "50000", "--prompt_tokens", "200"], "0:10:00"),
    "client": (["--client_s_per_row", "1.2", "--shards", "2"], "0:10:00"),
    "servers": (["--requests_per_minute", "2000"], "0:01:00"),
}


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_slowest_bound_decides_and_is_named(bound):
    options, time = BOUNDS[bound]
    (row,) = lines(
        *("--prompts", "1000", "--servers", "1", "--stage", "revise", "300", "5000"), *options
    )
    assert row[2:] == [time, f"{time} ({bound})"]


def test_stages_add_up():
    (row,) = lines(
        *("--prompts", "100", "--servers", "1"),
        *("--stage", "respond", "60", "100", "--stage", "revise", "120", "100"),
    )
    assert row[2:] == ["0:03:00", "0:01:00 (servers)", "0:02:00 (servers)"]
