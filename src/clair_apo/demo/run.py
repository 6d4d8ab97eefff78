"""`clair-apo demo`: the whole pipeline, through the same calls as any other run."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import indent

from clair_apo.clair import GenerateConfig, generate
from clair_apo.config import read_yaml
from clair_apo.console import CONSOLE, print_result, show_progress
from clair_apo.demo.recording import data_file, fill_store
from clair_apo.files import read_jsonl
from clair_apo.llm import CachedChat, ChatRequest, Dialogue, ModelSpec, RequestStore
from clair_apo.models import EMBEDDED, find_model
from clair_apo.records import Message, PreferencePair
from clair_apo.report import contrast_table, counts_line, write_report, write_training_report

SHOWN = 2
"""Held-out prompts whose answers are shown before and after training."""


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
    checkpoint, held_out = _train(config.run_dir)
    _heading("3", "two held-out prompts, before and after")
    _show_before_and_after(config, checkpoint, held_out)
    training = write_training_report(checkpoint)
    print_result(
        f"report:     {report.page}\ntraining:   {training.page}\ncheckpoint: {checkpoint}"
    )


def demo_config(args: Sequence[str] = ()) -> GenerateConfig:
    """The demo's generation config, with options on top.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    values = read_yaml(Path(__file__).with_name("generate.yaml"))
    values["prompts"]["path"] = str(data_file("prompts.jsonl"))
    values["revision"]["rubric"] = str(data_file("rubric.md"))
    return GenerateConfig.from_command_line(args, default=values)


def _train(run_dir: Path) -> tuple[Path, list[str]]:
    """Train on a run's pairs; the checkpoint's folder and the ids of the held-out pairs."""
    from clair_apo.apo.arguments import parse_arguments
    from clair_apo.apo.checkpoints import last_checkpoint
    from clair_apo.apo.data import split_pairs
    from clair_apo.apo.train import summary, train
    from clair_apo.ingest.pairs import load_pairs

    checkpoint = run_dir / "checkpoint"
    setup = parse_arguments(
        [
            *("--config", str(Path(__file__).with_name("train.yaml"))),
            *("--dataset_name", str(run_dir / "pairs.jsonl")),
            *("--output_dir", str(checkpoint)),
            *("--resume_from_checkpoint", "true" if last_checkpoint(checkpoint) else "false"),
        ]
    )
    print_result(summary(train(setup)))
    pairs = load_pairs(setup.script.dataset_name)
    split = split_pairs(pairs, setup.script.held_out, setup.script.max_pairs)
    return checkpoint, [pair.id for pair in split.held_out]


def _show_before_and_after(
    config: GenerateConfig, checkpoint: Path, held_out: Sequence[str]
) -> None:
    """Ask the trained model as the target was asked, and print both answers."""
    pairs = {pair.id: pair for pair in read_jsonl(config.run_dir / "pairs.jsonl", PreferencePair)}
    shown = [pairs[pair_id] for pair_id in held_out[:SHOWN]]
    spec = config.target.model_copy(update={"model": str(checkpoint), "base_url": None})
    after = _ask(spec, config, [pair.prompt for pair in shown])
    for pair, answer in zip(shown, after, strict=True):
        print_result(pair.prompt[-1].content)
        print_result(f"  before:\n{indent(pair.rejected[-1].content, '    ')}")
        print_result(f"  after:\n{indent(answer, '    ')}\n")


def _ask(
    spec: ModelSpec, config: GenerateConfig, prompts: Sequence[tuple[Message, ...]]
) -> list[str]:
    with RequestStore(config.store_path) as store:
        chat = CachedChat(spec, store)
        texts = []
        with show_progress("answers", len(prompts), chat.meter) as tell:
            for text in chat.converse(_answer(chat.request(prompt)) for prompt in prompts):
                texts.append(text)
                tell("answered")
    return texts


def _answer(request: ChatRequest) -> Dialogue[str]:
    (answer,) = yield (request,)
    return answer.completion.text if answer.completion else answer.failure


def _heading(number: str, text: str) -> None:
    CONSOLE.print(f"\n{number}. {text}", markup=False)
