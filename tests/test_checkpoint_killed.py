# SPDX-License-Identifier: Apache-2.0
"""Saves killed at any moment: a good checkpoint is left, and it holds what was saved."""

import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint_cases import assert_holds, names, save, start

from cots_jax import checkpoint
from cots_jax.checkpoint import Keep


class KilledError(BaseException):
    """Stands for a kill: nothing in the program may catch it."""


def kill_at_call(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ends the program before the number-th renaming, or half-way through that deletion."""
    calls = iter(range(number + 1))

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if next(calls) == number:
                if original is shutil.rmtree:
                    next(file for file in Path(path).rglob("*") if file.is_file()).unlink()
                raise KilledError
            return original(path, *arguments, **options)

        return call

    monkeypatch.setattr(shutil, "rmtree", dying(shutil.rmtree))
    monkeypatch.setattr(Path, "rename", dying(Path.rename))


@pytest.mark.parametrize("step", [2, 3], ids=["exchanged", "new"])
def test_killed_at_every_change_of_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    save(tmp_path / "before", 1, 2)
    for number in range(100):
        folder = shutil.copytree(tmp_path / "before", tmp_path / str(number))
        try:
            with monkeypatch.context() as patch:
                kill_at_call(patch, number)
                save(folder, step, keep=Keep(last=1))
        except KilledError:
            found = checkpoint.latest(folder)
            assert found is not None
            assert_holds(folder, found.step)
            assert found.step in (2, step)
            assert found.damaged == ()
            save(folder, step + 1, keep=Keep(last=1))
            assert names(folder) == [str(step + 1)]
        else:
            break
    assert number >= 4


SAVER = """
import sys
from pathlib import Path
from checkpoint_cases import Keep, save
save(Path(sys.argv[2]), 1)
print("warm", flush=True)
step = int(sys.stdin.readline())
while True:
    step += 1
    save(Path(sys.argv[1]), step, keep=Keep(last=2))
    print(step, flush=True)
"""


def kill_randomly(tmp_path: Path, kills: int) -> None:
    """Saves step after step until killed, again and again; checks what is left each time."""
    folder, step, midway = tmp_path / "checkpoints", 0, 0
    chance = random.Random(0)
    following = start(SAVER, folder, tmp_path / "warm 0")
    try:
        for kill in range(1, kills + 1):
            process, following = following, start(SAVER, folder, tmp_path / f"warm {kill}")
            done = save_until_killed(process, step, seconds=chance.uniform(0, 0.3))
            midway += any(folder.glob("*.saving"))
            found = checkpoint.latest(folder)
            step = 0 if found is None else found.step
            assert step in (done, done + 1)
            if found is not None:
                assert found.damaged == ()
                assert_holds(folder, step)
    finally:
        following.kill()
        following.communicate()
    assert midway > kills / 4


def save_until_killed(process: subprocess.Popen[str], step: int, seconds: float) -> int:
    """The last step whose save had returned."""
    try:
        assert process.stdout.readline() == "warm\n", process.stderr.read()
        process.stdin.write(f"{step}\n")
        process.stdin.flush()
        time.sleep(seconds)
    finally:
        process.kill()
        out, _ = process.communicate()
    return [step, *map(int, out.split())][-1]


def test_killed_at_random_moments(tmp_path: Path) -> None:
    kill_randomly(tmp_path, kills=15)


@pytest.mark.slow
def test_killed_at_many_random_moments(tmp_path: Path) -> None:
    kill_randomly(tmp_path, kills=60)
