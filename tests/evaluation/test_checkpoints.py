"""Evaluations over the checkpoints of a run: last, mean, best, and dropping what is done."""

import shutil

import pytest

from clair_apo.errors import ConfigError, RequestError
from clair_apo.evaluation import evaluate
from clair_apo.evaluation.tables import suite_tables
from clair_apo.run_folder import write_json
from clair_apo.stats import mean_interval, paired_interval
from tests.helpers.clair_runs import write_rows
from tests.helpers.evaluations import Ruled, evaluation_config, results_of, rows_of
from tests.helpers.tiny_chat import save_tiny_chat

PROMPTS = [f"w{n} w{n + 1}" for n in range(6)]


@pytest.fixture
def run(tmp_path):
    """A run with three complete checkpoints and one that was not written to its end."""
    for step in (4, 8, 12, 16):
        folder = save_tiny_chat(tmp_path / "run" / f"checkpoint-{step}", seed=step)
        write_json(folder / "trainer_state.json", {})
        write_json(folder / "checkpoint.json", {"complete": step != 16})
    return tmp_path / "run"


def config_of(tmp_path, **changes):
    save_tiny_chat(tmp_path / "base", seed=99)
    prompts = write_rows(tmp_path / "p.jsonl", [{"prompt": text} for text in PROMPTS])
    values = {
        "models": {
            "each": {"model": str(tmp_path / "run" / "checkpoint-*"), "max_tokens": 8},
            "base": {"model": str(tmp_path / "base"), "max_tokens": 8},
        },
        "prompts": {"path": str(prompts)},
        "suites": [{"suite": "health"}],
    }
    return evaluation_config(tmp_path, **(values | changes))


def test_checkpoints_give_last_mean_and_no_best_without_a_rule(tmp_path, run):
    evaluate(config_of(tmp_path))
    content = results_of(tmp_path)
    assert content["models"] == ["checkpoint-12", "base", "checkpoint-4", "checkpoint-8"]
    health = content["suites"]["health"]
    over = health["checkpoints"]
    assert over["names"] == ["checkpoint-4", "checkpoint-8", "checkpoint-12"]
    assert over["last"]["name"] == "checkpoint-12"
    assert over["last"]["figures"] == health["checkpoint-12"]
    means = [health[name]["characters"]["mean"] for name in over["names"]]
    assert over["mean"]["figures"]["characters"]["mean"] == pytest.approx(sum(means) / 3)
    assert "best" not in over
    # the base is the model that drift is measured from, not another checkpoint
    assert "mean" in health["checkpoint-12"]["kl_k1"]
    assert "unavailable" in health["base"]["kl_k1"]


def test_the_best_names_its_rule_and_its_interval_is_corrected_for_the_choice(tmp_path, run):
    config = config_of(tmp_path, best_by="-health.characters")
    evaluate(config)
    content = results_of(tmp_path)
    health = content["suites"]["health"]
    best = health["checkpoints"]["best"]
    names = health["checkpoints"]["names"]
    shortest = min(names, key=lambda name: health[name]["characters"]["mean"])
    assert best["name"] == shortest
    assert best["rule"] == "the lowest of 3 in health.characters"
    lengths = {
        name: [row["characters"] for row in rows_of(tmp_path, "health", f"{name}.jsonl")]
        for name in (shortest, "base")
    }
    expected = mean_interval(lengths[shortest], 1 - 0.05 / 3)
    assert best["figures"]["characters"] == pytest.approx(expected.model_dump())
    difference = paired_interval(lengths[shortest], lengths["base"], 1 - 0.05 / 3)
    found = best["differences"]["best - base"]["characters"]
    assert found == pytest.approx(difference.model_dump())
    (table,) = suite_tables(content)
    assert table.columns == (
        *("last", "mean", "best", "base"),
        *("last - base", "mean - base", "best - base"),
    )
    assert any("98.33 % each" in remark for remark in table.remarks)


def test_a_dropped_checkpoint_keeps_its_figures(tmp_path, run):
    config = config_of(tmp_path)
    evaluate(config)
    before = results_of(tmp_path)
    dropping = config.model_copy(update={"drop_checkpoints": True})
    evaluate(dropping)
    assert results_of(tmp_path) == before
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [
        "checkpoint-12",  # the last is the result of the training
        "checkpoint-16",  # not complete, so not ours to delete
    ]
    again = evaluate(dropping)
    assert again.asked == 0 and results_of(tmp_path) == before


def test_a_dropping_evaluation_that_was_stopped_goes_on(tmp_path, run, monkeypatch):
    config = config_of(tmp_path, drop_checkpoints=True)

    def stop(path, **_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(config)
    assert (run / "checkpoint-4.dropped").exists()
    evaluate(config)
    assert not (run / "checkpoint-4.dropped").exists()
    over = results_of(tmp_path)["suites"]["health"]["checkpoints"]
    assert over["names"] == ["checkpoint-4", "checkpoint-8", "checkpoint-12"]
    assert over["mean"]["figures"]["characters"]["n"] == 6


def test_a_checkpoint_that_was_written_anew_is_asked_anew(tmp_path, run):
    config = config_of(tmp_path, drop_checkpoints=True)
    evaluate(config)
    before = results_of(tmp_path)["suites"]["health"]["checkpoint-4"]["characters"]
    folder = save_tiny_chat(run / "checkpoint-4", seed=5)
    write_json(folder / "trainer_state.json", {})
    write_json(folder / "checkpoint.json", {"complete": True})
    assert evaluate(config).asked == 6
    assert results_of(tmp_path)["suites"]["health"]["checkpoint-4"]["characters"] != before


def test_what_a_dropped_checkpoint_was_not_asked_is_refused(tmp_path, run):
    config = config_of(tmp_path, drop_checkpoints=True)
    evaluate(config)
    more = [*PROMPTS, "w20 w21"]
    prompts = {"path": str(write_rows(tmp_path / "q.jsonl", [{"prompt": p} for p in more]))}
    with pytest.raises(RequestError, match=r"checkpoint-4 was deleted when it was evaluated"):
        evaluate(config_of(tmp_path, prompts=prompts))


def test_a_folder_that_is_no_checkpoint_of_ours_is_not_deleted(tmp_path, run, capfd):
    (run / "checkpoint-4" / "checkpoint.json").unlink()
    evaluate(config_of(tmp_path, drop_checkpoints=True))
    assert (run / "checkpoint-4").exists() and not (run / "checkpoint-8").exists()
    assert "checkpoint-4 is not deleted" in capfd.readouterr().err


def test_a_pattern_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"names no complete checkpoint"):
        evaluate(config_of(tmp_path), chats={"base": Ruled(["So."])})


def test_a_figure_that_no_checkpoint_has_chooses_no_best(tmp_path, run):
    with pytest.raises(ConfigError, match="no checkpoint has the figure 'wit'"):
        evaluate(config_of(tmp_path, best_by="health.wit"))
