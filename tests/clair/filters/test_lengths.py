"""How long a side may be, and how much longer than the other."""

import json

import pytest

from clair_apo.clair import Gate, GateConfig
from clair_apo.clair.filters.gate import PRESETS
from clair_apo.records import DropReason
from tests.helpers.clair_runs import user

PROMPT = user("How long is the bridge?")


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("a" * 10, "b" * 10, None),
        ("a" * 11, "b" * 10, DropReason.TOO_LONG),
        ("a" * 10, "b" * 11, DropReason.TOO_LONG),
    ],
)
def test_neither_side_may_be_longer_than_the_limit(chosen, rejected, reason):
    cause = Gate(GateConfig(max_characters=10)).check_pair(PROMPT, chosen, rejected)
    assert (cause and cause.reason) == reason
    if cause:
        side = "chosen" if len(chosen) > 10 else "rejected"
        assert cause.detail == f"{side} has 11 characters (allowed: 10)"


@pytest.mark.parametrize(("longer", "is_dropped"), [(0, False), (5, False), (6, True)])
@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_either_side_may_be_longer_by_so_many_characters(side, longer, is_dropped):
    texts = {"chosen": "a" * 100, "rejected": "b" * 100}
    texts[side] += "c" * longer
    cause = Gate(GateConfig(length_difference=5)).check_pair(PROMPT, **texts)
    if is_dropped:
        assert cause.reason is DropReason.LENGTH_DIFFERENCE
        assert cause.detail == "the sides differ by 6 characters (allowed: 5)"
    else:
        assert cause is None


def test_without_the_later_filters_the_settings_of_a_run_are_those_of_before():
    settings = Gate(GateConfig(preset="paper")).settings
    later = {"length_difference", "max_characters"}
    assert settings.keys() == {*PRESETS["paper"], "preset", "tokenizer"} - later


@pytest.mark.parametrize("later", ["length_difference", "max_characters"])
def test_a_later_filter_is_a_setting_where_it_is_set(later):
    assert Gate(GateConfig(**{later: 7})).settings[later] == 7
    assert json.dumps(Gate(GateConfig(**{later: 7})).settings)
