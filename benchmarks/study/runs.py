# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation of each (arm, seed), in processes of their own, one core each.

A run that is there already is not made again, and one that was stopped goes on.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmarks.study.arms import Arm, Suite
from benchmarks.study.circumstances import circumstances
from cots_jax.errors import UserError
from cots_jax.files import write_whole
from cots_jax.train.progress import duration

LARGE_PAGES = "glibc.malloc.hugetlb=1"  # as in `make demo`
LOCK = Path("runs/.study.lock")  # beside the tokenizers that suites share


@dataclasses.dataclass(frozen=True)
class Run:
    """One arm with one seed."""

    arm: Arm
    seed: int
    folder: Path

    @property
    def training(self) -> list[str]:
        """The command that trains it."""
        return ["cots_jax.main", *self.arm.flags(self.seed), f"--workdir={self.folder}"]

    @property
    def command(self) -> str:
        """The same for a shell."""
        return shlex.join(["python", "-m", *self.training])

    def evaluation(self, data: str) -> list[str]:
        """The command that evaluates it; on `data`, or on the sets that its config names."""
        flags = [f"--data={data}"] if data else []
        return ["cots_jax.evaluate", f"--workdir={self.folder}", *flags]

    def beside(self, suffix: str) -> Path:
        """A file of the study about this run; a workdir takes none that is not its own."""
        return self.folder.parent / "made" / f"{self.folder.name}{suffix}"

    @property
    def done(self) -> bool:
        """Whether it was trained and evaluated by these very commands."""
        stored = self.made.get("commands", [None])
        return stored[0] == self.training and (self.folder / "results.json").exists()

    def evaluated_on(self, data: str) -> bool:
        """Whether it was on the data that are asked for."""
        return self.made.get("commands", [])[1:] == [self.evaluation(data)]

    @property
    def made(self) -> Mapping[str, Any]:
        """How it was made: commands, seconds, commit, machine; empty where it was not."""
        try:
            return json.loads(self.beside(".json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}


def all_runs(suite: Suite, seeds: Sequence[int], out: Path) -> list[Run]:
    """Seed by seed, so that a study that is cut short has whole pairs."""
    return [
        Run(arm, seed, out / suite.name / f"{arm.name}-seed{seed}")
        for seed in seeds
        for arm in suite.arms
    ]


@contextlib.contextmanager
def one_at_a_time() -> Generator[None]:
    """Waits for other studies in this folder: data and tokenizers are shared, cores measured."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another study, which makes data or measures", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def before(commands: Sequence[Sequence[str]]) -> None:
    """Runs what the runs stand on, one after the other."""
    for command in commands:
        _call(list(command), None, None)


def carry_out(runs: Sequence[Run], jobs: int, data: str = "") -> None:
    """Makes all runs that are not there, and evaluates those again that were on other data.

    Raises UserError where one fails, when the others have ended.
    """
    waiting = [run for run in runs if not (run.done and run.evaluated_on(data))]
    print(f"{len(runs) - len(waiting)} of {len(runs)} runs are there", file=sys.stderr)
    cores: SimpleQueue[int] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[:jobs]:
        cores.put(core)
    begin, failed = time.monotonic(), []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_make, run, cores, data): run for run in waiting}
        for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
            run, error = futures[future], future.exception()
            failed += [f"{run.folder}: {error}"] if error else []
            left = (time.monotonic() - begin) / number * (len(waiting) - number)
            said = f"failed: {error}" if error else "done"
            print(
                f"{number}/{len(waiting)} {run.folder.name} {said} | {duration(left)} left",
                file=sys.stderr,
            )
    if failed:
        raise UserError(f"{len(failed)} runs failed, the first was {failed[0]}")


def _make(run: Run, cores: "SimpleQueue[int]", data: str) -> None:
    core = cores.get()
    try:
        run.beside("").parent.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        before = dict(run.made) if run.done else {}  # of a run that is evaluated again
        commands = [run.training, run.evaluation(data)]
        for command in commands:
            _call(command, core, run.beside(".log"))
        seconds = round(before.get("seconds", 0) + time.monotonic() - begin, 1)
        facts = {**(before or circumstances()), "commands": commands, "seconds": seconds}
        write_whole(run.beside(".json"), json.dumps(facts, indent=1) + "\n")
    finally:
        cores.put(core)


def _call(command: Sequence[str], core: int | None, log: Path | None) -> None:
    environment = {"GLIBC_TUNABLES": LARGE_PAGES} | os.environ
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    with (log or Path(os.devnull)).open("ab") as stream:
        done = subprocess.run(
            [*pinned, sys.executable, "-m", *command],
            env=environment,
            stdout=stream,
            stderr=stream if log else None,
        )
    if done.returncode:
        where = f": see {log}" if log else ""
        raise UserError(f"python -m {command[0]} ended with {done.returncode}{where}")
