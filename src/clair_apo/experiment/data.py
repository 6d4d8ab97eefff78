"""Makes the data sets of an experiment, over the same prompts, and what is known of them before."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import yaml
from pydantic import TypeAdapter

from clair_apo.advice.advise import advise
from clair_apo.clair import generate
from clair_apo.clair.stages.pair import measure_contrast
from clair_apo.console import say
from clair_apo.errors import DataError
from clair_apo.experiment.cells import Cell, candidates
from clair_apo.experiment.plan import ExperimentPlan
from clair_apo.experiment.work import DELETE
from clair_apo.files import atomic_writer
from clair_apo.ingest.pairs import pair_from_row, pairs_of, plain_text
from clair_apo.ingest.rows import read_rows
from clair_apo.llm import ChatModel
from clair_apo.records import Record
from clair_apo.run_folder import file_digest, read_record_file, write_json
from clair_apo.stats import Interval, mean_interval
from clair_apo.training_process import run_command

FILE = "data.json"
NO_CACHE = ("sft", "kto", "apo_zero_unpaired")
"""Objectives that read no reference from the cache."""

Rows = dict[str, list[dict[str, Any]]]
"""The rows of a data set by the id of their prompt."""


class DataModels(TypedDict, total=False):
    """Models of the caller's own, asked in place of those that a config of generate names."""

    target_model: ChatModel
    reviser_model: ChatModel
    judge_model: ChatModel
    scorer_model: ChatModel


Functions = Mapping[str, DataModels]
"""By the name of the data set."""


class MadeData(Record):
    """A data set of an experiment."""

    pairs: int
    """That every cell of it is given; some of them are held out."""
    prompts: int
    made: int
    """Pairs that there were before the prompts were made the same."""
    digest: str
    """SHA-256 of the file."""
    jaccard: Interval
    """Of the two answers of a pair, as `measure_contrast` has it; over prompts."""
    levenshtein_share: Interval
    """Characters to change, as a share of the longer answer; over prompts."""
    advice: str | None = None
    """What `advise` says of it; None where it was not asked."""
    reason: str = ""
    """Why it says so."""


_RECORD = TypeAdapter(dict[str, MadeData])


def read_data(folder: Path) -> dict[str, MadeData] | None:
    """What is known of the data sets; None before they are made.

    Raises:
        RunError: the file cannot be read.
    """
    return read_record_file(folder / "data" / FILE, _RECORD, DELETE)


def make_data(
    plan: ExperimentPlan, functions: Functions, judge_model: ChatModel | None
) -> dict[str, MadeData]:
    """Make every data set, compute its reference once, and ask what `advise` says of it.

    Args:
        plan: the experiment.
        functions: models of the caller's own.
        judge_model: asked in place of the judge of `advise`.

    Raises:
        ClairApoError: as `generate`, `advise` and `reference build` raise it, and where the data
            sets have no prompt in common.
    """
    for name in plan.config.data:
        config = plan.generating(name)
        if config is not None:
            say(f"data set {name}")
            generate(config, **functions.get(name, DataModels()))
    rows = {name: _rows(_source(plan, name)) for name in plan.config.data}
    kept = _of_same_prompts(rows) if plan.config.same_prompts else rows
    found = {}
    for name, of in kept.items():
        path = plan.data_folder(name).pairs
        _write(path, of)
        found[name] = MadeData(
            pairs=sum(map(len, of.values())),
            prompts=len(of),
            made=sum(map(len, rows[name].values())),
            digest=file_digest(path),
            **_contrast(of),
        )
        _build_reference(plan, name)
        advising = plan.advising(name)
        if advising:
            advice = advise(advising, judge_model=judge_model)
            known = {"advice": advice.advice, "reason": advice.reason}
            found[name] = found[name].model_copy(update=known)
    write_json(plan.folder / "data" / FILE, _RECORD.dump_python(found))
    return found


def _source(plan: ExperimentPlan, name: str) -> str:
    given = plan.config.data[name].pairs
    return pairs_of(given if given is not None else str(plan.data_folder(name).run))


def _rows(source: str) -> Rows:
    found: Rows = {}
    for where, row in read_rows(source, "train"):
        found.setdefault(pair_from_row(row, where).id, []).append(dict(row))
    return found


def _of_same_prompts(rows: Mapping[str, Rows]) -> dict[str, Rows]:
    """One pair of each prompt that all data sets have.

    Raises:
        DataError: there is no such prompt.
    """
    ids = set.intersection(*(set(of) for of in rows.values()))
    if not ids:
        raise DataError(
            f"the data sets {', '.join(rows)} have no prompt in common: make them of the same "
            "prompts, or set same_prompts: false"
        )
    return {
        name: {id: [of[id][_which(id, len(of[id]))]] for id in sorted(ids)}
        for name, of in rows.items()
    }


def _which(prompt_id: str, count: int) -> int:
    """Which of a prompt's pairs is taken: by the end of its digest, whose beginning holds out."""
    return int(prompt_id[-8:], 16) % count


def _write(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_writer(path) as file:
        for of in rows.values():
            for row in of:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _contrast(rows: Rows) -> dict[str, Interval]:
    """How far apart the two answers of a pair are."""
    ids = [id for id, of in rows.items() for _ in of]
    pairs = [pair_from_row(row, id) for id, of in rows.items() for row in of]
    found = [
        measure_contrast(chosen=plain_text(pair.chosen), rejected=plain_text(pair.rejected))
        for pair in pairs
    ]
    return {
        "jaccard": mean_interval([one.jaccard for one in found], clusters=ids),
        "levenshtein_share": mean_interval([one.levenshtein_share for one in found], clusters=ids),
    }


def _build_reference(plan: ExperimentPlan, name: str) -> None:
    """Compute the reference of a data set, so that no cell has to."""
    cell = _first_with_reference(plan, name)
    if cell is None:
        return
    config = plan.data_folder(name).reference_config
    with atomic_writer(config) as file:
        file.write(yaml.safe_dump(plan.referring(cell), sort_keys=False))
    run_command(f"data set {name}", ["reference", "build", "--config", str(config)])


def _first_with_reference(plan: ExperimentPlan, name: str) -> Cell | None:
    for objective in plan.config.objectives:
        cell = candidates(plan.config, name, objective)[0]
        if not set(losses(plan.training(cell))) <= set(NO_CACHE):
            return cell
    return None


def losses(training: Mapping[str, Any]) -> list[str]:
    """The objectives that a training config names."""
    named = training.get("loss_type", "apo_zero")
    return [named] if isinstance(named, str) else list(named)
