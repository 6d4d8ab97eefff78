"""A script of the repository under FSDP2 on CPUs: `fsdp_on_cpu.py SCRIPT OPTIONS`.

accelerate 1.15 shards on accelerators only: with processes on CPUs it takes DDP and says nothing.
Everything from there on runs on CPUs; so they are called GPUs until it has decided.
"""

import runpy
import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from clair_apo.apo import arguments


def main() -> None:
    parse = arguments.parse_arguments

    def parse_and_disguise(argv):
        setup = parse(argv)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return setup

    arguments.parse_arguments = parse_and_disguise
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
