"""A look at a run's batches from outside: list, read, cancel, forget."""

import pytest
import stamina

from clair_apo.errors import RequestError
from clair_apo.llm import ModelSpec
from clair_apo.llm.backends.batch_admin import BatchAdmin
from clair_apo.llm.backends.batch_client import BatchServer
from clair_apo.llm.backends.batch_files import BatchFile, write_batch_file
from clair_apo.llm.store_schema import CREATING, FORGOTTEN, READ, StoredBatch
from tests.helpers.batch_endpoints import BatchEndpoints, Outcome, answered
from tests.helpers.llm_requests import ask_for


@pytest.fixture(autouse=True)
def no_waiting():
    with stamina.set_testing(True, attempts=2):
        yield


@pytest.fixture
def server(httpserver):
    endpoints = BatchEndpoints()
    endpoints.serve(httpserver)
    return endpoints


QUESTIONS = {r.key: r for r in (ask_for(f"q{n}", model="big") for n in range(3))}


def begin(server, store, tmp_path, name="shard", run_id="run", known=True):
    """A batch as a run leaves it behind; `known`: also that the server has it."""
    client = BatchServer(server.spec)
    path = tmp_path / f"{name}.jsonl"
    write_batch_file(path, BatchFile(QUESTIONS), "big")
    batch = StoredBatch(
        name, name, "big", client.host, run_id, CREATING, len(store.batches()), tuple(QUESTIONS)
    )
    store.add_batch(batch)
    made = client.create(client.upload(path), name)
    if known:
        batch = store.update_batch(batch, made.status, made.id)
    return batch


def desk(server, store):
    return BatchAdmin(store, "run", [server.spec])


def test_a_look_asks_the_server_and_reads_what_has_ended(server, store, tmp_path):
    begin(server, store, tmp_path)
    states = [desk(server, store).look()[0] for _ in range(4)]
    assert [look.batch.state for look in states] == ["in_progress", "finalizing", READ, READ]
    assert [look.answered for look in states] == [0, 0, 3, 3]
    assert all(key in store for key in QUESTIONS)
    assert store.spent("run")["big"].answers == 3


def test_only_the_batches_of_the_run_are_looked_at(server, store, tmp_path):
    begin(server, store, tmp_path, run_id="another")
    assert desk(server, store).look() == []


def test_a_batch_that_is_only_known_to_the_server_is_found(server, store, tmp_path):
    begin(server, store, tmp_path, known=False)
    (look,) = desk(server, store).look()
    assert (look.batch.id, look.batch.state) == ("batch-0", "validating")


def test_a_batch_that_the_server_never_heard_of_is_shown_as_it_is(server, store):
    host = BatchServer(server.spec).host
    store.add_batch(StoredBatch("x", "x", "big", host, "run", CREATING, 1.0, tuple(QUESTIONS)))
    desk(server, store).cancel("all")
    (look,) = desk(server, store).look()
    assert look.batch.state == CREATING


def test_a_failed_batch_tells_why_and_is_left_to_the_next_run(server, store, tmp_path):
    server.outcomes = [Outcome("failed", errors=[{"code": "bad", "message": "no such model"}])]
    begin(server, store, tmp_path)
    (look,) = desk(server, store).look()
    assert (look.batch.state, look.told) == ("failed", "bad: no such model")
    assert store.batches()[0].open


def test_cancelling_one_batch_keeps_what_it_answered(server, store, tmp_path):
    first = next(iter(QUESTIONS))
    server.outcomes = [Outcome("stays", lambda x: answered(x) if x["custom_id"] == first else None)]
    one = begin(server, store, tmp_path)
    begin(server, store, tmp_path, name="other")
    desk(server, store).cancel(one.id)
    assert server.batches[one.id].status == "cancelling"
    assert [b.state for b in store.batches()] == ["cancelling", "validating"]
    assert server.batches["batch-1"].status == "validating"
    desk(server, store).look()
    assert first in store
    assert store.batches()[0].state == READ


def test_all_batches_can_be_cancelled_together(server, store, tmp_path):
    begin(server, store, tmp_path)
    begin(server, store, tmp_path, name="other")
    desk(server, store).cancel("all")
    assert {batch.status for batch in server.batches.values()} == {"cancelling"}


def test_a_forgotten_batch_is_waited_for_no_longer(server, store, tmp_path):
    batch = begin(server, store, tmp_path)
    desk(server, store).forget(batch.id)
    assert store.batches()[0].state == FORGOTTEN
    assert desk(server, store).look()[0].batch.state == FORGOTTEN
    assert server.batches[batch.id].status == "validating"


@pytest.mark.parametrize("what", ["cancel", "forget"])
def test_a_batch_that_is_not_open_cannot_be_ended(server, store, what):
    with pytest.raises(RequestError, match="no open batch 'batch-9'"):
        getattr(desk(server, store), what)("batch-9")


def test_a_model_elsewhere_whose_key_is_not_at_hand_is_not_in_the_way(server, store, tmp_path):
    begin(server, store, tmp_path)
    elsewhere = ModelSpec(model="x", base_url="https://example.com/v1", api_key_env="NO_SUCH_KEY")
    (look,) = BatchAdmin(store, "run", [elsewhere, server.spec]).look()
    assert look.batch.state == "in_progress"


def test_a_batch_at_a_server_that_the_config_names_no_longer_says_so(server, store):
    store.add_batch(StoredBatch("b", "x", "big", "else:1", "run", "validating", 1.0, ("k",)))
    with pytest.raises(RequestError, match="at else:1, which the run's config does not name"):
        desk(server, store).look()
    desk(server, store).forget("b")
    assert desk(server, store).look()[0].batch.state == FORGOTTEN
