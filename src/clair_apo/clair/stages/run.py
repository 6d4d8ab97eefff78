"""The stages of a recipe: whom each asks, and what a case says to it."""

from dataclasses import dataclass
from functools import cached_property

from clair_apo.clair.clients import ModelClients, open_clients
from clair_apo.clair.config import GenerateConfig
from clair_apo.clair.filters.gate import Gate
from clair_apo.clair.prompt_state import PromptState, PromptSurvey, StageOutput
from clair_apo.clair.revision.template import RevisionTemplate, load_rubric, load_template
from clair_apo.clair.stages.judge import choose_by_judge, choose_by_score, is_control, verify
from clair_apo.clair.stages.pair import Paid, make_pair
from clair_apo.clair.stages.respond import given_answers, respond, strengthen
from clair_apo.clair.stages.revise import revise
from clair_apo.llm import CachedChat, Dialogue, Meter, RequestStore
from clair_apo.llm.judge import Judge
from clair_apo.records import PreferencePair

VERIFY = "verify"
"""The name of the last stage, which no recipe lists."""
ROLES = {
    "respond": "target",
    "strengthen": "reviser",
    "judge": "judge",
    "revise": "reviser",
    VERIFY: "judge",
}
"""The model that each stage asks, by its section in the config."""


def revision_template(config: GenerateConfig) -> RevisionTemplate | None:
    """How the reviser of a run is asked; None where its recipe has no revision.

    Raises:
        ConfigError: an unusable template or rubric.
    """
    if "revise" not in config.steps.stages:
        return None
    how = config.revision
    return load_template(
        how.format,
        template=how.template,
        rubric=how.rubric,
        direction=config.direction,
        keep_length=how.keep_length,
    )


@dataclass(frozen=True)
class Stages:
    """The stages of one run.

    Attributes:
        config: decides which they are.
        chats: the models.
        template: how the reviser is asked; None where it is not.
        rubric: what the judge goes by.
        gate: which answers and revisions make no pair.
    """

    config: GenerateConfig
    chats: ModelClients
    template: RevisionTemplate | None
    rubric: str
    gate: Gate

    @property
    def names(self) -> tuple[str, ...]:
        """All stages that may ask something, in their order."""
        return (*self.config.steps.stages, *((VERIFY,) if self.config.verify else ()))

    def chat(self, name: str) -> CachedChat | None:
        """The model that a stage asks; None where scores decide in place of a judge."""
        chats = {"target": self.chats.target, "reviser": self.chats.reviser}
        return (chats | {"judge": self.chats.judge})[ROLES[name]]

    def dialogue(self, name: str, case: PromptState) -> Dialogue[StageOutput]:
        """What a case says to the model of a stage of its recipe."""
        chat, steps, strip = self.chat(name), self.config.steps, self.config.strip_thinking
        if name == "judge":
            return choose_by_judge(case, self.judge) if chat else choose_by_score(case)
        assert chat is not None
        if name == "respond":
            samples, needed = (self.config.samples, 2) if steps.chooses else (1, 1)
            if case.prompt.given or steps.given_only:
                every = steps.given_only and self.chats.judge is None
                return given_answers(case, None if every else samples, needed, strip)
            return respond(case, chat, samples, needed, strip)
        if name == "strengthen":
            return strengthen(case, chat, strip)
        assert self.template is not None
        return revise(case, chat, self.template, self.config.revision.ask_again, strip)

    def pair(self, case: PromptState) -> StageOutput:
        """Winner and loser of a case that came through the recipe, where the gate lets it pass."""
        digest = self.template.digest if self.template else None
        judge = self.judge if self.config.steps.chooses and self.chats.judge else None
        return make_pair(case, self.config.recipe, digest, self.gate, self.cost, judge)

    def cost(self, paid: Paid) -> float | None:
        """USD that an answer, a judgement or a revision took.

        None where the data brought it, or there is no price.
        """
        meter = self._meters.get(paid.model)
        if meter is None:
            return None
        return meter.cost_of(paid.prompt_tokens, paid.completion_tokens)

    @cached_property
    def _meters(self) -> dict[str, Meter]:
        return {chat.identity: chat.meter for chat in self.chats.asked()}

    def verification(self, pair: PreferencePair) -> Dialogue[StageOutput]:
        """What a pair asks the judge that is to confirm it."""
        return verify(pair, self.judge, self.is_control(pair.id))

    def is_control(self, pair_id: str) -> bool:
        """Whether a pair's claim is also put to the judge the wrong way round."""
        how = self.config.controls
        return is_control(pair_id, how.share, how.seed)

    @cached_property
    def judge(self) -> Judge:
        """The judge, with what it goes by."""
        assert self.chats.judge is not None
        return Judge(self.chats.judge, self.rubric)


def open_stages(config: GenerateConfig, store: RequestStore, survey: PromptSurvey) -> Stages:
    """The stages of a run, for one who looks at what its store holds and asks nothing.

    Args:
        config: of the run.
        store: what it holds decides what would be asked.
        survey: of the prompts.

    Raises:
        ConfigError: an unusable template or rubric.
    """
    looking = config.model_copy(update={"offline": True, "max_cost": None})
    return Stages(
        looking,
        open_clients(looking, survey, store, {}, "", {}),
        revision_template(config),
        load_rubric(config.revision.rubric),
        Gate(config.gate, config.training_tokenizer, config.training_revision),
    )
