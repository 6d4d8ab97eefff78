"""lm-evaluation-harness behind one call: a model in, a row for each document out.

Needs the extra `eval`. Answers of a server come through the request store; a model in this process
is asked by the harness itself, and its rows are kept in the evaluation's folder.
"""

import json
import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from clair_apo.config import unknown_key
from clair_apo.errors import ClairApoError, ConfigError, DataError
from clair_apo.evaluation.suites.base import EvaluatedModel, SuiteContext
from clair_apo.models import find_model
from clair_apo.records import Message
from clair_apo.run_folder import write_json

Row = dict[str, Any]

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it tells every step


class Harness:
    """The harness with the tasks of one suite; its index of tasks is built once for all models.

    Args:
        tasks: names of tasks, groups or tags.
        include_path: a folder with further task files.
        num_fewshot: examples before each question; None for what the task says.
        limit: documents of each task; None for all.

    Raises:
        ConfigError: a task is not known.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        include_path: Path | None,
        num_fewshot: int | None,
        limit: int | None,
    ) -> None:
        self.version = version("lm_eval")
        self._tasks = list(tasks)
        self._settings = {"tasks": self._tasks, "num_fewshot": num_fewshot, "limit": limit}
        self._manager = _task_manager(tasks, include_path)

    def rows(self, model: EvaluatedModel, context: SuiteContext) -> list[Row]:
        """A row for each document and filter: `task`, `doc`, `filter` and `metrics`.

        Args:
            model: one that can be asked.
            context: of the evaluation.

        Raises:
            ConfigError: a task needs what the model does not give.
            DataError: a task's data cannot be loaded.
        """
        assert model.spec is not None
        if model.spec.base_url or model.spec.serve or model.spec.mode != "live":
            return self._score(StoredModel(model, context), chat=True)
        settings = self._settings | {"model": context.identity(model), "lm_eval": self.version}
        kept = context.folder / "lm_eval" / f"{model.name}.json"
        if (rows := _kept_rows(kept, settings)) is None:
            local = _local_model(model)
            rows = self._score(local, chat=local.tokenizer.chat_template is not None)
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, {"settings": settings, "rows": rows})
        return rows

    def _score(self, model: LM, *, chat: bool) -> list[Row]:
        try:
            found = simple_evaluate(
                model=model,
                tasks=self._tasks,
                num_fewshot=self._settings["num_fewshot"],
                limit=self._settings["limit"],
                task_manager=self._manager,
                apply_chat_template=chat,
                log_samples=True,
                bootstrap_iters=0,  # intervals are ours
            )
        except ClairApoError:
            raise
        except (OSError, ValueError) as error:  # no data: ConnectionError, errors of datasets
            reason = " ".join(str(error).split())[:300]
            raise DataError(
                f"lm_eval {', '.join(self._tasks)}: {reason}; where its data cannot be "
                "loaded, name local data in a task file of your own (include_path)"
            ) from None
        rows = [
            {
                "task": task,
                "doc": sample["doc_id"],
                "filter": sample["filter"],
                "metrics": {name: sample[name] for name in sample["metrics"]},
                "answers": sample["filtered_resps"],
                "target": sample["target"],
            }
            for task, samples in found["samples"].items()
            for sample in samples
        ]
        # as they come back from their file, so that a second run has the same rows
        return list(json.loads(json.dumps(rows, default=_plain)))


class StoredModel(LM):  # type: ignore[misc]
    """A model behind a server, asked through the request store; it gives no log-likelihoods."""

    def __init__(self, model: EvaluatedModel, context: SuiteContext) -> None:
        super().__init__()
        self.model, self.context = model, context

    @property
    def tokenizer_name(self) -> str:
        """The name under which the harness keeps rendered prompts."""
        return self.model.name

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The turns as JSON: the server renders them."""
        return json.dumps(chat_history)

    def generate_until(self, requests: list[Instance], **_: Any) -> list[str]:
        """The answers, each cut before the first of the task's stop texts."""
        by_limit: dict[int | None, list[int]] = {}
        for number, request in enumerate(requests):
            by_limit.setdefault(request.args[1].get("max_gen_toks"), []).append(number)
        texts = [""] * len(requests)
        for limit, numbers in by_limit.items():
            turns = [_turns(requests[number].args[0]) for number in numbers]
            answers = self.context.answers(self.model, turns, max_tokens=limit)
            for number, answer in zip(numbers, answers, strict=True):
                text = answer.completion.text if answer.completion else ""
                texts[number] = _before_stop(text, requests[number].args[1].get("until") or [])
        return texts

    def loglikelihood(self, requests: list[Instance], **_: Any) -> list[tuple[float, bool]]:
        """Refuse: a chat server says no log-likelihoods.

        Raises:
            ConfigError: always, with the task.
        """
        raise ConfigError(
            f"lm_eval: task {requests[0].task_name!r} compares log-likelihoods, which the server "
            f"of {self.model.name!r} does not give; name the model's folder, or another task"
        )

    loglikelihood_rolling = loglikelihood


def _turns(context: str) -> tuple[Message, ...]:
    return tuple(Message.model_validate(turn) for turn in json.loads(context))


def _before_stop(text: str, stops: Sequence[str] | str) -> str:
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0] if stop else text
    return text


def _plain(value: Any) -> Any:
    """A number without numpy's type, which JSON does not know; all else as text."""
    return value.item() if hasattr(value, "item") else str(value)


def _kept_rows(path: Path, settings: dict[str, Any]) -> list[Row] | None:
    """The rows of an earlier run with the same settings; None where there are none."""
    try:
        kept = json.loads(path.read_text("utf-8"))
        return list(kept["rows"]) if kept["settings"] == settings else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _local_model(model: EvaluatedModel) -> Any:
    from lm_eval.models.huggingface import HFLM

    from clair_apo.llm.backends.local import LocalChat

    assert model.spec is not None
    source = find_model(model.spec.model, revision=model.spec.revision)
    loaded = LocalChat(source, dtype=model.spec.dtype)
    return HFLM(
        pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=model.spec.batch_size
    )


def _task_manager(tasks: Sequence[str], include_path: Path | None) -> TaskManager:
    if include_path is not None:
        if not include_path.is_dir():
            raise ConfigError(f"include_path: {include_path} is no folder")
        # the harness's own index takes ten seconds or more: only where it is needed
        own = TaskManager(include_path=str(include_path), include_defaults=False)
        if set(tasks) <= set(own.all_tasks):
            return own
    whole = TaskManager(include_path=None if include_path is None else str(include_path))
    for task in tasks:
        if task not in whole.all_tasks:
            raise ConfigError(f"tasks: {unknown_key(task, whole.all_tasks)}".replace("key", "task"))
    return whole
