"""Suite `alpaca_eval`: win rates against a baseline, raw and length-controlled, in points.

Published annotations are scored as they are. Models that are asked are judged by a judge of the
config's in both orders; that is not AlpacaEval's annotator, and its figures are no leaderboard's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from clair_apo.advice.comparisons import Comparison as Verdicts
from clair_apo.advice.comparisons import compare
from clair_apo.config import UserPath
from clair_apo.errors import ConfigError
from clair_apo.evaluation.suites.alpaca_files import (
    Comparison,
    Output,
    positions,
    read_difficulty,
    read_gamed,
    read_outputs,
    read_weights,
    recorded_comparisons,
)
from clair_apo.evaluation.suites.base import (
    EvaluatedModel,
    SuiteConfig,
    SuiteContext,
    SuiteResult,
)
from clair_apo.evaluation.suites.benchmark_judge import JudgeSpec, described
from clair_apo.evaluation.suites.figures import Figure, RowFigure, StatisticFigure, Unavailable
from clair_apo.evaluation.suites.length_control import (
    GamedRows,
    LengthControl,
    LengthWeights,
    fit_length_control,
)
from clair_apo.llm.judge import Judge
from clair_apo.records import Message

_POINTS = 100.0
_DRAWS = 500
"""Data sets that an interval of a fit is drawn from; each is a fit of its own."""
_PUBLISHED = "length_controlled_published"


class AlpacaEval(SuiteConfig):
    """AlpacaEval 2: win rate, discrete win rate, and length-controlled win rate."""

    needs_prompts: ClassVar[bool] = False

    suite: Literal["alpaca_eval"] = "alpaca_eval"
    data: UserPath | None = None
    """The baseline's outputs, as AlpacaEval publishes them: the file, or the folder that holds
    `model_outputs.json`. Models that are asked are asked its instructions; their order is the one
    that difficulties are kept by."""
    judge: JudgeSpec | None = None
    """Compares the answers of models that are asked with the baseline's, in both orders, at
    temperature 0 unless it says otherwise; annotations need none."""
    difficulty: UserPath | None = None
    """AlpacaEval's `instruction_difficulty.csv`, for the length-controlled win rate."""
    gamed: UserPath | None = None
    """AlpacaEval's `df_gamed.csv`, likewise: the baseline's rows when told to be short or long."""
    weights: UserPath | None = None
    """AlpacaEval's published weights of models, for the length-controlled win rate that was
    published; a model is found by its name in the config or in its annotations."""
    max_tokens: int = Field(2048, gt=0)
    """The limit of an answer of a model that is asked."""

    def check(self) -> None:
        """Find out what is wrong with the files of the config.

        Raises:
            ConfigError, DataError: one is missing, or a row of it is wrong.
        """
        self._length_files()

    def run(self, context: SuiteContext) -> SuiteResult:
        """Score every model's annotations, or ask and judge it.

        Raises:
            ConfigError, DataError: a file is missing or wrong, in one line.
        """
        files = self._length_files()
        scored = {model.name: self._scored(context, model, files) for model in context.models}
        return SuiteResult(
            figures=_of_all({name: one.figures() for name, one in scored.items()}),
            remarks=[*self._remarks(context), *(r for one in scored.values() for r in one.remarks)],
            rows={name: one.rows() for name, one in scored.items()},
            counts={name: one.counts() for name, one in scored.items()},
            fault=_fault(list(scored.values())),
        )

    def _length_files(self) -> "_LengthFiles":
        difficulty = None if self.difficulty is None else read_difficulty(self.difficulty)
        if difficulty is None and (self.gamed or self.weights):
            name = "gamed" if self.gamed else "weights"
            raise ConfigError(f"suite alpaca_eval: {name} needs difficulty beside it")
        return _LengthFiles(
            [] if self.data is None else read_outputs(self.data),
            difficulty,
            None if self.gamed is None else read_gamed(self.gamed, difficulty or {}),
            None if self.weights is None else read_weights(self.weights),
        )

    def _scored(
        self, context: SuiteContext, model: EvaluatedModel, files: "_LengthFiles"
    ) -> "_Scored":
        if model.spec is None:
            return _Scored(model.name, recorded_comparisons(model), files)
        if self.judge is None or self.data is None:
            missing = "data" if self.data is None else "judge"
            raise ConfigError(
                f"suite alpaca_eval: models.{model.name} is asked, which needs {missing}"
            )
        return self._judged(context, model, files, Judge(context.client(self.judge)))

    def _judged(
        self, context: SuiteContext, model: EvaluatedModel, files: "_LengthFiles", judge: Judge
    ) -> "_Scored":
        asked = [(Message(role="user", content=one.instruction),) for one in files.outputs]
        answers = context.answers(model, asked, max_tokens=self.max_tokens)
        given = [
            (conversation, answer.completion.text, output)
            for conversation, answer, output in zip(asked, answers, files.outputs, strict=True)
            if answer.completion
        ]
        dialogues = [compare(judge, turns, text, output.output) for turns, text, output in given]
        verdicts = context.converse(f"judging {model.name}", judge.chat, dialogues)
        comparisons = [
            Comparison(output.instruction, text, output.output, verdict.share, model.name)
            for (_, text, output), verdict in zip(given, verdicts, strict=True)
        ]
        return _Scored(model.name, comparisons, files, verdicts, unanswered=len(asked) - len(given))

    def _remarks(self, context: SuiteContext) -> list[str]:
        if self.judge is None or all(model.spec is None for model in context.models):
            return []
        remarks = [
            f"the judge is {described(self.judge)}, in both orders: not AlpacaEval's annotator, so "
            "no figure of a model that was asked belongs beside the leaderboard's"
        ]
        if self.difficulty:
            remarks.append(
                "the difficulties are those of AlpacaEval's annotator, not of this judge"
            )
        return remarks


def _fault(scored: Sequence["_Scored"]) -> str:
    rows = [comparison for one in scored for comparison in one.comparisons]
    if not rows or any(row.preference is not None for row in rows):
        return ""
    return f"none of {len(rows)} comparisons has a preference"


@dataclass(frozen=True)
class _LengthFiles:
    """What the length-controlled win rate needs; None where the config names no file."""

    outputs: Sequence[Output]
    difficulty: Mapping[int, float] | None
    gamed: GamedRows | None
    weights: Mapping[str, LengthWeights] | None


@dataclass
class _Scored:
    """One model's comparisons, and the figures of them."""

    name: str
    comparisons: Sequence[Comparison]
    files: _LengthFiles
    verdicts: Sequence[Verdicts] = ()
    unanswered: int = 0
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        missing = len(self.files.outputs) - len(self.comparisons)
        if self.files.outputs and missing > 0:
            self.remarks.append(f"{self.name}: {missing} of `data`'s instructions have no answer")
        if without := self.counts()["without_preference"]:
            self.remarks.append(
                f"{self.name}: {without} of {len(self.comparisons)} comparisons have no preference "
                "and leave the win rates"
            )

    def figures(self) -> dict[str, Figure]:
        shares = {one.id: one.preference for one in self.comparisons if one.preference is not None}
        hard = {id: float(share > 0.5) + 0.5 * (share == 0.5) for id, share in shares.items()}
        lengths = self._difficulties()
        found: dict[str, Figure] = {
            "win_rate": self._mean(shares),
            "discrete_win_rate": self._mean(hard),
            "length_controlled_win_rate": self._fitted(lengths),
        }
        if self.files.weights is not None:
            found[_PUBLISHED] = self._published(lengths)
        return found | self._of_the_judge()

    def counts(self) -> dict[str, int]:
        shares = [one.preference for one in self.comparisons]
        known = [share for share in shares if share is not None]
        return {
            "rows": len(shares),
            "wins": sum(share > 0.5 for share in known),
            "losses": sum(share < 0.5 for share in known),
            "ties": sum(share == 0.5 for share in known),
            "without_preference": len(shares) - len(known),
            "unanswered": self.unanswered,
            "mean_characters": _mean_length([one.output for one in self.comparisons]),
            "mean_characters_of_baseline": _mean_length([one.baseline for one in self.comparisons]),
        }

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "id": one.id,
                "instruction": one.instruction,
                "preference": one.preference,
                "characters": len(one.output),
                "characters_of_baseline": len(one.baseline),
            }
            for one in self.comparisons
        ]

    def _mean(self, values: Mapping[str, float]) -> Figure:
        if not values:
            return Unavailable(f"none of {len(self.comparisons)} comparisons has a preference")
        return RowFigure(values, factor=_POINTS)

    def _difficulties(self) -> "np.ndarray[Any, np.dtype[np.float64]] | Unavailable":
        """The difficulty of each comparison's instruction, looked up by the instruction."""
        table = self.files.difficulty
        if table is None:
            return Unavailable("difficulty names no file: give AlpacaEval's difficulties")
        places = positions(self.comparisons, [one.instruction for one in self.files.outputs])
        if places is None:
            return Unavailable(
                f"the {len(self.comparisons)} instructions are not AlpacaEval's 805 in their order,"
                " by which difficulties are looked up: give the baseline's outputs as `data`"
            )
        if missing := [place for place in places if place not in table]:
            return Unavailable(f"difficulty has no row for instruction {missing[0]}")
        return np.asarray([table[place] for place in places])

    def _fitted(self, difficulty: "np.ndarray[Any, Any] | Unavailable") -> Figure:
        if isinstance(difficulty, Unavailable):
            return difficulty
        if self.files.gamed is None:
            return Unavailable("gamed names no file: give the baseline's gamed rows")
        shares = [np.nan if one.preference is None else one.preference for one in self.comparisons]
        differences = [float(len(one.baseline) - len(one.output)) for one in self.comparisons]
        try:
            control = fit_length_control(shares, differences, difficulty, self.files.gamed)
        except ValueError as error:
            return Unavailable(str(error))
        if not control.weights.model and not control.weights.difficulty:
            return Unavailable(
                f"in {len(shares)} comparisons cross-validation finds no effect of the model, and "
                "its penalty alone would make the rate 50"
            )
        self._remark_on(control)
        place = {one.id: number for number, one in enumerate(self.comparisons)}
        refitted: dict[bytes, float] = {}

        def win_rate(ids: Sequence[str]) -> float:
            rows = [place[id] for id in ids]
            key = np.asarray(rows).tobytes()
            if key not in refitted:  # each difference draws the rows of the intervals once more
                refitted[key] = _POINTS * control.win_rate_on(rows)
            return refitted[key]

        return StatisticFigure(list(place), win_rate, draws=_DRAWS)

    def _remark_on(self, control: LengthControl) -> None:
        assert control.difficulty is not None
        predicted = _POINTS * control.weights.predicted(control.difficulty)
        error = float(np.std(predicted, ddof=1) / np.sqrt(len(predicted)))
        self.remarks.append(
            f"{self.name}: the interval of length_controlled_win_rate holds the uncertainty of the "
            f"fit; AlpacaEval's standard error, which leaves that out, is {error:.2f}"
        )

    def _published(self, difficulty: "np.ndarray[Any, Any] | Unavailable") -> Figure:
        if isinstance(difficulty, Unavailable):
            return difficulty
        generator = next((one.generator for one in self.comparisons), "")
        table = self.files.weights or {}
        found = table.get(self.name) or table.get(generator)
        if found is None:
            return Unavailable(f"weights has no row {self.name!r} or {generator!r}")
        values = found.predicted(difficulty).tolist()
        ids = [one.id for one in self.comparisons]
        return RowFigure(dict(zip(ids, values, strict=True)), factor=_POINTS)

    def _of_the_judge(self) -> dict[str, Figure]:
        """How a judge in both orders agrees with itself; recorded annotations have one order."""
        if not self.verdicts:
            return {}
        ids = [one.id for one in self.comparisons]
        asked = [(id, one) for id, one in zip(ids, self.verdicts, strict=True) if one.asked]
        read = {id: float(one.consistent) for id, one in asked if one.share is not None}
        first = {id: place for id, one in asked if (place := one.first_place) is not None}
        return {"consistent": self._mean(read), "first_place": self._mean(first)}


def _of_all(found: Mapping[str, dict[str, Figure]]) -> dict[str, dict[str, Figure]]:
    """The same figures for every model, in the same order."""
    names = list(dict.fromkeys(name for figures in found.values() for name in figures))
    absent = Unavailable("annotations have one order only")
    return {
        model: {name: figures.get(name, absent) for name in names}
        for model, figures in found.items()
    }


def _mean_length(texts: Sequence[str]) -> int:
    return round(float(np.mean([len(text) for text in texts]))) if texts else 0
