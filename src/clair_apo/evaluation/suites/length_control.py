"""The length-controlled win rate: what a model would win if its answers were as long as the others.

A logistic regression explains each preference by the difference of the two lengths, by how hard the
instruction is, and by the model; the win rate is what it predicts at equal lengths (Dubois et al.,
arXiv 2404.04475). Shapes: N comparisons, G gamed rows, F features.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sklearn.linear_model import LogisticRegression

Vector = np.ndarray[Any, np.dtype[np.float64]]

STRENGTHS = tuple(float(c) for c in np.logspace(-4, 4, 10))
"""The inverse strengths of the L1 penalty among which cross-validation chooses."""

_FOLDS = 5
_GAMED_WEIGHT = 0.1
"""The weight of a gamed row; a row of the model's own weighs 1."""
_SEED = 123


@dataclass(frozen=True)
class GamedRows:
    """Comparisons of the baseline, told to be concise or verbose, with itself.

    They tie the effects of length and difficulty to what they are where the model is the same.

    Attributes:
        length_terms: (G,) baseline's length minus the gamed answer's, in standard deviations.
        difficulty: (G,) of their instructions.
        preferences: (G,) 1 where the gamed answer is preferred, 0 where the baseline's is.
    """

    length_terms: Vector
    difficulty: Vector
    preferences: Vector


@dataclass(frozen=True)
class LengthWeights:
    """The effects on the logit of the model's win, of a fit or as published.

    Attributes:
        length: of tanh of the length difference, baseline minus model, in standard deviations.
        difficulty: of the instruction's difficulty; 0 where that is not known.
        model: of the model itself.
    """

    length: float
    difficulty: float
    model: float

    def predicted(self, difficulty: Vector) -> Vector:
        """(N,) the model's share of each comparison if the two answers were of equal length.

        Args:
            difficulty: (N,) of the instructions; zeros where it is not known.
        """
        logits = self.difficulty * difficulty + self.model
        return np.exp(-np.logaddexp(0.0, -logits))


@dataclass(frozen=True)
class LengthControl:
    """A regression fitted to one model's comparisons.

    Attributes:
        weights: the effects that were found.
        strength: the inverse strength of the L1 penalty that was chosen.
        preferences: (N,) as given.
        length_differences: (N,) as given.
        difficulty: (N,) as given; None where it is not known.
        gamed: as given.
    """

    weights: LengthWeights
    strength: float
    preferences: Vector
    length_differences: Vector
    difficulty: Vector | None
    gamed: GamedRows | None

    def win_rate(self) -> float:
        """The length-controlled win rate, 0 to 1."""
        return float(self.weights.predicted(_or_zeros(self.difficulty, self.preferences)).mean())

    def win_rate_on(self, rows: "Sequence[int]") -> float:
        """The win rate of a new fit to some of the rows, for a bootstrap; nan where none is found.

        The penalty is the chosen one, and the gamed rows stay as they are.

        Args:
            rows: numbers of rows from 0; those that occur twice count twice.
        """
        chosen = np.asarray(rows)
        difficulty = None if self.difficulty is None else self.difficulty[chosen]
        try:
            found = fit_length_control(
                self.preferences[chosen],
                self.length_differences[chosen],
                difficulty,
                self.gamed,
                strength=self.strength,
            )
        except ValueError:  # all lengths are equal among these
            return float("nan")
        return found.win_rate()


def fit_length_control(
    preferences: "Sequence[float] | Vector",
    length_differences: "Sequence[float] | Vector",
    difficulty: "Sequence[float] | Vector | None" = None,
    gamed: GamedRows | None = None,
    *,
    strength: float | None = None,
) -> LengthControl:
    """Fit the regression of AlpacaEval 2 to the comparisons of one model with one baseline.

    Without published difficulties the model has two effects only, length and model: the win rate is
    then logistic(model effect), not an average over instructions. Without gamed rows nothing ties
    the effect of length, and where lengths say much of the model it takes part of its quality.
    Where there are few comparisons give a large `strength`: a strong penalty draws the rate to 0.5.

    Args:
        preferences: (N,) 0 to 1; 1 where the model's answer is preferred, 0.5 for a tie, nan where
            there is no verdict: such a row is predicted and not fitted.
        length_differences: (N,) characters of the baseline's answer minus those of the model's.
        difficulty: (N,) of each instruction, as published; None where it is not known.
        gamed: the baseline's gamed rows; only with `difficulty`.
        strength: the inverse strength of the L1 penalty; by default chosen among `STRENGTHS` by
            the log-loss in five folds.

    Raises:
        ValueError: fewer than five verdicts, all length differences equal, or not as many values of
            one kind as of the other.
    """
    y = np.asarray(preferences, dtype=float)
    lengths = np.asarray(length_differences, dtype=float)
    hard = None if difficulty is None else np.asarray(difficulty, dtype=float)
    known = ~np.isnan(y)
    _check(y, lengths, hard, gamed)
    terms = np.tanh(lengths / np.std(lengths, ddof=1))
    design = _Design.of(y[known], terms[known], None if hard is None else hard[known], gamed)
    chosen = design.best_strength() if strength is None else strength
    found = design.fit(chosen).coef_[0]
    weights = LengthWeights(
        length=float(found[0]),
        difficulty=0.0 if hard is None else float(found[2]),
        model=float(found[1]),
    )
    return LengthControl(weights, chosen, y, lengths, hard, gamed)


def _check(y: Vector, lengths: Vector, hard: Vector | None, gamed: GamedRows | None) -> None:
    if len(lengths) != len(y) or (hard is not None and len(hard) != len(y)):
        raise ValueError("preferences, length differences and difficulties must be as many")
    if gamed is not None and hard is None:
        raise ValueError("gamed rows need the difficulty of each instruction")
    if np.count_nonzero(~np.isnan(y)) < _FOLDS:
        raise ValueError(f"a length-controlled win rate needs at least {_FOLDS} verdicts")
    if np.std(lengths) == 0:
        raise ValueError("every answer differs from the other's length by the same: no effect")


@dataclass(frozen=True)
class _Design:
    """What is fitted: (N + G, F) features, (N + G,) targets and weights.

    Targets are soft, so each row stands in the fit twice, won and lost, with its share as weight.
    """

    features: Vector
    targets: Vector
    weights: Vector

    @classmethod
    def of(
        cls, y: Vector, terms: Vector, hard: Vector | None, gamed: GamedRows | None
    ) -> "_Design":
        columns = [terms, np.ones(len(y))] + ([] if hard is None else [hard])
        features, weights = np.stack(columns, axis=1), np.ones(len(y))
        if gamed is None:
            return cls(features, y, weights)
        count = len(gamed.preferences)
        others = [np.tanh(gamed.length_terms), np.zeros(count), gamed.difficulty]
        return cls(
            np.concatenate([np.stack(others, axis=1), features]),
            np.concatenate([gamed.preferences, y]),
            np.concatenate([np.full(count, _GAMED_WEIGHT), weights]),
        )

    def fit(self, strength: float) -> "LogisticRegression":
        from sklearn.linear_model import LogisticRegression  # a second to load

        y, w = self.targets, self.weights
        model = LogisticRegression(
            C=strength, l1_ratio=1, solver="liblinear", fit_intercept=False, random_state=_SEED
        )
        return model.fit(
            np.concatenate([self.features, self.features]),
            np.concatenate([np.ones(len(y)), np.zeros(len(y))]),
            sample_weight=np.concatenate([w * y, w * (1 - y)]),
        )

    def best_strength(self) -> float:
        from sklearn.model_selection import GroupKFold

        # both halves of a row lie in one fold: the folds are of rows
        folds = list(GroupKFold(_FOLDS).split(self.targets, groups=np.arange(len(self.targets))))
        losses = [
            float(np.mean([self._loss(strength, *fold) for fold in folds]))
            for strength in STRENGTHS
        ]
        return STRENGTHS[int(np.argmin(losses))]

    def _loss(self, strength: float, fitted: Any, held_out: Any) -> float:
        """The weighted log-loss of held-out rows, against their soft targets."""
        model = self._rows(fitted).fit(strength)
        rest = self._rows(held_out)
        logits = rest.features @ model.coef_[0]
        losses = np.logaddexp(0.0, logits) - rest.targets * logits
        return float(np.mean(rest.weights * losses))

    def _rows(self, rows: Any) -> "_Design":
        return _Design(self.features[rows], self.targets[rows], self.weights[rows])


def _or_zeros(difficulty: Vector | None, like: Vector) -> Vector:
    return np.zeros(len(like)) if difficulty is None else difficulty
