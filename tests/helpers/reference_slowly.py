"""Runs `scripts/build_reference.py` so that every batch is written at once, with a pause after it.

There is then an instant to kill it at, however fast the machine.
"""

import time

from clair_apo.apo.reference import cache
from clair_apo.apo.reference.storage import ReferenceStore

PAUSE_S = 0.2


class Paused(ReferenceStore):
    """Rests after each file."""

    def add(self, answers):
        """Keep answers, and wait."""
        super().add(answers)
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    from clair_apo.apo.build_reference import main

    cache.FLUSH_SECONDS = 0.0
    cache.ReferenceStore = Paused
    main()
