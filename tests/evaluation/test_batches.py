"""An evaluation whose models answer by the Batch API, looked after from outside."""

import time
from types import SimpleNamespace

import pytest
import stamina
from typer.testing import CliRunner

from clair_apo.cli import app
from clair_apo.evaluation import evaluate
from clair_apo.llm.backends import batch_api
from tests.helpers.batch_endpoints import BatchEndpoints
from tests.helpers.evaluations import evaluation_config, results_of


@pytest.fixture
def server(httpserver, monkeypatch):
    endpoints = BatchEndpoints()
    endpoints.serve(httpserver)
    monkeypatch.setattr(batch_api, "FIRST_WAIT_S", 0.0)
    with stamina.set_testing(True, attempts=2):
        yield endpoints


def test_the_batches_of_an_interrupted_evaluation_are_listed_and_read(
    tmp_path, server, monkeypatch
):
    spec = {"model": "big", "mode": "batch", "base_url": server.spec.base_url}
    config = evaluation_config(tmp_path, models={"trained": spec}, suites=[{"suite": "health"}])

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        # the name in that module alone: other parts of a run sleep too
        patch.setattr(batch_api, "time", SimpleNamespace(**vars(time) | {"sleep": interrupt}))
        evaluate(config)
    looked = CliRunner().invoke(app, ["batches", str(config.run_dir), "--cancel", "all"])
    assert looked.exit_code == 0, looked.stderr
    assert "batch-0  read  6 of 6 answered" in looked.stdout
    evaluate(config)
    assert set(server.asked.values()) == {1}
    assert results_of(tmp_path)["suites"]["health"]["trained"]["ended"]["n"] == 6
