"""A process that would hang while its interpreter lets go of its objects."""

import subprocess
import sys

HANGS = """
import atexit, threading, time

class Hanging:
    def __del__(self):
        time.sleep(600)

kept = Hanging()
kept.itself = kept
atexit.register(print, "an exit handler", end="")
threading.Thread(target=lambda: (time.sleep(0.3), print("a thread"))).start()
print("done")
from clair_apo.apo.process_exit import end_process
end_process()
"""


def test_it_ends_after_its_threads_and_handlers_with_all_output():
    ended = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "done\na thread\nan exit handler"


def test_what_several_processes_shared_is_not_freed_by_a_collection():
    program = """
import gc, sys
from clair_apo.apo.process_exit import freeze_objects_for_exit

class Freed:
    def __del__(self):
        print("freed", flush=True)

def leave_garbage(processes):
    garbage = Freed()
    garbage.itself = garbage
    freeze_objects_for_exit(processes)

leave_garbage(int(sys.argv[1]))
gc.collect()
print("collected", flush=True)
"""
    for processes, first in (("1", "freed"), ("2", "collected")):
        ended = subprocess.run(
            [sys.executable, "-c", program, processes],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert ended.stdout.split()[0] == first
