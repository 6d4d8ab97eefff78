"""The table of the stages: what each asks, writes, depends on and runs; there is no other list.

To add a stage, add an entry to `STAGES` and name it in a recipe (`clair_apo.clair.recipes`); the
table is in a file of its own because the functions of the stages import the recipes. No recipe
names `pair` and `verify`: `stages_of` adds them.
"""

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from clair_apo.clair.prompt_state import (
    CANDIDATES,
    DROPPED_STEPS,
    PAIRS,
    SCORED,
    PromptState,
    StageFile,
    StageOutput,
)
from clair_apo.clair.recipes import Recipe
from clair_apo.clair.stages.chain import make_chain, sum_up_chains
from clair_apo.clair.stages.context import Role, StageContext
from clair_apo.clair.stages.judge import (
    choose,
    claims_of,
    comparisons_of,
    sum_up_judgements,
    sum_up_verifications,
    verify,
)
from clair_apo.clair.stages.pair import make_pair
from clair_apo.clair.stages.respond import respond, respond_in_pool, respond_stronger
from clair_apo.clair.stages.revise import revise, sum_up_revisions
from clair_apo.clair.stages.score import score_pairs
from clair_apo.llm import Dialogue
from clair_apo.records import Conversation, Judgement, Response, Revision, Verification


@dataclass(frozen=True)
class Forecast:
    """What a stage will ask for a prompt, as far as it is known before its turn.

    Attributes:
        reply: what the model replies with; its length is assumed by the kind.
        answers: answers that each request shows.
        requests: how many requests there are; by default one.
        frame: the request without prompt and answers; by default nothing.
    """

    reply: Literal["answer", "revision", "verdict", "score"]
    answers: int = 0
    requests: Callable[[PromptState, StageContext], int] = lambda state, context: 1
    frame: Callable[[StageContext], Conversation] = lambda context: ()


@dataclass(frozen=True)
class StageDef:
    """One stage.

    Attributes:
        name: in the recipes, the manifest and the progress display.
        run: yields requests for a prompt, is sent their answers, and returns what came of it.
        files: what it writes; the rows of the first one fill a field of the `PromptState`.
        role: the model that it asks; None for a stage that asks nothing.
        decided_by: settings in the manifest whose change makes its rows void.
        makes: its rows, for people.
        forecast: for `--estimate`; None for a stage that asks nothing.
        sum_up: numbers for the manifest, from the rows of the last file.
    """

    name: str
    run: Callable[[PromptState, StageContext], Dialogue[StageOutput]]
    files: tuple[StageFile, ...]
    role: Role | None
    decided_by: Set[str]
    makes: str
    forecast: Forecast | None = None
    sum_up: Callable[[Iterable[Any]], dict[str, Any]] | None = None

    @property
    def output(self) -> StageFile:
        """The file that later stages read."""
        return self.files[0]


def scores_of_pairs(state: PromptState, context: StageContext) -> int:
    """How many scores of sides are asked for, beside those that decided which side is which."""
    if context.recipe.chooses and not context.recipe.revises_after_choosing:
        return 0
    return 2 * max(len(state.pairs), 1)


def _frame_of_scoring(context: StageContext) -> Conversation:
    return context.scorer.question((), "").messages if context.scorer else ()


STAGES: dict[str, StageDef] = {
    stage.name: stage
    for stage in (
        StageDef(
            name="respond",
            run=respond,
            files=(StageFile("responses.jsonl", Response, "responses"),),
            role="target",
            decided_by={"answers", "strip_thinking"},
            makes="answers",
            forecast=Forecast("answer"),
        ),
        StageDef(
            name="strengthen",
            run=respond_stronger,
            files=(StageFile("stronger.jsonl", Response, "stronger"),),
            role="reviser",
            decided_by={"reviser"},
            makes="the stronger model's answers",
            forecast=Forecast("answer"),
        ),
        StageDef(
            name="judge",
            run=choose,
            files=(StageFile("judgements.jsonl", Judgement, "judgement"),),
            role="judge",
            decided_by={"judge", "scorer"},
            makes="judgements",
            forecast=Forecast(
                "verdict",
                answers=2,
                requests=comparisons_of,
                frame=lambda context: context.judge.compare((), "", "").messages,
            ),
            sum_up=sum_up_judgements,
        ),
        StageDef(
            name="revise",
            run=revise,
            files=(StageFile("revisions.jsonl", Revision, "revision"),),
            role="reviser",
            decided_by={"reviser", "template", "parser", "fold"},
            makes="revisions",
            forecast=Forecast(
                "revision",
                answers=1,
                frame=lambda context: context.template.render((), "") if context.template else (),
            ),
            sum_up=sum_up_revisions,
        ),
        StageDef(
            name="pair",
            run=make_pair,
            files=(PAIRS,),
            role=None,
            decided_by={"gate", "pairs"},
            makes="pairs",
        ),
        StageDef(
            name="score",
            run=score_pairs,
            files=(PAIRS,),
            role=None,
            decided_by={"scorer"},
            makes="scores",
            forecast=Forecast(
                "score", answers=1, requests=scores_of_pairs, frame=_frame_of_scoring
            ),
        ),
        StageDef(
            name="verify",
            run=verify,
            files=(PAIRS, StageFile("verifications.jsonl", Verification, key="pair_id")),
            role="judge",
            decided_by={"verify", "judge"},
            makes="pairs",
            forecast=Forecast(
                "verdict",
                answers=2,
                requests=claims_of,
                frame=lambda context: context.judge.confirm((), "", "").messages,
            ),
            sum_up=sum_up_verifications,
        ),
    )
}
"""Every stage by its name, in the order of the data."""


def stages_of(
    recipe: Recipe,
    *,
    verified: bool,
    chained: bool,
    scored: bool,
    scoring_role: Role | None,
    pool: int,
) -> tuple[StageDef, ...]:
    """The stages of a run in their order, after the prompts are loaded.

    Args:
        recipe: names those that ask models.
        verified: whether a judge confirms the pairs; until it has, they are candidates.
        chained: whether each edit of a revision makes a pair.
        scored: whether both sides of the pairs get scores.
        scoring_role: the model that gives them; None where checks do.
        pool: how many models answer side by side.
    """
    named: list[StageDef] = []
    for name in recipe.stages:
        named += (
            [_of_pool(number, recipe) for number in range(pool)]
            if name == "pool"
            else [STAGES[name]]
        )
    after = []
    if scored:
        choosing = Forecast("score", answers=1, requests=comparisons_of, frame=_frame_of_scoring)
        named = [
            replace(stage, role=scoring_role, forecast=choosing) if stage.name == "judge" else stage
            for stage in named
        ]
        scores = SCORED if verified else PAIRS
        after.append(replace(STAGES["score"], role=scoring_role, files=(scores,)))
    if verified:
        after.append(STAGES["verify"])
    return (*named, _pairing(CANDIDATES if after else PAIRS, chained=chained), *after)


def _of_pool(number: int, recipe: Recipe) -> StageDef:
    """The stage in which one model of the pool answers."""
    rows = StageFile(f"pool_{number}.jsonl", Response, "responses", optional=recipe.chooses)
    return StageDef(
        name=f"pool_{number}",
        run=partial(respond_in_pool, number=number),
        files=(rows,),
        role=f"pool.{number}",
        decided_by={"pool", "answers", "strip_thinking"},
        makes="answers of the pool",
        forecast=Forecast("answer"),
    )


def _pairing(output: StageFile, *, chained: bool) -> StageDef:
    pairing = STAGES["pair"]
    if chained:
        files = (output, DROPPED_STEPS)
        return replace(pairing, run=make_chain, files=files, sum_up=sum_up_chains)
    return replace(pairing, files=(output,))
