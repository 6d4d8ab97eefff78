"""Lists the references of a cache as a table, and verifies their files.

Loads no torch.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal
from rich.table import Table

from clair_apo.apo.reference.storage import FORMAT, StoredReference, stored_references
from clair_apo.errors import StoreError


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
