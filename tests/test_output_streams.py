"""Whatever standard output and error are, a command does its work and says what it can."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from clair_apo.config import unwritable
from clair_apo.errors import reported_errors

PRINTS = """
import os, sys
from pathlib import Path
from clair_apo.console import print_result, say, show_progress
from clair_apo.output_streams import steady_output
with steady_output():
    for n in range(int(sys.argv[1])):
        print_result(f"{n}: \\u22121 \\u2013 \\u2026 \\u732b \\udcff")
        say("said \\u22121")
    with show_progress("stage", 1) as tell:
        tell("kept")
    Path("done").write_text("yes")
"""


def shell(line, cwd, count=1, **env):
    """Run a script that prints, in a shell; `{}` in the line stands for it."""
    script = cwd / "prints.py"
    script.write_text(PRINTS)
    command = shlex.join([sys.executable, str(script), str(count)])
    return subprocess.run(
        ["bash", "-c", "set -o pipefail; " + line.format(command)],
        cwd=cwd,
        env=os.environ | {"PYTHONUTF8": "1"} | env,
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "ascii:strict", "koi8-r"])
def test_characters_that_an_encoding_lacks_are_replaced(tmp_path, encoding):
    done = shell("{}", tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding.partition(":")[0])
    assert text.startswith("0: -1 ")
    assert text.endswith(" ? ?\n")


def test_in_utf8_only_halves_of_characters_are_replaced(tmp_path):
    done = shell("{}", tmp_path, PYTHONIOENCODING="utf-8")
    assert done.stdout.decode() == "0: \u22121 \u2013 \u2026 \u732b ?\n"


@pytest.mark.parametrize(
    "line",
    [
        "{} | head -1",
        "{} | true",
        "{} 2>&1 | true",
        "{} 2> >(true)",
        "{} >&-",
        "{} 2>&-",
        "{} <&- >&- 2>&-",
        "{} 2>/dev/full",
    ],
)
def test_a_reader_that_has_gone_or_a_stream_that_is_closed_ends_no_work(tmp_path, line):
    done = shell(line, tmp_path, count=5000)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert (tmp_path / "done").exists()


def test_output_that_a_full_disk_did_not_take_is_reported_at_the_end(tmp_path):
    done = shell("{} >/dev/full", tmp_path)
    assert done.returncode == 2
    assert (tmp_path / "done").exists()
    assert b"clair-apo: error: standard output cannot be written (No space left" in done.stderr


def test_a_closed_stream_gives_its_number_to_no_file(tmp_path):
    script = (
        "from clair_apo.output_streams import steady_output\n"
        "with steady_output():\n"
        "    import os; open('numbers', 'w').write(str(os.open('x', os.O_CREAT | os.O_RDWR)))\n"
    )
    command = shlex.join([sys.executable, "-c", script])
    subprocess.run(["bash", "-c", f"{command} <&- >&- 2>&-"], cwd=tmp_path, check=True, timeout=60)
    assert int((tmp_path / "numbers").read_text()) > 2


@pytest.mark.parametrize("columns", ["0", "1", "-3", "many"])
def test_a_terminal_without_room_is_taken_for_one_of_usual_size(tmp_path, columns):
    done = shell("{}", tmp_path, COLUMNS=columns, LINES="0")
    assert done.stdout.decode().startswith("0: \u22121 ")
    assert done.stderr.decode() == "said \u22121\nstage: 1 of 1 rows; kept 1\n"


def test_on_a_terminal_that_can_draw_no_bar_lines_tell_how_far_a_stage_is(tmp_path):
    if subprocess.run(["bash", "-c", "command -v script"], capture_output=True).returncode:
        pytest.skip("no `script` here")
    # `script` runs a command on a terminal of its own
    line = "script -qec '{}' /dev/null"
    done = shell(line, tmp_path, TERM="dumb")
    assert b"stage: 1 of 1 rows; kept 1" in done.stdout


def test_what_the_system_refuses_is_one_line_and_exit_status_2(capsys):
    with pytest.raises(SystemExit) as end, reported_errors():
        Path("x" * 300).stat()
    assert end.value.code == 2
    assert "File name too long" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("r\udcff", r"'r\udcff' holds bytes that are no UTF-8 text; rename what it names"),
        ({"a": {"b": ["x", Path("o\0k")]}}, r"a.b: 'o\x00k' holds a NUL character; take it out"),
        ({"a": ["é", "世", "\U0001f600", 3, None, True]}, ""),
    ],
)
def test_a_text_that_no_file_can_hold_is_named_with_its_key(value, told):
    assert unwritable(value) == told


CONFIG = 'prompts: {path: p.jsonl}\ntarget: {model: m}\nreviser: {model: n}\nrun_dir: "%s"\n'


@pytest.mark.parametrize(
    ("yaml", "args", "told"),
    [
        ("r\\uDCFF", (), r"c.yaml: run_dir: 'r\udcff' holds bytes"),
        ("r\\0", (), r"c.yaml: run_dir: 'r\x00' holds a NUL"),
        ("r", ("--prompts.path", b"p\xff.jsonl"), r"command line: prompts.path: 'p\udcff.jsonl'"),
        ("r", ("--run_dir", b"\xff/run"), r"command line: run_dir: '\udcff/run' holds bytes"),
        ("r", ("--target.model", b"\xff"), r"command line: target.model: '\udcff' holds bytes"),
        ("r", ("--store", b"\xff"), r"command line: store: '\udcff' holds bytes"),
    ],
)
def test_names_that_are_no_utf8_are_one_sentence(tmp_path, yaml, args, told):
    (tmp_path / "c.yaml").write_text(CONFIG % yaml)
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "Q?"}))
    command = [sys.executable, "-c", "from clair_apo.cli import main; main()"]
    done = subprocess.run(
        [*command, "generate", "--config", "c.yaml", *args],
        cwd=tmp_path,
        env=os.environ | {"PYTHONUTF8": "1"},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.decode().startswith(f"clair-apo: error: {told}")
    assert done.stderr.count(b"\n") == 1
