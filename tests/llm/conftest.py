"""Fixtures for models behind the request store."""

import pytest
import stamina

from clair_apo.llm import RequestStore
from clair_apo.llm.backends import batch_api


@pytest.fixture
def no_waiting(monkeypatch):
    """Batches are looked at again at once, and calls that failed are made again at once."""
    monkeypatch.setattr(batch_api, "FIRST_WAIT_S", 0.0)
    with stamina.set_testing(True, attempts=3):
        yield


@pytest.fixture
def store():
    with RequestStore(":memory:") as opened:
        yield opened
