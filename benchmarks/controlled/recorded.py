"""What an experiment measured, as one small archive: no weights, no pictures, no request store.

With it the tables are drawn again without a training, and a grid that was begun elsewhere goes on.
"""

import tarfile
from collections.abc import Collection
from pathlib import Path

LEFT_OUT = (
    "*.safetensors",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.png",
    "*.html",
    "tokenizer*.json",
    ".lock",
    "checkpoint-*",
    "requests.sqlite*",
)
"""Names of files and folders; the reference cache is kept all the same."""
REFERENCE = "reference"


def pack(folder: Path, archive: Path) -> None:
    """Write what a folder holds into an archive; the same folder gives the same names in order."""
    with tarfile.open(archive, "w:xz") as file:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and (REFERENCE in inside.parts or not _is_left_out(inside)):
                file.add(path, inside.as_posix(), filter=_plain)


def unpack(archive: Path, folder: Path, without: Collection[str] = ()) -> None:
    """Write the files of an archive into a folder; files that are there are replaced.

    Args:
        archive: as `pack` wrote it.
        folder: of the experiment.
        without: names of cells that are to be trained again.
    """
    with tarfile.open(archive) as file:
        wanted = [one for one in file if set(without).isdisjoint(Path(one.name).parts)]
        file.extractall(folder, wanted, filter="data")


def _is_left_out(path: Path) -> bool:
    if path.match("data/*/run/*") or "dataset" in path.parts:
        return True  # how the pairs were made; the pairs themselves are in data/*/pairs.jsonl
    return any(Path(part).match(pattern) for part in path.parts for pattern in LEFT_OUT)


def _plain(found: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without owner: it says nothing of the experiment."""
    found.uid = found.gid = 0
    found.uname = found.gname = ""
    return found
