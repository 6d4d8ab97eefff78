"""A script of the repository under FSDP2 on CPUs: `fsdp_on_cpu.py SCRIPT OPTIONS`.

accelerate 1.15 shards on accelerators only: with processes on CPUs it takes DDP and says nothing.
Everything from there on runs on CPUs; so they are called GPUs until it has decided. At the end each
process says how many empty rows it added to training steps.
"""

import atexit
import runpy
import sys

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from clair_apo.apo import arguments
from clair_apo.apo.forward.row_runner import RowRunner


def main() -> None:
    parse = arguments.parse_arguments

    def parse_and_disguise(argv):
        setup = parse(argv)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return setup

    arguments.parse_arguments = parse_and_disguise
    added = {"rows": 0}
    rows_of = RowRunner.rows

    def counted_rows(self, batch):
        found = rows_of(self, batch)
        added["rows"] += len(found.surplus) if torch.is_grad_enabled() else 0
        return found

    RowRunner.rows = counted_rows
    sys.argv = sys.argv[1:]
    atexit.register(lambda: sys.stdout.write(f"empty rows: {added['rows']}\n"))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
