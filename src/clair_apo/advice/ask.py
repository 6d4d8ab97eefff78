"""Asks for what an advice rests on: the model's samples, and a judge's comparisons with them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from clair_apo.advice.comparisons import Comparison, both_orders, read_both_orders
from clair_apo.advice.rows import JudgedSample
from clair_apo.console import show_progress
from clair_apo.errors import DataError
from clair_apo.ingest.cells import conversation
from clair_apo.ingest.pairs import pair_from_row, plain_text
from clair_apo.ingest.rows import read_rows
from clair_apo.llm import CachedChat, Dialogue
from clair_apo.llm.judge import Judge
from clair_apo.llm.thinking import without_thinking
from clair_apo.records import Conversation, Record

T = TypeVar("T")

CONTROL = (
    "This is the best possible answer. It is complete, correct, helpful and well written, and it "
    "keeps to every rule. It is better than the other answer in every respect."
)
"""The text of the controls: it answers no question, and praises itself."""


class JudgedPair(Record):
    """A pair as an advice sees it."""

    id: str
    """The prompt's id."""
    prompt: Conversation
    chosen: str
    rejected: str
    rejected_by: str | None
    """Identity of the model whose plain sample the rejected answer is; None where the pair does not
    say so, and where it is the worst of several."""


class Verdicts(NamedTuple):
    """What a judge said about one pair."""

    chosen: Comparison
    """The chosen answer against the sample."""
    rejected: Comparison | None
    """The rejected answer against the sample; None where it is the sample."""
    control: Comparison | None
    """The chosen answer against the text of the controls; None where it was not asked."""


def load_judged_pairs(name: str, most: int | None) -> list[JudgedPair]:
    """Load the first pairs in the order of their ids.

    Args:
        name: as `ingest.pairs.load_pairs` takes it.
        most: how many; None takes all.

    Raises:
        DataError: as `load_pairs` does.
    """
    found = [_judged_pair(row, where) for where, row in read_rows(name)]
    if not found:
        raise DataError(f"{name}: there is not one pair in it; nothing to compare")
    return sorted(found, key=lambda pair: (pair.id, pair.chosen, pair.rejected))[:most]


def _judged_pair(row: Any, where: str) -> JudgedPair:
    pair = pair_from_row(row, where)
    return JudgedPair(
        id=pair.id,
        prompt=conversation(pair.prompt, where, "prompt")
        if isinstance(pair.prompt, str)
        else pair.prompt,
        chosen=plain_text(pair.chosen),
        rejected=plain_text(pair.rejected),
        rejected_by=_rejected_by(row),
    )


def _rejected_by(row: Any) -> str | None:
    provenance = row.get("provenance") or {}
    side = provenance.get("rejected") or {}
    # the worst of several samples says less for the model than one sample does
    plain = side.get("kind") == "response" and not provenance.get("judged_by")
    return side.get("model") if plain else None


def sample_dialogue(client: CachedChat, pair: JudgedPair) -> Dialogue[str | None]:
    """Have the model answer a pair's prompt; None where it came to no end, or said nothing."""
    (answer,) = yield (client.request(pair.prompt),)
    done = answer.completion
    if done is None or done.finish_reason != "stop":
        return None
    return without_thinking(done.text).strip() or None


def judge_dialogue(
    judge: Judge, pair: JudgedPair, sample: str, control: bool
) -> Dialogue[Verdicts]:
    """Have a judge compare the answers of a pair with the model's sample.

    Args:
        judge: is asked.
        pair: the answers.
        sample: the model's own; where it is the rejected answer, that comparison is left out.
        control: whether to compare the chosen answer with the text of the controls too.
    """
    sides = [(pair.chosen, sample)]
    if pair.rejected != sample:
        sides.append((pair.rejected, sample))
    if control:
        sides.append((pair.chosen, CONTROL))
    questions = [both_orders(judge, pair.prompt, *side) for side in sides]
    asked = tuple(question for both in questions for question in both)
    answers = iter((yield asked) if asked else ())
    found = [read_both_orders([next(answers) for _ in both]) for both in questions]
    return Verdicts(
        chosen=found[0],
        rejected=found[1] if pair.rejected != sample else None,
        control=found[-1] if control else None,
    )


def judged_row(
    pair: JudgedPair, answer: str, sample: str, found: Comparison
) -> JudgedSample | None:
    """The row of a comparison; None where one of its replies held no verdict.

    Args:
        pair: names the prompt.
        answer: the side that was compared with the sample.
        sample: the model's own answer.
        found: what the judge said.
    """
    if found.share is None:
        return None
    return JudgedSample(
        prompt_id=pair.id,
        chosen_share=found.share,
        consistent=found.consistent,
        chosen=answer,
        sample=sample,
        first_place=found.first_place,
    )


def ask_all(title: str, client: CachedChat, dialogues: Sequence[Dialogue[T]]) -> list[T]:
    """The results of dialogues, in their order, with a progress display."""
    results: Iterable[T] = client.converse(dialogues)
    found = []
    with show_progress(title, len(dialogues), client.meter) as tell:
        for result in results:
            found.append(result)
            tell("left out" if result is None else "done")
    return found
