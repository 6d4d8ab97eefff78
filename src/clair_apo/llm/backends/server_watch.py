"""Runs a server as a child, and ends it with all its processes when the parent is gone.

    python -I server_watch.py COMMAND ...

A script of its own, with nothing but the standard library. Its standard input is a pipe that the
parent holds and never writes to: whatever ends the parent, `kill -9` included, closes it.
"""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

GRACE_S = 10.0
"""How long the server has to end by itself after SIGTERM."""
_LOOK_EVERY_S = 0.2


def _tell(child: "subprocess.Popen[bytes]", number: int) -> None:
    """Send a signal to the child and all that it started; those that are gone hear nothing."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def main() -> int:
    """Run the command until it ends or the parent does; its exit status."""
    # Ctrl+C and SIGTERM are for the parent, which closes the pipe
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, process_group=0)
    try:
        while child.poll() is None:
            if select.select([sys.stdin], [], [], _LOOK_EVERY_S)[0]:
                break
    finally:
        _tell(child, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
        _tell(child, signal.SIGKILL)  # its own children may have stayed
        status = child.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
