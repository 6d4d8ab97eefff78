"""The rate limiter by itself: its clock is that of a simulated event loop."""

import asyncio
import itertools
from collections import deque

import pytest

from clair_apo.llm.backends.rate_limits import START, LearningLimit, MinuteBudget, RateLimiter
from tests.helpers.virtual_time import run_in_virtual_time


def grow(limit, seconds, answer_s=2.0):
    """Round trips in which every place is used and every request is answered."""
    seen = [limit.value]
    for _ in range(int(seconds / answer_s)):
        together = limit.value
        for _ in range(together):
            limit.answered(in_flight=limit.value)
        seen.append(limit.value)
    return seen


def test_the_limit_starts_low_and_never_passes_its_ceiling():
    assert LearningLimit(256).value == START
    assert LearningLimit(4).value == 4
    assert grow(LearningLimit(100), seconds=20)[-1] == 100


def test_growing_to_256_costs_less_than_four_seconds_of_full_use_with_answers_of_2_s():
    seen = grow(LearningLimit(256), seconds=20)
    assert seen[-1] == 256
    lost_s = sum(2.0 * (1 - value / 256) for value in seen[:-1])
    assert lost_s < 4


def test_many_failures_of_one_round_trip_shrink_the_limit_once():
    limit = LearningLimit(256)
    grow(limit, seconds=20)
    for sent_at in (1.0, 1.1, 1.2, 1.9):
        limit.overloaded(sent_at, now=2.0)
    assert limit.value == int(256 * 0.7)
    limit.overloaded(sent_at=2.1, now=4.0)  # sent after the cut: that was still too much
    assert limit.value == int(256 * 0.7 * 0.7)


def test_the_limit_never_falls_below_one():
    limit = LearningLimit(256)
    for round_trip in range(50):
        limit.overloaded(sent_at=round_trip + 0.5, now=round_trip + 1.0)
    assert limit.value == 1


def test_after_a_complaint_the_limit_grows_gently_and_gets_back_up():
    limit = LearningLimit(256)
    grow(limit, seconds=20)
    limit.overloaded(sent_at=1.0, now=2.0)
    seen = grow(limit, seconds=30)
    growth = [after / before for before, after in itertools.pairwise(seen)]
    assert max(growth) < 1.08
    assert seen[-1] == 256


def test_after_an_outage_the_limit_begins_low_and_returns_quickly_to_what_was_good():
    limit = LearningLimit(256)
    grow(limit, seconds=20)
    limit.reset_after_outage()
    assert limit.value == START
    assert grow(limit, seconds=6)[-1] == 256


def test_answers_teach_nothing_while_places_are_free():
    limit = LearningLimit(256)
    for _ in range(1000):
        limit.answered(in_flight=START - 1)
    assert limit.value == START


def simulate(budget, costs, seconds, settle=None):
    """Take as soon as it is allowed; the times and costs of what was taken."""
    now, taken = 0.0, []
    for cost in costs:
        now += budget.wait_s(cost, now)
        if now > seconds:
            break
        assert budget.wait_s(cost, now) == pytest.approx(0, abs=1e-9)
        budget.take(cost)
        taken.append((now, cost if settle is None else settle(cost)))
        if settle:
            budget.take(settle(cost) - cost)
    return taken


def most_in_a_minute(taken):
    most = total = 0
    minute = deque()
    for at, cost in taken:
        minute.append((at, cost))
        total += cost
        while minute[0][0] <= at - 60:
            total -= minute.popleft()[1]
        most = max(most, total)
    return most


@pytest.mark.parametrize("per_minute", [1, 7, 60, 3000])
def test_no_minute_holds_more_requests_than_allowed_and_few_less(per_minute):
    taken = simulate(MinuteBudget(per_minute), itertools.repeat(1), seconds=300)
    assert most_in_a_minute(taken) <= per_minute
    assert len(taken) >= int(300 * per_minute / 61)


def test_tokens_given_back_can_be_spent_again():
    reserved, used, per_minute = 4000, 500, 100_000
    taken = simulate(
        MinuteBudget(per_minute), itertools.repeat(reserved), 300, settle=lambda _: used
    )
    spent = sum(cost for _, cost in taken)
    assert most_in_a_minute(taken) <= per_minute + reserved
    assert spent > 300 * per_minute / 61 * 0.95


def test_a_request_larger_than_a_minute_goes_through_and_is_waited_off():
    budget = MinuteBudget(600)
    first, second = simulate(budget, [3000, 1], seconds=1000)
    assert first[0] == 0.0
    assert second[0] == pytest.approx((3000 - 600 / 61 + 1) / (600 / 61))


def test_no_limit_is_no_wait():
    budget = MinuteBudget(None)
    budget.take(10**12)
    assert budget.wait_s(10**12, now=0.0) == 0.0


def admitted(scenario, limiter=None, waiting=100):
    """Run a scenario with a limiter for which many wait; the limiter, and when they were let in."""
    limiter = limiter or RateLimiter(64, None, None)

    async def run():
        times = []

        async def one():
            times.append(await limiter.acquire(0))

        tasks = [asyncio.ensure_future(one()) for _ in range(waiting)]
        await asyncio.sleep(0)
        await scenario(limiter, times)
        for task in tasks:
            task.cancel()
        return limiter, times

    return run_in_virtual_time(run())


def at(seconds, count):
    """So many times, but for the ticks of the clock."""
    return pytest.approx([seconds] * count, abs=1e-6)


def test_as_many_are_let_in_as_the_limit_and_the_next_as_places_come_free():
    async def scenario(limiter, times):
        await asyncio.sleep(1)
        assert times == at(0, START)
        limiter.release(3)
        await asyncio.sleep(1)

    limiter, times = admitted(scenario)
    assert times[START:] == at(1, 3)
    assert limiter.in_flight == START


def test_nobody_is_let_in_during_a_pause_and_afterwards_one_after_the_other():
    async def scenario(limiter, times):
        limiter.pause(20)
        limiter.release(START)
        await asyncio.sleep(40)

    _, times = admitted(scenario)
    first, *others = times[START:]
    assert 20 <= first <= 21, "up to a twentieth later: other processes were asked to wait as well"
    gaps = [later - earlier for earlier, later in itertools.pairwise([first, *others])]
    # an answer is taken to need a second, so START in flight leave each that part of it
    assert gaps == at(1 / START, len(gaps))
    assert len(others) == START - 1


def test_who_gives_up_waiting_takes_no_place():
    async def run():
        limiter = RateLimiter(1, None, None)
        await limiter.acquire(0)
        given_up = asyncio.ensure_future(limiter.acquire(0))
        patient = asyncio.ensure_future(limiter.acquire(0))
        await asyncio.sleep(0)
        given_up.cancel()
        limiter.release()
        await asyncio.wait_for(patient, 5)
        assert limiter.in_flight == 1

    run_in_virtual_time(run())


def test_a_limiter_that_is_shut_stays_so_through_an_old_pause_until_it_is_reopened():
    async def scenario(limiter, times):
        limiter.shut()
        limiter.pause(1)
        limiter.release(START)
        await asyncio.sleep(60)
        assert len(times) == START
        limiter.reopen()
        await asyncio.sleep(0)

    _, times = admitted(scenario)
    assert times[START:] == at(60, len(times) - START)


def test_requests_per_minute_are_spread_evenly_after_those_at_hand():
    per_s = 1200 / 61

    async def scenario(limiter, times):
        await asyncio.sleep(10)

    _, times = admitted(scenario, RateLimiter(64, 1200, None), waiting=30)
    assert times[: int(per_s)] == at(0, int(per_s))
    assert times[-1] == pytest.approx((30 - per_s) / per_s)


@pytest.mark.parametrize("used", [8, 2])
def test_tokens_that_an_answer_did_not_use_are_given_back(used):
    count, per_s, reserved = 60, 3000 / 61, 8

    async def run():
        limiter = RateLimiter(1, None, 3000)
        for _ in range(count):
            sent_at = await limiter.acquire(reserved)
            limiter.answered(sent_at, reserved, used)
            limiter.release()
        return sent_at

    last = (used * (count - 1) + reserved - per_s) / per_s
    assert run_in_virtual_time(run()) == pytest.approx(last)
