"""The suite `health`: do answers end, do they repeat themselves, how far has the model drifted?

Words are what blanks separate, so these figures are the same for every tokeniser; only `tokens`
and the log-probabilities are in tokens of the model's own tokeniser. Every figure is of whole
answers: one row for each held-out prompt, or pair.

    ended                 share of answers that end by themselves, not at the token limit
    characters, tokens    length
    rep_2, rep_3, rep_4   1 - distinct / total n-grams of words, within an answer; mean over answers
    repeated_sentence     share of answers in which a sentence of three or more words stands twice
    distinct_1, _2        distinct / total n-grams of words over all answers, each model's cut at
                          the same number of words
    empty, refused        shares of answers without text, and of those that begin by declining
    copied                share of an answer's 4-grams of words that stand in its prompt; mean
    kl_k1, kl_k3          from the base, on the model's own answers, in nats an answer: the sum over
                          tokens of log(p / q), and of q / p - 1 - log(q / p), which is never below
                          0 (p the model, q its base)
    chosen, rejected, margin   of held-out pairs: summed log-probabilities of the answers, and
                          the first minus the second; the difference of two models in these is
                          the log-ratio
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from clair_apo.evaluation.suites.base import (
    EvaluatedModel,
    ScoredText,
    SuiteConfig,
    SuiteContext,
    SuiteResult,
)
from clair_apo.evaluation.suites.figures import Figure, RowFigure, StatisticFigure, Unavailable
from clair_apo.evaluation.suites.prompt_answers import PromptAnswer, answer_prompts, failures
from clair_apo.records import PreferencePair
from clair_apo.text.detectors import is_refusal
from clair_apo.text.repetition import copied, distinct, has_repeated_sentence, repetition

Answers = Mapping[str, Sequence[PromptAnswer]]
TEXT_SHARES: Mapping[str, Callable[[PromptAnswer, str], bool]] = {
    "repeated_sentence": lambda _, text: has_repeated_sentence(text),
    "empty": lambda _, text: not text.strip(),
    "refused": lambda one, text: one.refused or is_refusal(text),
}
TEXT_MEANS: Mapping[str, Callable[[PromptAnswer, str], float]] = {
    "characters": lambda _, text: len(text),
    "rep_2": lambda _, text: repetition(text, 2),
    "rep_3": lambda _, text: repetition(text, 3),
    "rep_4": lambda _, text: repetition(text, 4),
    "copied": lambda one, text: copied(text, "\n".join(m.content for m in one.conversation)),
}


class HealthSuite(SuiteConfig):
    """Whether answers end and repeat, how long they are, and how far the model has drifted."""

    suite: Literal["health"] = "health"
    drift: bool = True
    """Measure log-probabilities, of models in this process: of each one's own answers under itself
    and under the base, and of the held-out pairs."""
    base: str | None = None
    """The model that drift is measured from; by default the second of `models`."""

    def run(self, context: SuiteContext) -> SuiteResult:
        """Look at every model's answer to every prompt."""
        answers = answer_prompts(context)
        shared = _answered_by_all(answers)
        words = _shared_words(shared)
        drift = self._drift(context, answers)
        figures = {
            name: {**_text_figures(found), **_distinct(shared[name], words), **drift[name]}
            for name, found in answers.items()
        }
        remarks = [*failures(answers), *self._remarks(context, words)]
        return SuiteResult(
            figures=figures,
            remarks=remarks,
            rows={
                name: [_row(one, figures[name]) for one in found] for name, found in answers.items()
            },
            counts={
                name: {"failed": sum(one.text is None for one in found)}
                for name, found in answers.items()
            },
        )

    def _remarks(self, context: SuiteContext, words: int) -> list[str]:
        found = [f"distinct_1 and distinct_2 are of the first {words:,} words of each model"]
        greedy = [m.name for m in context.models if m.spec and m.spec.temperature == 0]
        if self.drift and greedy and len(context.models) > 1:
            found.append(
                f"{' and '.join(greedy)} answered greedily (temperature 0): kl_k1 and kl_k3 are "
                "then of the likeliest answers, and no estimate of a KL divergence; that takes "
                "temperature 1"
            )
        return found

    def _drift(self, context: SuiteContext, answers: Answers) -> dict[str, dict[str, Figure]]:
        if not self.drift:
            return {name: {} for name in answers}
        base = self._base(context.models)
        found: dict[str, dict[str, Figure]] = {}
        for model in context.models:
            found[model.name] = _kl(context, model, base, answers[model.name])
            if context.pairs:
                found[model.name] |= _pair_figures(context, model)
        return found

    def _base(self, models: Sequence[EvaluatedModel]) -> EvaluatedModel | None:
        if self.base is None:
            return models[1] if len(models) > 1 else None
        return next((model for model in models if model.name == self.base), None)


def _text_figures(found: Sequence[PromptAnswer]) -> dict[str, Figure]:
    texts = [(one, one.text) for one in found if one.text is not None]
    figures: dict[str, Figure] = {"ended": _ended([one for one, _ in texts])}
    for name, holds in TEXT_SHARES.items():
        figures[name] = RowFigure({one.id: holds(one, text) for one, text in texts}, unit=True)
    for name, measure in TEXT_MEANS.items():
        figures[name] = RowFigure({one.id: measure(one, text) for one, text in texts})
    if any(text and not one.tokens for one, text in texts):
        figures["tokens"] = Unavailable("nobody counted the tokens of these answers")
    else:
        figures["tokens"] = RowFigure({one.id: float(one.tokens) for one, _ in texts})
    return figures


def _ended(found: Sequence[PromptAnswer]) -> Figure:
    if any(one.finish_reason in ("given", "other") for one in found):
        return Unavailable("the recording does not say what ended the answers")
    return RowFigure({one.id: one.finish_reason == "stop" for one in found}, unit=True)


def _answered_by_all(answers: Answers) -> Answers:
    """The answers to prompts that every model has answered: a body of text to compare."""
    failed = {one.id for found in answers.values() for one in found if one.text is None}
    return {name: [one for one in found if one.id not in failed] for name, found in answers.items()}


def _shared_words(answers: Answers) -> int:
    """The words that every model's answers have, whichever one of them is left out."""
    lengths = [
        [len(one.text.split()) for one in found if one.text is not None]
        for found in answers.values()
    ]
    # the jackknife leaves out up to one of fifty
    return min(
        (
            sum(one) - sum(sorted(one)[-max(1, math.ceil(len(one) / 50)) :])
            for one in lengths
            if one
        ),
        default=0,
    )


def _distinct(found: Sequence[PromptAnswer], words: int) -> dict[str, Figure]:
    texts = {one.id: one.text for one in found if one.text is not None}

    def figure(n: int) -> Figure:
        if distinct(texts.values(), n, words) is None:
            return Unavailable("there are too few words to count distinct ones")
        return StatisticFigure(
            list(texts),
            lambda ids: distinct((texts[id] for id in ids), n, words) or 0.0,
            jackknife=True,
        )

    return {f"distinct_{n}": figure(n) for n in (1, 2)}


def _row(one: PromptAnswer, figures: Mapping[str, Figure]) -> dict[str, Any]:
    values = {
        name: figure.values[one.id]
        for name, figure in figures.items()
        if isinstance(figure, RowFigure) and one.id in figure.values
    }
    return {"id": one.id, "finish_reason": one.finish_reason, "failure": one.failure, **values}


def _kl(
    context: SuiteContext,
    model: EvaluatedModel,
    base: EvaluatedModel | None,
    found: Sequence[PromptAnswer],
) -> dict[str, Figure]:
    """k1 and k3 of the KL divergence from the base, on the model's own answers."""

    def without(reason: str) -> dict[str, Figure]:
        return {"kl_k1": Unavailable(reason), "kl_k3": Unavailable(reason)}

    if base is None:
        return without("there is no other model to measure drift from")
    if base.name == model.name:
        return without("this is the model that drift is measured from")
    answered = [one for one in found if one.text]
    texts = [ScoredText(o.conversation, o.text or "", o.finish_reason == "stop") for o in answered]
    own = context.log_probs(model, texts)
    other = own if isinstance(own, Unavailable) else context.log_probs(base, texts)
    if isinstance(own, Unavailable) or isinstance(other, Unavailable):
        missing = own if isinstance(own, Unavailable) else other
        assert isinstance(missing, Unavailable)
        return without(missing.reason)
    if any(len(a) != len(b) for a, b in zip(own, other, strict=True)):
        return without(f"{model.name} and {base.name} have different tokens")
    k1, k3 = {}, {}
    for one, p, q in zip(answered, own, other, strict=True):
        k1[one.id] = sum(p) - sum(q)
        k3[one.id] = sum(
            math.exp(min(b - a, 700.0)) - 1 - (b - a) for a, b in zip(p, q, strict=True)
        )
    return {"kl_k1": RowFigure(k1), "kl_k3": RowFigure(k3)}


def _pair_figures(context: SuiteContext, model: EvaluatedModel) -> dict[str, Figure]:
    """Log-probabilities of the answers of held-out pairs."""
    sides = [_scored(pair, pair.chosen) for pair in context.pairs]
    sides += [_scored(pair, pair.rejected) for pair in context.pairs]
    logps = context.log_probs(model, sides)
    if isinstance(logps, Unavailable):
        return dict.fromkeys(("chosen", "rejected", "margin"), logps)
    ids = [f"{pair.id}#{number}" for number, pair in enumerate(context.pairs)]
    clusters = {id: pair.id for id, pair in zip(ids, context.pairs, strict=True)}
    sums = [sum(one) for one in logps]
    chosen, rejected = sums[: len(ids)], sums[len(ids) :]
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)]
    return {
        name: RowFigure(dict(zip(ids, values, strict=True)), clusters)
        for name, values in (("chosen", chosen), ("rejected", rejected), ("margin", margins))
    }


def _scored(pair: PreferencePair, answer: Sequence[Any]) -> ScoredText:
    conversation = (*pair.prompt, *answer[:-1])
    return ScoredText(conversation, answer[-1].content)
