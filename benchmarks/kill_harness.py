# SPDX-License-Identifier: Apache-2.0
"""Kills a training run at random moments, starts it again, and compares how it ends.

    python benchmarks/kill_harness.py --kills=1000 --config=configs/tiny.py [--processes=2]

Run it where the config's data are. One run goes on undisturbed. Then the same run, in a folder of
its own, gets `kill -9` at moments drawn evenly over the time that the undisturbed one took, start
and end included, until it is done; then another one, until there were enough kills. Each must end
with the same bits in every array and the same lines in metrics.jsonl (times aside), and no kill
may leave a damaged checkpoint or lose one. Exit 0 where all of that held, else 1. Of several
processes that train as one, all are killed, one shortly after the other. A harness that was stopped
goes on in its --scratch, and one with more --kills adds to those that were done there.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from cots_jax import checkpoint
from cots_jax.errors import UserError
from cots_jax.files import write_whole
from cots_jax.meeting.places import ADDRESS, COUNT, INDEX
from cots_jax.pretrained import CHECKPOINTS
from cots_jax.processes import code_of_the_package
from cots_jax.train.logging import TIMES
from cots_jax.train.progress import duration

PROJECT = Path(__file__).resolve().parents[1]
TREES = ("towers", "heads", "method", "training")
TALLY = "tally.json"
LONGEST = 1800.0  # seconds that one start may take
# Everything is imported before the word is given, so that kills fall into the run itself, and the
# next process gets ready while the one before still runs.
READY = """
import sys
from cots_jax import main
from cots_jax.train import loop
print("ready", flush=True)
flags = sys.stdin.readline().strip()
sys.exit(main.main(flags.split("\\t")) if flags else 0)
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the kills did."""

    kills: int
    runs: int  # that were killed at least once and ended
    unfinished_saves: int  # kills that fell into the writing of a checkpoint
    faults: tuple[str, ...]


@dataclasses.dataclass
class Tally:
    """What was done so far, in a file beside the runs; whole runs only."""

    command: str  # flags of the runs, processes and seed
    code: str  # digest of the package: other code may end with other bits
    span: float = 0.0  # seconds that the undisturbed run took
    kills: int = 0
    runs: int = 0
    unfinished_saves: int = 0

    def write(self, scratch: Path) -> None:
        write_whole(scratch / TALLY, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def tally_of(scratch: Path, command: str, code: str) -> Tally:
    """That of a harness which was stopped there, or a new one, written down.

    Raises UserError where the folder is another's: runs in it are deleted.
    """
    path = scratch / TALLY
    if not path.exists():
        if any(scratch.iterdir()):
            raise UserError(f"{scratch} holds other files: name a new folder by --scratch")
        found = Tally(command, code)
        found.write(scratch)
        return found
    found = Tally(**json.loads(path.read_text("utf-8")))
    if (found.command, found.code) != (command, code):
        what = found.command if found.command != command else "other code"
        raise UserError(f"{scratch} is of {what}: name another folder by --scratch")
    return found


def fingerprint(workdir: Path) -> dict[str, str]:
    """A digest for each array of the newest checkpoint, and one for the log without its times."""
    found = checkpoint.latest(workdir / CHECKPOINTS)
    if found is None:
        return {}
    prints = {"step": str(found.step)}
    for tree in TREES:
        leaves = jax.tree_util.tree_leaves_with_path(checkpoint.restore(found.path, tree))
        for path, leaf in leaves:
            array = np.asarray(leaf)
            kind = f"{array.dtype}{array.shape}".encode()
            name = f"{tree}/{jax.tree_util.keystr(path, separator='/', simple=True)}"
            prints[name] = hashlib.sha256(kind + array.tobytes()).hexdigest()
    for number, line in enumerate((workdir / "metrics.jsonl").read_text().splitlines()):
        row = {key: value for key, value in json.loads(line).items() if key not in TIMES}
        prints[f"metrics.jsonl:{number + 1}"] = json.dumps(row)
    dropped = workdir / "dropped.jsonl"
    for number, line in enumerate(dropped.read_text().splitlines() if dropped.exists() else ()):
        prints[f"dropped.jsonl:{number + 1}"] = line
    return prints


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The names under which two fingerprints differ."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


class Harness:
    """Runs one config again and again in folders below `scratch`."""

    def __init__(self, flags: Sequence[str], scratch: Path, processes: int) -> None:
        self._flags, self._scratch, self._processes = flags, scratch, processes
        self._starts = 0
        self._next = self._start()
        self.faults: list[str] = []
        self.unfinished_saves = 0

    def _start(self) -> list[subprocess.Popen[str]]:
        """Processes that have imported everything and wait for their word."""
        self._starts += 1
        path = f"{PROJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        environment = {**os.environ, "PYTHONPATH": path}
        if self._processes > 1:
            address = f"127.0.0.1:{_free_port()}"
            environment |= {ADDRESS: address, COUNT: str(self._processes)}
        started = []
        for index in range(self._processes):
            told = {INDEX: str(index)} if self._processes > 1 else {}
            with self._said(self._starts, index).open("w") as said:
                process = subprocess.Popen(
                    [sys.executable, "-c", READY],
                    env={**environment, **told},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    text=True,
                )
            started.append(process)
        return started

    def _said(self, start: int, index: int) -> Path:
        return self._scratch / f"said-{start}-{index}.log"

    def close(self) -> None:
        """Ends the processes that wait for their word."""
        _kill(self._next)

    def go(self, workdir: Path, seconds: float = LONGEST, apart: float = 0.0) -> int | None:
        """Runs for so many seconds; the exit status, or None where it had to be killed.

        apart: seconds between the kills of processes that train as one.
        """
        running, number = self._next, self._starts
        self._next = self._start()
        for process in running:
            if process.stdout is None or process.stdin is None:
                raise RuntimeError("the process has no streams")
            process.stdout.readline()
            process.stdin.write("\t".join([*self._flags, f"--workdir={workdir}"]) + "\n")
            process.stdin.flush()
        until = time.monotonic() + seconds
        for process in running:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                _kill(running, apart)
                return None
        _kill(running)  # closes their streams
        status = max(process.returncode for process in running)
        if status:
            said = "".join(self._said(number, index).read_text() for index in range(len(running)))
            self.faults.append(f"exit {status} in {workdir.name}: {said[-500:]}")
        return status

    def killed_often(self, workdir: Path, span: float, most: int, chance: random.Random) -> int:
        """Kills the run until it ends by itself, or `most` times and then lets it; how often."""
        for done in range(most):
            if not self._killed_once(workdir, span, chance):
                return done
            print(f"  {workdir.name} killed at step {_step(workdir)}", file=sys.stderr)
        self.go(workdir)
        return most

    def _killed_once(self, workdir: Path, span: float, chance: random.Random) -> bool:
        """Lets the run go on for a random part of `span`; whether it was killed before its end."""
        before = _step(workdir)
        if self.go(workdir, chance.uniform(0, span), chance.uniform(0, 0.05)) is not None:
            return False
        folder = workdir / CHECKPOINTS
        self.unfinished_saves += any(folder.glob("*.saving"))
        if _damaged(folder):
            self.faults.append(f"a damaged checkpoint in {workdir.name}: {_damaged(folder)}")
        if _step(workdir) < before:
            self.faults.append(f"{workdir.name} fell from step {before} to {_step(workdir)}")
        return True


def _kill(running: Sequence[subprocess.Popen[str]], apart: float = 0.0) -> None:
    """kill -9 to each, with so many seconds between; to those that have ended it does nothing."""
    for process in running:
        process.kill()
        time.sleep(apart)
    for process in running:
        process.communicate()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _step(workdir: Path) -> int:
    found = checkpoint.latest(workdir / CHECKPOINTS)
    return found.step if found else 0


def _damaged(folder: Path) -> str:
    found = checkpoint.latest(folder)
    return "; ".join(damage.reason for damage in found.damaged) if found else ""


def kill_many(
    flags: Sequence[str], scratch: Path, kills: int, seed: int, processes: int
) -> Outcome:
    """At least `kills` kills; the run that the last one falls into is brought to its end too."""
    code = hashlib.sha256(code_of_the_package().encode()).hexdigest()
    command = f"{' '.join(flags)} --processes={processes} --seed={seed}"
    tally = tally_of(scratch, command, code)
    begun, before = time.monotonic(), tally.kills
    with contextlib.closing(Harness(flags, scratch, processes)) as harness:
        if not tally.span:
            tally.span = _undisturbed(harness, scratch)
            tally.write(scratch)
        wanted = fingerprint(scratch / "undisturbed")
        while tally.kills < kills and not harness.faults:
            number = tally.runs + 1
            workdir, chance = scratch / f"killed-{number}", random.Random(f"{seed}/{number}")
            shutil.rmtree(workdir, ignore_errors=True)  # of a harness that was stopped
            done = harness.killed_often(workdir, tally.span, kills - tally.kills, chance)
            for name in differences(wanted, fingerprint(workdir)):
                harness.faults.append(f"{workdir.name}: {name} differs")
            tally.runs, tally.kills = number, tally.kills + done
            tally.unfinished_saves += harness.unfinished_saves
            harness.unfinished_saves = 0
            if not harness.faults:
                tally.write(scratch)
                shutil.rmtree(workdir)
            each = (time.monotonic() - begun) / max(tally.kills - before, 1)
            left = duration(max(kills - tally.kills, 0) * each)
            print(f"{tally.kills}/{kills} kills, {number} runs | {left} left", file=sys.stderr)
        return Outcome(tally.kills, tally.runs, tally.unfinished_saves, tuple(harness.faults))


def _undisturbed(harness: "Harness", scratch: Path) -> float:
    """Seconds of a run that is let alone, after one that fills the compilation cache."""
    for name in ("warm", "undisturbed"):
        shutil.rmtree(scratch / name, ignore_errors=True)
    harness.go(scratch / "warm")
    began = time.monotonic()
    harness.go(scratch / "undisturbed")
    return time.monotonic() - began


@contextlib.contextmanager
def _folder(given: str) -> Iterator[Path]:
    if given:
        Path(given).mkdir(parents=True, exist_ok=True)
        yield Path(given)
    else:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)


def main() -> int:
    """The command line; prints the outcome as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", default="configs/tiny.py")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--scratch", default="", help="a folder, kept, to go on in; default: a temporary one"
    )
    parser.add_argument("--processes", type=int, default=1, help="that train as one")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of the config"
    )
    flags = parser.parse_args()
    with _folder(flags.scratch) as scratch:
        train = [f"--config={flags.config}", *(f"--config.{one}" for one in flags.set)]
        try:
            outcome = kill_many(train, scratch, flags.kills, flags.seed, flags.processes)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(json.dumps(dataclasses.asdict(outcome)))
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
