"""Whether freed memory stays with the process, and goes back at the end."""

import os
import platform
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from clair_apo.apo.forward import cpu
from clair_apo.apo.forward.cpu import memory_held
from clair_apo.apo.trainer import APOTrainer
from tests.helpers.tiny_apo import make_model, make_rows

RESIDENT_BEFORE_WITHIN_AFTER = """
import os, torch
from clair_apo.apo.forward.cpu import memory_held

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

torch.ones(1)
found = [resident()]
with memory_held(torch.device("cpu")):
    torch.ones(2**26)  # 256 MiB, freed at once
    found.append(resident())
found.append(resident())
torch.ones(2**26)
found.append(resident())
print(*found)
"""

glibc_on_linux = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="memory is held where glibc gives it out"
)


def resident(**environment: str) -> list[int]:
    """MiB that a process of its own had before, within, after, and after one more such block."""
    own = {
        name: value
        for name, value in os.environ.items()
        if name != "GLIBC_TUNABLES" and not name.startswith("MALLOC_")
    }
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT_BEFORE_WITHIN_AFTER],
        env=own | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [int(n) for n in done.stdout.split()]


@glibc_on_linux
def test_a_freed_block_stays_until_the_end():
    before, within, after, later = resident()
    assert within > before + 200
    assert after < before + 100
    assert later < before + 100


@glibc_on_linux
@pytest.mark.parametrize(
    "tuned",
    [{"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"}, {"MALLOC_TRIM_THRESHOLD_": "65536"}],
)
def test_an_environment_that_tunes_memory_is_left_alone(tuned):
    before, within, _, _ = resident(**tuned)
    assert within < before + 100


class Libc:
    """Remembers what it was told."""

    def __init__(self):
        self.told = []

    def mallopt(self, parameter, value):
        self.told.append((parameter, value))

    def malloc_trim(self, pad):
        self.told.append("trim")


@pytest.fixture
def libc(monkeypatch):
    """A C library in place of this process's own, and an environment that tunes nothing."""
    found = Libc()
    monkeypatch.setattr(cpu, "_glibc", lambda: found)
    monkeypatch.setattr(cpu, "_is_tuned", lambda: False)
    return found


def test_memory_goes_back_after_a_failure(libc):
    with pytest.raises(KeyError), memory_held(torch.device("cpu")):
        assert "trim" not in libc.told
        raise KeyError
    assert libc.told[-1] == "trim"


def test_training_holds_it_from_the_first_step_to_the_last(libc, config, tokenizer):
    told_at_steps = []

    class Listener(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            told_at_steps.append(list(libc.told))

    trainer = APOTrainer(
        model=make_model(),
        args=config(max_steps=2),
        train_dataset=Dataset.from_list(make_rows(4)),
        processing_class=tokenizer,
        callbacks=[Listener()],
    )
    assert not libc.told
    trainer.train()
    held = list(cpu._HELD.items())
    assert told_at_steps == [held, held]
    assert libc.told[-1] == "trim"


@pytest.fixture
def told(monkeypatch):
    """What any C library was told."""
    found = []
    monkeypatch.setattr(cpu, "_set_malloc", lambda *told: found.append(told))
    return found


def test_elsewhere_nothing_is_early_settings(told):
    with memory_held(torch.device("cuda")):
        pass
    assert not told


def test_another_c_library_is_told_nothing(told, monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with memory_held(torch.device("cpu")):
        pass
    assert not told
