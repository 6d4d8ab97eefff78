"""What an evaluation is about: models, prompts and suites, read and checked before it begins."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from clair_apo.clair.costs import RunCosts
from clair_apo.errors import ConfigError, ModelNotFoundError, RunError
from clair_apo.evaluation.checkpoints import (
    Checkpoint,
    Dropped,
    find_checkpoints,
    read_dropped,
    still_gone,
)
from clair_apo.evaluation.config import EACH, EvaluateConfig
from clair_apo.evaluation.held_out import HeldOut, load_held_out
from clair_apo.evaluation.session import Chats, Session
from clair_apo.evaluation.suites.base import EvaluatedModel
from clair_apo.llm import ModelSpec, RequestStore, check_model
from clair_apo.llm.backends.vllm_server import ModelServers
from clair_apo.llm.pricing import require_price
from clair_apo.llm.spec import RECORDED
from clair_apo.models import has_chat_template
from clair_apo.run_folder import RunFolder

COMMAND = "evaluate"
"""In the manifest of an evaluation's folder."""


class Plan(NamedTuple):
    """What an evaluation is about, once it is read and checked."""

    held_out: HeldOut
    models: list[EvaluatedModel]
    """The one in question first."""
    checkpoints: list[Checkpoint]
    """Those of the models that `each` stands for, by step."""
    dropped: Dropped

    def session(
        self,
        folder: RunFolder,
        store: RequestStore,
        costs: RunCosts,
        given: Chats,
        servers: ModelServers | None = None,
        *,
        offline: bool = False,
        kind: Callable[..., Session] = Session,
    ) -> Session:
        """What the suites work with."""
        return kind(
            self.models,
            self.held_out,
            folder.path,
            store,
            costs,
            given,
            servers,
            offline=offline,
            dropped={one.path: one.identity for one in self.dropped.values()},
        )


def make_plan(config: EvaluateConfig, given: Chats) -> Plan:
    """Read what an evaluation is about, and check it, before anything is asked or written.

    Args:
        config: the evaluation.
        given: models of the caller's own.

    Raises:
        ConfigError, DataError, ModelNotFoundError, RequestError, BudgetError, RunError: whatever
            the user can mend.
    """
    _refuse_another_command(RunFolder(config.run_dir))
    held_out, dropped = load_held_out(config), still_gone(read_dropped(config.run_dir))
    each = config.models.get(EACH)
    checkpoints = find_checkpoints(each.model, dropped) if isinstance(each, ModelSpec) else []
    models = evaluated_models(config, checkpoints)
    check(config, models, {*given, *(one.path for one in dropped.values())})
    return Plan(held_out, models, checkpoints, dropped)


def evaluated_models(
    config: EvaluateConfig, checkpoints: Sequence[Checkpoint]
) -> list[EvaluatedModel]:
    """The models of an evaluation, in the order of the config.

    The last checkpoint stands where `each` does, and the others at the end, so that the second
    model is the one that it is compared with first.

    Raises:
        ConfigError: a checkpoint has the name of another model.
    """
    found, earlier = [], []
    for name, entry in config.models.items():
        if not isinstance(entry, ModelSpec):
            found.append(EvaluatedModel(name, None, entry.recorded))
        elif name == EACH:
            each = [
                EvaluatedModel(one.name, entry.model_copy(update={"model": one.path}))
                for one in checkpoints
            ]
            earlier, found = each[:-1], [*found, each[-1]]
        else:
            found.append(EvaluatedModel(name, entry))
    names = [model.name for model in (*found, *earlier)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"models.{twice[0]}: a checkpoint has this name; give another one")
    return [*found, *earlier]


def all_specs(config: EvaluateConfig, models: Sequence[EvaluatedModel]) -> dict[str, ModelSpec]:
    """Every model and judge that may be asked, by its place in the config."""
    found = {f"models.{model.name}": model.spec for model in models if model.spec}
    for suite in config.suites:
        for name in type(suite).model_fields:
            value = getattr(suite, name)
            if isinstance(value, ModelSpec):
                found[f"{suite.key}.{name}"] = value
    return found


def check(config: EvaluateConfig, models: Sequence[EvaluatedModel], given: Collection[str]) -> None:
    """Find out what can be known of models and suites before anything is asked or written.

    Args:
        config: the evaluation.
        models: as they are expanded.
        given: the `model` of each spec that needs no check.

    Raises:
        ConfigError: a suite's file is missing or cannot be read.
        ModelNotFoundError: no such folder, or one without a chat template.
        RequestError: no key for a server.
        BudgetError: `max_cost` is set, and a model has no price.
    """
    for suite in config.suites:
        suite.check()
    for place, spec in all_specs(config, models).items():
        if spec.model in given:
            continue
        check_model(spec)
        folder = Path(spec.model).expanduser()
        local = spec.base_url is None and not spec.model.startswith(RECORDED)
        if local and folder.is_dir() and not has_chat_template(folder):
            raise ModelNotFoundError(
                f"{place}: model {spec.model!r} has no chat template; give its tokenizer one, or "
                "evaluate the model that was trained for chats"
            )
        if config.max_cost is not None:
            require_price(place, spec)


def _refuse_another_command(folder: RunFolder) -> None:
    command = folder.manifest().get("command", COMMAND)
    if command != COMMAND:
        raise RunError(
            f"{folder.path}: is a run folder of {command}; give the evaluation one of its own, "
            f"such as {folder.path / 'evaluation'}"
        )
