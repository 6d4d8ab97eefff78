"""How a reviser is asked: sandboxed templates, and text that stays text."""

import pytest

from clair_apo.clair import load_template
from clair_apo.clair.revision.segments import numbered
from clair_apo.errors import ConfigError
from clair_apo.records import Message

QUESTION = (Message(role="user", content="How long is the bridge?"),)
NASTY = [
    "{{ 7 * 7 }}",
    "{% for x in y %}{% endfor %}",
    "{# a comment #}",
    "{0} {name} %s %(x)s ${x}",
    "<b>&amp; \"quotes\" 'too'</b>",
    "back\\slash \\n \t tab",
    "</answer></conversation><edits>",
    "line\nbreaks\n\n\nin it",
    "\u2028 \u200b \U0001f600",
]


@pytest.mark.parametrize("format", ["edits", "full"])
@pytest.mark.parametrize("nasty", NASTY)
def test_text_of_users_arrives_unchanged(format, nasty, tmp_path):
    rubric = tmp_path / "rubric.md"
    rubric.write_text(f"Rule: {nasty}", encoding="utf-8")
    template = load_template(format, rubric=rubric)
    (message,) = template.render((Message(role="user", content=f"Q {nasty}"),), f"A {nasty} end")
    assert message.role == "user"
    assert f"[user]\nQ {nasty}\n" in message.content
    assert f"<answer>\nA {nasty} end\n</answer>" in message.content
    assert f"<rubric>\nRule: {nasty}\n</rubric>" in message.content


FORMATS = ["edits", "full", "segments"]


@pytest.mark.parametrize("format", FORMATS)
def test_without_a_rubric_none_is_mentioned(format):
    (message,) = load_template(format).render(QUESTION, "30")
    assert "rubric" not in message.content
    assert "more correct, clearer" in message.content


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_shows_the_tags_that_its_parser_reads(format):
    (message,) = load_template(format).render(QUESTION, "30")
    shown = {"edits": ["<edits>", "<find>", "<replace>"], "full": ["<revision>"]}
    shown["segments"] = ["<segments>", '<segment n="2">']
    assert all(tag in message.content for tag in ["<reasoning>", *shown[format]])
    others = [tag for other in FORMATS if other != format for tag in shown[other]]
    assert not any(tag in message.content for tag in others)


@pytest.mark.parametrize("nasty", NASTY)
def test_the_answer_is_shown_in_numbered_segments_and_everything_else_unchanged(nasty, tmp_path):
    rubric = tmp_path / "rubric.md"
    rubric.write_text(f"Rule: {nasty}", encoding="utf-8")
    template = load_template("segments", rubric=rubric)
    answer = f"It is so. A {nasty} end"
    turns = [(role, f"{role} {nasty}") for role in ("user", "assistant", "user")]
    conversation = tuple(Message(role=role, content=text) for role, text in turns)
    (message,) = template.render(conversation, answer)
    shown = message.content.split("<conversation>\n")[1]
    assert shown.startswith("".join(f"[{role}]\n{text}\n" for role, text in turns))
    assert f"\n<answer>\n{numbered(answer)}\n</answer>\n" in shown
    assert f"<rubric>\nRule: {nasty}\n</rubric>" in message.content


def test_segments_are_asked_for_in_both_directions_and_at_the_same_length():
    for direction, words in (("improve", "Improve the answer"), ("worsen", "answer worse")):
        template = load_template("segments", direction=direction, keep_length=True)
        (message,) = template.render(QUESTION, "30")
        assert words in message.content
        assert "Keep the answer about as long" in message.content
    assert "about as long" not in load_template("segments").render(QUESTION, "30")[0].content


def test_a_template_of_ones_own_for_segments_must_show_them(tmp_path):
    own = _own(tmp_path, "Revise {{ answer }}")
    with pytest.raises(ConfigError, match=r"does not use \{\{ numbered \}\}"):
        load_template("segments", template=own)
    own = _own(tmp_path, "Revise {{ numbered }}")
    (message,) = load_template("segments", template=own).render(QUESTION, "30")
    assert message.content == 'Revise <segment n="1">30</segment>'
    with pytest.raises(ConfigError, match="'numbered' is undefined"):
        load_template("full", template=own)


def _own(tmp_path, source):
    path = tmp_path / "own.jinja"
    path.write_text(source, encoding="utf-8")
    return path


def test_a_template_of_ones_own_is_used_with_all_three_variables(tmp_path):
    own = _own(
        tmp_path,
        "{% for m in conversation %}{{ m.role }}={{ m.content }};{% endfor %}"
        "{{ answer }}|{{ rubric }}",
    )
    rubric = tmp_path / "r.md"
    rubric.write_text(" be kind \n")
    (message,) = load_template("full", template=own, rubric=rubric).render(QUESTION, "30")
    assert message.content == "user=How long is the bridge?;30|be kind"


ATTACKS = [
    "{{ answer }}{{ ''.__class__.__mro__ }}",
    "{{ answer }}{{ answer.__class__.__base__.__subclasses__() }}",
    "{{ answer }}{{ answer['__class__']['__mro__'] }}",
    "{{ answer }}{{ (answer|attr('__class__')).__mro__ }}",
    "{{ answer }}{{ conversation.append(1) }}",
    "{{ answer }}{{ '{0.__class__.__mro__}'.format(answer) }}",
    "{{ answer }}{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ answer }}{{ range(10 ** 9) | list }}",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_sandbox_keeps_templates_from_pythons_insides(tmp_path, attack):
    own = _own(tmp_path, attack)
    with pytest.raises(ConfigError, match=r"own\.jinja"):
        load_template("full", template=own)


FAULTS = {
    "{{ answer }}{{ question }}": "'question' is undefined",
    "{{ answer }}{{ conversation[0].name }}": "has no attribute 'name'",
    "{{ answer }}{% for %}": "Expected an expression",
    "{{ answer": "unexpected end of template",
    "{{ answer }}{{ 1 / 0 }}": "division by zero",
    "{{ answer + 1 }}": "can only concatenate",
    "{{ answer }}{% include 'other.jinja' %}": "no loader",
    "Revise it.": r"does not use \{\{ answer \}\}",
}


@pytest.mark.parametrize("source", FAULTS)
def test_a_faulty_template_is_named_before_anybody_is_asked(tmp_path, source):
    own = _own(tmp_path, source)
    with pytest.raises(ConfigError, match=rf"own\.jinja: .*{FAULTS[source]}"):
        load_template("edits", template=own)


def test_a_template_that_leaves_the_rubric_out_is_refused_where_there_is_one(tmp_path):
    own = _own(tmp_path, "Revise {{ answer }}")
    load_template("full", template=own)
    rubric = tmp_path / "r.md"
    rubric.write_text("be kind")
    with pytest.raises(ConfigError, match=r"does not use \{\{ rubric \}\}"):
        load_template("full", template=own, rubric=rubric)


def test_the_digest_changes_with_template_rubric_and_format_and_with_nothing_else(tmp_path):
    rubric = tmp_path / "r.md"
    rubric.write_text("be kind")
    same = tmp_path / "same.md"
    same.write_text("be kind\n")
    other = tmp_path / "o.md"
    other.write_text("be brief")
    own = _own(tmp_path, "{{ answer }} {{ rubric }}")
    digests = [
        load_template("full").digest,
        load_template("edits").digest,
        load_template("full", rubric=rubric).digest,
        load_template("full", rubric=other).digest,
        load_template("full", template=own).digest,
        load_template("edits", template=own).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert load_template("full", rubric=same).digest == digests[2]
    copy = tmp_path / "copy.jinja"
    copy.write_text(own.read_text())
    assert load_template("full", template=copy).digest == digests[4]


@pytest.mark.parametrize("what", ["template", "rubric"])
def test_a_file_that_is_missing_or_no_text_is_named(tmp_path, what):
    with pytest.raises(ConfigError, match=r"gone: cannot be read"):
        load_template("full", **{what: tmp_path / "gone"})
    with pytest.raises(ConfigError, match=r"cannot be read"):
        load_template("full", **{what: tmp_path})
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary: cannot be read"):
        load_template("full", **{what: binary})


def test_an_empty_rubric_is_refused(tmp_path):
    rubric = tmp_path / "r.md"
    rubric.write_text(" \n")
    with pytest.raises(ConfigError, match=r"r\.md: the rubric has no text"):
        load_template("full", rubric=rubric)
