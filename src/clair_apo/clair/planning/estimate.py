"""Estimates what a run will ask and cost, before anything is asked: `generate --estimate`.

Every prompt goes through its real stages as far as the store's answers suffice. What it asks from
there on is counted with a tokeniser and the lengths assumed below, as if no row were dropped and no
reply repeated. `generate --pilot` measures what is assumed here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from clair_apo.clair.config import GenerateConfig
from clair_apo.clair.planning.replay import Replay, replay
from clair_apo.clair.setup import offline_context
from clair_apo.clair.stages.context import Role, StageContext
from clair_apo.clair.stages.load import load_prompts, survey_prompts
from clair_apo.clair.stages.table import StageDef
from clair_apo.llm import CachedChat, RequestStore
from clair_apo.llm.pricing import find_price
from clair_apo.llm.spec import Price
from clair_apo.llm.token_count import STAND_IN, TokenCounter
from clair_apo.records import Prompt, Record


class CostRange(Record):
    """A low and a high figure."""

    low: float
    high: float

    def __add__(self, other: "CostRange") -> "CostRange":
        return CostRange(low=self.low + other.low, high=self.high + other.high)

    def times(self, low: float, high: float | None = None) -> "CostRange":
        """Both figures multiplied, the high one by `high` where it is given."""
        return CostRange(low=self.low * low, high=self.high * (low if high is None else high))

    def rounded(self) -> "CostRange":
        """Both figures as whole numbers."""
        return CostRange(low=round(self.low), high=round(self.high))

    def up_to(self, limit: float) -> "CostRange":
        """Both figures, neither above `limit`."""
        return CostRange(low=min(self.low, limit), high=min(self.high, limit))


NOTHING = CostRange(low=0, high=0)
ANSWER = CostRange(low=250, high=600)
"""Tokens of an answer that is not known yet: the middle half of 406 answers of an 8B instruct model
to AlpacaEval instructions has 258 to 591 (counted with the embedded model's tokeniser)."""
REPLY = {
    "full": CostRange(low=1.2, high=1.8),
    "edits": CostRange(low=0.3, high=1.2),
    "segments": CostRange(low=0.2, high=1.0),
}
"""Tokens of a reviser's reply for each of the answer's. `full`: about the middle half of 10
recorded revisions of gpt-4-0125-preview (0.9 to 2.7 in all). The others: not measured."""
NUMBERED = CostRange(low=1.35, high=1.6)
"""Tokens of an answer that is shown in numbered segments for each of its own: about the middle half
of the demo's 106 recorded answers (1.36 to 1.57; 1.2 to 3.1 in all)."""
VERDICT = CostRange(low=20, high=150)
"""Tokens of a judge's reply, which is asked for one or two sentences; not measured."""
TOKENIZER = CostRange(low=0.85, high=1.3)
"""Tokens of another tokeniser for each of ours. gpt-4-0125-preview counts 0.86 to 1.03 of the
embedded model's tokens (10 recorded requests and replies); others are known to count more."""


class ModelEstimate(Record):
    """What one model will be asked, and what that will cost."""

    role: str
    model: str
    stored: int
    """Requests that the store answers: they cost nothing more."""
    requests: int
    """Requests to be asked."""
    prompt_tokens: CostRange
    """Of the requests to be asked."""
    completion_tokens: CostRange
    price: Price | None
    """None where none is known."""
    live: CostRange | None
    """USD; None where there is no price."""
    batch: CostRange | None
    """USD through the Batch API; None where there is no price for it."""


class CostEstimate(Record):
    """What a run will ask and cost; an estimate, not a bound: that is what `max_cost` is for."""

    recipe: str
    prompts: int
    """Prompts that will be walked through the recipe: without those that loading drops."""
    tokenizer: str
    """Whose tokens were counted."""
    models: tuple[ModelEstimate, ...]
    live: CostRange | None
    """USD for all models; None where one that is asked has no price."""
    batch: CostRange | None


def estimate(config: GenerateConfig, tokenizer: str = STAND_IN) -> CostEstimate:
    """Count what a run will ask, with what is in its store already taken off.

    Asks nothing and writes nothing.

    Args:
        config: the run.
        tokenizer: whose tokens to count; `smollm2-135m`, a folder or a hub name. Any model's
            tokens are taken for 0.85 to 1.3 of these.

    Raises:
        DataError: unusable prompts.
        ConfigError: an unusable template.
        StoreError: the request store cannot be used.
    """
    path = config.store_path
    prompts = 0
    with RequestStore(path if path.exists() else ":memory:") as store:
        survey = survey_prompts(config.prompts, config.prompt_shard)
        context = offline_context(config, store, survey.waiting)
        counting = _Counting(config, context, store, TokenCounter(tokenizer))
        for prompt in load_prompts(config.prompts, config.prompt_shard, survey.tests):
            if isinstance(prompt, Prompt):
                counting.add(prompt)
                prompts += 1
    models = [_model_estimate(role, tally) for role, tally in counting.tallies.items()]
    asked = [model for model in models if model.requests]
    return CostEstimate(
        recipe=config.recipe,
        prompts=prompts,
        tokenizer=tokenizer,
        models=tuple(models),
        live=_total([model.live for model in asked]),
        batch=_total([model.batch for model in asked]),
    )


def _model_estimate(role: str, tally: "_Tally") -> ModelEstimate:
    price = find_price(tally.client.spec)
    prompt, completion = tally.prompt_tokens.rounded(), tally.completion_tokens.rounded()
    return ModelEstimate(
        role=role,
        model=tally.client.spec.model,
        stored=tally.stored,
        requests=tally.requests,
        prompt_tokens=prompt,
        completion_tokens=completion,
        price=price,
        live=_cost(price, prompt, completion, batch=False),
        batch=_cost(price, prompt, completion, batch=True),
    )


def _cost(
    price: Price | None, prompt: CostRange, completion: CostRange, *, batch: bool
) -> CostRange | None:
    if price is None:
        return None
    low, high = (
        price.cost(prompt_tokens=p, completion_tokens=c, batch=batch)
        for p, c in ((prompt.low, completion.low), (prompt.high, completion.high))
    )
    return None if low is None or high is None else CostRange(low=low, high=high)


def _total(costs: Sequence[CostRange | None]) -> CostRange | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known, NOTHING) if len(known) == len(costs) else None


@dataclass
class _Tally:
    """The requests to one model, summed up as they are found."""

    client: CachedChat
    stored: int = 0
    requests: int = 0
    prompt_tokens: CostRange = NOTHING
    completion_tokens: CostRange = NOTHING

    def add(self, count: int, prompt: CostRange, reply: CostRange) -> None:
        reply = reply.times(TOKENIZER.low, TOKENIZER.high).up_to(self.client.spec.max_tokens)
        self.requests += count
        self.prompt_tokens += prompt.times(TOKENIZER.low * count, TOKENIZER.high * count)
        self.completion_tokens += reply.times(count)


class _Counting:
    """Counts what prompts will ask, prompt by prompt."""

    def __init__(
        self,
        config: GenerateConfig,
        context: StageContext,
        store: RequestStore,
        counter: TokenCounter,
    ) -> None:
        self.config, self.context = config, context
        self.store, self.counter = store, counter
        self.tallies: dict[Role, _Tally] = {}
        self.template_overhead: dict[str, int] = {}
        for stage in config.stages:
            client = context.client(stage.role)
            if stage.role and stage.forecast and client:
                self.tallies.setdefault(stage.role, _Tally(client))
                frame = stage.forecast.frame(context)
                self.template_overhead[stage.name] = counter.conversation(frame) if frame else 0

    def add(self, prompt: Prompt) -> None:
        """Count one prompt: what the store answers, what it asks next, and what may follow."""
        found = replay(prompt, self.config.stages, self.context, self.store)
        for stage, _ in found.answers:
            if stage.role:
                self.tallies[stage.role].stored += 1
        if not found.missing:
            return
        now, *later = found.waiting
        answer = self._answer(found)
        for request in found.missing:
            self._add(now, 1, self.counter.conversation(request.messages), NOTHING, answer)
        words = self.counter.conversation(prompt.messages)
        for stage in later:
            if stage.forecast and stage.name in self.template_overhead:
                known = self.template_overhead[stage.name] + words
                shown = self._shown(stage, answer).times(stage.forecast.answers)
                count = stage.forecast.requests(found.state, self.context)
                self._add(stage, count, known, shown, answer)

    def _add(
        self, stage: StageDef, count: int, known: int, unknown: CostRange, answer: CostRange
    ) -> None:
        """Count requests of a stage: prompts of `known` and `unknown` tokens, and their replies."""
        assert stage.role is not None
        prompt = unknown + CostRange(low=known, high=known)
        self.tallies[stage.role].add(count, prompt, self._reply(stage, answer))

    def _shown(self, stage: StageDef, answer: CostRange) -> CostRange:
        """The tokens of an answer as a request shows it."""
        assert stage.forecast is not None
        in_segments = self.config.revision.format == "segments"
        if stage.forecast.reply == "revision" and in_segments:
            return answer.times(NUMBERED.low, NUMBERED.high)
        return answer

    def _reply(self, stage: StageDef, answer: CostRange) -> CostRange:
        assert stage.forecast is not None
        if stage.forecast.reply == "revision":
            each = REPLY[self.config.revision.format]
            return answer.times(each.low, each.high)
        client = self.context.client(stage.role)
        if client and client.spec.gives_scores:
            return NOTHING
        return ANSWER if stage.forecast.reply == "answer" else VERDICT

    def _answer(self, found: Replay) -> CostRange:
        """The tokens of one answer to the prompt, assumed where they are not known yet."""
        responses = found.state.responses
        if not responses:
            return ANSWER.up_to(self.config.target.max_tokens)
        mean = sum(self.counter.text(each.text) for each in responses) / len(responses)
        return CostRange(low=mean, high=mean)
