"""Goes through the rounds, writes down what each came to, and stops by the rule.

Every step finds what it did before: generate, advise and evaluate in the request store, train in
its checkpoints. A round that stands in `rounds.json` is not gone through again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clair_apo.advice.advise import advise
from clair_apo.advice.decide import LOSS_TYPE, Advice
from clair_apo.clair import Generated, generate
from clair_apo.console import say
from clair_apo.errors import RunError
from clair_apo.evaluation import Evaluation, evaluate
from clair_apo.llm import ChatModel
from clair_apo.models import find_model
from clair_apo.rounds.config import RoundsConfig, StopConfig
from clair_apo.rounds.plan import RoundModels, RoundsPlan, name_of
from clair_apo.rounds.record import Gain, Round, RoundsRecord, read_record, write_record
from clair_apo.run_folder import RunFolder, now
from clair_apo.stats import Interval
from clair_apo.training_process import train_apart


def run_rounds(
    config: RoundsConfig,
    *,
    reviser_model: ChatModel | None = None,
    judge_model: ChatModel | None = None,
) -> RoundsRecord:
    """Make rounds until their number is reached or the rule to stop says so; run again to go on.

    Args:
        config: what to do.
        reviser_model: asked in place of the reviser that the config of generate names.
        judge_model: the same for the judge of generate and advise.

    Raises:
        ConfigError: a file or a setting that cannot be used; before anything is asked.
        RunError: the folder holds rounds of other settings, or another process is at work in it.
        TrainingError: a training ended before its last step, stopped by an alarm for one.
        ClairApoError: as `generate`, `advise` and `evaluate` raise it.
    """
    plan = RoundsPlan(config)
    folder = RunFolder(config.run_dir)
    folder.prepare()
    with folder.locked():
        return _Walk(plan, reviser_model, judge_model).through_all_rounds()


class _Walk:
    """One invocation: the rounds that there are, and those that it adds."""

    def __init__(
        self, plan: RoundsPlan, reviser: ChatModel | None, judge: ChatModel | None
    ) -> None:
        self.plan, self.reviser, self.judge = plan, reviser, judge
        self.folder = plan.config.run_dir
        initial = _lasting_name(plan.generate_config.target.model)
        found = read_record(self.folder)
        if found and found.settings != plan.settings:
            changed = [k for k, v in plan.settings.items() if found.settings.get(k) != v]
            raise RunError(
                f"{self.folder}: was begun with other settings ({', '.join(changed)}); name "
                "another run_dir"
            )
        self.record = found or RoundsRecord(initial=initial, settings=plan.settings)

    def through_all_rounds(self) -> RoundsRecord:
        stopped = self._why_stopped()
        while not stopped:
            number = len(self.record.rounds) + 1
            say(f"round {number} of at most {self.plan.config.rounds}")
            self._make(number)
            stopped = self._why_stopped()
        self._keep(stopped=stopped)
        return self.record

    def _make(self, number: int) -> None:
        """Go through a round, and write down what it came to."""
        models = RoundModels(self.record.initial, self.record.current)
        pairs = generate(
            self.plan.generating(number, models),
            reviser_model=self.reviser,
            judge_model=self.judge,
        )
        advising = self.plan.advising(number, models)
        advice = advise(advising, judge_model=self.judge) if advising else None
        train_apart(
            f"round {number}",
            self.plan.training(number, models),
            self.plan.folders(number).training_config,
            self.plan.launch,
        )
        evaluation = evaluate(self.plan.evaluating(number, models))
        ended = self._ended(number, models, pairs, advice, evaluation)
        self._keep(
            rounds=(*self.record.rounds, ended), initial_figures=_figures(evaluation, name_of(0))
        )

    def _keep(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update=changes)
        write_record(self.folder, self.record)

    def _why_stopped(self) -> str:
        """Why there is no further round; empty where there is one."""
        rounds, most = self.record.rounds, self.plan.config.rounds
        gain = rounds[-1].gain if rounds else None
        if self.plan.config.stop and gain and not gain.gained:
            return f"round {len(rounds)} shows no gain in {gain.figure}: {gain.difference}"
        return f"{most} rounds were asked for" if len(rounds) >= most else ""

    def _ended(
        self,
        number: int,
        models: RoundModels,
        made: Generated,
        advice: Advice | None,
        evaluation: Evaluation,
    ) -> Round:
        folders = self.plan.folders(number)
        training = RunFolder(folders.model).manifest()["stages"]["train"]
        asked = self.plan.training(number, models).get("loss_type", "apo_zero")
        return Round(
            number=number,
            target=models.target,
            model=str(folders.model),
            prompts=made.prompts,
            pairs=made.pairs,
            asked=made.asked,
            loss_type=LOSS_TYPE[advice.advice] if advice else _words(asked),
            advice=advice.advice if advice else None,
            steps=training["steps"],
            figures=_figures(evaluation, name_of(number)),
            gain=_gain(evaluation, number, self.plan.config.stop),
            ended=now(),
        )


def _words(losses: str | list[str]) -> str:
    return losses if isinstance(losses, str) else " + ".join(losses)


def _lasting_name(model: str) -> str:
    """A folder by its whole path: the record is read from elsewhere."""
    find_model(model)
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def _figures(evaluation: Evaluation, model: str) -> dict[str, dict[str, Any]]:
    suites: Mapping[str, Any] = evaluation.content["suites"]
    return {suite: numbers.get(model, {}) for suite, numbers in suites.items()}


def _gain(evaluation: Evaluation, number: int, stop: StopConfig | None) -> Gain | None:
    """What the rule says of a round.

    Raises:
        RunError: the evaluation has no such figure, or no interval of its difference.
    """
    if stop is None:
        return None
    suite, figure, sign = stop.parsed
    both = f"{name_of(number)} - {name_of(number - 1)}"
    differences: Mapping[str, Any] = evaluation.content["suites"][suite]["differences"][both]
    entry = differences.get(figure)
    if entry is None or entry.get("low") is None:
        why = (entry or {}).get("unavailable", f"it has {', '.join(differences)}")
        raise RunError(
            f"stop.figure: the suite {suite} has no difference of {figure!r} ({why}); the round "
            "is kept: set another figure, or leave stop out, and run again"
        )
    difference = Interval(**entry)
    edge = entry["low"] if sign > 0 else -entry["high"]
    return Gain(figure=stop.figure, difference=difference, gained=edge > stop.min_gain)
