"""Models that do not answer at once: which mode of a spec leads to which."""

from pathlib import Path

from clair_apo.llm.chat import ChatModel, ModelSpec
from clair_apo.llm.store import RequestStore


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
        from clair_apo.llm.batch import BatchChat

        return BatchChat(spec, store, run_id)
    if spec.mode == "files":
        from clair_apo.llm.file_chat import FileChat

        return FileChat(spec, folder)
    return None
