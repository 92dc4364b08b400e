# SPDX-License-Identifier: Apache-2.0
"""Trains what a config says: `python -m cots_jax.main --config=configs/pretrain.py [--workdir=…]`.

`--config=FILE:names` picks variants and a hardware row, `--config.KEY=value` overrides a key.
"""

import sys
from collections.abc import Sequence

from cots_jax.arguments import WrongUseError, parse_arguments
from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.errors import UserError
from cots_jax.meeting.ending import run_door
from cots_jax.processes import join_processes
from cots_jax.train.loop import train

USAGE = (
    "usage: python -m cots_jax.main --config=FILE[:names] [--workdir=DIR] [--config.KEY=value …]"
)


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 done, 1 failed, 2 wrong use, 75 start again (SIGTERM, a process lost)."""
    try:
        join_processes()
        arguments = parse_arguments(argv, USAGE)
        use_compilation_cache()
        outcome = train(arguments.config, arguments.workdir)
    except WrongUseError as error:
        print(error, file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    return 75 if outcome.preempted else 0


if __name__ == "__main__":
    run_door(main, sys.argv[1:])
