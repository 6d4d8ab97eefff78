"""Watched answers: their figures, their file and the prompts that are chosen."""

import json
import logging

import pytest

from clair_apo.apo.watch.answers import (
    Answer,
    AnswerFile,
    Judge,
    WatchedPrompt,
    watch_metrics,
    watched_words,
)
from clair_apo.apo.watch.prompts import (
    FEWEST_TOKENS,
    MOST_TOKENS,
    answer_limit,
    watched_prompts,
)
from clair_apo.apo.watch.trackers import log_answers
from clair_apo.text.checks import Check, load_checks
from clair_apo.text.repetition import repetition

PROMPT = WatchedPrompt("p1", "What is it?", [5, 6], "It is a lamp.", 4)
SHORT = Check("short", lambda prompt, answer: len(answer.split()) < 4)


def judged(step, text, *, ended=True, checks=(SHORT,)):
    return Judge(checks).judged(step, PROMPT, Answer(text, len(text.split()), ended))


def test_the_figures_are_means_over_the_answers_of_a_step():
    answers = [judged(3, "a b c"), judged(3, "a b c a b c a b c", ended=False)]
    assert watch_metrics(answers) == {
        "watch/ended": 0.5,
        "watch/rep_3": pytest.approx(repetition("a b c a b c a b c", 3) / 2),
        "watch/length": (3 + 9) / 2,
        "watch/checks/short": 0.5,
    }
    assert answers[1].rep_3 == pytest.approx(4 / 7)


def test_a_check_sees_the_prompt():
    echoes = Check("echoes", lambda prompt, answer: prompt in answer)
    assert judged(0, "What is it? A lamp.", checks=[echoes]).checks == {"echoes": True}
    assert judged(0, "A lamp.", checks=[echoes]).checks == {"echoes": False}


def test_a_regular_expression_without_an_end_is_left_out_and_the_others_stay(tmp_path, caplog):
    rules = tmp_path / "rules.yaml"
    rules.write_text("checks: [{name: endless, matches: '(a|a)+$'}, {name: few, max_words: 2}]")
    judge = Judge(load_checks(rules))
    trap = Answer("a" * 40 + "b", 9, True)
    with caplog.at_level(logging.WARNING, logger="clair_apo"):
        rows = [judge.judged(0, PROMPT, answer) for answer in (Answer("a", 1, True), trap, trap)]
    assert [row.checks for row in rows] == [{"endless": True, "few": True}] + 2 * [{"few": True}]
    (said,) = (record.getMessage() for record in caplog.records)
    assert "'endless'" in said and "Training goes on without this check" in said
    assert "watch/checks/few" in watch_metrics(rows)
    assert "watch/checks/endless" not in watch_metrics(rows), "a mean over some would mislead"


# --- the file


def file_with(path, steps):
    file = AnswerFile(path)
    for step in steps:
        file.add([judged(step, f"answer {step}\u2028<b>")])
    return file


def test_a_run_that_begins_anew_forgets_an_earlier_file_when_it_writes(tmp_path):
    path = tmp_path / "answers.jsonl"
    file_with(path, [0, 5])
    again = AnswerFile(path)
    assert again.begin(0) == set()
    assert path.read_text().count("\n") == 2, "until then it stays"
    again.add([judged(0, "new")])
    assert [json.loads(line)["answer"] for line in path.read_text().splitlines()] == ["new"]


def test_a_resumed_run_keeps_what_came_before_its_checkpoint_once(tmp_path):
    path = tmp_path / "answers.jsonl"
    file_with(path, [0, 5, 10])
    resumed = AnswerFile(path)
    assert resumed.begin(7) == {0, 5}
    resumed.add([judged(10, "another")])
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [(row["step"], row["answer"]) for row in found] == [
        (0, "answer 0\u2028<b>"),
        (5, "answer 5\u2028<b>"),
        (10, "another"),
    ]
    assert AnswerFile(path).begin(10) == {0, 5, 10}


def test_a_file_that_cannot_be_read_is_begun_anew_with_a_warning(tmp_path, caplog):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"step": 3')
    with caplog.at_level(logging.WARNING, logger="clair_apo"):
        assert AnswerFile(path).begin(5) == set()
    assert "answers.jsonl:1: not a WatchedAnswer" in caplog.text
    assert AnswerFile(tmp_path / "none.jsonl").begin(5) == set()


def test_first_and_last_figures_make_a_sentence():
    logs = [
        {"watch/ended": 1.0, "watch/rep_3": 0.01, "watch/length": 90.0, "step": 0},
        {"loss": 1.0, "step": 1},
        {"watch/ended": 0.5, "watch/rep_3": 0.3, "watch/length": 20.4, "step": 9},
    ]
    for log, share in ((logs[0], 0.0), (logs[2], 0.75)):
        log["watch/checks/next_step"] = share
    assert watched_words(logs) == (
        "watched answers, steps 0 -> 9: 100% -> 50% end by themselves, rep-3 0.01 -> 0.30, "
        "90 -> 20 tokens, next_step 0% -> 75%"
    )
    assert watched_words(logs[1:2]) == ""


# --- the prompts


class Decodes:
    def decode(self, tokens, skip_special_tokens):
        assert skip_special_tokens
        return " ".join(f"t{token}" for token in tokens)


def row(tokens, **more):
    return {"prompt_ids": tokens, "chosen_ids": [9, 8], "rejected_ids": [7]} | more


def test_prompts_are_the_first_different_ones_that_leave_room_for_an_answer():
    rows = [row([1]), row([1]), row(list(range(100))), row([2], id="b"), row([3])]
    found = watched_prompts(rows, 2, Decodes(), 100 + FEWEST_TOKENS - 1)
    assert [(prompt.id, prompt.tokens) for prompt in found] == [("0", [1]), ("b", [2])]
    assert len(watched_prompts(rows, 9, Decodes(), None)) == 4
    several = {"easy": rows[:1], "hard": rows[3:]}
    assert [p.tokens for p in watched_prompts(several, 3, Decodes(), None)] == [[1], [2], [3]]


def test_an_endless_stream_of_one_prompt_is_not_read_for_ever():
    def stream():
        while True:
            yield row([1])

    assert len(watched_prompts(stream(), 4, Decodes(), None)) == 1


def test_texts_are_those_of_the_last_turn_or_of_the_tokens():
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]
    chosen = [{"role": "assistant", "content": "Hello."}]
    rows = [
        row([1], prompt=turns, chosen=chosen),
        row([2], prompt="Plain:", chosen=" text"),
        row([3]),
    ]
    found = watched_prompts(rows, 3, Decodes(), None)
    assert [(prompt.text, prompt.chosen) for prompt in found] == [
        ("Hello?", "Hello."),
        ("Plain:", " text"),
        ("t3", "t9 t8"),
    ]


@pytest.mark.parametrize(
    ("chosen", "positions", "limit"),
    [
        (3, None, FEWEST_TOKENS),
        (100, None, 200),
        (9000, None, MOST_TOKENS),
        (100, 150, 148),
        (100, 5000, 200),
    ],
)
def test_an_answer_is_cut_at_twice_the_longest_chosen_one_within_bounds(chosen, positions, limit):
    prompts = [PROMPT, PROMPT._replace(chosen_tokens=chosen)]
    assert answer_limit(prompts, positions) == limit


# --- trackers


class Tracker:
    """As wandb and trackio: a table from a data frame, and a log."""

    def __init__(self):
        self.logged = []

    class Table:
        def __init__(self, dataframe):
            self.rows = dataframe.to_dict("records")

    def log(self, values):
        self.logged.append(values)


def test_trackers_that_take_a_table_get_all_answers_and_no_other_is_imported(monkeypatch):
    wandb = Tracker()
    monkeypatch.setitem(__import__("sys").modules, "wandb", wandb)
    monkeypatch.setitem(__import__("sys").modules, "trackio", None)  # importing it would raise
    rows = [judged(0, "a b"), judged(4, "a b c d")]
    log_answers(["wandb", "tensorboard"], rows)
    (logged,) = wandb.logged
    table = logged["watch/answers"].rows
    assert [(line["step"], line["answer"], line["short"]) for line in table] == [
        (0, "a b", True),
        (4, "a b c d", False),
    ]
    with pytest.raises(ImportError):
        log_answers(["trackio"], rows)
