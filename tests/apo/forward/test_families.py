"""The table of families is what the sweep found, and the sweep finds what trees do."""

import json

import pytest

from benchmarks import families


def test_the_pages_are_made_from_what_was_kept():
    record = json.loads(families.JSON.read_text())
    kinds = families.read()
    assert families.TABLE.read_text() == families.page(kinds, record["versions"])
    assert families.summary(kinds) in families.SUMMARY.read_text()


def test_every_causal_kind_has_a_line():
    known = {kind.model_type for kind in families.MODEL_FOR_CAUSAL_LM_MAPPING}
    assert {kind.name for kind in families.read()} == known


@pytest.mark.parametrize("name", ["olmo3", "gemma2", "mamba"])
def test_a_kind_is_found_as_it_was_kept(name):
    found = families.look_at(name)
    (kept,) = (kind for kind in families.read() if kind.name == name)
    assert (found.layout, found.shared, found.reason) == (kept.layout, kept.shared, kept.reason)


def test_a_kind_that_cannot_be_made_or_takes_too_long_is_a_line_with_its_error(monkeypatch):
    found = families.look_at("no_such_kind")
    assert found.layout == "failed"
    assert found.reason.startswith("ValueError: ")
    monkeypatch.setattr(families, "SECONDS_PER_KIND", 1)

    def endless(name):
        while True:
            pass

    monkeypatch.setattr(families, "compared", endless)
    assert (
        families.look_at("llama").reason == "OutOfTimeError: more than 1 seconds of the processor"
    )
