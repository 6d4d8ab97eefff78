"""Lists, cancels and forgets the batches of an evaluation, or of a run of `generate`."""

from pathlib import Path

from clair_apo.clair.batches import list_batches as list_batches_of_generate
from clair_apo.clair.batches import look_after
from clair_apo.clair.manifest import config_of
from clair_apo.evaluation.config import EvaluateConfig
from clair_apo.evaluation.plan import COMMAND, all_specs
from clair_apo.evaluation.suites.base import EvaluatedModel
from clair_apo.llm import ModelSpec, RequestStore
from clair_apo.llm.backends.batch_admin import BatchAdmin, BatchLook
from clair_apo.run_folder import RunFolder


def list_batches(
    run: Path, *, cancel: str | None = None, forget: str | None = None
) -> list[BatchLook]:
    """List the batches of a folder; the answers of those that have ended are kept in its store.

    Args:
        run: a run folder of `generate` or `evaluate`.
        cancel: a batch, or `all`, to be ended at the server first.
        forget: a batch, or `all`, to be waited for no longer: the next run asks again.

    Raises:
        RunError: there is no run, or one of another version of this program.
        RequestError: there is no such batch, or the server cannot be asked.
        StoreError: the store cannot be used.
    """
    manifest = RunFolder(run).manifest()
    if manifest.get("command") != COMMAND:
        return list_batches_of_generate(run, cancel=cancel, forget=forget)
    config = config_of(run, manifest["config"], EvaluateConfig)
    asked = [
        EvaluatedModel(name, entry)
        for name, entry in config.models.items()
        if isinstance(entry, ModelSpec)
    ]
    with RequestStore(config.store_path) as store:
        admin = BatchAdmin(store, manifest["run_id"], list(all_specs(config, asked).values()))
        return look_after(admin, cancel=cancel, forget=forget)
