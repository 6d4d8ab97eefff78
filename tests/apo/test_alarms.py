import pytest

from clair_apo.apo.alarms import (
    CHOSEN_FALLS_REWARD,
    CHOSEN_FALLS_WINDOW,
    COLLAPSE_NATS,
    COLLAPSE_WINDOW,
    DRIFT_SHARE,
    DRIFT_WINDOW,
    ENDED_FALL,
    NOT_FOLLOWED_QUADRANT,
    NOT_FOLLOWED_REWARD,
    NOT_FOLLOWED_SHARE,
    NOT_FOLLOWED_WINDOW,
    REPEATS_RISE,
    SATURATED_SHARE,
    SATURATED_WINDOW,
    find_alarms,
)

LONG = 40


def run(count=LONG, **metrics):
    """The logs of a healthy run under apo_zero; a metric given as f(step) replaces its own."""
    usual = {
        "loss": lambda step: 1.0,
        "rewards/chosen": lambda step: 0.02 * step,
        "logps/chosen": lambda step: -100.0,
        "ref_logps/chosen": lambda step: -110.0,
        "logratios_per_token/chosen": lambda step: 0.1,
        "saturation": lambda step: 0.2,
        "lengths/chosen": lambda step: 80 + 40 * (step % 2),
        "quadrants/chosen_up_rejected_down": lambda step: 1.0,
        "followed/share": lambda step: 0.3,
        "first_difference_logps/chosen": lambda step: -0.5,
    }
    curves = usual | metrics
    return [
        {"step": step} | {name: curve(step) for name, curve in curves.items()}
        for step in range(1, count + 1)
    ]


def names(history, *objectives):
    return [alarm.name for alarm in find_alarms(history, objectives or ("apo_zero",))]


def test_a_healthy_run_raises_none_under_any_objective():
    for objective in ("apo_zero", "apo_down", "sigmoid", "sft"):
        assert names(run(), objective) == []


def test_a_winner_that_falls_under_zero_is_an_alarm_at_the_step_that_completes_the_window():
    falls = run(**{"rewards/chosen": lambda step: 0.0 if step <= 10 else -1.0})
    (alarm,) = find_alarms(falls, ("apo_zero",))
    # the mean of a window with k logs of -1 is -k / window
    needed = int(-CHOSEN_FALLS_REWARD * CHOSEN_FALLS_WINDOW) + 1
    assert alarm.step == 10 + needed
    assert f"{-needed / CHOSEN_FALLS_WINDOW:+.2f}" in alarm.what
    assert "apo_down" in alarm.advice


def test_a_winner_that_dips_shortly_or_little_is_none():
    dips = run(**{"rewards/chosen": lambda step: -0.4 if step == 10 else 0.1})
    assert names(dips) == []
    assert names(run(**{"rewards/chosen": lambda step: 0.99 * CHOSEN_FALLS_REWARD})) == []
    early = run(CHOSEN_FALLS_WINDOW - 1, **{"rewards/chosen": lambda step: -5.0})
    assert names(early) == [], "there is no window yet"


def test_a_falling_winner_is_what_down_is_for_and_what_dpo_allows():
    falls = run(**{"rewards/chosen": lambda step: -1.0})
    assert names(falls, "apo_down") == []
    (alarm,) = find_alarms(falls, ("sigmoid",))
    assert "DPO only widens the margin" in alarm.advice
    (mixed,) = find_alarms(falls, ("sigmoid", "sft"))
    assert "The objective is to raise them" in mixed.advice


def test_a_winner_that_collapses_under_down_is_an_alarm_with_the_absolute_log_probabilities():
    collapse = run(
        **{
            "rewards/chosen": lambda step: -0.2 * step,
            "logratios_per_token/chosen": lambda step: 0.05 * -step,
            "logps/chosen": lambda step: -110 - 5.0 * step,
        }
    )
    (alarm,) = find_alarms(collapse, ("apo_down",))
    # the mean of a window that ends at step t is that of step t - (window - 1) / 2
    middle = next(t for t in range(LONG) if -0.05 * t < COLLAPSE_NATS)
    assert (alarm.name, alarm.step) == ("chosen_collapses", middle + (COLLAPSE_WINDOW - 1) // 2)
    assert "apo_zero" in alarm.advice
    assert f"{-110 - 5 * middle} where the reference gives -110" in alarm.what


def test_a_winner_that_falls_as_down_makes_it_is_none():
    falls = run(
        **{
            "rewards/chosen": lambda step: -1.0,
            "logratios_per_token/chosen": lambda step: 0.99 * COLLAPSE_NATS,
        }
    )
    assert names(falls, "apo_down") == []


def test_saturation_over_its_share_is_an_alarm_under_every_objective():
    saturated = run(saturation=lambda step: SATURATED_SHARE + 0.01)
    for objective in ("apo_zero", "apo_down", "sigmoid"):
        (alarm,) = find_alarms(saturated, (objective,))
        assert (alarm.name, alarm.step) == ("saturated", SATURATED_WINDOW)
    assert "91%" in alarm.what
    assert names(run(saturation=lambda step: SATURATED_SHARE)) == []
    spike = run(saturation=lambda step: 1.0 if step == 9 else 0.85)
    assert names(spike) == []


@pytest.mark.parametrize("direction", [1, -1], ids=["longer", "shorter"])
def test_winners_whose_length_drifts_are_an_alarm_in_both_directions(direction):
    sorted_by_length = run(**{"lengths/chosen": lambda step: 100 + direction * 2.4 * step})
    (alarm,) = find_alarms(sorted_by_length, ("apo_zero",))
    assert alarm.name == "length_drifts"
    assert alarm.step >= 2 * DRIFT_WINDOW
    mean = {end: 100 + direction * 2.4 * (end - (DRIFT_WINDOW - 1) / 2) for end in (10, alarm.step)}
    assert abs(mean[alarm.step] / mean[10] - 1) > DRIFT_SHARE
    assert f"{mean[alarm.step]:.0f} tokens" in alarm.what


def test_winners_of_uneven_length_in_a_random_order_are_none():
    assert names(run(**{"lengths/chosen": lambda step: (50, 150, 70, 130)[step % 4]})) == []


def test_evaluations_between_the_logs_do_not_count():
    falls = run(CHOSEN_FALLS_WINDOW - 1, **{"rewards/chosen": lambda step: -5.0})
    evaluated = [{"step": 4, "eval_rewards/chosen": -5.0, "eval_loss": 2.0}] * 10
    assert names([*falls, *evaluated]) == []


def test_several_alarms_come_in_the_order_of_their_steps():
    history = run(
        **{
            "saturation": lambda step: 1.0 if step > 20 else 0.0,
            "rewards/chosen": lambda step: -1.0 if step > 5 else 0.0,
        }
    )
    assert names(history) == ["chosen_falls", "saturated"]


# --- single tokens and watched answers


UNFOLLOWED = {
    "rewards/chosen": lambda step: NOT_FOLLOWED_REWARD,
    "quadrants/chosen_up_rejected_down": lambda step: NOT_FOLLOWED_QUADRANT,
    "followed/share": lambda step: NOT_FOLLOWED_SHARE / 2,
    "first_difference_logps/chosen": lambda step: -5.25,
}


def test_rewards_in_the_right_quadrant_that_decoding_does_not_follow_are_an_alarm():
    (alarm,) = find_alarms(run(**UNFOLLOWED), ("apo_zero",))
    assert (alarm.name, alarm.step) == ("not_followed", NOT_FOLLOWED_WINDOW)
    assert "right quadrant (90% of pairs, chosen +2.00)" in alarm.what
    assert "greedy decoding follows 1.0% of chosen" in alarm.what
    assert "-5.2 nats" in alarm.what
    assert "about 0.02" in alarm.advice
    assert names(run(**UNFOLLOWED), "sigmoid") == ["not_followed"]


@pytest.mark.parametrize(
    "other",
    [
        {"rewards/chosen": lambda step: 0.99 * NOT_FOLLOWED_REWARD},
        {"quadrants/chosen_up_rejected_down": lambda step: 0.99 * NOT_FOLLOWED_QUADRANT},
        {"followed/share": lambda step: NOT_FOLLOWED_SHARE},
    ],
    ids=lambda other: next(iter(other)),
)
def test_each_part_of_the_pattern_is_needed(other):
    assert names(run(**(UNFOLLOWED | other))) == []


def test_under_down_and_where_no_pair_differs_decoding_is_not_expected_to_follow():
    assert "not_followed" not in names(run(**UNFOLLOWED), "apo_down")
    unknown = run(**UNFOLLOWED)
    for entry in unknown:
        del entry["followed/share"]
    assert names(unknown) == []
    assert names(run(NOT_FOLLOWED_WINDOW - 1, **UNFOLLOWED)) == []


def watches(*shares, name="watch/ended"):
    """Logs of watched answers at steps 0, 10, 20, ..."""
    usual = {"watch/ended": 1.0, "watch/rep_3": 0.02, "watch/length": 90.0}
    return [usual | {name: share, "step": 10 * number} for number, share in enumerate(shares)]


def test_answers_that_stop_ending_are_an_alarm_which_knows_the_last_good_watch():
    (alarm,) = find_alarms(watches(0.875, 0.75, 0.375, 0.0), ("apo_zero",))
    assert (alarm.name, alarm.step, alarm.clear_until) == ("stops_ending", 20, 10)
    assert alarm.what == "38% of the watched answers end by themselves, 88% at step 0"
    assert "lower learning_rate" in alarm.advice and "sft" in alarm.advice
    assert "end_logps/rejected" in alarm.advice


def test_a_fall_by_less_or_of_an_answer_or_two_is_none():
    assert names(watches(1.0, 0.51)) == [], "more than half of what it was"
    assert names(watches(0.2, 0.0)) == [], f"a fall by less than {ENDED_FALL}"
    assert names(watches(0.0, 1.0, 0.6)) == [], "the first watch is what counts"
    assert names(watches(0.5, 0.25)) == ["stops_ending"]


def test_answers_that_begin_to_repeat_are_an_alarm():
    rises = watches(0.02, 0.1, 0.02 + REPEATS_RISE, name="watch/rep_3")
    (alarm,) = find_alarms(rises, ("apo_down",))
    assert (alarm.name, alarm.step, alarm.clear_until) == ("repeats", 20, 10)
    assert alarm.what == "the watched answers repeat themselves: rep-3 0.22, 0.02 at step 0"
    assert names(watches(0.5, 0.6, name="watch/rep_3")) == [], "the model did before"


def test_an_alarm_knows_the_last_log_before_its_window():
    saturated = run(saturation=lambda step: 1.0 if step > 7 else 0.0)
    (alarm,) = find_alarms(saturated, ("apo_zero",))
    assert alarm.step - alarm.clear_until == SATURATED_WINDOW
    early = run(saturation=lambda step: 1.0)
    assert find_alarms(early, ("apo_zero",))[0].clear_until == 0
