# SPDX-License-Identifier: Apache-2.0
"""Trains what a config says: `python -m cots_jax.main --config=configs/pretrain.py [--workdir=…]`.

`--config=FILE:names` picks variants and a hardware row, `--config.KEY=value` overrides a key.
`--profile=100-110` records a trace of these steps, `--replay=120` repeats one instead of training.
"""

import sys
from collections.abc import Sequence

from cots_jax.arguments import parse_arguments
from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.errors import AGAIN, UserError
from cots_jax.meeting.ending import run_door
from cots_jax.processes import join_processes
from cots_jax.train.loop import train
from cots_jax.train.replay import replay, step_of
from cots_jax.train.trace import Steps

USAGE = (
    "usage: python -m cots_jax.main --config=FILE[:names] [--workdir=DIR] [--config.KEY=value …]\n"
    "  --profile=FIRST-LAST  record a trace of these steps in DIR/profile, for xprof\n"
    "  --replay=STEP         repeat a logged step from the checkpoint before it, and compare\n"
    "  --deterministic=on    on GPUs: the same bits each time, more slowly"
)


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 done, 1 failed, 2 wrong use, 75 start again (SIGTERM, a process lost)."""
    try:
        join_processes()
        arguments = parse_arguments(argv, USAGE)
        use_compilation_cache()
        config, workdir = arguments.config, arguments.workdir
        if arguments.replay:
            replayed = replay(config, workdir, step_of(arguments.replay))
            print(replayed.in_words())
            return 1 if replayed.differing else 0
        profiled = Steps.parse(arguments.profile) if arguments.profile else None
        outcome = train(config, workdir, profiled=profiled)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    return AGAIN if outcome.preempted else 0


if __name__ == "__main__":
    run_door(main, sys.argv[1:])
