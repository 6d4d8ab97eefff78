"""The benchmark suites in a whole evaluation, and what a user sees of files that are wrong."""

import gzip
import json

import pytest
import yaml

from clair_apo.cli import main
from clair_apo.evaluation import EvaluateConfig, evaluate
from clair_apo.evaluation.estimate import estimate
from tests.helpers.evaluation import Says, write_rows
from tests.helpers.tiny_alpaca import annotations, write_json, write_outputs
from tests.helpers.tiny_mixeval import judged_rows, write_data

SERVER = "http://127.0.0.1:9/v1"


@pytest.fixture
def files(tmp_path):
    """A recorded file of each benchmark."""
    solved = [
        {"question": f"{n} + 1?", "ground_truth": f"A: {n + 1}"}
        | {"m": {"solution": f"A: {n + n % 2}", "is_correct": n % 2 == 1}}
        for n in range(4)
    ]
    return {
        "mixeval_hard": write_rows(
            tmp_path / "mixeval.jsonl", judged_rows([1, 1, 0.5, 0, 1], "BBACB")
        ),
        "alpaca_eval": write_json(tmp_path / "annotations.json", annotations()),
        "gsm8k": write_rows(tmp_path / "solutions.jsonl", solved),
    }


def _config(folder, files, **changes):
    values = {
        "run_dir": str(folder / "evaluation"),
        "models": {"m": {"recorded": [str(file) for file in files]}},
        "suites": [{"suite": suite} for suite in ("mixeval_hard", "alpaca_eval", "gsm8k")],
    }
    return values | changes


def _results(folder):
    return json.loads((folder / "evaluation" / "evaluation.json").read_text())["suites"]


def test_three_suites_read_their_own_of_one_models_files(tmp_path, files):
    evaluate(EvaluateConfig(**_config(tmp_path, files.values())))
    suites = _results(tmp_path)
    mixeval = suites["mixeval_hard"]["m"]["overall"]
    assert (mixeval["mean"], mixeval["n"], mixeval["clusters"]) == (pytest.approx(75), 10, 8)
    assert suites["alpaca_eval"]["m"]["win_rate"]["n"] == 12
    assert "difficulty" in suites["alpaca_eval"]["m"]["length_controlled_win_rate"]["unavailable"]
    assert suites["gsm8k"]["m"]["accuracy"]["mean"] == 50
    assert suites["gsm8k"]["counts"]["m"]["rows"] == 4


def test_judges_and_models_are_asked_once_over_all_suites_and_an_estimate_counts_them(tmp_path):
    (tmp_path / "alpaca").mkdir()
    judge = {"model": "judge", "base_url": SERVER}
    config = EvaluateConfig(
        run_dir=tmp_path / "evaluation",
        models={name: {"model": name, "base_url": SERVER} for name in ("trained", "base")},
        suites=[
            {"suite": "mixeval_hard", "data": write_data(tmp_path), "judge": judge},
            {
                "suite": "alpaca_eval",
                "data": write_outputs(tmp_path / "alpaca" / "model_outputs.json"),
                "judge": judge,
            },
        ],
    )
    replies = "<verdict>tie</verdict> [[0.5]]"
    answer = Says(lambda text: "[[B]]" if text.endswith("Reading:") else replies)
    chats = {"trained": Says(lambda text: "B"), "base": Says(lambda text: "C"), "judge": answer}
    counted = estimate(config, chats=chats)
    assert not any(chat.asked for chat in chats.values())
    evaluate(config, chats=chats)
    # 8 questions and 12 instructions for each; each answer judged once, each instruction twice
    assert {name: len(chat.asked) for name, chat in chats.items()} == {
        "trained": 20,
        "base": 20,
        "judge": 2 * (8 + 24),
    }
    assert sum(row.requests for row in counted.rows if row.model == "trained") == 20
    evaluate(config, chats={name: Says(lambda text: 1 / 0) for name in chats})
    difference = _results(tmp_path)["mixeval_hard"]["differences"]["trained - base"]
    assert (difference["overall"]["n"], difference["overall"]["clusters"]) == (10, 8)


def _broken(folder, files):
    path = folder / "broken.jsonl.gz"
    path.write_bytes(gzip.compress(b"x" * 1000)[:20])
    return path


def _without_field(folder, files):
    rows = judged_rows([1, 1, 0.5, 0, 1], "BBACB")
    del rows[3]["prompt"]
    return write_rows(folder / "rows.jsonl", rows)


def _not_json(folder, files):
    path = folder / "rows.jsonl"
    path.write_text('{"problem_type": "free-form", "benchmark_name": "x"}\n{"problem')
    return path


BAD = {
    "another benchmark": (lambda folder, files: files["gsm8k"], "looks like GSM8K solutions"),
    "a missing field": (_without_field, "rows.jsonl:4: prompt: is missing"),
    "a torn archive": (_broken, "broken.jsonl.gz: cannot be read"),
    "torn JSON": (_not_json, "rows.jsonl:2: not JSON"),
    "no file": (lambda folder, files: folder / "none.jsonl", "none.jsonl: cannot be read"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_recorded_file_that_is_wrong_is_one_line_and_status_2(
    tmp_path, files, what, capsys, monkeypatch
):
    make, message = BAD[what]
    path = tmp_path / "config.yaml"
    values = _config(tmp_path, [make(tmp_path, files)], suites=[{"suite": "mixeval_hard"}])
    path.write_text(yaml.safe_dump(values))
    monkeypatch.setattr("sys.argv", ["clair-apo", "evaluate", "--config", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
