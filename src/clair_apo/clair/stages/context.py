"""What the stages of a run work with: its recipe, models, template, gate and limits."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from pydantic import Field

from clair_apo.clair.filters.gate import Gate
from clair_apo.clair.recipes import Recipe
from clair_apo.clair.revision.template import RevisionTemplate
from clair_apo.clair.scorer import Scorer
from clair_apo.config import Section
from clair_apo.llm import CachedChat, Meter
from clair_apo.llm.judge import Judge
from clair_apo.records import Judgement, Response, Revision, digest

Role = str
"""A model of a run by its place in the config, such as `target`, `pool.0` or `scorer.reward`."""


class ControlsConfig(Section):
    """How a judge that verifies pairs is itself tested."""

    share: float = Field(0.1, ge=0, le=1)
    """Share of the pairs about which the judge is also asked the swapped claim, that rejected is
    better; it must reject that."""
    seed: int = 0
    """Decides which pairs are controls."""

    def holds(self, pair_id: str) -> bool:
        """Whether a pair is a control."""
        return int(digest([self.seed, pair_id])[:8], 16) / 2**32 < self.share


class ModelClients(NamedTuple):
    """The models of a run; None where nobody has that role."""

    target: CachedChat | None = None
    reviser: CachedChat | None = None
    """The reviser, or the stronger model."""
    judge: CachedChat | None = None
    scorer: CachedChat | None = None
    pool: tuple[CachedChat, ...] = ()
    """The models that answer side by side."""
    asks_target: bool = False
    """Whether a prompt waits for an answer of the target."""

    def all(self) -> tuple[CachedChat, ...]:
        """All models of the run."""
        named = (self.target, *self.pool, self.reviser, self.judge, self.scorer)
        return tuple(client for client in named if client)

    def asked(self) -> tuple[CachedChat, ...]:
        """The models that may be asked in this invocation."""
        return tuple(one for one in self.all() if self.asks_target or one is not self.target)


NO_CLIENTS = ModelClients()


@dataclass(frozen=True)
class StageContext:
    """What the stages of one run work with.

    Attributes:
        recipe_name: as every pair names it.
        recipe: what happens to a prompt.
        samples: answers to choose among, where the recipe has a judge.
        strip_thinking: whether thinking before an answer, and end marks behind it, are no part of
            it (`answer_text`).
        fold: whether an edit's passage that stands nowhere is looked for once more, folded.
        ask_again: whether a revision that was cut or cannot be read gets a second chance.
        controls: draws the pairs by which a judge that verifies is itself tested.
        template: how the reviser is asked; None where the recipe has no revision.
        rubric: the preference in plain words, for the judge.
        scorer: what gives answers scores; None where a judge or the data does.
        gate: says which answers and revisions make no pair.
        clients: the models.
    """

    recipe_name: str
    recipe: Recipe
    samples: int
    strip_thinking: bool
    fold: bool
    ask_again: bool
    controls: ControlsConfig
    template: RevisionTemplate | None
    rubric: str
    scorer: Scorer | None
    gate: Gate
    clients: ModelClients = NO_CLIENTS

    def with_clients(self, clients: ModelClients) -> "StageContext":
        """A copy with the models, once they are open."""
        scorer = self.scorer and replace(self.scorer, chat=clients.scorer)
        return replace(self, clients=clients, scorer=scorer)

    def client(self, role: Role | None) -> CachedChat | None:
        """The model with a role; None where nobody has it, as where scores decide for a judge."""
        if role is None:
            return None
        name, _, inner = role.partition(".")
        if name == "pool":
            return self.clients.pool[int(inner)]
        found: CachedChat | None = getattr(self.clients, name)
        return found

    @cached_property
    def judge(self) -> Judge:
        """The judge with its rubric."""
        assert self.clients.judge is not None
        return Judge(self.clients.judge, self.rubric)

    def cost(self, paid: Response | Judgement | Revision) -> float | None:
        """USD that an answer, a judgement or a revision took, with all requests that led to it.

        None where the data brought it, or there is no price.
        """
        meter = self._meters.get(paid.model)
        if meter is None:
            return None
        return meter.cost_of(paid.prompt_tokens, paid.completion_tokens)

    @cached_property
    def _meters(self) -> dict[str, Meter]:
        return {client.identity: client.meter for client in self.clients.asked()}
