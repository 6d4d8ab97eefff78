"""Alarms: warnings where the metrics of a run contradict its objective.

An alarm is a function of the logged metrics alone, so a resumed run knows those it had, and a
finished one can be looked over again. Each is raised once. Thresholds and windows are the constants
below; a window is a number of logs (`logging_steps` apart), and what is compared is its mean.
Watched answers are compared with those of the first watch, which the untrained policy gave.
"""

import logging
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from clair_apo.apo.watch.answers import ENDED, REP_3
from clair_apo.records import Record

logger = logging.getLogger(__name__)

CHOSEN_FALLS_WINDOW = 5
CHOSEN_FALLS_REWARD = -0.1
"""Mean reward of the chosen answers below which they count as falling: 1 nat at beta 0.1."""

COLLAPSE_WINDOW = 5
COLLAPSE_NATS = -0.5
"""Mean log-ratio of a token of a chosen answer: each is, in the geometric mean, 0.6 times as likely
as under the reference."""

SATURATED_WINDOW = 5
SATURATED_SHARE = 0.9
"""Share of the objective's terms whose gradient factor is under a tenth of its most."""

DRIFT_WINDOW = 10
DRIFT_SHARE = 0.5
"""Change of the chosen answers' mean length since the first window, as a share of it. Lengths
differ by about half their mean, so 10 logs of 4 pairs move by chance about 0.1."""

NOT_FOLLOWED_WINDOW = 5
NOT_FOLLOWED_QUADRANT = 0.9
"""Share of pairs with the chosen answer up and the rejected one down."""
NOT_FOLLOWED_REWARD = 2.0
"""Mean reward of the chosen answers from which half of their gradient under apo_zero is spent."""
NOT_FOLLOWED_SHARE = 0.02
"""Share of chosen that greedy decoding follows: less than one token of 50."""

ENDED_FALL = 0.25
"""Fall of the share of answers that end by themselves: 2 of 8; it must also be half of what it was
at the first watch."""
REPEATS_RISE = 0.2
"""Rise of rep-3 since the first watch. An answer that says one sentence to its limit has about 0.9,
so that is 2 of 8 answers."""

_OF_EVERY_PROCESS = ({"loss", "learning_rate"}, {ENDED})
"""Keys of the logs that every process writes after the same step: the Trainer's, and watches."""

AlarmName = Literal[
    "chosen_falls",
    "chosen_collapses",
    "saturated",
    "length_drifts",
    "not_followed",
    "stops_ending",
    "repeats",
]
Logs = Sequence[Mapping[str, Any]]
Rule = Callable[[Logs, frozenset[str]], "Alarm | None"]
"""Judges a run by its logs so far; it is called at every log until it returns an alarm."""


class Alarm(Record):
    """A pattern that contradicts the objective."""

    name: AlarmName
    step: int
    """The global step whose log completed the pattern."""
    what: str
    """The pattern in words, with its numbers."""
    advice: str
    """What to try."""
    clear_until: int = 0
    """The step of the last log before the pattern; 0 where it was there from the beginning."""

    def __str__(self) -> str:
        return f"{self.name} at step {self.step}: {self.what}. {self.advice}"


class AlarmWatch:
    """Follows the logs of a run, one after the other.

    Args:
        objectives: the run's `loss_type`s.
    """

    def __init__(self, objectives: Collection[str]) -> None:
        self.alarms: list[Alarm] = []
        """Alarms of the run so far, at most one of each kind."""
        self._objectives = frozenset(objectives)
        self._logs: list[Mapping[str, Any]] = []
        self._watches: list[Mapping[str, Any]] = []
        self._silent: list[Rule] = [*_RULES, *_WATCH_RULES]

    def see(self, entry: Mapping[str, Any]) -> list[Alarm]:
        """Take the next log, and return the alarms that it raises.

        Args:
            entry: as `trainer.state.log_history` holds it; logs of training steps and of watched
                answers count.
        """
        if ENDED in entry:
            self._watches.append(entry)
            return self._raised(_WATCH_RULES, self._watches)
        if "saturation" in entry:  # no evaluation, and no loss that TRL computes itself
            self._logs.append(entry)
            return self._raised(_RULES, self._logs)
        return []

    def _raised(self, rules: Collection[Rule], logs: Logs) -> list[Alarm]:
        found = []
        for rule in [rule for rule in self._silent if rule in rules]:
            alarm = rule(logs, self._objectives)
            if alarm is not None:
                self._silent.remove(rule)
                found.append(alarm)
        self.alarms += found
        return found


def find_alarms(history: Logs, objectives: Collection[str]) -> tuple[Alarm, ...]:
    """Find the alarms of a run: at most one of each kind, at the step where it first holds.

    Args:
        history: the logs of a run in order, as `trainer.state.log_history` holds them.
        objectives: the run's `loss_type`s.
    """
    watch = AlarmWatch(objectives)
    for entry in history:
        watch.see(entry)
    return tuple(watch.alarms)


def _chosen_falls(logs: Logs, objectives: frozenset[str]) -> Alarm | None:
    # apo_down is meant to lower the chosen answer
    if "apo_down" in objectives or len(logs) < CHOSEN_FALLS_WINDOW:
        return None
    reward = _mean("rewards/chosen", logs[-CHOSEN_FALLS_WINDOW:])
    if not reward < CHOSEN_FALLS_REWARD:
        return None
    what = (
        f"the chosen answers fall: mean reward {reward:+.2f} over the last "
        f"{CHOSEN_FALLS_WINDOW} logs"
    )
    if objectives == {"sigmoid"}:
        advice = (
            "DPO only widens the margin and lets both answers fall. apo_zero holds each side "
            "against the reference; or add sft with a small weight"
        )
    else:
        advice = (
            "The objective is to raise them. If they are worse than the model's own answers, take "
            "apo_down; if not, lower learning_rate, or add sft with a small weight"
        )
    return _alarm("chosen_falls", logs, CHOSEN_FALLS_WINDOW, what, advice)


def _chosen_collapses(logs: Logs, objectives: frozenset[str]) -> Alarm | None:
    if "apo_down" not in objectives or len(logs) < COLLAPSE_WINDOW:
        return None
    window = logs[-COLLAPSE_WINDOW:]
    nats = _mean("logratios_per_token/chosen", window)
    if not nats < COLLAPSE_NATS:
        return None
    now, before = _mean("logps/chosen", window), _mean("ref_logps/chosen", window)
    return _alarm(
        "chosen_collapses",
        logs,
        COLLAPSE_WINDOW,
        f"the log-probability of chosen answers collapses: {now:.0f} where the reference "
        f"gives {before:.0f}, {nats:+.2f} nats a token over the last {COLLAPSE_WINDOW} logs",
        "apo_down has no floor. If the chosen answers are better than the model's own, take "
        "apo_zero; if not, lower learning_rate, train for fewer steps or raise beta",
    )


def _saturated(logs: Logs, objectives: frozenset[str]) -> Alarm | None:
    if len(logs) < SATURATED_WINDOW:
        return None
    share = _mean("saturation", logs[-SATURATED_WINDOW:])
    if not share > SATURATED_SHARE:
        return None
    return _alarm(
        "saturated",
        logs,
        SATURATED_WINDOW,
        f"{share:.0%} of the objective's terms are saturated over the last "
        f"{SATURATED_WINDOW} logs: their gradient is under a tenth of its most",
        "More steps teach little: stop here, or lower beta. If it came within few steps, "
        "lower learning_rate",
    )


def _length_drifts(logs: Logs, objectives: frozenset[str]) -> Alarm | None:
    if len(logs) < 2 * DRIFT_WINDOW:
        return None
    first = _mean("lengths/chosen", logs[:DRIFT_WINDOW])
    last = _mean("lengths/chosen", logs[-DRIFT_WINDOW:])
    if not abs(last / first - 1) > DRIFT_SHARE:
        return None
    return _alarm(
        "length_drifts",
        logs,
        DRIFT_WINDOW,
        f"the length of chosen answers drifts: {last:.0f} tokens in the last "
        f"{DRIFT_WINDOW} logs, {first:.0f} in the first",
        "The pairs come in an order of length, and every other curve shows that too: "
        "shuffle them (train_sampling_strategy random)",
    )


def _not_followed(logs: Logs, objectives: frozenset[str]) -> Alarm | None:
    # under apo_down chosen is to fall; of a log without a pair that differs nothing is known
    window = logs[-NOT_FOLLOWED_WINDOW:]
    known = all(_FOLLOWED in entry for entry in window)
    if "apo_down" in objectives or len(window) < NOT_FOLLOWED_WINDOW or not known:
        return None
    quadrant, reward = _mean(_QUADRANT, window), _mean("rewards/chosen", window)
    followed = _mean(_FOLLOWED, window)
    rewarded = quadrant >= NOT_FOLLOWED_QUADRANT and reward >= NOT_FOLLOWED_REWARD
    if not rewarded or followed >= NOT_FOLLOWED_SHARE:
        return None
    token = _mean("first_difference_logps/chosen", window)
    return _alarm(
        "not_followed",
        logs,
        NOT_FOLLOWED_WINDOW,
        f"rewards are in the right quadrant ({quadrant:.0%} of pairs, chosen {reward:+.2f}), but "
        f"greedy decoding follows {followed:.1%} of chosen: its first differing token is at "
        f"{token:.1f} nats over the last {NOT_FOLLOWED_WINDOW} logs, so easy tokens fill the "
        "reward while the deciding one stays improbable",
        "Lower beta, to about 0.02, so that the sum saturates later; or add sft with a small "
        "weight; and look at the watched answers before you trust the rewards",
    )


def _stops_ending(watches: Logs, objectives: frozenset[str]) -> Alarm | None:
    first, now = watches[0][ENDED], watches[-1][ENDED]
    if first - now < ENDED_FALL or now > first / 2:
        return None
    return _alarm(
        "stops_ending",
        watches,
        1,
        f"{now:.0%} of the watched answers end by themselves, {first:.0%} at step "
        f"{watches[0]['step']}",
        _BROKEN,
    )


def _repeats(watches: Logs, objectives: frozenset[str]) -> Alarm | None:
    first, now = watches[0][REP_3], watches[-1][REP_3]
    if now - first < REPEATS_RISE:
        return None
    return _alarm(
        "repeats",
        watches,
        1,
        f"the watched answers repeat themselves: rep-3 {now:.2f}, {first:.2f} at step "
        f"{watches[0]['step']}",
        _BROKEN,
    )


_QUADRANT, _FOLLOWED = "quadrants/chosen_up_rejected_down", "followed/share"
_BROKEN = (
    "Rewards do not show it: go back to a checkpoint from before, and lower learning_rate or "
    "train for fewer steps; lower beta, to about 0.02; or add sft with a small weight. "
    "end_logps/rejected shows whether the end token became improbable"
)
_RULES: tuple[Rule, ...] = (
    _chosen_falls,
    _chosen_collapses,
    _saturated,
    _length_drifts,
    _not_followed,
)
_WATCH_RULES: tuple[Rule, ...] = (_stops_ending, _repeats)


def _alarm(name: AlarmName, logs: Logs, window: int, what: str, advice: str) -> Alarm:
    """An alarm at the newest log, about the last `window` of them."""
    before = logs[-window - 1]["step"] if len(logs) > window else 0
    return Alarm(name=name, step=logs[-1]["step"], what=what, advice=advice, clear_until=before)


def _mean(key: str, logs: Logs) -> float:
    return statistics.fmean(entry[key] for entry in logs)


class AlarmCallback(TrainerCallback):
    """Logs each alarm once when it arises; with `on_alarm: stop` saves a checkpoint and stops.

    No checkpoint from before the alarm is deleted for that. A resumed run does not stop again at an
    alarm that it had before.

    Args:
        objectives: the run's `loss_type`s.
        on_alarm: `warn` or `stop`.
    """

    def __init__(self, objectives: Collection[str], on_alarm: Literal["warn", "stop"]) -> None:
        self.stopped_by: Alarm | None = None
        """What stopped training; None where nothing did."""
        self._objectives = objectives
        self._stops = on_alarm == "stop"
        self._watch = AlarmWatch(objectives)
        self._before: tuple[Alarm, ...] = ()

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Alarms of the run so far, in order of their steps."""
        return tuple(self._watch.alarms)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember the alarms of a run that is resumed."""
        self.stopped_by = None
        self._watch = AlarmWatch(self._objectives)
        for entry in state.log_history:
            self._watch.see(entry)
        self._before = self.alarms

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the newest log; all processes stop where the first one does."""
        entry = state.log_history[-1]
        raised = self._watch.see(entry)
        if state.is_world_process_zero:
            for alarm in raised:
                logger.warning(f"alarm: {alarm}")
        if not self._stops or not any(entry.keys() >= keys for keys in _OF_EVERY_PROCESS):
            return
        if args.world_size > 1:  # what a process logged by itself alone, others have not seen
            first = [self.alarms]
            broadcast_object_list(first)
            self._watch.alarms = list(first[0])
        new = [alarm for alarm in self.alarms if alarm not in self._before]
        self._before = self.alarms
        if new and self.stopped_by is None:
            self.stopped_by = new[0]
            # without the optimizer nothing could be resumed; those of before are to stay
            args.save_only_model, args.save_total_limit = False, None
            control.should_save = control.should_training_stop = True
