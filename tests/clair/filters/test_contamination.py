"""Which prompts share a passage with a test set."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clair_apo.clair import PromptsConfig, load_prompts
from clair_apo.clair.filters.contamination import (
    NGRAM,
    SHORTEST_PASSAGE,
    ContaminationIndex,
)
from clair_apo.errors import DataError
from clair_apo.records import Dropped, DropReason, Prompt, Stage
from clair_apo.text.words import words_of
from tests.helpers.clair_runs import Replying, edit_reply, make_config, run, write_rows

WORDS = [f"word{n}" for n in range(40)]
LONG = " ".join(WORDS[:20])


def index(folder, *questions, ngram=NGRAM):
    path = write_rows(folder / "test.jsonl", [{"question": q, "answer": "no"} for q in questions])
    return ContaminationIndex([str(path)], ngram)


def test_thirteen_common_words_are_an_overlap_and_twelve_are_none(tmp_path):
    tests = index(tmp_path, LONG)
    thirteen, twelve = WORDS[4:17], WORDS[4:16]
    found = tests.find(" ".join(["Tell", "me:", *thirteen, "please"]))
    assert found.words == " ".join(thirteen)
    assert found.row == f"{tmp_path / 'test.jsonl'}:1"
    assert tests.find(" ".join(["Tell", "me:", *twelve, "please"])) is None


def test_the_number_of_common_words_is_a_setting(tmp_path):
    assert index(tmp_path, LONG, ngram=12).find(" ".join(WORDS[4:16])) is not None
    assert index(tmp_path, LONG, ngram=14).find(" ".join(WORDS[4:17])) is None


def test_case_punctuation_and_blanks_do_not_hide_an_overlap(tmp_path):
    question = (
        "In 1969, who -- according to the almanac -- was first to set foot on the moon's soil?"
    )
    typed = question.upper().replace(" ", "\n\t").replace(",", "").replace("'", "\u2019")
    assert index(tmp_path, question).find(f"({typed})") is not None


def test_another_order_of_the_same_words_is_no_overlap(tmp_path):
    assert index(tmp_path, LONG).find(" ".join(reversed(WORDS[:20]))) is None


def test_a_shorter_question_must_occur_whole(tmp_path):
    short = WORDS[:SHORTEST_PASSAGE]
    tests = index(tmp_path, " ".join(short))
    assert tests.find(" ".join(["so", *short, "then"])).words == " ".join(short)
    assert tests.find(" ".join(["so", *short[1:], "then"])) is None


def test_a_very_short_question_must_be_the_whole_text(tmp_path):
    tests = index(tmp_path, "Who wrote Hamlet?", "...")
    assert tests.find("who wrote hamlet").words == "who wrote hamlet"
    assert tests.find("Who wrote Hamlet and when?") is None
    assert tests.find("") is None and tests.find("!?") is None


def test_where_languages_do_not_part_words_characters_are_counted(tmp_path):
    assert words_of("我爱 GPT-3 モデル") == ["我", "爱", "gpt", "3", "モ", "デ", "ル"]
    tests = index(tmp_path, "请解释为什么天空在白天看起来是蓝色的")
    assert tests.find("你好,请解释为什么天空在白天看起来是红色的") is not None
    assert tests.find("请解释为什么天空") is None


def test_every_test_set_is_looked_through_and_its_row_named(tmp_path):
    mixeval = tmp_path / "mixeval.json"
    mixeval.write_text(json.dumps({"12": {"prompt": LONG, "context": " ".join(WORDS[20:])}}))
    other = write_rows(tmp_path / "mt.jsonl", [{"turns": ["hm", " ".join(WORDS[20:])]}])
    tests = ContaminationIndex([str(mixeval), str(other)])
    assert [(one.name, one.questions) for one in tests.sets] == [(str(mixeval), 1), (str(other), 2)]
    assert tests.find(LONG).row == f"{mixeval}: row 12"
    assert tests.find(" ".join(WORDS[20:])).row == f"{other}:1"


def test_of_equal_questions_the_first_is_named(tmp_path):
    assert index(tmp_path, LONG, "Why?", LONG, "Why?").find(LONG).row.endswith(":1")
    assert index(tmp_path, LONG, "Why?", LONG, "Why?").find("why").row.endswith(":2")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"passage": "p", "label": 1}], "found passage, label"),
        ([], "found no rows"),
        ([{"question": None}], "expected one of the columns .*question.*problem"),
    ],
)
def test_a_file_that_asks_nothing_is_refused_as_a_test_set(tmp_path, rows, said):
    path = write_rows(tmp_path / "t.jsonl", rows)
    with pytest.raises(DataError, match=rf"t\.jsonl: no test set: .*{said}"):
        ContaminationIndex([str(path)])


CONTAMINATED = {
    "the last turn": {"prompt": f"So: {LONG}?"},
    "an earlier turn": {
        "messages": [
            {"role": "user", "content": LONG},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "and?"},
        ]
    },
    "an answer that the data brings": {"prompt": "hm?", "responses": ["no", f"As asked, {LONG}"]},
}


@pytest.mark.parametrize("place", CONTAMINATED)
def test_a_contaminated_prompt_is_dropped_at_load_with_set_row_and_words(tmp_path, place):
    tests = write_rows(tmp_path / "t.jsonl", [{"question": "?"}, {"question": LONG}])
    clean = {"prompt": " ".join(WORDS[9:20])}
    prompts = write_rows(tmp_path / "p.jsonl", [clean, CONTAMINATED[place]])
    config = PromptsConfig(path=str(prompts), contamination=(str(tests),))
    kept, dropped = load_prompts(config)
    assert isinstance(kept, Prompt) and kept.source == f"{prompts.name}:1"
    assert isinstance(dropped, Dropped)
    assert (dropped.stage, dropped.reason) == (Stage.LOAD, DropReason.CONTAMINATED)
    words = " ".join(WORDS[:13])
    assert dropped.detail == f"{prompts.name}:2: shares with {tests}:2: {words}"
    assert LONG in dropped.raw
    wider = config.model_copy(update={"ngram": 11})
    assert isinstance(next(load_prompts(wider)), Dropped), "eleven common words of the clean one"


def test_a_run_accounts_for_what_was_contaminated_and_names_its_test_sets(tmp_path):
    tests = write_rows(tmp_path / "t.jsonl", [{"question": LONG}])
    rows = [{"prompt": LONG, "answer": "old"}, {"prompt": "hm?", "answer": "old"}]
    data = write_rows(tmp_path / "p.jsonl", rows)
    prompts = {"path": str(data), "contamination": [str(tests)]}
    reviser = Replying([("", edit_reply(("old", "new")))])
    result = run(make_config(tmp_path, data, prompts=prompts), Replying([]), reviser)
    assert (result.prompts, result.pairs, result.dropped) == (2, 1, {"contaminated": 1})
    assert len(reviser.requests) == 1, "nothing was asked about the contaminated one"
    settings = json.loads((tmp_path / "run/manifest.json").read_text())["settings"]
    assert settings["test_sets"] == [
        one.model_dump() for one in ContaminationIndex([str(tests)]).sets
    ]


def test_without_test_sets_nothing_is_contaminated(tmp_path):
    prompts = write_rows(tmp_path / "p.jsonl", [{"prompt": LONG}])
    (kept,) = load_prompts(PromptsConfig(path=str(prompts)))
    assert isinstance(kept, Prompt)


def test_a_test_set_is_known_again_by_its_questions(tmp_path):
    (first,) = index(tmp_path, LONG, "Why?").sets
    (same,) = index(tmp_path, LONG, "Why?").sets
    (other,) = index(tmp_path, LONG, "How?").sets
    assert first == same and first.digest != other.digest
    assert (first.name, first.questions) == (str(tmp_path / "test.jsonl"), 2)


TEXTS = st.lists(st.sampled_from("abc"), max_size=30).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(questions=st.lists(TEXTS, min_size=1, max_size=4), text=TEXTS, n=st.sampled_from([5, 9]))
def test_what_is_found_is_what_comparing_every_run_of_words_finds(
    tmp_path_factory, questions, text, n
):
    """A vocabulary of three words: equal parts of runs that differ are everywhere."""
    padded, words = f" {text} ", text.split()

    def overlaps(question):
        asked = question.split()
        if len(asked) < min(SHORTEST_PASSAGE, n):
            return bool(asked) and asked == words
        size = min(n, len(asked))
        runs = [" ".join(asked[i : i + size]) for i in range(len(asked) - size + 1)]
        return any(f" {run} " in padded for run in runs)

    tests = index(tmp_path_factory.mktemp("t"), *questions, ngram=n)
    found = tests.find(text)
    assert (found is not None) == any(map(overlaps, questions))
    if found:
        row = int(found.row.rpartition(":")[2]) - 1
        assert overlaps(questions[row]) and f" {found.words} " in padded


def test_another_process_finds_the_same(tmp_path):
    """Python's own hashes differ from process to process; rows must not."""
    index(tmp_path, *(" ".join(WORDS[n : n + 15]) for n in range(5)))
    code = (
        "from clair_apo.clair.filters.contamination import ContaminationIndex as C;"
        f"t = C([{str(tmp_path / 'test.jsonl')!r}]);"
        f"print(t.find({LONG!r}), [list(x.digests) for x in t._tables.values()])"
    )
    runs = {subprocess.check_output([sys.executable, "-c", code]) for _ in range(2)}
    assert len(runs) == 1 and b"word0 word1" in runs.pop()
