"""The command `clair-apo`: each subcommand parses, makes one library call, and prints.

`generate`, `demo` and `train` hand their arguments on as they are: every config key is an option.
Results go to standard output, what happens meanwhile to standard error.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clair_apo.console import print_result
from clair_apo.errors import ConfigError, StoreError, reported_errors
from clair_apo.output_streams import steady_output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clair_apo.clair import GenerateConfig
    from clair_apo.experiment import ExperimentConfig
    from clair_apo.records import Record

AGAIN = "what was answered is kept; run the same command again to go on"

MODES = """Modes of generate, beside the keys below:
  --estimate          say what the run will ask and cost; ask nothing
  --tokenizer NAME    whose tokens --estimate counts (default: those of smollm2-135m)
  --pilot N           use N of the prompts, in a folder of their own, and project the rest
  --push_to_hub NAME  put the data set on the hub when it is made
"""

ESTIMATE = """Modes of evaluate, beside the keys below:
  --estimate        say what the evaluation will ask and cost; ask nothing
  --tokenizer NAME  whose tokens --estimate counts (default: those of smollm2-135m)
"""

PROCESSES = """Options of train that start several processes, beside the keys below:
  --num_processes N         one for each GPU, or so many on the cores of a machine without GPUs
  --accelerate_config FILE  a YAML of accelerate launch: FSDP, DeepSpeed, several machines
"""

SHARES = """Options of reference build, beside the keys below:
  --shard I/N  compute only the I-th of N parts of the pairs, for N machines that share them
"""

app = typer.Typer(
    help="Minimal-revision preference pairs (CLAIR) and anchored preference optimization (APO).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
reference = typer.Typer(help="The cache of reference log-probabilities.", no_args_is_help=True)
app.add_typer(reference, name="reference")
_Cache = Annotated[
    Path | None, typer.Option("--reference_cache", help="Its folder; by default the user's.")
]
_Config = Annotated[Path | None, typer.Option("--config", help="A training config.")]
# the config's own parser answers --help, and knows every key
_HANDED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_HANDED_ON)
def demo(context: typer.Context) -> None:
    """Run the whole pipeline on the embedded model: prompts, pairs, training, evidence."""
    with reported_errors(interrupted=AGAIN):
        from clair_apo.demo import run_demo

        run_demo(context.args)


@app.command(context_settings=_HANDED_ON)
def generate(
    context: typer.Context,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say what will be asked and cost; ask nothing.")
    ] = False,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="Whose tokens --estimate counts.")
    ] = None,
    pilot: Annotated[
        int | None, typer.Option("--pilot", help="Use so many prompts, and project the rest.")
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option("--push_to_hub", help="Put the data set there when it is made.")
    ] = None,
) -> None:
    """Make preference pairs: --config FILE.yaml, and any key as an option."""
    with reported_errors(interrupted=AGAIN):
        from clair_apo.clair import GenerateConfig
        from clair_apo.clair import generate as make_pairs
        from clair_apo.clair.dataset import check_push, push_dataset

        if "--help" in context.args:
            print_result(MODES)
        config = GenerateConfig.from_command_line(context.args)
        if estimate:
            from clair_apo.clair.planning.estimate import estimate as estimated
            from clair_apo.clair.planning.tables import estimate_table
            from clair_apo.llm.token_count import STAND_IN

            planned = estimated(config, tokenizer or STAND_IN)
            return _print_estimate(planned, estimate_table(planned), config.folder)
        if pilot is not None:
            return _print_pilot(config, pilot)
        if push_to_hub:
            check_push()
        result = make_pairs(config)
        print_result(f"asked {result.asked} requests, {result.reused} were answered before")
        if result.cost:
            print_result(f"cost of the run, all its invocations: ${result.cost:.4f}")
        _print_report(config.folder)
        if push_to_hub:
            print_result(f"pushed: {push_dataset(config.folder, push_to_hub)}")


def _print_estimate(found: "Record", table: "RenderableType", folder: Path) -> None:
    from clair_apo.run_folder import write_json

    path = folder / "estimate.json"
    write_json(path, found.model_dump(mode="json"))
    print_result(table)
    print_result(f"as numbers: {path}")


def _print_pilot(config: "GenerateConfig", prompts: int) -> None:
    from clair_apo.clair.planning.pilot import FILE, pilot
    from clair_apo.clair.planning.tables import pilot_table

    found = pilot(config, prompts)
    print_result(pilot_table(found))
    run = Path(found.run_dir)
    _print_report(run)
    print_result(f"as numbers: {run / FILE}")


@app.command(context_settings=_HANDED_ON)
def evaluate(
    context: typer.Context,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say what will be asked and cost; ask nothing.")
    ] = False,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="Whose tokens --estimate counts.")
    ] = None,
) -> None:
    """Measure what models answer: --config FILE.yaml, and any key as an option."""
    with reported_errors(interrupted=AGAIN):
        from clair_apo.evaluation import EvaluateConfig
        from clair_apo.evaluation import evaluate as measure
        from clair_apo.evaluation.tables import evaluation_table
        from clair_apo.report import write_evaluation_page

        if "--help" in context.args:
            print_result(ESTIMATE)
        config = EvaluateConfig.from_command_line(context.args)
        if estimate:
            from clair_apo.evaluation.estimate import estimate as estimated
            from clair_apo.evaluation.estimate import estimate_table
            from clair_apo.llm.token_count import STAND_IN

            planned = estimated(config, tokenizer or STAND_IN)
            return _print_estimate(planned, estimate_table(planned), config.run_dir)
        found = measure(config)
        print_result(evaluation_table(found.content))
        print_result(f"asked {found.asked} requests, {found.reused} were answered before")
        if found.cost:
            print_result(f"cost of the evaluation, all its invocations: ${found.cost:.4f}")
        page = write_evaluation_page(found.folder)
        print_result(f"as numbers: {found.folder / 'evaluation.json'}\npage: {page}")


@app.command()
def report(
    run: Annotated[
        Path, typer.Argument(help="A run folder of generate, of train, or of experiment.")
    ],
) -> None:
    """Draw a run's pages: its pairs, its training, and all that is in it on one page (run.html)."""
    from clair_apo.report import find_training, write_experiment_page, write_run_page

    with reported_errors():
        if (run / "experiment.json").exists():
            return print_result(f"experiment: {write_experiment_page(run)}")
        training = find_training(run)
        if training is None or (run / "pairs.jsonl").exists():
            _print_report(run)
        if training is not None:
            _print_training_report(training)
        whole = write_run_page(run)
        if whole is not None:
            print_result(f"whole run: {whole}")


@app.command()
def lint(
    pairs: Annotated[str, typer.Argument(help="A run, a JSONL or Parquet file, or a data set.")],
    split: Annotated[str, typer.Option("--split", help="Of data that has several.")] = "train",
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="Data whose prompts must not be there; several times."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="Of the model to be trained.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max_length", min=1, help="Of the training (1024 tokens).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for lint.json and lint.html.")
    ] = None,
    fail_on: Annotated[
        Literal["error", "warning", "never"],
        typer.Option("--fail_on", help="The least severity that ends with status 1."),
    ] = "error",
) -> None:
    """Look preference pairs over, ours or anybody's; ends with 1 where there is an error."""
    with reported_errors():
        from clair_apo.lint import lint as look_over
        from clair_apo.lint import lint_table
        from clair_apo.report import lint_folder, write_lint

        found = look_over(
            pairs, split=split, against=against or (), tokenizer=tokenizer, max_length=max_length
        )
        print_result(lint_table(found))
        page = write_lint(found, out or lint_folder(pairs))
        print_result(f"as numbers: {page.with_suffix('.json')}\npage: {page}")
        if found.fails(fail_on):
            raise SystemExit(1)


@app.command()
def select(
    pairs: Annotated[str, typer.Argument(help="A run, a JSONL or Parquet file, or a data set.")],
    by: Annotated[
        Literal["score_margin", "logratio_margin", "jaccard", "edit_ratio"],
        typer.Option("--by", help="The number of a pair that decides."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to write to.")],
    keep: Annotated[
        Literal["top", "bottom"], typer.Option("--keep", help="The end that is kept.")
    ] = "top",
    share: Annotated[float | None, typer.Option("--share", help="So large a share.")] = None,
    count: Annotated[int | None, typer.Option("--count", help="So many pairs.")] = None,
    quota: Annotated[int | None, typer.Option("--quota", help="So many of each source.")] = None,
    least: Annotated[float | None, typer.Option("--min", help="No smaller number.")] = None,
    most: Annotated[float | None, typer.Option("--max", help="No larger number.")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="A training config, whose reference gives logratio_margin."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Of data that has several.")] = "train",
) -> None:
    """Keep some pairs: by score, log-ratio or contrast, from one end or between thresholds."""
    with reported_errors(interrupted=AGAIN):
        from clair_apo.select import select as keep_some
        from clair_apo.select import selection_table
        from clair_apo.select.rule import rule_of

        rule = rule_of(by=by, keep=keep, share=share, count=count, quota=quota, min=least, max=most)
        margins = _margins(pairs, split, by, config)
        reference = str(config) if config else None
        found = keep_some(pairs, rule, out, split=split, margins=margins, reference=reference)
        print_result(selection_table(found))
        print_result(f"pairs: {out / 'selected.jsonl'}\nleft out: {out / 'left_out.jsonl'}")


def _margins(pairs: str, split: str, by: str, config: Path | None) -> dict[str, float] | None:
    if (by == "logratio_margin") != (config is not None):
        raise ConfigError(
            "--by logratio_margin and --config belong together: the reference that gives the "
            "numbers is that of a training config (model, max_length); give both or none"
        )
    if config is None:
        return None
    from clair_apo.apo.arguments import parse_arguments
    from clair_apo.apo.build_reference import reference_margins
    from clair_apo.ingest.pairs import pairs_of

    data = pairs_of(pairs)
    options = ["--dataset_name", data, "--dataset_train_split", split, "--held_out", "0"]
    return reference_margins(parse_arguments(["--config", str(config), *options]))


@app.command()
def merge(
    out: Annotated[Path, typer.Argument(help="The folder of the whole run.")],
    runs: Annotated[list[Path], typer.Argument(help="The folders of all its shards.")],
) -> None:
    """Join the shards of a run (generate --shard i/n) into one run folder and one store."""
    with reported_errors():
        from clair_apo.clair.merge import merge as join

        result = join(out, runs)
        print_result(
            f"merged {result.shards} shards; {result.answers} answers taken over, "
            f"{result.conflicts} requests with two answers (the first one stays)"
        )
        _print_report(out)


@app.command()
def batches(
    run: Annotated[Path, typer.Argument(help="A run folder of generate or evaluate.")],
    cancel: Annotated[str | None, typer.Option(help="End this batch, or `all`.")] = None,
    forget: Annotated[
        str | None, typer.Option(help="Wait no longer for this batch, or `all`; ask again.")
    ] = None,
) -> None:
    """List a run's batches at a server, and keep what those that have ended answered."""
    with reported_errors():
        from clair_apo.evaluation.batches import list_batches

        looks = list_batches(run, cancel=cancel, forget=forget)
        for look in looks:
            batch = look.batch
            line = f"{batch.id}  {batch.state}  {look.answered} of {len(batch.keys)} answered"
            print_result(line + (f"  ({look.told})" if look.told else ""))
        if not looks:
            print_result("this run has no batches")


@app.command(context_settings=_HANDED_ON)
def advise(context: typer.Context) -> None:
    """Say which anchor fits, zero or down: --config FILE.yaml, and any key as an option."""
    with reported_errors(interrupted=AGAIN):
        from clair_apo.advice.advise import FILE, advice_text
        from clair_apo.advice.advise import advise as find_advice
        from clair_apo.advice.config import AdviseConfig

        config = AdviseConfig.from_command_line(context.args)
        print_result(advice_text(find_advice(config)))
        print_result(f"as numbers: {config.run_dir / FILE}")


@app.command(context_settings=_HANDED_ON)
def train(
    context: typer.Context,
    num_processes: Annotated[
        int | None, typer.Option("--num_processes", help="Train in so many processes.")
    ] = None,
    accelerate_config: Annotated[
        Path | None, typer.Option("--accelerate_config", help="A YAML of accelerate launch.")
    ] = None,
) -> None:
    """Train on preference pairs: --config FILE.yaml, any key an option; --dry_run looks first."""
    with reported_errors():
        if "--help" in context.args:
            print_result(PROCESSES)
        in_one = accelerate_config is None and num_processes in (None, 1)
        if in_one or {"--help", "--dry_run"} & set(context.args):
            return train_and_report(context.args)
        from clair_apo.launch import launch_training

        _check_text(context.args)
        launch_training(context.args, num_processes, accelerate_config)


def train_and_report(args: Sequence[str]) -> None:
    """What `clair-apo train` and `scripts/train.py` do: train, then draw where the pairs went.

    Args:
        args: the command line.

    Raises:
        ClairApoError: whatever the user can mend.
        KeyboardInterrupt: Ctrl+C; its message says how to go on.
    """
    from clair_apo.apo.arguments import is_unpaired
    from clair_apo.apo.train import main as train_on_pairs  # looks at the installed TRL first

    _check_text(args)
    if is_unpaired(args):
        from clair_apo.apo.unpaired import train_unpaired

        result = train_unpaired(args)
    else:
        result = train_on_pairs(args)
    if result is not None:
        _print_training_report(result.output_dir)


@app.command(context_settings=_HANDED_ON)
def rounds(context: typer.Context) -> None:
    """Generate, advise, train, evaluate, and again: --config FILE.yaml, any key as an option."""
    with reported_errors(interrupted=AGAIN):
        from clair_apo.report import write_rounds_page
        from clair_apo.rounds import RoundsConfig, run_rounds
        from clair_apo.rounds.table import rounds_table

        config = RoundsConfig.from_command_line(context.args)
        print_result(rounds_table(run_rounds(config)))
        print_result(f"page: {write_rounds_page(config.run_dir)}")


@app.command(context_settings=_HANDED_ON)
def experiment(context: typer.Context) -> None:
    """Train a grid of cells and compare them: --config FILE.yaml, any key as an option."""
    with reported_errors(interrupted=AGAIN):
        from clair_apo.experiment import ExperimentConfig, run_experiment
        from clair_apo.experiment.lines import without_launch
        from clair_apo.experiment.table import experiment_table
        from clair_apo.report import write_experiment_page

        config = ExperimentConfig.from_command_line(context.args)
        if config.dry_run or config.launch:
            return _print_experiment(config, without_launch(context.args))
        print_result(experiment_table(run_experiment(config)))
        print_result(f"page: {write_experiment_page(config.run_dir)}")


def _print_experiment(config: "ExperimentConfig", options: Sequence[str]) -> None:
    """Print what an experiment takes, or what other machines run of it."""
    from clair_apo.experiment.estimate import estimate, estimate_table
    from clair_apo.experiment.lines import launch_lines, slurm_script
    from clair_apo.experiment.plan import ExperimentPlan

    plan = ExperimentPlan(config)
    if config.dry_run:
        return print_result(estimate_table(config, estimate(plan)))
    lines = launch_lines if config.launch == "lines" else slurm_script
    print_result(lines(plan, options))


@app.command()
def average(
    models: Annotated[list[str], typer.Argument(help="Folders or names, two or more.")],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="The new model's folder.")],
    weights: Annotated[
        str | None, typer.Option("--weights", help="As 0.9,0.1; equal by default.")
    ] = None,
) -> None:
    """Write the weighted mean of checkpoints, or of a model and an earlier one."""
    with reported_errors():
        from clair_apo.apo.average import average_models, weights_from_text

        shares = weights_from_text(weights) if weights else None
        for model in average_models(models, output_dir, shares):
            print_result(f"{model.weight:g} of {model.name} ({model.digest[:12]})")
        print_result(f"model: {output_dir}")


@reference.command(context_settings=_HANDED_ON)
def build(context: typer.Context) -> None:
    """Compute what the cache lacks for a training config: --config FILE.yaml, any key an option."""
    with reported_errors(interrupted=AGAIN):
        from clair_apo.apo.build_reference import main as build_reference

        if "--help" in context.args:
            print_result(SHARES)
        _check_text(context.args)
        build_reference(context.args)


@reference.command("merge")
def merge_references(
    caches: Annotated[list[Path], typer.Argument(help="The caches of other machines.")],
    reference_cache: _Cache = None,
) -> None:
    """Take the references of other caches (reference build --shard i/n) over into one."""
    with reported_errors(interrupted=AGAIN):
        from clair_apo.apo.reference.storage import cache_path, merge_caches

        target = cache_path(reference_cache)
        merged = merge_caches(caches, target)
        print_result(f"{merged.files} files were taken over\ncache: {target}")
        if merged.faults:
            raise StoreError("; ".join([*merged.faults, "left out; build their pairs again"]))


@reference.command()
def info(reference_cache: _Cache = None) -> None:
    """List the references in a cache."""
    with reported_errors():
        from clair_apo.apo.reference.listing import table
        from clair_apo.apo.reference.storage import cache_path, stored_references

        print_result(table(stored_references(cache_path(reference_cache))))
        print_result(f"cache: {cache_path(reference_cache)}")


@reference.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def verify(context: typer.Context, reference_cache: _Cache = None, config: _Config = None) -> None:
    """Check every file of a cache; with --config also ask the reference again about some pairs."""
    with reported_errors():
        from clair_apo.apo.reference.listing import verify_files
        from clair_apo.apo.reference.storage import cache_path

        if config is None and context.args:
            raise ConfigError(f"command line: {context.args[0]} is an option of --config FILE.yaml")
        root = cache_path(reference_cache)
        if config is not None:
            from clair_apo.apo.arguments import parse_arguments
            from clair_apo.apo.build_reference import verify_pairs

            where = ["--reference_cache", str(reference_cache)] if reference_cache else []
            setup = parse_arguments(["--config", str(config), *context.args, *where])
            root = cache_path(setup.args.reference_cache)
            print_result(verify_pairs(setup))
        pairs = sum(one.pairs for one in verify_files(root))
        print_result(f"{pairs} pairs in sound files: {root}")


def _check_text(args: Sequence[str]) -> None:
    from clair_apo.config import unwritable

    if fault := unwritable(list(args)):
        raise ConfigError(f"command line: {fault}")


def _print_report(run: Path) -> None:
    from clair_apo.report import (
        contrast_table,
        counts_line,
        verification_lines,
        write_report,
    )

    files = write_report(run)
    print_result(counts_line(files.summary))
    for line in verification_lines(files.summary):
        print_result(line)
    print_result(contrast_table(files.summary))
    print_result(f"pairs:  {run / 'pairs.jsonl'}\nreport: {files.page}")
    if files.card:
        print_result(f"data set for others, with its card: {files.card.parent}")


def _print_training_report(folder: Path) -> None:
    from clair_apo.report import write_training_report

    files = write_training_report(folder)
    print_result(f"training report: {files.page}")


def main() -> None:
    """The entry point of the command."""
    with steady_output():
        app()
