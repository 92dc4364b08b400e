# SPDX-License-Identifier: Apache-2.0
"""Several processes on this machine that work as one, started again together when one is lost.

    python launch/local.py --processes=2 -- python -m cots_jax.main --config=configs/demo.py:kl

Process i takes GPU i where there are GPUs. Lines of output begin with the number of their process.
With one process nothing is added to its environment or its output: that starts a command again
which its scheduler does not.

A status of 75, 128 or more, or a signal (a process that was killed, or whose partner was) is worth
starting again: all are, from the last checkpoint. Any other, such as 1 or 2, ends the job with it.
SIGTERM or Ctrl-C asks all of them to save and stop, and ends with 75; a second one kills them.
"""

import argparse
import dataclasses
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Sequence
from typing import BinaryIO

AGAIN = 75  # EX_TEMPFAIL
LONGEST_PAUSE = 60.0  # seconds
TICK = 0.2  # seconds between two looks at the processes


def final(status: int) -> bool:
    """Whether a status says that starting again is no use; negative ones are signals."""
    return 0 < status < 128 and status != AGAIN


def outcome(statuses: Sequence[int]) -> int:
    """The status of a job: 0 where all are done, that of a failure, else 75."""
    return next(filter(final, statuses), AGAIN if any(statuses) else 0)


@dataclasses.dataclass
class Job:
    """A command in several processes at a time, again and again."""

    command: Sequence[str]
    processes: int
    restarts: int
    grace: float  # seconds
    pause: float  # seconds before the first restart; each further one doubles it

    def __post_init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []
        self._stop = threading.Event()

    def run(self) -> int:
        """Runs to the end; the status to leave with."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked)
        for restart in range(self.restarts + 1):
            statuses = self._once()
            status = outcome(statuses)
            if status != AGAIN or self._stop.is_set():
                return status
            say(f"ended with {', '.join(map(str, statuses))}")
            if restart < self.restarts:
                wait = min(LONGEST_PAUSE, self.pause * 2**restart)
                say(f"starting again in {wait:g} s, {restart + 1} of {self.restarts}")
                if self._stop.wait(wait):
                    return AGAIN
        say(f"gave up after {self.restarts} restarts")
        return AGAIN

    def _once(self) -> list[int]:
        several = self.processes > 1
        pipe = subprocess.PIPE if several else None
        for told in environments(self.processes, free_port()):
            # A session of its own, so that Ctrl-C comes here only and all are asked to save.
            self._running.append(
                subprocess.Popen(
                    self.command,
                    env={**os.environ, **told},
                    stdout=pipe,
                    stderr=pipe,
                    start_new_session=True,
                )
            )
            if self._stop.is_set():  # maybe between its start and its place in the list
                self._send(signal.SIGTERM, self._running[-1:])
                break
        relays = relay(self._running) if several else []
        self._wait()
        for thread in relays:
            thread.join()
        statuses = [process.wait() for process in self._running]
        self._running.clear()
        return statuses

    def _wait(self) -> None:
        """Until all have ended; `grace` after one has failed, the others are killed."""
        left: float | None = None
        while any(process.poll() is None for process in self._running):
            if left is None and any(process.poll() for process in self._running):
                left = self.grace
            threading.Event().wait(TICK)
            if left is not None:
                left -= TICK
                if left < 0:
                    say(f"killing what still runs {self.grace:g} s after another one failed")
                    self._send(signal.SIGKILL, self._running)
                    left = self.grace

    def _asked(self, number: int, frame: types.FrameType | None) -> None:
        self._send(signal.SIGKILL if self._stop.is_set() else signal.SIGTERM, self._running)
        self._stop.set()

    def _send(self, number: signal.Signals, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, number)


def environments(count: int, port: int) -> list[dict[str, str]]:
    """What tells each process where it belongs; nothing where it is alone."""
    if count == 1:
        return [{}]
    shared = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)}
    return [
        {
            **shared,
            "JAX_PROCESS_ID": str(index),
            "JAX_LOCAL_DEVICE_IDS": os.environ.get("JAX_LOCAL_DEVICE_IDS", str(index)),
        }
        for index in range(count)
    ]


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def relay(running: Sequence[subprocess.Popen[bytes]]) -> list[threading.Thread]:
    """Threads that pass the output of processes on, line by line, with their numbers."""
    threads = []
    for index, process in enumerate(running):
        for source, sink in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            given = (source, sink.buffer, f"[{index}] ".encode())
            threads.append(threading.Thread(target=_pass_on, args=given, daemon=True))
            threads[-1].start()
    return threads


def _pass_on(source: BinaryIO, sink: BinaryIO, before: bytes) -> None:
    for line in source:
        sink.write(before + line.rstrip(b"\n") + b"\n")
        sink.flush()


def say(text: str) -> None:
    """A line of the launcher's own."""
    print(f"launch: {text}", file=sys.stderr, flush=True)


def show(job: Job) -> None:
    """The commands that would run."""
    for told in environments(job.processes, free_port()):
        print(*(f"{name}={value}" for name, value in told.items()), shlex.join(job.command))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--restarts", type=int, default=10, help="at most (default 10)")
    parser.add_argument(
        "--grace",
        type=float,
        default=120,
        help="seconds until what outlives a failure is killed (default 120); longer than "
        "$COTS_JAX_HEARTBEAT_TIMEOUT",
    )
    parser.add_argument(
        "--pause", type=float, default=1, help="seconds before the first restart (default 1)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    parser.add_argument("command", nargs="+", metavar="-- COMMAND", help="in each process")
    flags = parser.parse_args()
    if flags.processes < 1 or min(flags.restarts, flags.grace, flags.pause) < 0:
        parser.error("--processes is 1 or more, the other numbers are no less than 0")
    job = Job(flags.command, flags.processes, flags.restarts, flags.grace, flags.pause)
    if flags.dry_run:
        show(job)
        return 0
    try:
        return job.run()
    except OSError as error:
        say(f"cannot start {job.command[0]} ({error.strerror})")
        return 2


if __name__ == "__main__":
    sys.exit(main())
