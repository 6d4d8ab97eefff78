"""Makes a small part of a run first, and projects the rest from it: `generate --pilot 50`.

The pilot is a run of its own over prompts that the whole run uses too, with the same request store:
what it asks is not asked again. The projection takes the pilot's prompts for a random sample.
"""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clair_apo.clair.config import GenerateConfig
from clair_apo.clair.generate import Generated, generate
from clair_apo.clair.planning.replay import Asked, replay
from clair_apo.clair.prompt_state import PAIRS, PROMPTS
from clair_apo.clair.setup import offline_context
from clair_apo.clair.stages.context import Role, StageContext
from clair_apo.clair.stages.load import PromptsConfig, survey_prompts
from clair_apo.errors import ConfigError
from clair_apo.files import read_jsonl
from clair_apo.llm import CachedChat, Completion, RequestStore
from clair_apo.records import PreferencePair, Prompt, Record
from clair_apo.run_folder import RunFolder, write_json
from clair_apo.stats import Interval, Share, mean_interval, share_interval

FILE = "pilot.json"


class ModelUse(Record):
    """What one model was asked, for each prompt of the pilot."""

    role: str
    model: str
    requests: Interval
    prompt_tokens: Interval
    completion_tokens: Interval
    cost: Interval | None
    """USD; None where there is no price."""


class Pilot(Record):
    """The results of a pilot, and what follows for the rest of the run; intervals are 95 %."""

    run_dir: str
    """The pilot's own run folder."""
    prompts: int
    """Prompts of the pilot."""
    rest: int
    """Prompts of the whole run that are not in the pilot."""
    kept: Share
    """Prompts that became a pair."""
    parsed: Share | None
    """Answers whose revision could be read; None where the recipe has no revision."""
    drops: dict[str, Share]
    """Prompts that each reason took."""
    edit_ratio: Interval | None
    """Character edits from rejected to chosen, over the longer one's length; None without pairs."""
    models: tuple[ModelUse, ...]
    spent: float | None
    """USD that the pilot's answers cost, whenever asked; None where a price is missing."""
    rest_cost: Interval | None
    """USD that the rest will cost."""
    rest_pairs: Interval
    """Pairs that the rest will bring."""
    seconds: float | None
    """How long the pilot took; None where the store answered some of it."""
    rest_seconds: float | None
    """How long the rest takes at the pilot's pace; a longer run keeps more requests in flight."""


def pilot_config(config: GenerateConfig, prompts: int) -> GenerateConfig:
    """The config of a pilot: so many of the run's prompts, a folder beside its own, its store.

    Raises:
        ConfigError: less than two prompts have no interval; a shard's store is its own.
    """
    if config.shard:
        raise ConfigError("--pilot goes before the shards: leave shard out")
    if prompts < 2:
        raise ConfigError(f"--pilot {prompts}: needs at least 2 prompts")
    drawn = config.prompts.model_copy(
        update={"limit": min(prompts, config.prompts.limit or prompts)}
    )
    folder = config.run_dir.with_name(f"{config.run_dir.name}-pilot")
    changes = {"run_dir": folder, "prompts": drawn, "store": config.store_path, "shard": None}
    return config.model_copy(update=changes)


def pilot(config: GenerateConfig, prompts: int, **models: Any) -> Pilot:
    """Make pairs of some of a run's prompts, and project the rest.

    Args:
        config: the whole run.
        prompts: how many of its prompts to use; they are drawn with `prompts.seed`.
        models: as in `generate`.

    Raises:
        ConfigError: less than two prompts were asked for.
        ClairApoError: as `generate` raises it.
    """
    small = pilot_config(config, prompts)
    _forget_other_size(RunFolder(small.folder), small.prompts)
    started = time.monotonic()
    generated = generate(small, **models)
    seconds = None if generated.reused else time.monotonic() - started
    with RequestStore(small.store_path) as store:
        context = offline_context(small, store, survey_prompts(small.prompts).waiting)
        rows = read_jsonl(small.run_dir / PROMPTS.name, Prompt)
        answers = [replay(prompt, small.stages, context, store).answers for prompt in rows]
    roles = dict.fromkeys(stage.role for stage in small.stages if stage.role)
    uses = [use for role in roles if (use := _use(role, context, answers))]
    rest = survey_prompts(config.prompts).prompts - generated.prompts
    result = _project(small.run_dir, generated, uses, rest, seconds)
    write_json(small.run_dir / FILE, result.model_dump(mode="json"))
    return result


def _forget_other_size(folder: RunFolder, prompts: PromptsConfig) -> None:
    """Let a pilot of another size use the folder; the store has all that the earlier one asked."""
    before = folder.manifest()
    drawn = before.get("config", {}).get("prompts", {})
    same_but_size = drawn | {"limit": prompts.limit} == prompts.model_dump(mode="json")
    if same_but_size and drawn["limit"] != prompts.limit:
        with folder.locked():
            settings = {k: v for k, v in before["settings"].items() if k != "prompts"}
            folder.update_manifest(settings=settings)


class _Use(NamedTuple):
    """What each prompt of the pilot asked one model."""

    role: str
    client: CachedChat
    done: list[list[Completion]]

    def costs(self) -> list[float] | None:
        """USD for each prompt; None where there is no price."""
        meter = self.client.meter
        each = [
            [meter.cost_of(done.prompt_tokens, done.completion_tokens) for done in one]
            for one in self.done
        ]
        known = [[cost for cost in one if cost is not None] for one in each]
        return [sum(one) for one in known] if known == each else None

    def intervals(self) -> ModelUse:
        """The means over the prompts."""
        costs = self.costs()
        return ModelUse(
            role=self.role,
            model=self.client.spec.model,
            requests=mean_interval([len(one) for one in self.done]),
            prompt_tokens=mean_interval([sum(d.prompt_tokens for d in one) for one in self.done]),
            completion_tokens=mean_interval(
                [sum(d.completion_tokens for d in one) for one in self.done]
            ),
            cost=mean_interval(costs) if costs is not None else None,
        )


def _use(role: Role, context: StageContext, answers: Sequence[Sequence[Asked]]) -> _Use | None:
    """What the prompts asked a model; None where they asked it nothing."""
    client = context.client(role)
    done = [
        [a.answer.completion for a in one if a.stage.role == role and a.answer.completion]
        for one in answers
    ]
    return _Use(role, client, done) if client and any(done) else None


def _project(
    run: Path, generated: Generated, uses: Sequence[_Use], rest: int, seconds: float | None
) -> Pilot:
    n = generated.prompts
    kept = share_interval(generated.paired, n)
    pairs = list(read_jsonl(run / PAIRS.name, PreferencePair))
    edits = [pair.contrast.levenshtein_share for pair in pairs]
    prompts = [pair.id for pair in pairs]
    costs = [use.costs() for use in uses]
    known = [cost for cost in costs if cost is not None]
    # of each prompt, over all models
    each = [sum(one) for one in zip(*known, strict=True)] if len(known) == len(costs) else []
    cost = mean_interval(each) if each else None
    return Pilot(
        run_dir=str(run),
        prompts=n,
        rest=rest,
        kept=kept,
        parsed=_parsed(run),
        drops={reason: share_interval(count, n) for reason, count in generated.dropped.items()},
        edit_ratio=mean_interval(edits, clusters=prompts) if edits else None,
        models=tuple(use.intervals() for use in uses),
        spent=sum(each) if each else None,
        rest_cost=cost.times(rest) if cost else None,
        rest_pairs=_pairs_a_prompt(kept, prompts, n).times(rest),
        seconds=seconds,
        rest_seconds=seconds / n * rest if seconds is not None else None,
    )


def _pairs_a_prompt(kept: Share, prompts: Sequence[str], n: int) -> Interval:
    """Pairs of each of n prompts, those that were dropped included; `prompts` of all pairs."""
    each = Counter(prompts)
    if len(each) == len(prompts):
        return Interval(n=n, mean=kept.value, low=kept.low, high=kept.high)
    return mean_interval([*each.values(), *[0] * (n - len(each))])


def _parsed(run: Path) -> Share | None:
    """How many replies of the reviser could be read, as the manifest counts them."""
    entry = RunFolder(run).manifest()["stages"].get("revise")
    if entry is None:
        return None
    return share_interval(entry["kept"], entry["kept"] + sum(entry["dropped"].values()))
