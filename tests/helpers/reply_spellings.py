"""A corpus of spellings in which models send what they were asked for, written by ourselves.

Each entry of `FULL` says `WHY` and `TEXT`, each of `EDITS` says `WHY` and `EDIT`, each of
`SEGMENTS` says `WHY` and `NEW` for segment 2, in the way that its name names, of `ANSWER`. Those of
`SEGMENTS_IN_DOUBT` can be read in two ways, or name no segment. `WHOLE` holds replies whose revised
answer is easily taken for something else, `BROKEN_OFF` those in any format that are not whole.
"""

import json

from clair_apo.clair import Edit
from tests.helpers.clair_runs import edit_reply, full_reply, segment_reply

WHY = "The unit is wrong.\nIt should be metres."
ANSWER = "The bridge is 30 feet long.\n\n- It is **old**."
TEXT = "The bridge is 30 metres long.\n\n- It is **old**."
EDIT = Edit("old", "new")
NEW = "- It is **new**."

_OURS = full_reply(TEXT, WHY)
_THEIRS = f"{{teacher_reasoning}}\n{WHY}\n\n{{corrected_student_solution}}\n{TEXT}"
_SHORT = f"<reasoning>{WHY}</reasoning><revision>{TEXT}</revision>"


def _published(reasoning: str, solution: str, gap: str = "\n") -> str:
    return f"{reasoning}{gap}{WHY}\n\n{solution}{gap}{TEXT}"


FULL = {
    "our tags": _OURS,
    "our tags on one line": _SHORT,
    "our tags in capitals": f"<REASONING>{WHY}</REASONING>\n<REVISION>{TEXT}</REVISION>",
    "our tags in mixed case": f"<Reasoning>{WHY}</reasoning><Revision>{TEXT}</REVISION>",
    "our tags with blanks": f"< reasoning >{WHY}</ reasoning >\n<revision >{TEXT}</revision >",
    "our tags with attributes": _OURS.replace("<revision>", "<revision lang=\"en\" type='x'>"),
    "our tags in bold": _OURS.replace("<", "**<").replace(">", ">**"),
    "our tags in code marks": _OURS.replace("<", "`<").replace(">", ">`"),
    "our tags, escaped for Markdown": _OURS.replace("<", r"\<").replace(">", r"\>"),
    "our tags, escaped for HTML": _OURS.replace("<", "&lt;").replace(">", "&gt;"),
    "our tags in square brackets": _OURS.replace("<", "[").replace(">", "]"),
    "our tags in braces": f"{{reasoning}}\n{WHY}\n{{revision}}\n{TEXT}",
    "our tags as headings": f"### Reasoning\n{WHY}\n\n### Revision\n{TEXT}",
    "our tags as bold headings": f"**Reasoning:**\n{WHY}\n\n**Revised answer:**\n{TEXT}",
    "our tags as plain headings": f"Reasoning: {WHY}\nRevision: {TEXT}",
    "reasoning never closed": f"<reasoning>\n{WHY}\n<revision>\n{TEXT}\n</revision>",
    "reasoning without tags": f"{WHY}\n\n<revision>\n{TEXT}\n</revision>",
    "in a fence": f"```\n{_OURS}\n```",
    "in a fence of xml": f"```xml\n{_OURS}\n```",
    "in tildes": f"~~~\n{_OURS}\n~~~",
    "in a fence that is opened and never closed": f"```xml\n{_OURS}",
    "a fence in each tag": _OURS.replace(WHY, f"```\n{WHY}\n```").replace(
        TEXT, f"```\n{TEXT}\n```"
    ),
    "a greeting before": f"Sure! Here is the revised answer:\n\n{_OURS}",
    "a chatty tail": f"{_OURS}\n\nLet me know if you'd like anything else changed!",
    "a chatty tail after a fence": f"```\n{_OURS}\n```\nLet me know if you need more.",
    "a tail that speaks of the tags": f"{_OURS}\nI wrote it between <revision> and </revision>.",
    "reasoning that speaks of the tag": _OURS.replace(
        "<reasoning>", "<reasoning>I shall put it into <revision>.</reasoning>\n<reasoning>"
    ),
    "the answer echoed before": f"<answer>\nIt is 30 feet.\n</answer>\n\n{_OURS}",
    "the answer's tag echoed inside": _OURS.replace(TEXT, f"<answer>\n{TEXT}\n</answer>"),
    "the answer's role echoed inside": _OURS.replace(TEXT, f"[assistant]\n{TEXT}"),
    "the instructions echoed before": (
        "<reasoning>\nwhat has to change, and why\n</reasoning>\n<revision>\nthe whole revised "
        f"answer\n</revision>\n\n{_OURS}"
    ),
    "the instructions echoed after": f"{_OURS}\n<revision>the whole revised answer</revision>",
    "the form echoed after": f"{_OURS}\n\nThe form is <revision>...</revision>.",
    "a draft before": f"<revision>A draft.</revision>\nOn second thought:\n{_OURS}",
    "an unclosed draft before": f"<revision>\nA draft.\n{_OURS}",
    "an empty one after": f"{_OURS}\n<revision></revision>",
    "Windows": _OURS.replace("\n", "\r\n"),
    "old Macintosh": _OURS.replace("\n", "\r"),
    "a byte order mark": f"\ufeff{_OURS}",
    "an end mark": f"{_OURS}<|im_end|>",
    "JSON": json.dumps({"reasoning": WHY, "revision": TEXT}),
    "JSON in a fence": f"```json\n{json.dumps({'reasoning': WHY, 'revision': TEXT})}\n```",
    # thinking
    "think": f"<think>First <revision>a draft</revision>.</think>\n{_OURS}",
    "thinking": f"<thinking>\n{_SHORT.replace(TEXT, 'A draft.')}\n</thinking>\n\n{_OURS}",
    "thought": f"<thought>Hm.</thought>{_OURS}",
    "scratchpad": f"\n<scratchpad>\nHm.\n</scratchpad>\n{_OURS}",
    "think in brackets": f"[THINK]Hm, <revision>[/THINK]{_OURS}",
    "think in triangles": f"\u25c1think\u25b7Hm.\u25c1/think\u25b7{_OURS}",
    "seed think": f"<seed:think>Hm.</seed:think>{_OURS}",
    "start thinking": f"<|START_THINKING|>Hm.<|END_THINKING|>{_OURS}",
    "channels": (
        f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
        f"{_OURS}<|return|>"
    ),
    "thinking that the chat template opened": f"Hm, <revision>x</revision>.\n</think>\n\n{_OURS}",
    "thinking before the published form": f"<think>{{corrected_student_solution}}</think>{_THEIRS}",
    # the published recipe
    "published": _THEIRS,
    "with colons": _published("{teacher_reasoning}:", "{corrected_student_solution}:", " "),
    "with wide colons": _published(
        "{teacher_reasoning}\uff1a", "{corrected_student_solution}\uff1a"
    ),
    "bold": _published("**{teacher_reasoning}**", "**{corrected_student_solution}**"),
    "bold, colon": _published("**{teacher_reasoning}**:", "**{corrected_student_solution}**:", " "),
    "inner colon": _published("**{teacher_reasoning}:**", "**{corrected_student_solution}:**"),
    "slanted": _published("*{teacher_reasoning}*", "*{corrected_student_solution}*"),
    "quoted": _published('"{teacher_reasoning}":', '"{corrected_student_solution}":'),
    "escaped": _published("{teacher\\_reasoning}:", "{corrected\\_student\\_solution}:"),
    "escaped braces": _published(
        "\\{teacher\\_reasoning\\}", "\\{corrected\\_student\\_solution\\}"
    ),
    "blanks": _published("{Teacher Reasoning}:", "{Corrected Student Solution}:", " "),
    "hyphens": _published("{teacher-reasoning}", "{corrected-student-solution}"),
    "run together": _published("{teacherReasoning}", "{correctedStudentSolution}"),
    "with an apostrophe": _published("Teacher's reasoning:", "Corrected student's solution:"),
    "an answer, not a solution": _published("{teacher_reasoning}", "{corrected_student_answer}"),
    "blanks in braces": _published("{ teacher_reasoning }", "{ corrected_student_solution }"),
    "two braces": _published("{{teacher_reasoning}}", "{{corrected_student_solution}}"),
    "square brackets": _published("[teacher_reasoning]", "[corrected_student_solution]"),
    "angle brackets": _published("<teacher_reasoning>", "<corrected_student_solution>"),
    "tags": (
        f"<teacher_reasoning>{WHY}</teacher_reasoning>\n"
        f"<corrected_student_solution>{TEXT}</corrected_student_solution>\nHope this helps!"
    ),
    "no opening brace": _published("teacher_reasoning}", "corrected_student_solution}"),
    "no closing brace": _published("{teacher_reasoning:", "{corrected_student_solution:"),
    "no braces": _published("teacher_reasoning:", "corrected_student_solution:", " "),
    "no braces, own lines": _published("Teacher Reasoning", "Corrected Student Solution"),
    "no braces, bold": _published("**Teacher reasoning:**", "**Corrected student solution:**", " "),
    "Markdown headings": _published(
        "### {teacher_reasoning}", "### {corrected_student_solution}\n"
    ),
    "numbered": _published("1. {teacher_reasoning}:", "2. {corrected_student_solution}:"),
    "list items": _published("- **{teacher_reasoning}**:", "- **{corrected_student_solution}**:"),
    "in code marks": _published("`{teacher_reasoning}`:", "`{corrected_student_solution}`:", " "),
    "capitals": _published("{TEACHER_REASONING}", "{CORRECTED_STUDENT_SOLUTION}"),
    "indented": _published("  {teacher_reasoning}:", "  {corrected_student_solution}:", " "),
    "quoted lines": _published("> {teacher_reasoning}", "> {corrected_student_solution}"),
    "published, in a fence": f"```\n{_THEIRS}\n```",
    "published, in a fence with a tail": f"```text\n{_THEIRS}\n```\nLet me know what you think!",
    "published, each in a fence": (
        f"{{teacher_reasoning}}\n```\n{WHY}\n```\n{{corrected_student_solution}}\n```\n{TEXT}\n```"
    ),
    "published, closed": f"{_THEIRS}\n{{/corrected_student_solution}}\nHope this helps!",
    "published, the other way round": (
        f"{{corrected_student_solution}}\n{TEXT}\n\n{{teacher_reasoning}}\n{WHY}"
    ),
    "published, on Windows": _THEIRS.replace("\n", "\r\n"),
    "published, with end marks": f"{_THEIRS}<|eot_id|>\n</s>",
    "published, the student's text echoed": f"{{student_solution}}\nIt is 30 feet.\n\n{_THEIRS}",
    "published, its form echoed": (
        "{teacher_reasoning}: your reasoning\n{corrected_student_solution}: your solution\n\n"
        f"{_THEIRS}"
    ),
    "published, a draft before": f"{{corrected_student_solution}}\nA draft.\n\n{_THEIRS}",
    "published after our reasoning": (
        f"<reasoning>{WHY}</reasoning>\n{{corrected_student_solution}}\n{TEXT}"
    ),
}


def _edits(body: str) -> str:
    return f"<reasoning>\n{WHY}\n</reasoning>\n<edits>\n{body}\n</edits>"


_ONE = edit_reply(("old", "new"), reasoning=WHY)
_PAIR = "<find>old</find>\n<replace>new</replace>"
_ROW = json.dumps({"find": "old", "replace": "new"})

EDITS = {
    "as asked": _ONE,
    "on one line": _ONE.replace("</find>\n", "</find> "),
    "in capitals": _ONE.replace("edit", "EDIT").replace("find", "Find"),
    "in a fence": f"```xml\n{_ONE}\n```",
    "a fence inside": _edits(f"```xml\n<edit>\n{_PAIR}\n</edit>\n```"),
    "edits numbered by attributes": _edits(f"<edit id=\"1\" type='fix'>\n{_PAIR}\n</edit>"),
    "edits numbered as a list": _edits(f"1. <edit>\n{_PAIR}\n</edit>"),
    "edits with labels": _edits(f"**Edit 1:**\n<edit>\n{_PAIR}\n</edit>"),
    "a comment between": _edits(f"<!-- the unit -->\n<edit>\n{_PAIR}\n</edit>"),
    "no frame around an edit": _edits(_PAIR),
    "no frame around the edits": f"<reasoning>{WHY}</reasoning>\n<edit>\n{_PAIR}\n</edit>",
    "an edit in attributes": _edits('<edit find="old" replace="new"/>'),
    "an edit in attributes, with an end": _edits("<edit find='old' replace='new'></edit>"),
    "CDATA": _edits(
        "<edit><find><![CDATA[old]]></find><replace> <![CDATA[new]]> </replace></edit>"
    ),
    "blanks in the tags": _edits("<edit >\n< find>old</find >\n<replace >new</ replace>\n</edit>"),
    "attributes in all tags": _edits(
        '<edit><find exact="true">old</find><replace with="1">new</replace></edit>'
    ),
    "framed by line breaks": _edits(
        "<edit>\n<find>\nold\n</find>\n<replace>\nnew\n</replace>\n</edit>"
    ),
    "indented": _edits("  <edit>\n    <find>old</find>\n    <replace>new</replace>\n  </edit>"),
    "a JSON list": _edits(f"[{_ROW}]"),
    "a JSON list in a fence": _edits(f"```json\n[{_ROW}]\n```"),
    "one JSON object": _edits(_ROW),
    "a JSON list with breaks": _edits(f"[\n  {_ROW}\n]"),
    "all of it JSON": json.dumps({"reasoning": WHY, "edits": [json.loads(_ROW)]}),
    "the same edit twice": _edits(f"<edit>\n{_PAIR}\n</edit>\n<edit>\n{_PAIR}\n</edit>"),
    "tags in bold": _ONE.replace("<edits>", "**<edits>**").replace("</edits>", "**</edits>**"),
    "after thinking": f"<think>\n{edit_reply(('x', 'y'))}\n</think>{_ONE}",
    "after thinking that the chat template opened": f"Hm, <edits></edits>?\n</think>\n{_ONE}",
    "the instructions echoed before": (
        f"{edit_reply(('a passage of the answer', 'what stands there instead'))}\n{_ONE}"
    ),
    "a draft before": f"{edit_reply(('a passage', 'instead'))}\n{_ONE}",
    "a greeting and a tail": f"Here you go:\n\n{_ONE}\n\nThese edits make the text clearer.",
    "reasoning without tags": f"{WHY}\n\n<edits>\n<edit>\n{_PAIR}\n</edit>\n</edits>",
    "reasoning as in the published form": _ONE.replace(
        "<reasoning>", "{teacher_reasoning}"
    ).replace("</reasoning>", ""),
    "Windows": _ONE.replace("\n", "\r\n"),
    "an end mark": f"{_ONE}<end_of_turn>\n",
}

NO_EDITS = {
    "empty": "<edits></edits>",
    "a blank line": "<edits>\n\n</edits>",
    "self-closing": "<reasoning>fine</reasoning>\n<edits/>",
    "self-closing with a blank": "<edits />",
    "none": "<edits>\nNone\n</edits>",
    "none, in brackets": "<edits>(none)</edits>",
    "no edits needed": "<edits>\nNo edits are needed.\n</edits>",
    "no changes": "<edits>No changes required</edits>",
    "an empty list": "<edits>[]</edits>",
    "a comment": "<edits><!-- nothing has to change --></edits>",
}


def _segments(body: str) -> str:
    return f"<reasoning>\n{WHY}\n</reasoning>\n<segments>\n{body}\n</segments>"


_SECOND = segment_reply((2, NEW), reasoning=WHY)
_ELEMENT = f'<segment n="2">{NEW}</segment>'
_IN_JSON = json.dumps({"n": 2, "text": NEW})

SEGMENTS = {
    "as asked": _SECOND,
    "single quotes": _SECOND.replace('"2"', "'2'"),
    "no quotes": _SECOND.replace('"2"', "2"),
    "typographic quotes": _SECOND.replace('"2"', "\u201c2\u201d"),
    "a blank in the number": _SECOND.replace('"2"', '" 2 "'),
    "another attribute": _SECOND.replace('n="2"', 'number="2"'),
    "an id": _SECOND.replace('n="2"', 'id="segment 2"'),
    "a colon": _SECOND.replace('n="2"', "number: 2"),
    "a number sign": _SECOND.replace('n="2"', "#2"),
    "a number alone": _SECOND.replace('n="2"', "2"),
    "a number in the name": _SECOND.replace(' n="2"', "2").replace("/segment>", "/segment2>"),
    "a number behind a line": _SECOND.replace(' n="2"', "_2"),
    "a further attribute": _SECOND.replace('n="2"', 'n="2" type="fix"'),
    "in capitals": _SECOND.replace("segment", "SEGMENT"),
    "blanks in the tags": _SECOND.replace("<segment n", "< segment n").replace("/seg", "/ seg"),
    "the number as a tag": _segments(f"<2>{NEW}</2>"),
    "square brackets": _segments(f"[segment n=2]{NEW}[/segment]"),
    "escaped for Markdown": _segments(f'\\<segment n="2"\\>{NEW}\\</segment\\>'),
    "escaped for HTML": _SECOND.replace("<", "&lt;").replace(">", "&gt;"),
    "all in square brackets": _SECOND.replace("<", "[").replace(">", "]"),
    "tags in bold": _SECOND.replace("<segments>", "**<segments>**").replace(
        "</segments>", "**</segments>**"
    ),
    "framed by line breaks": _segments(f'<segment n="2">\n{NEW}\n</segment>'),
    "indented": _segments(f'  <segment n="2">{NEW}</segment>'),
    "indented and framed": _segments(f'  <segment n="2">\n    {NEW}\n  </segment>'),
    "blanks around": _segments(f'<segment n="2"> {NEW} </segment>'),
    "CDATA": _segments(f'<segment n="2"><![CDATA[{NEW}]]></segment>'),
    "a comment between": _segments(f"<!-- the unit -->\n{_ELEMENT}"),
    "a label": _segments(f"**Segment 2:**\n{_ELEMENT}"),
    "a list": _segments(f"1. {_ELEMENT}"),
    "in a fence": f"```xml\n{_SECOND}\n```",
    "a fence inside": _segments(f"```xml\n{_ELEMENT}\n```"),
    "no frame": f"<reasoning>{WHY}</reasoning>\n{_ELEMENT}",
    "lines in brackets": _segments(f"[2] {NEW}"),
    "lines with a word": _segments(f"Segment 2: {NEW}"),
    "lines with a bold word": _segments(f"**Segment 2:** {NEW}"),
    "lines with a key": _segments(f"n=2: {NEW}"),
    "lines as of a list": _segments(f"2. {NEW}"),
    "lines in a fence": _segments(f"```\n[2] {NEW}\n```"),
    "a JSON list": _segments(f"[{_IN_JSON}]"),
    "a JSON list in a fence": _segments(f"```json\n[\n{_IN_JSON}\n]\n```"),
    "one JSON object": _segments(_IN_JSON),
    "a JSON object by numbers": _segments(json.dumps({"2": NEW})),
    "a number as text in JSON": _segments(json.dumps([{"segment": "2", "content": NEW}])),
    "all of it JSON": json.dumps({"reasoning": WHY, "segments": [{"n": 2, "text": NEW}]}),
    "all of it JSON in a fence": (
        "```json\n" + json.dumps({"reasoning": WHY, "segments": {"2": NEW}}) + "\n```"
    ),
    "the number echoed in the text": _segments(f'<segment n="2">[2] {NEW}</segment>'),
    "the word echoed in the text": _segments(f'<segment n="2">Segment 2: {NEW}</segment>'),
    "the tag echoed in the text": _segments(f'<segment n="2">{_ELEMENT}</segment>'),
    "the same twice": _segments(f"{_ELEMENT}\n{_ELEMENT}"),
    "after thinking": f"<think>\n{segment_reply((1, 'x'))}\n</think>{_SECOND}",
    "after thinking that the chat template opened": (
        f"Hm, <segments></segments>?\n</think>\n{_SECOND}"
    ),
    "the instructions echoed before": (
        f"{segment_reply((2, 'what stands there instead'))}\n{_SECOND}"
    ),
    "a draft before": f"{segment_reply((1, 'A draft.'))}\n{_SECOND}",
    "the answer echoed before": (
        '<answer>\n<segment n="1">The bridge is 30 feet long.</segment>\n</answer>\n' + _SECOND
    ),
    "a greeting and a tail": f"Here you go:\n\n{_SECOND}\n\nThat makes the text clearer.",
    "reasoning without tags": f"{WHY}\n\n<segments>\n{_ELEMENT}\n</segments>",
    "reasoning that speaks of the form": _SECOND.replace(
        "<reasoning>", "<reasoning>I leave <segments/> short.</reasoning>\n<reasoning>"
    ),
    "Windows": _SECOND.replace("\n", "\r\n"),
    "an end mark": f"{_SECOND}<end_of_turn>\n",
}

NO_SEGMENTS = {
    "empty": "<segments></segments>",
    "a blank line": "<segments>\n\n</segments>",
    "self-closing": "<reasoning>fine</reasoning>\n<segments/>",
    "none": "<segments>\nNone\n</segments>",
    "no segments": "<segments>No segments</segments>",
    "no changes": "<segments>\nNo changes are needed.\n</segments>",
    "an empty list": "<segments>[]</segments>",
    "an empty object": "<segments>{}</segments>",
    "a comment": "<segments><!-- nothing has to change --></segments>",
    "an empty list in JSON": '{"reasoning": "fine", "segments": []}',
}

SEGMENTS_IN_DOUBT = {
    "a number as in a list": segment_reply((2, "2. It is new.")),
    "no number": _segments("<segment>New.</segment>"),
    "a word for a number": _segments('<segment n="two">New.</segment>'),
    "a negative number": _segments('<segment n="-2">New.</segment>'),
    "half a number": _segments('<segment n="2.5">New.</segment>'),
    "one text for segments apart": _segments('<segment n="1, 3">New.</segment>'),
    "a numbered range": _segments('<segment n="1-2">[1] New. [2] And.</segment>'),
    "segments in a segment": _segments(
        '<segment n="1-2"><segment n="1">New.</segment> <segment n="2">And.</segment></segment>'
    ),
    "text in an attribute": _segments('<segment n="2" text="New."/>'),
    "a remark": segment_reply((2, "[deleted]")),
    "dots": segment_reply((2, "...")),
    "a text between": _segments(f"{_ELEMENT} and {_ELEMENT}"),
    "a whole text": _segments("It is new."),
    "lines that do not ascend": _segments("[2] New.\n[1] And."),
    "lines with a key for the text": _segments("number: 2\ntext: New."),
    "a list in a line": _segments("2. It is:\n- new"),
    "an end without a beginning": _segments(f"{_ELEMENT}</segment>"),
    "JSON without a text": _segments('[{"n": 2}]'),
    "JSON without a number": _segments('[{"text": "New."}]'),
    "JSON of numbers": '{"segments": [2]}',
    "JSON of text": '{"segments": "It is new."}',
    "JSON with null": '{"segments": {"2": null}}',
    "an escape that may stand for a character": segment_reply((2, "a &lt; b")),
    "line breaks that are spelled": segment_reply((2, r"- one\n- two")),
    "a list and an empty one": f"{_SECOND}\n<segments></segments>",
    "nothing": "",
    "chat": "I would change segment 2.",
}

_CODE = "```python\nprint(1)\n```"
WHOLE = {
    "an answer that is one fence": (f"<revision>\n{_CODE}\n</revision>", _CODE),
    "an answer that begins and ends with a fence": (
        f"{{corrected_student_solution}}\n{_CODE}\nor\n{_CODE}",
        f"{_CODE}\nor\n{_CODE}",
    ),
    "a fence after reasoning in words": (
        f"{{teacher_reasoning}}: short\n{{corrected_student_solution}}:\n{_CODE}\nIt prints 1.",
        f"{_CODE}\nIt prints 1.",
    ),
    "fences in a fence": (
        f"```markdown\n<reasoning>x</reasoning>\n<revision>\nRun:\n{_CODE}\nDone.\n</revision>\n```",
        f"Run:\n{_CODE}\nDone.",
    ),
    "an answer that ends politely": (
        "{corrected_student_solution}\nUse metres.\n\nLet me know if you need help!",
        "Use metres.\n\nLet me know if you need help!",
    ),
    "an answer with a rule in it": (
        "{corrected_student_solution}\nOne.\n\n---\n\nTwo.",
        "One.\n\n---\n\nTwo.",
    ),
    "an answer in quotes": ('{corrected_student_solution}: "Use metres."', '"Use metres."'),
    "an answer about this very tag": (
        "<revision>\nWrite <revision>1</revision> into the file.\n</revision>",
        "Write <revision>1</revision> into the file.",
    ),
    "an answer with this very tag on a line": (
        "<revision>\n```xml\n<revision>\n1\n</revision>\n```\nSo.\n</revision>",
        "```xml\n<revision>\n1\n</revision>\n```\nSo.",
    ),
    "an answer about thinking tags": (
        "<revision>\nThe model closes with </think> and goes on.\n</revision>",
        "The model closes with </think> and goes on.",
    ),
    "the published form about thinking tags": (
        "{corrected_student_solution}\nThe model closes with </think> and goes on.",
        "The model closes with </think> and goes on.",
    ),
    "an answer that ends with a backslash": ("<revision>a \\\\</revision>", "a \\\\"),
    "an answer that begins with a bracket": ("### Reasoning\nx\n### Revision\n](a)", "](a)"),
    "an answer that is a dialogue": (
        "<revision>\n[user]\nHi\n[assistant]\nHello\n</revision>",
        "[user]\nHi\n[assistant]\nHello",
    ),
    "an answer with HTML in it": (
        "<revision>\n<answer>1</answer> and <answer>2</answer>\n</revision>",
        "<answer>1</answer> and <answer>2</answer>",
    ),
    "an answer with escaped HTML": (
        "<revision>a &lt;b&gt; &amp; c</revision>",
        "a &lt;b&gt; &amp; c",
    ),
    "an answer that is a JSON object": (
        '<revision>\n{"revision": "2", "edits": []}\n</revision>',
        '{"revision": "2", "edits": []}',
    ),
    "an answer with a heading of the name": (
        "<revision>\n## Revision\nRead it again.\n</revision>",
        "## Revision\nRead it again.",
    ),
}

_CUT_TEXT = "The bridge is 30 metres long and it was"
BROKEN_OFF = {
    "revision never closed": f"<reasoning>{WHY}</reasoning>\n<revision>\n{TEXT}\n",
    "revision closed without a slash": f"<reasoning>{WHY}</reasoning>\n<revision>{TEXT}<revision>",
    "revision with half of its end": f"{_OURS.removesuffix('</revision>')}</revi",
    "revision in capitals": f"<REASONING>{WHY}</REASONING>\n<REVISION>{_CUT_TEXT}",
    "revision with attributes": f'<reasoning>{WHY}</reasoning>\n<revision lang="en">{_CUT_TEXT}',
    "revision in bold": f"**<revision>**\n{_CUT_TEXT}",
    "revision in square brackets": f"[reasoning]{WHY}[/reasoning]\n[revision]\n{_CUT_TEXT}",
    "revision without reasoning": f"<revision>\n{_CUT_TEXT}",
    "neither is closed": f"<reasoning>\n{WHY}\n<revision>\n{_CUT_TEXT}",
    "after thinking": f"<think>Hm.</think>\n<revision>\n{_CUT_TEXT}",
    "after a draft that is whole": f"<revision>A draft.</revision>\nBetter:\n<revision>{_CUT_TEXT}",
    "after an echo of the form": (
        f"<revision>the whole revised answer</revision>\n<revision>\n{_CUT_TEXT}"
    ),
    "in a fence, never closed": f"```xml\n{_OURS.removesuffix('</revision>')}```",
    "an answer about other tags": f"<revision>\nWrite <b>bold</b> and {_CUT_TEXT}",
    "their tags": (
        f"<teacher_reasoning>{WHY}</teacher_reasoning>\n<corrected_student_solution>{_CUT_TEXT}"
    ),
    "their tags, the second alone": f"<corrected_student_solution>\n{_CUT_TEXT}",
    "their identifiers, the first closed": (
        f"{{teacher_reasoning}}{WHY}{{/teacher_reasoning}}\n"
        f"{{corrected_student_solution}}\n{_CUT_TEXT}"
    ),
    "published, in a fence that never closes": f"```\n{_THEIRS}",
    "published, inside a fence of code": f"{_THEIRS}\n\n```python\nprint(1",
    "headings, inside a fence of code": f"### Reasoning\n{WHY}\n\n### Revision\n```\nprint(1",
    "JSON": json.dumps({"reasoning": WHY, "revision": TEXT})[:-9],
    "JSON in a fence": f"```json\n{json.dumps({'reasoning': WHY, 'revision': TEXT})[:-9]}",
    "JSON with tags in it": json.dumps({"revision": "Write <revision>1</revision> and so"})[:-5],
    "edits never closed": _ONE.removesuffix("</edits>"),
    "edits never closed, in a fence": f"```xml\n{_ONE.removesuffix('</edits>')}```",
    "an edit never closed": _edits(f"<edit>\n{_PAIR}"),
    "a second edit never closed": f"{_ONE.removesuffix('</edits>')}<edit>\n<find>It",
    "a second edit without any frame": f"{_PAIR}\n<edit>\n<find>It is</find>\n<replace>It",
    "replace never closed": _ONE.partition("</replace>")[0],
    "find never closed": _ONE.partition("</find>")[0],
    "nothing but the beginning of edits": "<reasoning>x</reasoning>\n<edits>\n",
    "a list of edits in JSON": f'<edits>\n[{_ROW}, {{"find": "It',
    "segments never closed": _SECOND.removesuffix("</segments>"),
    "segments never closed, in a fence": f"```xml\n{_SECOND.removesuffix('</segments>')}```",
    "a segment never closed": _segments('<segment n="2">New'),
    "the second segment never closed": _segments(f'{_ELEMENT}\n<segment n="1">New'),
    "the first segment never closed": _segments(f'<segment n="1">New\n{_ELEMENT}'),
    "a second segment without any frame": f'{_ELEMENT}\n<segment n="1">New',
    "a segment without any frame": '<segment n="1">New',
    "segments in JSON": json.dumps({"reasoning": WHY, "segments": {"2": NEW}})[:-3],
    "segments in JSON in a list": f"<segments>\n[{_IN_JSON[:-4]}",
    "edits in JSON": json.dumps({"reasoning": WHY, "edits": [json.loads(_ROW)]})[:-3],
}
"""As a server cuts them that says `stop`."""
