"""Builds what the stages of a run work with, from its config: models, template, rubric and gate.

`generate`, the estimate and the pilot all build it here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from clair_apo.clair.config import GenerateConfig
from clair_apo.clair.costs import CostLedger
from clair_apo.clair.filters.gate import Gate
from clair_apo.clair.revision.template import RevisionTemplate, load_template
from clair_apo.clair.scorer import Scorer
from clair_apo.clair.stages.context import ModelClients, Role, StageContext
from clair_apo.errors import RunError
from clair_apo.llm import CachedChat, ChatModel, ModelSpec, RequestStore, check_model
from clair_apo.llm.backends.select import model_of_mode, stranded_batches
from clair_apo.llm.backends.vllm_server import ModelServers
from clair_apo.llm.judge import load_rubric
from clair_apo.llm.pricing import require_price

Models = Mapping[Role, ChatModel | None]
"""Models of the caller's own by role, in place of those that a config names."""


def stage_context(config: GenerateConfig) -> StageContext:
    """Build what the stages of a run work with, before its models are opened.

    Raises:
        ConfigError: an unusable template, rubric or file of checks, or a gate without its
            tokenizer.
    """
    return StageContext(
        recipe_name=config.recipe,
        recipe=config.recipe_def,
        samples=config.samples,
        strip_thinking=config.strip_thinking,
        fold=config.revision.fold,
        ask_again=config.revision.ask_again,
        controls=config.controls,
        template=_template(config),
        rubric=load_rubric(config.revision.rubric),
        scorer=Scorer.of(config.scorer, load_rubric(config.revision.rubric)),
        gate=Gate(config.gate, config.training_tokenizer, config.training_revision),
    )


def _template(config: GenerateConfig) -> RevisionTemplate | None:
    if "revise" not in config.recipe_def.stages:
        return None
    how = config.revision
    return load_template(
        how.format,
        template=how.template,
        rubric=how.rubric,
        direction=config.direction,
        keep_length=how.keep_length,
    )


def offline_context(config: GenerateConfig, store: RequestStore, waiting: int) -> StageContext:
    """Build what the stages of a run work with when nothing is asked and its store is all there is.

    Args:
        config: of the run.
        store: what it holds decides what would be asked.
        waiting: prompts that bring no answer.

    Raises:
        ConfigError: as `stage_context` does.
    """
    offline = config.model_copy(update={"offline": True, "max_cost": None})
    clients = open_clients(offline, store, CostLedger(store), waiting)
    return stage_context(offline).with_clients(clients)


def check_models(config: GenerateConfig, given: Models, waiting: int) -> None:
    """Find out what can be known of the models before anything is asked or written.

    Args:
        config: names them.
        given: models in place of those that the config names.
        waiting: prompts that bring no answer.

    Raises:
        ModelNotFoundError: no such folder.
        RequestError: no key for a server.
        BudgetError: `max_cost` is set, and a model has no price.
    """
    for role, spec in config.asked_models.items():
        if role == "target" and not waiting:
            continue
        if given.get(role) is None:
            check_model(spec)
        if config.max_cost is not None:
            require_price(role, spec)


def open_clients(
    config: GenerateConfig,
    store: RequestStore,
    ledger: CostLedger,
    waiting: int,
    given: Models | None = None,
    servers: ModelServers | None = None,
) -> ModelClients:
    """Open the models that a run asks, each behind the request store.

    Nothing is loaded or connected to before its first request.

    Args:
        config: names them.
        store: keeps what they answer.
        ledger: counts what they cost.
        waiting: prompts that bring no answer.
        given: models in place of those that the config names.
        servers: start the models that are served for the run.

    Raises:
        RunError: a model that is not asked in batches any more has open ones.
    """
    models = given or {}

    def client(role: Role, spec: ModelSpec | None) -> CachedChat | None:
        if spec is None:
            return None
        given = models.get(role)
        return open_client(
            spec, store, ledger, config.folder, given, offline=config.offline, servers=servers
        )

    asked = config.asked_models
    clients = ModelClients(
        target=client("target", config.target),
        reviser=client("reviser", asked.get("reviser")),
        judge=client("judge", asked.get("judge")),
        scorer=next(
            (client(role, spec) for role, spec in asked.items() if role.startswith("scorer.")), None
        ),
        pool=tuple(
            opened
            for role, spec in asked.items()
            if role.startswith("pool.") and (opened := client(role, spec))
        ),
        asks_target=waiting > 0 and "target" in asked,
    )
    if not config.offline:
        specs = [client.spec for client in clients.asked()]
        refuse_stranded_batches(specs, store, ledger.run_id, config.folder)
    ledger.open((client.identity, client.meter) for client in clients.asked())
    return clients


def open_client(
    spec: ModelSpec,
    store: RequestStore,
    ledger: CostLedger,
    folder: Path,
    given: ChatModel | None = None,
    *,
    offline: bool = False,
    servers: ModelServers | None = None,
) -> CachedChat:
    """Open one model of a run behind the request store, in the mode of its spec.

    Args:
        spec: names it.
        store: keeps what it answers.
        ledger: of the run; its `open` is to be told of the client.
        folder: of the run; files for a model that answers later lie below it.
        given: asked in place of what the spec names.
        offline: ask nothing.
        servers: start the model where it is served for the run.
    """
    later = model_of_mode(spec, store, ledger.run_id, folder / "batch")
    return CachedChat(
        spec,
        store,
        given or later,
        offline=offline,
        run_id=ledger.run_id,
        budget=ledger.budget,
        servers=servers,
    )


def refuse_stranded_batches(
    specs: Sequence[ModelSpec], store: RequestStore, run_id: str, folder: Path
) -> None:
    """Refuse to ask anybody else for what a server has in batches, and is paid for.

    Args:
        specs: the models that the run asks.
        store: where batches are written down.
        run_id: of the run.
        folder: of the run, for the message.

    Raises:
        RunError: a model that is not asked in batches any more has open ones.
    """
    stranded = stranded_batches(specs, store, run_id)
    if stranded:
        first = stranded[0]
        count = sum(len(batch.keys) for batch in stranded)
        raise RunError(
            f"{count} requests to {first.model!r} are at {first.host} in open batches, and would "
            "be paid a second time: with the mode and base_url that the model has now nobody waits "
            "for them. Run with mode batch and that server to collect them; or end them with "
            f"`clair-apo batches {folder} --cancel all`, and look with `clair-apo batches "
            f"{folder}` until they are read (`--forget ID` for one that the server does not have)"
        )
