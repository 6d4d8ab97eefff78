"""`docs/experiment.md`: its files are those that are shipped, and its program runs."""

import re

import pytest
import yaml
from typer.testing import CliRunner

from clair_apo.cli import app
from clair_apo.experiment import read_record
from clair_apo.ingest.pairs import load_pairs, plain_text
from tests.helpers import ROOT
from tests.helpers.experiment_run import experiment_config, experiment_files

SHIPPED = "configs/experiments"
PAGE = (ROOT / "docs" / "experiment.md").read_text("utf-8")


def _blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def test_the_files_of_the_page_are_those_that_are_shipped():
    names = ("demo.yaml", "demo/train.yaml", "demo/test.yaml", "objectives.yaml")
    texts = [(ROOT / SHIPPED / name).read_text("utf-8") for name in names]
    assert _blocks("yaml") == [text.split("\n\n", 1)[1] for text in texts]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        # two objectives with two seeds; no value is chosen
        ("demo", "4 cells: 1 data sets, 2 objectives, 2 seeds; 4 models answer the test prompts"),
        # of each objective three betas with the first seed, and two more seeds of the chosen one
        ("objectives", "10 cells: 1 data sets, 2 objectives, 3 seeds; 6 models answer"),
    ],
)
def test_a_shipped_experiment_is_counted_and_nothing_is_written(name, words, monkeypatch, tmp_path):
    for link in ("configs", "src"):
        (tmp_path / link).symlink_to(ROOT / link)
    monkeypatch.chdir(tmp_path)
    options = ["experiment", "--config", f"{SHIPPED}/{name}.yaml", "--dry_run"]
    found = CliRunner().invoke(app, options)
    assert found.exit_code == 0, found.output
    assert words in " ".join(found.output.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["configs", "src"]


@pytest.mark.real
def test_the_program_of_the_page_runs_with_its_reviser(tmp_path, monkeypatch, capsys):
    """In place of the shipped config one of a tiny model, with the same names and format."""
    files = experiment_files(tmp_path)
    generating = yaml.safe_load(files["clair"].read_text("utf-8"))
    files["clair"].write_text(yaml.safe_dump(generating | {"revision": {"format": "segments"}}))
    config = experiment_config(
        tmp_path,
        files,
        data={"clair": {"generate": files["clair"]}},
        objectives={"dpo": {"loss_type": "sigmoid"}},
    )
    values = config.model_dump(mode="json", exclude_unset=True)
    (tmp_path / SHIPPED).mkdir(parents=True)
    (tmp_path / SHIPPED / "objectives.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    (program,) = _blocks("python")
    exec(program, {})
    record = read_record(config.run_dir)
    assert [cell.state for cell in record.cells] == ["done"]
    pairs = load_pairs(str(config.run_dir / "data" / "clair" / "pairs.jsonl"))
    for pair in pairs:
        chosen = plain_text(pair.chosen)
        assert chosen == f"{plain_text(pair.rejected)}\n\nThat is all."
    printed = capsys.readouterr().out
    assert all(f"clair dpo {one.figure}" in printed for one in record.comparisons)
