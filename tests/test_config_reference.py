"""The tables of keys that the configuration reference draws."""

import sys

import pytest

from clair_apo.clair import GenerateConfig
from clair_apo.evaluation import EvaluateConfig
from clair_apo.experiment import ExperimentConfig
from tests.helpers import ROOT

CONFIGS = (GenerateConfig, EvaluateConfig, ExperimentConfig)


@pytest.fixture
def sections(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import config_reference

    yield config_reference._sections
    del sys.modules["config_reference"]


def _keys(sections, config):
    return {key.name: key for _, keys in sections(config) for key in keys}


def test_a_key_inside_a_mapping_or_list_has_a_place_for_its_name_or_number(sections):
    keys = _keys(sections, ExperimentConfig)
    assert (keys["data"].kind, keys["data"].default) == ("mapping of names to section", "required")
    assert {"data.NAME.generate", "data.NAME.pairs", "choose.figure", "rates.source"} <= set(keys)
    assert "data.generate" not in keys
    pool = _keys(sections, GenerateConfig)
    assert pool["pool"].kind == "list of section"
    assert "pool.N.model" in pool and "target.model" in pool


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_key_says_what_it_is(sections, config):
    keys = _keys(sections, config)
    assert set(config.model_fields) <= {name.split(".")[0] for name in keys}
    assert [name for name, key in keys.items() if not key.help] == []
