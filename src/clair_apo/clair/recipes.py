"""The recipes: what a prompt goes through, and which of the texts become the sides of its pair.

Each recipe is one entry of `RECIPES`; `clair_apo.clair.stages.table` says what its stages do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, WithJsonSchema

from clair_apo.clair.prompt_state import PromptState
from clair_apo.records import Direction, Response, Revision


class Side(NamedTuple):
    """One side of a recipe's pairs."""

    words: str
    """What it is, for people."""
    take: Callable[[PromptState], Response | Revision]
    """Finds it among what the stages have made."""


class Sides(NamedTuple):
    """The two texts that a pair is made of."""

    chosen: Response | Revision
    rejected: Response | Revision


def only_answer(state: PromptState) -> Response:
    """The answer of a recipe that has one for each prompt."""
    return state.responses[0]


def best_answer(state: PromptState) -> Response:
    """The answer that the judge, or the data's scores, hold for the best."""
    assert state.judgement is not None
    return state.response(state.judgement.better)


def worst_answer(state: PromptState) -> Response:
    """The answer that the judge, or the data's scores, hold for the worst."""
    assert state.judgement is not None
    return state.response(state.judgement.worse)


def answer_of_first(state: PromptState) -> Response:
    """The answer of the first model of the pool."""
    return state.response(0)


def answer_of_second(state: PromptState) -> Response:
    """The answer of the second model of the pool."""
    return state.response(1)


def stronger_answer(state: PromptState) -> Response:
    """The stronger model's own answer."""
    assert state.stronger is not None
    return state.stronger


def revision(state: PromptState) -> Revision:
    """The reviser's revision."""
    assert state.revision is not None
    return state.revision


@dataclass(frozen=True)
class Recipe:
    """What happens to a prompt, and how its pair is made of the result.

    Attributes:
        stages: names of entries in the table of stages, in their order; pairing comes after them.
        chosen: the better side.
        rejected: the other side.
        revises: the answer that the reviser gets, where there is one.
        direction: where the revision leads.
        given_only: whether the data must bring the answers.
    """

    stages: tuple[str, ...]
    chosen: Side
    rejected: Side
    revises: Callable[[PromptState], Response] = only_answer
    direction: Direction = "improve"
    given_only: bool = False

    def pool_fault(self, models: int) -> str:
        """Why the recipe cannot have so many models in its pool; empty where it can."""
        if "pool" not in self.stages:
            return "asks no pool of models: take pool out" if models else ""
        if self.chooses:
            return "" if models > 1 else "needs two or more models: list them in pool"
        return "" if models == 2 else f"needs two models in pool, and there are {models}"

    @property
    def revises_after_choosing(self) -> bool:
        """Whether a side is made of an answer after answers were chosen."""
        return self.chooses and "revise" in self.stages

    @property
    def chooses(self) -> bool:
        """Whether a judge or scores choose among several answers."""
        return "judge" in self.stages

    @property
    def has_both_sides_of_a_revision(self) -> bool:
        """Whether the two sides are one answer, before and after its revision."""
        return {self.chosen.take, self.rejected.take} == {revision, self.revises}

    @property
    def words(self) -> dict[str, str]:
        """What the two sides are, for people: `chosen` and `rejected`."""
        return {"chosen": self.chosen.words, "rejected": self.rejected.words}

    def sides(self, state: PromptState) -> Sides:
        """The two sides of a prompt that came through all stages.

        A revision that was asked to be worse is rejected, whatever the recipe; chosen is then the
        answer that it was made of.
        """
        if state.revision and state.revision.direction == "worsen":
            return Sides(chosen=state.response(state.revision.sample), rejected=state.revision)
        return Sides(chosen=self.chosen.take(state), rejected=self.rejected.take(state))


RECIPES: dict[str, Recipe] = {
    "clair": Recipe(
        stages=("respond", "revise"),
        chosen=Side("a reviser's minimal revision of that answer", revision),
        rejected=Side("the target model's answer", only_answer),
    ),
    "stronger_preferred": Recipe(
        stages=("respond", "strengthen"),
        chosen=Side("a stronger model's own answer", stronger_answer),
        rejected=Side("the target model's answer", only_answer),
    ),
    "on_policy_judge": Recipe(
        stages=("respond", "judge"),
        chosen=Side("the best one", best_answer),
        rejected=Side("the worst of several answers of the target model, by a judge", worst_answer),
    ),
    "off_policy_judge": Recipe(
        stages=("respond", "judge"),
        chosen=Side("the best one", best_answer),
        rejected=Side("the worst of the given answers, by a judge or their scores", worst_answer),
        given_only=True,
    ),
    "pool": Recipe(
        stages=("pool", "judge"),
        chosen=Side("the best one", best_answer),
        rejected=Side("the worst of several models' answers, by a judge or scores", worst_answer),
    ),
    "delta": Recipe(
        stages=("pool",),
        chosen=Side("the answer of the first model of the pool", answer_of_first),
        rejected=Side("the answer of the second, a weaker one", answer_of_second),
    ),
    "judge_then_revise": Recipe(
        stages=("respond", "judge", "revise"),
        chosen=Side("a reviser's revision of the best one", revision),
        rejected=Side("the worst of several answers of the target model, by a judge", worst_answer),
        revises=best_answer,
    ),
    "worsen": Recipe(
        stages=("respond", "revise"),
        chosen=Side("the target model's answer", only_answer),
        rejected=Side("a reviser's minimally worsened answer", revision),
        direction="worsen",
    ),
}
"""Every recipe by its name in a config."""


def _known(name: str) -> str:
    if name not in RECIPES:
        raise ValueError(f"expected one of {', '.join(map(repr, RECIPES))}")
    return name


RecipeName = Annotated[
    str, AfterValidator(_known), WithJsonSchema({"enum": list(RECIPES), "type": "string"})
]
"""A name in `RECIPES`."""
