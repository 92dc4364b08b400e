# SPDX-License-Identifier: Apache-2.0
"""Kills a training run at random moments, starts it again, and compares how it ends.

    python benchmarks/kill_harness.py --kills=1000 --config=configs/tiny.py

Run it where the config's data are. One run goes on undisturbed. Then the same run, in a folder of
its own, gets `kill -9` at moments drawn evenly over the time that the undisturbed one took, start
and end included, until it is done; then another one, until there were enough kills. Each must end
with the same bits in every array and the same lines in metrics.jsonl (times aside), and no kill
may leave a damaged checkpoint or lose one. Exit 0 where all of that held, else 1.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from cots_jax import checkpoint
from cots_jax.pretrained import CHECKPOINTS

PROJECT = Path(__file__).resolve().parents[1]
TREES = ("towers", "heads", "method", "training")
TIMES = ("seconds", "pairs_per_second", "data_wait")  # of a logged line
LONGEST = 1800.0  # seconds that one start may take
# Everything is imported before the word is given, so that kills fall into the run itself, and the
# next process gets ready while the one before still runs.
READY = """
import sys
from cots_jax import main
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

    def __init__(self, config: str, scratch: Path, seed: int) -> None:
        self._config, self._scratch = config, scratch
        self._chance = random.Random(seed)
        self._next = self._start()
        self.faults: list[str] = []
        self.unfinished_saves = 0

    def _start(self) -> subprocess.Popen[str]:
        path = f"{PROJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        return subprocess.Popen(
            [sys.executable, "-c", READY],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """Ends the process that waits for its word."""
        self._next.kill()
        self._next.communicate()

    def go(self, workdir: Path, seconds: float = LONGEST) -> int | None:
        """Runs for so many seconds; the exit status, or None where it had to be killed."""
        process, self._next = self._next, self._start()
        with process:
            if process.stdout is None or process.stdin is None:
                raise RuntimeError("the process has no streams")
            process.stdout.readline()
            process.stdin.write(f"--config={self._config}\t--workdir={workdir}\n")
            process.stdin.flush()
            try:
                _, errors = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                return None
        if process.returncode:
            self.faults.append(f"exit {process.returncode} in {workdir.name}: {errors[-500:]}")
        return process.returncode

    def killed_once(self, workdir: Path, span: float) -> bool:
        """Lets the run go on for a random part of `span`; whether it was killed before its end."""
        before = _step(workdir)
        if self.go(workdir, self._chance.uniform(0, span)) is not None:
            return False
        folder = workdir / CHECKPOINTS
        self.unfinished_saves += any(folder.glob("*.saving"))
        if _damaged(folder):
            self.faults.append(f"a damaged checkpoint in {workdir.name}: {_damaged(folder)}")
        if _step(workdir) < before:
            self.faults.append(f"{workdir.name} fell from step {before} to {_step(workdir)}")
        return True


def _step(workdir: Path) -> int:
    found = checkpoint.latest(workdir / CHECKPOINTS)
    return found.step if found else 0


def _damaged(folder: Path) -> str:
    found = checkpoint.latest(folder)
    return "; ".join(damage.reason for damage in found.damaged) if found else ""


def kill_many(config: str, scratch: Path, kills: int, seed: int) -> Outcome:
    """At least `kills` kills; the run that the last one falls into is brought to its end too."""
    with contextlib.closing(Harness(config, scratch, seed)) as harness:
        harness.go(scratch / "warm")  # fills the compilation cache
        began = time.monotonic()
        harness.go(scratch / "undisturbed")
        span = time.monotonic() - began
        wanted = fingerprint(scratch / "undisturbed")
        done = runs = 0
        while done < kills and not harness.faults:
            runs += 1
            workdir = scratch / f"killed-{runs}"
            while done < kills and harness.killed_once(workdir, span):
                done += 1
                print(f"kill {done}: {workdir.name} at step {_step(workdir)}", file=sys.stderr)
            harness.go(workdir)
            for name in differences(wanted, fingerprint(workdir)):
                harness.faults.append(f"{workdir.name}: {name} differs")
            shutil.rmtree(workdir)
        return Outcome(done, runs, harness.unfinished_saves, tuple(harness.faults))


@contextlib.contextmanager
def _folder(given: str) -> Iterator[Path]:
    if given:
        Path(given).mkdir(parents=True)
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
        "--scratch", default="", help="a new folder, kept; default: a temporary one"
    )
    flags = parser.parse_args()
    with _folder(flags.scratch) as scratch:
        outcome = kill_many(flags.config, scratch, flags.kills, flags.seed)
    print(json.dumps(dataclasses.asdict(outcome)))
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
