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
from clair_apo.shutdown import end_process
end_process()
"""


def test_it_ends_after_its_threads_and_handlers_with_all_output():
    ended = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "done\na thread\nan exit handler"
