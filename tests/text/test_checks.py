"""Checks: rules about an answer, as data and as functions."""

import re

import pytest

from clair_apo.errors import ConfigError, DataError
from clair_apo.text.checks import Check, Rule, load_checks, passed

CASES = [
    ({"ends_with": "now."}, "Do it now.\n", "Do it now, please"),
    ({"matches": r"\nNext step: .+\Z"}, "Yes.\n\nNext step: call", "Next step: call\nYes"),
    ({"lacks": r"(?i)\A(sure|certainly)\b"}, "Yes, sure", "Sure, yes"),
    ({"max_sentences": 2}, "One. Two.", "One. Two. Three."),
    ({"max_words": 3}, "one two three", "one two three four"),
    ({"no_list": True}, "In 2. I say - no", "So:\n1. one"),
    ({"no_list": True}, "a*b", "  - one"),
    ({"no_list": True}, "i.e. so", "a) one"),
    (
        {"language": "en"},
        "The quick brown fox jumps over the lazy dog and then runs home again to its den.",
        "Der schnelle braune Fuchs springt über den faulen Hund und läuft nach Hause zurück.",
    ),
    ({"language": "en"}, "Ja", None),
    ({"json": True}, '```json\n{"a": [1]}\n```', "{'a': 1}"),
    ({"json": True}, "3", "so: {}"),
    ({"contains_any": ["tea", "Milk"]}, "some MILK", "water"),
]


@pytest.mark.parametrize(("test", "good", "bad"), CASES)
def test_a_rule_tells_answers_apart(test, good, bad):
    check = Rule(name="rule", **test).as_check()
    assert check.holds("", good)
    assert bad is None or not check.holds("", bad)


def _file(tmp_path, text):
    path = tmp_path / "rules.yaml"
    path.write_text(text, "utf-8")
    return path


def test_a_file_holds_named_rules_and_python_adds_functions(tmp_path):
    path = _file(tmp_path, "checks:\n- {name: short, max_words: 2}\n- {name: tea, matches: tea}\n")
    own = Check("longer_than_the_prompt", lambda prompt, answer: len(answer) > len(prompt))
    checks = [*load_checks(path), own]
    assert passed(checks, "what to drink", "tea please") == {
        "short": True,
        "tea": True,
        "longer_than_the_prompt": False,
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("checks: []", "checks"),
        ("rules: []", "checks"),
        ("checks:\n- {name: a}", "check 'a' needs exactly one test, and has none"),
        ("checks:\n- {name: a, max_words: 1, matches: b}", "has 2: matches, max_words"),
        ("checks:\n- {name: a, max_words: 1}\n- {name: a, max_words: 2}", "two checks are called"),
        ("checks:\n- {name: a, matches: '('}", "no regular expression"),
        ("checks:\n- {name: a, no_list: false}", "leave the rule out"),
        ("checks:\n- {name: a b, no_list: true}", "name"),
        ("checks:\n- {name: a, begins_with: x}", "begins_with"),
    ],
)
def test_a_faulty_file_is_named_with_its_fault(tmp_path, text, says):
    path = _file(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(says)) as raised:
        load_checks(path)
    assert str(path) in str(raised.value)


def test_an_expression_that_never_ends_is_named(monkeypatch):
    monkeypatch.setattr("clair_apo.text.checks.SECONDS", 0.05)
    check = Rule(name="endless", matches=r"(a|aa)+$").as_check()
    with pytest.raises(DataError, match=r"check 'endless'.*did not come to an end"):
        check.holds("", "a" * 200 + "b")
