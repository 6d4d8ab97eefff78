"""What a person sees while a stage runs."""

import io
import time
from datetime import datetime
from types import SimpleNamespace

import pytest
from rich.console import Console

from clair_apo import console
from clair_apo.console import show_progress, wait_in_words


def usage(**changes):
    nothing = {
        "asked": 0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "in_flight": 0,
        "limit": 0,
        "waits_until": 0.0,
    }
    return SimpleNamespace(**nothing | changes)


@pytest.fixture
def screen(monkeypatch):
    """What is written to standard error, which is no terminal."""
    text = io.StringIO()
    monkeypatch.setattr(console, "CONSOLE", Console(file=text, width=200))
    return text


@pytest.fixture
def terminal(monkeypatch):
    text = io.StringIO()
    shown = Console(file=text, width=200, force_terminal=True, color_system=None)
    monkeypatch.setattr(console, "CONSOLE", shown)
    return text


def test_without_a_terminal_the_last_line_tells_what_became_of_every_row(screen):
    with show_progress("revise", 1004) as tell:
        for _ in range(1000):
            tell("kept")
        for reason in ("no_op", "cut", "no_op", "empty"):
            tell(reason)
    (line,) = screen.getvalue().splitlines()
    assert line == "revise: 1,004 of 1,004 rows; kept 1,000, no_op 2, cut 1, empty 1"


def test_without_a_terminal_lines_come_though_no_row_ends(screen, monkeypatch):
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.05)
    with show_progress("revise", 10, usage(in_flight=7, limit=16)):
        time.sleep(0.4)
    lines = screen.getvalue().splitlines()
    assert len(lines) > 2
    assert set(lines) == {"revise: 0 of 10 rows; 7 in flight of 16 at most"}


def test_answers_are_told_though_the_first_row_keeps_the_others_waiting(screen):
    with show_progress("revise", 1000, usage(asked=1234, in_flight=7, limit=16)):
        pass
    assert "revise: 0 of 1,000 rows; 1,234 answers; 7 in flight of 16" in screen.getvalue()


def test_tokens_are_told_in_short(screen):
    with show_progress("revise", 1, usage(prompt_tokens=8_140_000, completion_tokens=950)) as tell:
        tell("kept")
    assert "8.1M tokens in, 950 out" in screen.getvalue()


def test_money_is_told_and_what_it_will_be_at_the_price_of_the_latest_rows(screen):
    spent = [5.0]  # by earlier stages and invocations of the run
    with show_progress("revise", 1000, usage(), lambda: sum(spent)) as tell:
        for _ in range(100):
            spent.append(0.01)
            tell("kept")
    assert (
        f"${5 + 100 * 0.01:.2f} so far, about ${5 + 1000 * 0.01:.2f} when all" in screen.getvalue()
    )


def test_rows_that_cost_nothing_because_they_were_stored_do_not_hide_what_the_others_cost(screen):
    spent = [0.0]
    stored, paid, total = 5000, 3000, 10_000
    with show_progress("revise", total, usage(), lambda: sum(spent)) as tell:
        for _ in range(stored):
            tell("kept")
        for _ in range(paid):
            spent.append(0.01)
            tell("kept")
    assert f"about ${(total - stored) * 0.01:.2f} when all" in screen.getvalue()


def test_a_wait_that_the_server_asked_for_is_told_until_it_is_over(screen):
    in_two_days = time.time() + 2 * 86400
    with show_progress("revise", 1, usage(waits_until=in_two_days)):
        pass
    with show_progress("pair", 1, usage(waits_until=time.time() - 1)):
        pass
    first, second = screen.getvalue().splitlines()
    day = datetime.fromtimestamp(in_two_days).date()
    assert f"waiting for the server 2 days, until {day} " in first
    assert "waiting" not in second


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (45, "45 s, until "),
        (2 * 3600, "2.0 h, until "),
        (172_800, "2 days, until "),
        (1e18, "31,688,087,814 years"),  # 365.25 days each; no calendar has such a date
        (float("inf"), "inf years"),
    ],
)
def test_a_wait_of_any_length_is_told_in_words(seconds, told):
    assert wait_in_words(seconds).startswith(told)


@pytest.mark.parametrize("kind", ["screen", "terminal"])
def test_what_cannot_be_shown_ends_neither_the_run_nor_the_lines_that_follow(
    request, monkeypatch, kind
):
    text = request.getfixturevalue(kind)
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.01)
    broken = [True]

    def money():
        if broken[0]:
            raise OverflowError("nobody has so much")
        return 3.0

    with show_progress("revise", 2, usage(), money):
        time.sleep(0.3)
        broken[0] = False
        give_up = time.monotonic() + 20
        while "$3.00 so far" not in text.getvalue() and time.monotonic() < give_up:
            time.sleep(0.01)
    assert "$3.00 so far" in text.getvalue()


def test_the_time_left_is_told_from_the_rows_done_so_far(screen):
    with show_progress("revise", 1000) as tell:
        for _ in range(5):
            time.sleep(0.02)
            tell("kept")
    assert " left" in screen.getvalue()


def test_on_a_terminal_there_is_a_bar_and_a_line_below_it(terminal):
    with show_progress("revise", 3, usage(in_flight=2, limit=16)) as tell:
        tell("kept")
        tell("no_op")
    shown = terminal.getvalue()
    assert "revise" in shown
    assert "2/3" in shown
    assert "kept 1, no_op 1; 2 in flight of 16 at most" in shown


def test_a_burst_of_rows_is_on_the_bar_though_none_follows_it(terminal):
    with show_progress("revise", 9) as tell:
        for _ in range(8):
            tell("kept")
        deadline = time.monotonic() + 30
        while "8/9" not in terminal.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "8/9" in terminal.getvalue()


def test_a_stage_without_rows_shows_nothing(screen):
    with show_progress("revise", 0) as tell:
        tell("kept")
    assert screen.getvalue() == ""
