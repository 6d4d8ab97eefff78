"""A script of the repository that is killed, as by `kill -9`: `killed_run.py WHEN STEP SCRIPT ...`.

`during`: the last process dies while checkpoint STEP is written: all but its random state is there.
`between`: every process dies after step STEP.
"""

import os
import runpy
import signal
import sys

from transformers import Trainer


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    when, step = sys.argv[1], int(sys.argv[2])
    sys.argv = sys.argv[3:]
    save_random_state, training_step = Trainer._save_rng_state, Trainer.training_step

    def dying_save(self, folder):
        last = self.args.process_index == self.args.world_size - 1
        if when == "during" and self.state.global_step == step and last:
            die()
        save_random_state(self, folder)

    def dying_step(self, *args, **kwargs):
        if when == "between" and self.state.global_step == step:
            die()
        return training_step(self, *args, **kwargs)

    Trainer._save_rng_state, Trainer.training_step = dying_save, dying_step
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
