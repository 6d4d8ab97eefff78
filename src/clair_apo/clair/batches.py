"""Lists, cancels and forgets the batches that a run has at a server."""

from pathlib import Path

from clair_apo.clair.config import GenerateConfig
from clair_apo.clair.manifest import config_of
from clair_apo.errors import RunError
from clair_apo.llm import RequestStore
from clair_apo.llm.backends.batch_admin import BatchAdmin, BatchLook
from clair_apo.run_folder import RunFolder


def list_batches(
    run: Path, *, cancel: str | None = None, forget: str | None = None
) -> list[BatchLook]:
    """List the batches of a run; the answers of those that have ended are kept in its store.

    Args:
        run: a run folder of `generate`.
        cancel: a batch, or `all`, to be ended at the server first.
        forget: a batch, or `all`, to be waited for no longer: the next run asks again.

    Raises:
        RunError: there is no run.
        RequestError: there is no such batch, or the server cannot be asked.
        StoreError: the store cannot be used.
    """
    manifest = RunFolder(run).manifest()
    if "run_id" not in manifest:
        raise RunError(f"{run}: is no run folder of generate or evaluate")
    config = config_of(run, manifest["config"], GenerateConfig)
    models = [spec for spec in (config.target, config.reviser, config.judge) if spec]
    with RequestStore(config.store_path) as store:
        admin = BatchAdmin(store, manifest["run_id"], models)
        return look_after(admin, cancel=cancel, forget=forget)


def look_after(admin: BatchAdmin, *, cancel: str | None, forget: str | None) -> list[BatchLook]:
    """Forget and cancel what is named, and look at the rest.

    Args:
        admin: of the run.
        cancel: as `list_batches` takes it.
        forget: as `list_batches` takes it.

    Raises:
        RequestError: there is no such batch, or the server cannot be asked.
    """
    if forget:
        admin.forget(forget)
    if cancel:
        admin.cancel(cancel)
    return admin.look()
