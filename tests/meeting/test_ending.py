# SPDX-License-Identifier: Apache-2.0
"""How one of two real processes ends when it fails, or when the other does."""

import os
import signal

import pytest
from doors import both_said, start_two

from cots_jax.meeting.ending import lost

pytestmark = pytest.mark.xdist_group("two processes")

# Both gather forever; in the third round the second one does what it is told.
DOOR = """
import os, signal, sys
import numpy as np
from jax.experimental import multihost_utils
from cots_jax.errors import UserError
from cots_jax.meeting.ending import run_door
from cots_jax.processes import join_processes, this_process

def door(arguments):
    try:
        join_processes()
    except UserError as error:
        print(error, file=sys.stderr)
        return error.status
    for turn in range(100_000):
        multihost_utils.process_allgather(np.int32(turn))
        if turn == 3 and this_process().index == 1:
            exec(arguments[0])

run_door(door, sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("error", "is_loss"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"), True),
        (RuntimeError("INTERNAL: NCCL operation ncclGroupEnd() failed: remote error"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"), False),
        (ValueError("the shapes (3,) and (4,) do not fit"), False),
        (KeyError("gloo"), False),
    ],
)
def test_which_errors_mean_that_another_process_is_gone(error, is_loss):
    assert bool(lost(error)) == is_loss


@pytest.mark.slow
def test_one_that_fails_ends_with_its_traceback_and_the_other_too(tmp_path):
    first, second = both_said(start_two(tmp_path, ("-c", DOOR, "1 / 0")))
    assert (first.status, second.status) == (75, 1)
    assert "ZeroDivisionError" in second.err
    assert "has lost another one" in first.err


@pytest.mark.slow
def test_one_that_falls_silent_is_given_up(tmp_path, monkeypatch):
    """As a host that is cut off: no connection is closed, nothing is sent any more."""
    monkeypatch.setenv("COTS_JAX_HEARTBEAT_TIMEOUT", "10")
    running = start_two(tmp_path, ("-c", DOOR, "os.kill(os.getpid(), signal.SIGSTOP)"))
    try:
        _, err = running[0].communicate(timeout=120)
        assert running[0].returncode in (75, -signal.SIGABRT)
        assert "stopped sending heartbeats" in err
    finally:
        os.kill(running[1].pid, signal.SIGKILL)
        running[1].communicate()


@pytest.mark.slow
def test_who_does_not_come_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("COTS_JAX_JOIN_TIMEOUT", "3")
    said = both_said(start_two(tmp_path, ("-c", DOOR, ""), ("-c", "")))[0]
    assert said.status == 75
    assert "1 of 2 processes did not come to 127.0.0.1:" in said.err
