"""The cache as a person looks at it: a table, and whether its files are sound. Loads no torch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.filesize import decimal
from rich.table import Table

from clair_apo.apo.reference.storage import FORMAT, StoredReference, cache_path, stored_references
from clair_apo.errors import ConfigError, StoreError


def table(stored: Sequence[StoredReference]) -> Table:
    """The references of a cache, a row each."""
    shown = Table("reference", "model", "dtype", "pairs", "tokens", "size", "since")
    for one in stored:
        facts = one.facts
        unused = ", earlier format: not used" if facts.identity.format < FORMAT else ""
        shown.add_row(
            facts.identity.digest[:12],
            facts.model,
            facts.identity.dtype,
            f"{one.pairs:,}",
            f"{one.tokens:,}",
            decimal(one.size) + (f", {len(one.faults)} damaged" if one.faults else "") + unused,
            facts.created[:10],
        )
    return shown


def verify_files(root: Path) -> list[StoredReference]:
    """Read every file of a cache and compare it with its name.

    Raises:
        StoreError: there is no cache, or one with damaged files; names them.
    """
    stored = stored_references(root)
    faults = [fault for reference in stored for fault in reference.faults]
    if faults:
        raise StoreError("; ".join([*faults, "no run uses these files; delete them"]))
    return stored


def verify_reference(
    root: Path | None, config: Path | None, options: Sequence[str]
) -> Iterator[str]:
    """Check the files of a cache and, where a training config is given, some of its answers.

    Yields:
        What was found sound, a line each.

    Raises:
        ConfigError: options without a config.
        StoreError: what was found damaged or different.
    """
    if config is None and options:
        raise ConfigError(f"command line: {options[0]} is an option of --config FILE.yaml")
    if config is not None:
        from clair_apo.apo.arguments import parse_arguments
        from clair_apo.apo.build_reference import verify_pairs

        where = ["--reference_cache", str(root)] if root else []
        setup = parse_arguments(["--config", str(config), *options, *where])
        root = cache_path(setup.args.reference_cache)
        yield verify_pairs(setup)
    files = verify_files(cache_path(root))
    yield f"{sum(one.pairs for one in files)} pairs in sound files: {cache_path(root)}"
