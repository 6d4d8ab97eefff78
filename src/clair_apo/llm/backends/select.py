"""Chooses the model that answers later, by the mode of a spec."""

from collections.abc import Sequence
from pathlib import Path

from clair_apo.llm.spec import ModelSpec, host_of
from clair_apo.llm.store import RequestStore
from clair_apo.llm.store_schema import StoredBatch
from clair_apo.llm.types import ChatModel


def model_of_mode(
    spec: ModelSpec, store: RequestStore, run_id: str, folder: Path
) -> ChatModel | None:
    """The model that answers later; None for one that answers `live`.

    Args:
        spec: whose `mode` decides.
        store: where batches are written down.
        run_id: stands beside them.
        folder: where the files of mode `files` are.
    """
    if spec.mode == "batch":
        from clair_apo.llm.backends.batch_api import BatchChat

        return BatchChat(spec, store, run_id)
    if spec.mode == "files":
        from clair_apo.llm.backends.vllm_files import FileChat

        return FileChat(spec, folder)
    return None


def stranded_batches(
    specs: Sequence[ModelSpec], store: RequestStore, run_id: str
) -> list[StoredBatch]:
    """The open batches of a run that none of its models will wait for in the mode that it has now.

    Args:
        specs: the models that are asked.
        store: where batches are written down.
        run_id: whose batches.
    """
    asked = {spec.model for spec in specs if spec.base_url}
    waiting = {(spec.model, host_of(spec)) for spec in specs if spec.mode == "batch"}
    return [
        batch
        for batch in store.batches()
        if batch.run_id == run_id
        and batch.open
        and batch.state != "failed"  # never begun: nothing of it is answered or paid
        and batch.model in asked
        and (batch.model, batch.host) not in waiting
    ]
