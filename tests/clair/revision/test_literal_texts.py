"""What a reply says is read as it stands: the student's answer tells form from text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clair_apo.clair import ParseError, read_reply
from clair_apo.clair.answer_text import answer_text, trimmed
from clair_apo.records import DropReason
from tests.helpers.clair_runs import edit_reply, full_reply

PIECES = [
    *("The bridge", " is ", " old.", "\n", "\n\n", "  ", "    ", "\t", "1. ", "\n2. ", "- "),
    *("x = 1\n", "    return y\n", "| a | b |\n|---|---|\n", "\n```\n", "\n```python\n", "\n~~~\n"),
    *("\u4f60\u597d\uff0c", "\U0001f469\u200d\U0001f680", "e\u0301", "\u00e9", "\u00a0", "\u2026"),
    *("&lt;", "&amp;", "&", "<", ">", "&#39;", "&nbsp;", "<b>", "</b>", "<answer>", "</answer>"),
    *("<find>", "</find>", "<replace>", "</replace>", "<replace/>", "<edit>", "</edit>"),
    *("<edits>", "</edits>", "<edits/>", "<revision>", "</revision>", "<reasoning>"),
    *("</reasoning>", "[assistant]\n", "[revision]", "[/revision]", "[link](http://a.b)"),
    *("Revision:", "\nRevision: x\n", "## Revision\n", "Reasoning: ", "\n{teacher_reasoning}\n"),
    *("{corrected_student_solution}", "</s>", "<|im_end|>", "<think>", "</think>", "\\", "\\n"),
    *("`", "**", "*", "_", '"', "'", "\u2019", "<![CDATA[", "]]>", "{", "}", '{"revision": 1}'),
    *("&lt;revision&gt;", "<!-- c -->", "\u2013", "..."),
]
NEW = "QZ"
ANSWERS = (
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=14)
    .map(lambda pieces: answer_text("".join(pieces), strip_thinking=True))
    .filter(bool)
)


def as_json(text):
    return json.dumps({"reasoning": "It is wrong.", "revision": text})


def published(text):
    return f"{{teacher_reasoning}}\nIt is wrong.\n\n{{corrected_student_solution}}\n{text}"


def under_headings(text):
    return f"### Reasoning\nIt is wrong.\n\n### Revision\n{text}"


def in_their_tags(text):
    return (
        "<teacher_reasoning>It is wrong.</teacher_reasoning>\n<corrected_student_solution>\n"
        f"{text}\n</corrected_student_solution>"
    )


MENTIONS = (
    "I put it between <revision> and </revision>, not into `<edits/>`,\n<find> or <revision/>."
)
FORMS = {
    "our tags": full_reply,
    "our tags, in a fence": lambda text: f"```xml\n{full_reply(text)}\n```",
    "our tags, after thinking": lambda t: (
        f"<think>A <revision>x</revision>.</think>\n{full_reply(t)}"
    ),
    "our tags, after the end of thinking": lambda text: f"Hm.\n</think>\n\n{full_reply(text)}",
    "our tags, with talk around": lambda t: (
        f"Sure! Here it is:\n\n{full_reply(t)}\n\nAnything else?"
    ),
    "our tags, mentioned before": lambda text: full_reply(text, MENTIONS),
    "our tags, on Windows": lambda text: full_reply(text).replace("\n", "\r\n"),
    "JSON": as_json,
    "the published identifiers": published,
    "the published identifiers, in a fence": lambda text: f"```\n{published(text)}\n```",
    "the published identifiers as tags": in_their_tags,
    "headings": under_headings,
}


@pytest.mark.parametrize("form", FORMS)
@given(answer=ANSWERS, where=st.integers(0, 200))
def test_a_revision_is_read_as_it_was_written_or_refused(form, answer, where):
    at = where % (len(answer) + 1)
    revised = trimmed(answer[:at] + NEW + answer[at:])
    try:
        parsed = read_reply(FORMS[form](revised), answer, "full")
    except ParseError as error:
        assert error.reason in (DropReason.UNPARSED, DropReason.EMPTY)
    else:
        assert parsed.text == revised


def test_what_is_refused_is_the_exception():
    for text in (
        "Write <revision> and </revision>.",
        "a &lt; b &amp; c",
        "1. One\n\n```\nx\n```\n",
    ):
        for form, reply in FORMS.items():
            revised = f"{text} {NEW}".strip()
            assert read_reply(reply(revised), text.strip(), "full").text == revised, form


@given(data=st.data(), answer=ANSWERS, mentions=st.booleans(), as_rows=st.booleans())
def test_an_exact_edit_gives_exactly_the_replaced_text_or_is_refused(
    data, answer, mentions, as_rows
):
    start = data.draw(st.integers(0, len(answer) - 1), label="start")
    end = data.draw(st.integers(start + 1, len(answer)), label="end")
    find = answer[start:end]
    if sum(answer.startswith(find, at) for at in range(len(answer))) != 1:
        return
    half = find[: len(find) // 2]
    replace = data.draw(st.sampled_from(["", NEW, find + NEW, NEW + find, half + NEW]))
    reasoning = "I could leave <edits/> or <edits></edits> empty." if mentions else "because"
    reply = edit_reply((find, replace), reasoning=reasoning)
    if as_rows:
        rows = [{"find": find, "replace": replace}]
        reply = json.dumps({"reasoning": reasoning, "edits": rows})
    try:
        parsed = read_reply(reply, answer, "edits")
    except ParseError as error:
        assert error.reason in (DropReason.UNPARSED, DropReason.EDIT_NOT_FOUND)
    else:
        assert parsed.text == trimmed(answer[:start] + replace + answer[end:])


# answer, reply in the format `full`, revised answer (None: refused)
READ = {
    "an answer in its own tags": (
        "<answer>41</answer>",
        full_reply("<answer>42</answer>"),
        "<answer>42</answer>",
    ),
    "an answer that quotes a dialogue": (
        "[assistant]\nHello",
        full_reply("[assistant]\nHello!"),
        "[assistant]\nHello!",
    ),
    "an answer that is one fence": (
        "```\nprint(1)\n```",
        full_reply("```\nprint(2)\n```", "```\nwhy\n```"),
        "```\nprint(2)\n```",
    ),
    "an answer that closes the tag in a sentence": (
        "Close it with </revision> at last.",
        full_reply("Close it with </revision> at the very end."),
        "Close it with </revision> at the very end.",
    ),
    "an answer that opens the tag in a sentence": (
        "Use <revision> first.",
        full_reply("Use <revision> to start."),
        "Use <revision> to start.",
    ),
    "a draft about the tag, then the revision": (
        "Write <revision>1</revision>.",
        "<revision>\nWrite <revision>2</revision>.\n</revision>\nBetter:\n"
        "<revision>\nWrite <revision>3</revision>!\n</revision>",
        "Write <revision>3</revision>!",
    ),
    "an answer about the tag, cut": (
        "Close it with </revision> at last.",
        "<revision>\nClose it with </revision> at the",
        None,
    ),
    "a tag in a sentence that the answer has not": (
        "Close it.",
        full_reply("Close it with </revision> at the end."),
        None,
    ),
    "the published form about our tags": (
        "Write <revision>1</revision> into it.",
        published("Write <revision>2</revision> into it."),
        "Write <revision>2</revision> into it.",
    ),
    "headings about headings": (
        "Steps:\nRevision: read it.",
        "Reasoning: short\nRevision: Steps:\nRevision: read it again.",
        "Steps:\nRevision: read it again.",
    ),
    "two headings where the answer has none": (
        "Read it.",
        "Reasoning: short\nRevision: A draft.\nRevision: Read it again.",
        None,
    ),
    "the published form with reasoning twice": (
        "Read it.",
        f"{published('Read it again.')}\n{{teacher_reasoning}}\nIt was short.",
        None,
    ),
    "reasoning that mentions their identifier": (
        "It is old.",
        full_reply("It is new.", "not\n{corrected_student_solution}\nbut tags"),
        "It is new.",
    ),
    "reasoning that mentions their tags": (
        "It is old.",
        full_reply("It is new.", "\n<corrected_student_solution>x</corrected_student_solution>"),
        "It is new.",
    ),
    "reasoning with our headings": (
        "It is old.",
        full_reply("It is new.", "Reasoning: short\nRevision: later"),
        "It is new.",
    ),
    "an identifier mentioned in words, and then our tags": (
        "It is old.",
        "Not in\n{corrected_student_solution}\nbut in tags:\n<revision>It is new.</revision>",
        None,
    ),
    "JSON about tags": (
        "Use <revision>1</revision>.",
        as_json("Use <revision>2</revision>."),
        "Use <revision>2</revision>.",
    ),
    "JSON that is escaped twice": (
        "One\nTwo",
        '{"reasoning": "x", "revision": "One\\\\nTwo and three"}',
        None,
    ),
    "JSON about line breaks": (
        'print("a\\n")\nb',
        as_json('print("c\\n")\nb'),
        'print("c\\n")\nb',
    ),
    "an answer about HTML": (
        "Write &lt;b&gt;.",
        full_reply("Write &lt;i&gt;."),
        "Write &lt;i&gt;.",
    ),
    "HTML with a new entity": (
        "<p>Tom and Jerry</p>",
        full_reply("<p>Tom &amp; Jerry</p>"),
        "<p>Tom &amp; Jerry</p>",
    ),
    "escapes for what the answer has raw": ("if a < b: go", full_reply("if a &lt;= b: go"), None),
    "a new escape that may be one": ("Tom and Jerry", full_reply("Tom &amp; Jerry"), None),
    "an entity twice escaped": (
        "Use &amp; there.",
        full_reply("Always use &amp;amp; there."),
        None,
    ),
    "code that is indented from its first line on": (
        "    if x:\n        y()",
        full_reply("    if x:\n        z()"),
        "    if x:\n        z()",
    ),
    "code that stood behind an introduction": (
        "Here it is:\n\n    x = 1\n    y = 2",
        full_reply("    x = 1\n    y = 3"),
        "    x = 1\n    y = 3",
    ),
    "new code before the text": (
        "Set x.",
        full_reply("    x = 1\n\nThat sets x."),
        "    x = 1\n\nThat sets x.",
    ),
    "an answer that the form indents": ("It is old.", full_reply("    It is new."), "It is new."),
    "lines that the form may indent": ("It is.\nSo.", full_reply("    It is.\n    Not so."), None),
    "tabs, hard breaks and hard blanks": (
        "a\tb  \nc\u00a0d",
        full_reply("a\tb  \nc\u00a0e"),
        "a\tb  \nc\u00a0e",
    ),
    "bold words before the end": (
        "Be **bold**",
        "<revision>Be **so bold**</revision>**",
        "Be **so bold**",
    ),
    "an end mark that is spoken of": ("It is <s>.", published("It is </s>"), "It is </s>"),
    "an end mark that was let through": ("It is.", published("It is so.</s>"), "It is so."),
    "thinking before the revised answer": ("It is.", full_reply("<think>Hm.</think>So."), "So."),
    "an answer about thinking": (
        "Write <think> first.",
        full_reply("<think> and </think> come first."),
        "<think> and </think> come first.",
    ),
    "code fenced before the tags": (
        "```\nold\n```",
        "The code\n```\nold\n```\nis wrong.\n<revision>\n```\nnew\n```\n</revision>",
        "```\nnew\n```",
    ),
}


@pytest.mark.parametrize("case", READ)
def test_the_answer_decides_what_is_text_in_a_revision(case):
    answer, reply, revised = READ[case]
    if revised is not None:
        assert read_reply(reply, answer, "full").text == revised
        return
    with pytest.raises(ParseError) as caught:
        read_reply(reply, answer, "full")
    assert caught.value.reason is DropReason.UNPARSED


LESS = "Use `if a < b:` here. Tom and Jerry agree that it works."
# answer, edits, edited answer (None: refused)
EDITED = {
    "escapes in every edit": (
        LESS,
        [
            ("if a &lt; b:", "if a &lt;= b:"),
            ("Tom and Jerry", "Tom &amp; Jerry"),
            ("it works", "x &gt; y works"),
        ],
        "Use `if a <= b:` here. Tom & Jerry agree that x > y works.",
    ),
    "escaped quotes": (
        'Say "no" & go.',
        [("Say &quot;no&quot; &amp; go", "Say &quot;yes&quot; &amp; go")],
        'Say "yes" & go.',
    ),
    "a new escape alone": (LESS, [("Tom and Jerry", "Tom &amp; Jerry")], None),
    "escapes for what stands raw elsewhere": (LESS, [("it works", "x &lt; y works")], None),
    "an escape beside a raw sign": (
        LESS,
        [("if a < b:", "if a < b: # &lt;")],
        LESS.replace("b:", "b: # &lt;"),
    ),
    "passages escaped, replacements half": (
        LESS,
        [("if a &lt; b:", "if a <= b:"), ("Tom and", "Tom &lt;")],
        None,
    ),
    "an answer about escapes": (
        "Write &lt; for < and &amp; for it.",
        [("Write &lt; for", "Put &lt; for"), ("&amp; for it", "&amp; for &")],
        "Put &lt; for < and &amp; for &.",
    ),
    "an answer about escapes, escaped as a whole": (
        "Write &lt;b&gt; there.",
        [("Write &amp;lt;b&amp;gt; there", "Write &amp;lt;i&amp;gt; there")],
        "Write &lt;i&gt; there.",
    ),
    "an address with parameters": (
        "See /a?x=1&copy=2 there.",
        [("/a?x=1&copy=2", "/b?x=1&copy=2&lt=3")],
        "See /b?x=1&copy=2&lt=3 there.",
    ),
    "an answer about <find>": (
        "Use <find>x</find> to search.",
        [("Use <find>x</find> to", "Take <find>y</find> to")],
        "Take <find>y</find> to search.",
    ),
    "an answer about the ends of tags": (
        "A list ends with </edits> or </replace> here.",
        [("with </edits> or </replace> here", "with </edits>, not </replace> here")],
        "A list ends with </edits>, not </replace> here.",
    ),
    "a tag of the form that the answer has not": ("It is old.", [("old", "new</edit>")], None),
    "CDATA that the answer has": (
        "<x><![CDATA[old]]></x>",
        [("<![CDATA[old]]>", "<![CDATA[new]]>")],
        "<x><![CDATA[new]]></x>",
    ),
    "a line that is deleted": ("- a\n- b\n- c", [("- b\n", "")], "- a\n- c"),
    "an introduction to code that is deleted": (
        "Here it is:\n\n    x = 1\n    y = 2",
        [("Here it is:", "")],
        "    x = 1\n    y = 2",
    ),
    "a frame that may be text": ("a\nb\nc", [("\nb\n", "")], None),
    "a passage of several lines in code": (
        "for x in y:\n    if x:\n        f(x)\n",
        [("if x:\n    f(x)", "if x > 1:\n    f(x)")],
        "for x in y:\n    if x > 1:\n        f(x)",
    ),
}


@pytest.mark.parametrize("case", EDITED)
def test_escapes_frames_and_tags_are_decided_once_for_all_edits_of_a_reply(case):
    answer, edits, edited = EDITED[case]
    if edited is not None:
        assert read_reply(edit_reply(*edits), answer, "edits").text == edited
        return
    with pytest.raises(ParseError) as caught:
        read_reply(edit_reply(*edits), answer, "edits")
    assert caught.value.reason in (DropReason.UNPARSED, DropReason.EDIT_NOT_FOUND)


ONE = edit_reply(("old", "new"))
MENTIONED = {
    "in the reasoning": ONE.replace("because", "I could leave <edits/> empty."),
    "in the reasoning, as a pair": ONE.replace("because", "No <edits></edits> here."),
    "in the reasoning, on a line": ONE.replace("because", "not\n<edits/>\nbut"),
    "in the reasoning, in code marks": ONE.replace("because", "not `<edits/>` but"),
    "in the reasoning, opened": ONE.replace("because", "It goes into <edits>\n<edit>"),
    "in the reasoning, an edit": ONE.replace(
        "because", "<edit><find>x</find><replace>y</replace></edit>"
    ),
    "in the reasoning, before edits without a frame": (
        "<reasoning>\n<edits></edits>\nwould not do.\n</reasoning>\n"
        "<edit><find>old</find><replace>new</replace></edit>"
    ),
    "in thinking": f"<think>Shall I send <edits/>?\n<edits/>\n</think>\n{ONE}",
    "in thinking that was opened before": f"Shall I send <edits/>?\n</think>\n{ONE}",
    "before the list": f"I could leave <edits/> empty, but:\n\n{ONE}",
    "before the list, on a line": f"<edits/>\n\nNo, better:\n\n{ONE}",
    "behind the list": f"{ONE}\n\nWith <edits/> the word would stay.",
}


@pytest.mark.parametrize("case", MENTIONED)
def test_tags_that_are_only_mentioned_do_not_void_the_list(case):
    assert read_reply(MENTIONED[case], "the old answer", "edits").text == "the new answer"


def test_a_tag_that_only_the_reasoning_mentions_is_no_empty_list():
    for mention in ("<edits/>", "\n<edits/>\n", "\n<edits></edits>\n"):
        with pytest.raises(ParseError, match="no <edits>"):
            read_reply(f"<reasoning>I leave {mention} empty.</reasoning>", "the answer", "edits")


def test_a_list_of_edits_with_an_empty_one_behind_it_is_refused():
    for empty in ("<edits/>", "<edits></edits>", "<edits>none</edits>"):
        with pytest.raises(ParseError, match="a list of edits and an empty one"):
            read_reply(f"{ONE}\n{empty}", "the old answer", "edits")
