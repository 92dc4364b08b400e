# SPDX-License-Identifier: Apache-2.0
"""How one of several processes ends: with a word and a status, and without waiting in vain."""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax

from cots_jax.errors import AGAIN

PATIENCE = 5.0  # seconds for the other processes to leave as well
# What JAX's collectives say where they do not get through: Gloo on CPUs, NCCL on GPUs, gRPC.
TELLTALES = ("gloo", "nccl", "by peer", "socket closed", "heartbeat", "coordination service")


def run_door(door: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> NoReturn:
    """Runs a front door and ends this process with its status.

    One of several processes that cannot go on ends at once: those that wait for it in a collective
    then find out. By the usual way out JAX would first wait for them, for minutes. Where a
    collective has failed another process is gone, and the status is 75.
    """
    try:
        status = door(arguments)
    except BaseException as error:
        if not jax.distributed.is_initialized() or isinstance(error, SystemExit):
            raise
        if why := lost(error):
            print(f"error: {why}", file=sys.stderr)
            status = AGAIN
        else:
            traceback.print_exc()
            status = 130 if isinstance(error, KeyboardInterrupt) else 1
    if status and jax.distributed.is_initialized():
        _leave(status)
    sys.exit(status)


def lost(error: BaseException) -> str:
    """What to say where an error means that another process is gone; nothing where it does not."""
    said = str(error).partition("\n")[0]
    if not isinstance(error, ValueError | RuntimeError) or not any(
        word in said.lower() for word in TELLTALES
    ):
        return ""
    return (
        f"process {jax.process_index()} of {jax.process_count()} has lost another one, or the "
        f"network to it ({said}): start all of them again, they go on from the last checkpoint"
    )


def _leave(status: int) -> NoReturn:
    """Ends together with the others where they all end now, and soon where they do not."""
    leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    leaving.start()
    # The first one last: without it JAX ends the others before they have said their word.
    leaving.join(PATIENCE if jax.process_index() else 2 * PATIENCE)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
