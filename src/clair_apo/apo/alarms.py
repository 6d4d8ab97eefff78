"""Alarms: warnings where the metrics of a run contradict its objective.

An alarm is a function of the logged metrics alone, so a resumed run knows those it had, and a
finished one can be looked over again. Each is raised once. Thresholds and windows are the constants
below; a window is a number of logs (`logging_steps` apart), and what is compared is its mean.
"""

import logging
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

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

_OF_EVERY_PROCESS = {"loss", "learning_rate"}
"""Keys of the logs that the Trainer itself writes, on every process after the same step."""

AlarmName = Literal["chosen_falls", "chosen_collapses", "saturated", "length_drifts"]
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
        self._silent: list[Rule] = list(_RULES)

    def see(self, entry: Mapping[str, Any]) -> list[Alarm]:
        """Take the next log, and return the alarms that it raises.

        Args:
            entry: as `trainer.state.log_history` holds it; only training steps' logs count.
        """
        if "saturation" not in entry:  # an evaluation, or a loss that TRL computes itself
            return []
        self._logs.append(entry)
        raised = []
        for rule in tuple(self._silent):
            alarm = rule(self._logs, self._objectives)
            if alarm is not None:
                self._silent.remove(rule)
                raised.append(alarm)
        self.alarms += raised
        return raised


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
    return Alarm(name="chosen_falls", step=logs[-1]["step"], what=what, advice=advice)


def _chosen_collapses(logs: Logs, objectives: frozenset[str]) -> Alarm | None:
    if "apo_down" not in objectives or len(logs) < COLLAPSE_WINDOW:
        return None
    window = logs[-COLLAPSE_WINDOW:]
    nats = _mean("logratios_per_token/chosen", window)
    if not nats < COLLAPSE_NATS:
        return None
    now, before = _mean("logps/chosen", window), _mean("ref_logps/chosen", window)
    return Alarm(
        name="chosen_collapses",
        step=logs[-1]["step"],
        what=f"the log-probability of chosen answers collapses: {now:.0f} where the reference "
        f"gives {before:.0f}, {nats:+.2f} nats a token over the last {COLLAPSE_WINDOW} logs",
        advice="apo_down has no floor. If the chosen answers are better than the model's own, take "
        "apo_zero; if not, lower learning_rate, train for fewer steps or raise beta",
    )


def _saturated(logs: Logs, objectives: frozenset[str]) -> Alarm | None:
    if len(logs) < SATURATED_WINDOW:
        return None
    share = _mean("saturation", logs[-SATURATED_WINDOW:])
    if not share > SATURATED_SHARE:
        return None
    return Alarm(
        name="saturated",
        step=logs[-1]["step"],
        what=f"{share:.0%} of the objective's terms are saturated over the last "
        f"{SATURATED_WINDOW} logs: their gradient is under a tenth of its most",
        advice="More steps teach little: stop here, or lower beta. If it came within few steps, "
        "lower learning_rate",
    )


def _length_drifts(logs: Logs, objectives: frozenset[str]) -> Alarm | None:
    if len(logs) < 2 * DRIFT_WINDOW:
        return None
    first = _mean("lengths/chosen", logs[:DRIFT_WINDOW])
    last = _mean("lengths/chosen", logs[-DRIFT_WINDOW:])
    if not abs(last / first - 1) > DRIFT_SHARE:
        return None
    return Alarm(
        name="length_drifts",
        step=logs[-1]["step"],
        what=f"the length of chosen answers drifts: {last:.0f} tokens in the last "
        f"{DRIFT_WINDOW} logs, {first:.0f} in the first",
        advice="The pairs come in an order of length, and every other curve shows that too: "
        "shuffle them (train_sampling_strategy random)",
    )


_RULES: tuple[Rule, ...] = (_chosen_falls, _chosen_collapses, _saturated, _length_drifts)


def _mean(key: str, logs: Logs) -> float:
    return statistics.fmean(entry[key] for entry in logs)


class AlarmCallback(TrainerCallback):
    """Logs each alarm once when it arises; with `on_alarm: stop` saves a checkpoint and stops.

    A resumed run does not stop again at an alarm that it had before.

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
        if not self._stops or not entry.keys() >= _OF_EVERY_PROCESS:
            return
        if args.world_size > 1:  # what a process logged by itself alone, others have not seen
            first = [self.alarms]
            broadcast_object_list(first)
            self._watch.alarms = list(first[0])
        new = [alarm for alarm in self.alarms if alarm not in self._before]
        self._before = self.alarms
        if new and self.stopped_by is None:
            self.stopped_by = new[0]
            # without the optimizer nothing could be resumed
            args.save_only_model = False
            control.should_save = control.should_training_stop = True
