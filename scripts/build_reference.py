"""Compute the reference of a training config beforehand; the form for several processes.

One process, the same as `clair-apo reference build`:

    python scripts/build_reference.py --config configs/apo/zero.yaml

Two processes on CPU:

    accelerate launch --config_file configs/accelerate/cpu.yaml \
        scripts/build_reference.py --config configs/apo/zero.yaml

Every key of the YAML is an option too. Interrupted, the same command goes on where it was.
"""

from clair_apo.apo.process_exit import end_process
from clair_apo.errors import reported_errors


def main() -> None:
    """Parse, compute, print; a user's mistake is one line and exit status 2."""
    with reported_errors(interrupted="what was computed is kept; run the same command again"):
        from clair_apo.apo.build_reference import main as build

        build()


if __name__ == "__main__":
    main()
    end_process()
