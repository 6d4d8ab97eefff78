"""`python -m clair_apo` is the command `clair-apo`; a launched process of it ends here."""

import os

from clair_apo.apo.process_exit import end_process
from clair_apo.cli import main


def run() -> None:
    """Run the command; one of several processes leaves without the part in which it may hang.

    Raises:
        SystemExit: the status, where the process is no launched one or has failed.
    """
    try:
        main()
    except SystemExit as end:
        if end.code or "LOCAL_RANK" not in os.environ:
            raise
    end_process()


if __name__ == "__main__":
    run()
