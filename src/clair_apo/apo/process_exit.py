"""Ends a process that has done its work, without the part in which it may hang."""

import gc
import os
import sys
from typing import NoReturn

from clair_apo.apo.trl_compat import run_exit_handlers


def freeze_objects_for_exit(processes: int) -> None:
    """Let no later garbage collection free a trainer of several processes.

    A collection holds the interpreter's lock while it waits for the threads of the process group,
    and they may wait for that lock to let go of a tensor (seen with gloo; pytorch #190489). What
    is alive now stays so until the process ends, best by `end_process`.

    Args:
        processes: that trained together; with one, nothing is kept.
    """
    if processes > 1:
        gc.freeze()


def end_process() -> NoReturn:
    """End with status 0, after threads, exit handlers and output, but before objects are let go.

    When an interpreter lets go of its objects, threads that libraries have left may wait for its
    lock for ever, or abort: those of torch (pytorch #190489, #179291), of Arrow (arrow #50482). A
    launched run then holds its GPUs after its last line. It is no place for code of one's own: what
    a `with` or a `finally` further out would do is not done.
    """
    run_exit_handlers()  # as the interpreter does, in its order
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
