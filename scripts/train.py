"""Train a model on preference pairs; the distributed form of `clair-apo train`.

On one machine without accelerator, with the embedded model:

    python scripts/train.py --config configs/apo/zero.yaml

Two processes on CPU:

    accelerate launch --config_file configs/accelerate/cpu.yaml \
        scripts/train.py --config configs/apo/zero.yaml

Eight GPUs, the recipe of the paper:

    accelerate launch --config_file configs/accelerate/fsdp2.yaml \
        scripts/train.py --config configs/apo/paper.yaml

Every key of the YAML is an option too: `--beta 0.05 --output_dir runs/other/checkpoint`. After
Ctrl+C the same command goes on with `--resume_from_checkpoint true`.
"""

import sys

from clair_apo.apo.process_exit import end_process
from clair_apo.errors import reported_errors
from clair_apo.output_streams import steady_output


def main() -> None:
    """Parse, train, write; a user's mistake is one line and exit status 2."""
    with steady_output(), reported_errors():
        from clair_apo.cli import train_and_report

        train_and_report(sys.argv[1:])


if __name__ == "__main__":
    main()
    end_process()
