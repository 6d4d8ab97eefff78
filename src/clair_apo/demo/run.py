"""`clair-apo demo`: the whole pipeline, through the same calls as any other run."""

import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent

from clair_apo.clair import GenerateConfig, generate
from clair_apo.config import read_yaml
from clair_apo.console import CONSOLE, print_result
from clair_apo.demo.recording import data_file, fill_store, recorded_prompts
from clair_apo.demo.verdict import verdict
from clair_apo.evaluation import EvaluateConfig, Evaluation, evaluate
from clair_apo.evaluation.tables import evaluation_table
from clair_apo.files import write_jsonl
from clair_apo.llm import RequestStore
from clair_apo.models import EMBEDDED, find_model
from clair_apo.records import Prompt
from clair_apo.report import (
    contrast_table,
    counts_line,
    write_evaluation_page,
    write_report,
    write_run_page,
    write_training_report,
)
from clair_apo.run_folder import is_held_out

SHOWN = 3
"""Held-out prompts whose answers are shown before and after training."""
TRAINED, BASE = "trained", "base"
HELD_OUT = "held_out.jsonl"


def run_demo(args: Sequence[str] = ()) -> None:
    """Make pairs from the recorded answers, train the embedded model on them, show the evidence.

    Args:
        args: options of `clair-apo generate`; they change the demo's config.

    Raises:
        ClairApoError: whatever the user can mend.
    """
    find_model(EMBEDDED, say=CONSOLE.print)
    config = demo_config(args)
    with RequestStore(config.store_path) as store:
        fill_store(store)
    _heading("1", f"prompts -> responses -> revisions -> pairs, in {config.run_dir}")
    generate(config)
    report = write_report(config.run_dir)
    print_result(counts_line(report.summary))
    print_result(contrast_table(report.summary))
    _heading("2", "anchored training on the pairs (APO-zero)")
    checkpoint = train_on(config.run_dir)
    _heading("3", "what the model answers to prompts that it was not trained on")
    prompts = held_out_prompts(config)
    found = evaluate(evaluation_config(config, checkpoint, prompts))
    print_result(evaluation_table(found.content))
    _show_answers(found, prompts[:SHOWN])
    training = write_training_report(checkpoint)
    print_result(
        f"report:     {report.page}\ntraining:   {training.page}\ncheckpoint: {checkpoint}\n"
        f"evaluation: {write_evaluation_page(found.folder)}\n"
        f"whole run:  {write_run_page(config.run_dir)}\n"
    )
    print_result(verdict(found.content, TRAINED, BASE))


def demo_config(args: Sequence[str] = ()) -> GenerateConfig:
    """The demo's generation config, with options on top.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    values = read_yaml(Path(__file__).with_name("generate.yaml"))
    values["prompts"]["path"] = str(data_file("prompts.jsonl"))
    values["revision"]["rubric"] = str(data_file("rubric.md"))
    return GenerateConfig.from_command_line(args, default=values)


def training_yaml() -> Path:
    """The demo's training config."""
    return Path(__file__).with_name("train.yaml")


def train_on(run_dir: Path, options: Sequence[str] = ()) -> Path:
    """Train on a run's pairs and print held-out rewards; returns the checkpoint's folder.

    Args:
        run_dir: of `generate`.
        options: of `clair-apo train`, on top of the demo's config.

    Raises:
        ClairApoError: whatever the user can mend.
    """
    from clair_apo.apo.arguments import parse_arguments
    from clair_apo.apo.checkpoints import last_checkpoint
    from clair_apo.apo.train import summary, train

    checkpoint = run_dir / "checkpoint"
    setup = parse_arguments(
        [
            *("--config", str(training_yaml())),
            *("--dataset_name", str(run_dir / "pairs.jsonl")),
            *("--output_dir", str(checkpoint)),
            *("--resume_from_checkpoint", "true" if last_checkpoint(checkpoint) else "false"),
            *options,
        ]
    )
    print_result(summary(train(setup)))
    return checkpoint


def held_out_prompts(config: GenerateConfig) -> list[Prompt]:
    """The prompts that training holds out, also those whose answer became no pair.

    They are drawn by the digests of the prompts alone, so the base's answers to them are not
    chosen by anything that an answer shows.
    """
    share = read_yaml(training_yaml())["held_out"]
    return [p for id, p in sorted(recorded_prompts(config).items()) if is_held_out(id, share)]


def evaluation_config(
    config: GenerateConfig, checkpoint: Path, prompts: Sequence[Prompt]
) -> EvaluateConfig:
    """The evaluation of the trained model beside the base, on held-out prompts.

    Both are asked as the target was. The base's answers are in the request store: they are the
    recorded ones, and only the trained model is asked.

    Args:
        config: of the demo's generation.
        checkpoint: the trained model.
        prompts: held-out prompts; written to the run folder.
    """
    path = config.run_dir / HELD_OUT
    write_jsonl(path, prompts)
    target = config.target.model_dump(mode="json")
    values = {
        "run_dir": str(config.run_dir / "evaluation"),
        "models": {TRAINED: target | {"model": str(checkpoint), "base_url": None}, BASE: target},
        "prompts": {"path": str(path)},
        "suites": [
            {"suite": "health", "drift": False},  # it would take most of a minute
            {"suite": "checks", "checks": str(data_file("house_rules.yaml"))},
        ],
        "store": str(config.store_path),
    }
    return EvaluateConfig.from_command_line([], default=values)


def _show_answers(found: Evaluation, prompts: Sequence[Prompt]) -> None:
    """Print the answers of both models to a few prompts."""
    texts = {
        model: _answers(found.folder / "answers" / f"{model}.jsonl") for model in (BASE, TRAINED)
    }
    for prompt in prompts:
        print_result(prompt.messages[-1].content)
        for when, model in (("before", BASE), ("after", TRAINED)):
            print_result(f"  {when}:\n{indent(texts[model][prompt.id], '    ')}")
        print_result("")


def _answers(path: Path) -> dict[str, str]:
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return {row["id"]: row["answer"] or "(no answer)" for row in rows}


def _heading(number: str, text: str) -> None:
    CONSOLE.print(f"\n{number}. {text}", markup=False)
