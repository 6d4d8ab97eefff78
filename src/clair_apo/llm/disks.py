"""What is to be known of the disk below a folder."""

import re
import shutil
from pathlib import Path

import psutil

# what runs in user space (`fuse.sshfs`, `fuse.s3fs`) is taken for such; `fuseblk` is a local disk
_NETWORK = re.compile(
    "9p|afpfs|afs|beegfs|ceph|cifs|coda|davfs|fuse[.].*|glusterfs|gpfs|lustre|ncpfs|nfs[34]?|"
    "orangefs|panfs|pvfs2|smb[23]|smbfs|vboxsf|virtiofs|vmhgfs|webdav|wekafs"
)


def file_system(folder: Path) -> str:
    """The type of the file system that a folder lies on, such as `ext4`; empty if unknown."""
    place = folder.resolve()
    found = ""
    longest = -1
    for disk in psutil.disk_partitions(all=True):
        depth = len(Path(disk.mountpoint).parts)
        # of several on one folder the last one covers the others
        if depth >= longest and place.is_relative_to(disk.mountpoint):
            found, longest = disk.fstype, depth
    return found


def is_network(file_system: str) -> bool:
    """Whether files of this type of file system may be changed from another machine."""
    return _NETWORK.fullmatch(file_system.lower()) is not None


def free_bytes(folder: Path) -> int:
    """How much may still be written into a folder."""
    return shutil.disk_usage(folder).free
