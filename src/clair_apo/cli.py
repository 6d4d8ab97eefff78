"""The command `clair-apo`: each subcommand parses, makes one library call, and prints.

`generate`, `demo` and `train` hand their arguments on as they are: every config key is an option.
Results go to standard output, what happens meanwhile to standard error.
"""

from pathlib import Path
from typing import Annotated

import typer

from clair_apo.errors import reported_errors
from clair_apo.progress import print_result

AGAIN = "what was answered is kept; run the same command again to go on"

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
    """Walk the whole arrow on the embedded model: prompts, pairs, training, evidence."""
    from clair_apo.demo import run_demo

    with reported_errors(interrupted=AGAIN):
        run_demo(context.args)


@app.command(context_settings=_HANDED_ON)
def generate(context: typer.Context) -> None:
    """Make preference pairs: --config FILE.yaml, and any key as an option."""
    from clair_apo.clair import GenerateConfig
    from clair_apo.clair import generate as make_pairs

    with reported_errors(interrupted=AGAIN):
        config = GenerateConfig.from_command_line(context.args)
        result = make_pairs(config)
        print_result(f"asked {result.asked} requests, {result.reused} were answered before")
        _print_report(config.run_dir)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder of generate.")]) -> None:
    """Write a run's contrast.json and report.html."""
    with reported_errors():
        _print_report(run)


@app.command(context_settings=_HANDED_ON)
def train(context: typer.Context) -> None:
    """Train on preference pairs: --config FILE.yaml, and any key as an option."""
    with reported_errors():
        from clair_apo.apo.train import main as train_on_pairs

        train_on_pairs(context.args)


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
        from clair_apo.apo.reference_command import main as build_reference

        build_reference(context.args)


@reference.command()
def info(reference_cache: _Cache = None) -> None:
    """List the references in a cache."""
    with reported_errors():
        from clair_apo.apo.reference_files import table
        from clair_apo.apo.reference_store import cache_path, stored_references

        print_result(table(stored_references(cache_path(reference_cache))))
        print_result(f"cache: {cache_path(reference_cache)}")


@reference.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def verify(context: typer.Context, reference_cache: _Cache = None, config: _Config = None) -> None:
    """Check every file of a cache; with --config also ask the reference again about some pairs."""
    with reported_errors():
        from clair_apo.apo.reference_files import verify_reference

        for line in verify_reference(reference_cache, config, context.args):
            print_result(line)


def _print_report(run: Path) -> None:
    from clair_apo.report import contrast_table, counts_line, write_report

    files = write_report(run)
    print_result(counts_line(files.summary))
    print_result(contrast_table(files.summary))
    print_result(f"pairs:  {run / 'pairs.jsonl'}\nreport: {files.page}")


def main() -> None:
    """The entry point of the command."""
    app()
