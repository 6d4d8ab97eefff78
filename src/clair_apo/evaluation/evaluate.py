"""Runs the suites of an evaluation over its models, and writes what they found.

Whatever is unusable is found before anything is written or asked. Every answer is in the request
store before a suite sees it: run again to go on after a kill, to add a suite, or to judge anew.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from clair_apo.clair.costs import RunCosts
from clair_apo.clair.setup import refuse_stranded_batches
from clair_apo.errors import ConfigError
from clair_apo.evaluation.checkpoints import checkpoint_numbers, delete_rest, drop
from clair_apo.evaluation.config import EvaluateConfig
from clair_apo.evaluation.plan import COMMAND, Plan, all_specs, make_plan
from clair_apo.evaluation.results import suite_numbers
from clair_apo.evaluation.session import Chats, Session
from clair_apo.evaluation.suites.base import (
    OtherFormatError,
    SuiteConfig,
    SuiteResult,
)
from clair_apo.evaluation.suites.prompt_answers import answer_prompts
from clair_apo.evaluation.tables import evaluation_markdown
from clair_apo.evaluation.values import write_values
from clair_apo.files import atomic_writer
from clair_apo.llm import RequestStore
from clair_apo.llm.backends.vllm_server import ModelServers
from clair_apo.records import Record
from clair_apo.run_folder import RunFolder, now, write_json

RESULTS, MARKDOWN = "evaluation.json", "evaluation.md"
ANSWERS = "answers"
"""The folder with every model's answers to the held-out prompts."""


class Evaluation(Record):
    """What an evaluation came to."""

    folder: Path
    content: dict[str, Any]
    """As it stands in `evaluation.json`."""
    asked: int
    """Requests that went to a model in this run."""
    reused: int
    """Requests that the store answered."""
    cost: float | None
    """USD over all invocations; None where a price is missing."""


def evaluate(config: EvaluateConfig, *, chats: Chats | None = None) -> Evaluation:
    """Evaluate models; run again to resume, or with other suites.

    Args:
        config: what to do.
        chats: models of the caller's own, by the `model` of the spec in whose place they are asked.

    Raises:
        ConfigError, DataError: whatever the user can mend, in one line.
        ModelNotFoundError: a model that cannot be loaded, or has no chat template.
        RunError: the folder belongs to another command, or another process is at work in it.
        RequestError: a model cannot be asked; what it answered before is kept.
        BudgetError: `max_cost` would be crossed, or a model has no price to keep it by.
    """
    given = chats or {}
    plan = make_plan(config, given)
    folder = RunFolder(config.run_dir)
    folder.prepare()
    with ExitStack() as stack:
        store = stack.enter_context(RequestStore(config.store_path))
        stack.enter_context(folder.locked())
        costs = RunCosts(folder, store, config.max_cost)
        if not config.offline:
            specs = list(all_specs(config, plan.models).values())
            refuse_stranded_batches(specs, store, costs.run_id, folder.path)
        stack.enter_context(costs.recorded_on_failure())
        costs.write(command=COMMAND, config=config.model_dump(mode="json"), started=now())
        with atomic_writer(folder.file("config.yaml")) as file:
            file.write(config.to_yaml())
        servers = stack.enter_context(ModelServers(folder.path))
        session = plan.session(folder, store, costs, given, servers, offline=config.offline)
        if config.drop_checkpoints:
            _evaluate_and_drop(config, session, folder, plan)
        found = _close(session, folder, _run_suites(config, session, folder, plan))
        for fault in session.faults:
            raise ConfigError(fault)
        return found


def _evaluate_and_drop(
    config: EvaluateConfig, session: Session, folder: RunFolder, plan: Plan
) -> None:
    """Let every suite ask each checkpoint but the last, and delete it then.

    What the suites find is not used: they run again, on what is stored, over all models together.
    """
    delete_rest(plan.dropped)
    named = {one.name for one in plan.checkpoints}
    others = [model for model in session.models if model.name not in named]
    for checkpoint in plan.checkpoints[:-1]:
        if checkpoint.name in plan.dropped:
            continue
        (model,) = (one for one in session.models if one.name == checkpoint.name)
        for suite in config.suites:
            run_suite(suite, session.with_models([model, *others]))
        drop(folder.path, checkpoint, session.identity(model))


def _run_suites(
    config: EvaluateConfig, session: Session, folder: RunFolder, plan: Plan
) -> dict[str, Any]:
    names = [model.name for model in session.models]
    content: dict[str, Any] = {"models": names, "suites": {}}
    results: dict[str, SuiteResult] = {}
    unread = {model.name: "" for model in session.models if model.spec is None}
    for suite in config.suites:
        started = now()
        result, refused = run_suite(suite, session)
        for name in unread.keys() & result.figures.keys():
            unread.pop(name)
        unread |= {name: why for name, why in refused.items() if name in unread}
        content["suites"][suite.key] = suite_numbers(result, names)
        results[suite.key] = result
        _write_rows(folder, suite, result)
        folder.record_stage(suite.key, {"started": started, "ended": now()})
    write_values(folder.path, results)
    session.faults += [
        f"models.{name}: no suite can read it ({why})" for name, why in unread.items()
    ]
    session.faults += [f"suites.{key}: {one.fault}" for key, one in results.items() if one.fault]
    if plan.checkpoints:
        steps = {one.name for one in plan.checkpoints}
        others = [name for name in names if name not in steps]
        found = checkpoint_numbers(results, plan.checkpoints, others, config.best_by)
        for key, numbers in found.items():
            content["suites"][key]["checkpoints"] = numbers
    if any(suite.needs_prompts for suite in config.suites):
        _write_answers(folder, session)
    return content


def run_suite(suite: SuiteConfig, session: Session) -> tuple[SuiteResult, Mapping[str, str]]:
    """Run a suite over the models that it can read; and of the others, why it cannot.

    Raises:
        OtherFormatError: it can read none of them.
    """
    models, refused = list(session.models), {}
    while True:
        try:
            result = suite.run(session.with_models(models))
        except OtherFormatError as error:
            models = [model for model in models if model.name != error.model]
            if not models:
                raise
            refused[error.model] = str(error)
        else:
            remarks = [f"{name} is left out: {why}" for name, why in refused.items()]
            return _with_remarks(result, remarks), refused


def _with_remarks(result: SuiteResult, remarks: Sequence[str]) -> SuiteResult:
    return replace(result, remarks=[*result.remarks, *remarks])


def _write_rows(folder: RunFolder, suite: SuiteConfig, result: SuiteResult) -> None:
    for name, rows in result.rows.items():
        _write_jsonl(folder.file(suite.key) / f"{name}.jsonl", rows)


def _write_answers(folder: RunFolder, session: Session) -> None:
    """Write every model's answers, as rows that `recorded` takes."""
    for model in session.models:
        try:
            (found,) = answer_prompts(session.with_models([model])).values()
        except OtherFormatError:
            continue
        rows = [
            {
                "id": one.id,
                "prompt": [message.model_dump() for message in one.conversation],
                "answer": one.text,
                "finish_reason": one.finish_reason,
                "failure": one.failure,
            }
            for one in found
        ]
        _write_jsonl(folder.file(ANSWERS) / f"{model.name}.jsonl", rows)


def _write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic_writer(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _close(session: Session, folder: RunFolder, content: dict[str, Any]) -> Evaluation:
    write_json(folder.file(RESULTS), content)
    with atomic_writer(folder.file(MARKDOWN)) as file:
        file.write(evaluation_markdown(content))
    asked = sum(meter.asked for meter in session.meters)
    reused = sum(meter.reused for meter in session.meters)
    session.costs.write(ended=now(), counts={"asked": asked, "reused": reused})
    return Evaluation(
        folder=folder.path,
        content=content,
        asked=asked,
        reused=reused,
        cost=session.costs.ledger.total,
    )
