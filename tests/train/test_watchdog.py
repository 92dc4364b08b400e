# SPDX-License-Identifier: Apache-2.0
"""A wait that takes too long ends the run with a message; one that does not is left alone."""

import queue
import sys

import pytest
from doors import run_apart

from cots_jax.train.watchdog import Watchdog

HANGS = """
import threading
from cots_jax.train.watchdog import Watchdog

watchdog = Watchdog(0.2)
with watchdog.waiting("batch for step 7"):
    threading.Event().wait()
"""


def test_a_wait_that_never_ends(tmp_path):
    said = run_apart(tmp_path, [sys.executable, "-c", HANGS], timeout=120)
    assert said.status == 75
    assert said.err.startswith("error: no batch for step 7 for 0.2 s (config.stalled_after)")
    assert 'File "<string>", line 7' in said.err  # where it hangs


def test_its_thread_says_what_was_waited_for():
    told = queue.Queue()
    watchdog = Watchdog(0.05, told.put)
    with watchdog.waiting("end of step 3"):
        assert "no end of step 3 for 0.05 s" in told.get(timeout=60)


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_what_ends_in_time_or_is_not_watched_is_left_alone(seconds):
    told = queue.Queue()
    watchdog = Watchdog(seconds, told.put)
    for _ in range(3):
        with watchdog.waiting("batch"):
            pass
    with pytest.raises(queue.Empty):
        told.get(timeout=0.5)
    watchdog.close()
