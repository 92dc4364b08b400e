# SPDX-License-Identifier: Apache-2.0
"""Training in two real processes: the numbers of one, one stop for both, one refusal for both.

And one that is killed: the other ends with a word, and the local launcher starts both again.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import pytest
from doors import PROJECT, both_said, run_apart, start_two
from tiny_world import CONFIG, prepare_tiny

from cots_jax import checkpoint
from cots_jax.train.logging import TIMES

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("two processes")]
FLAGS = (
    f"--config={CONFIG}:contrastive",
    "--config.duration=12 steps",
    "--config.log_every=1 steps",
    "--config.checkpoint_every=100 steps",
    "--config.evaluate_every=6 steps",
    "--config.diagnose_every=100 steps",
    "--config.hardware.precision=float32",
)
ONE_DEVICE = ("--config.hardware.chips=1",)
MAIN = ("-m", "cots_jax.main", *FLAGS)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Prepared data, and a run of one process with one device."""
    folder = tmp_path_factory.mktemp("two")
    said = prepare_tiny(folder)
    assert said.status == 0, said.err
    said = run_apart(folder, [sys.executable, *MAIN, "--workdir=runs/one"])
    assert said.status == 0, said.err
    return folder


def rows(run: pathlib.Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def wait_for_steps(run: pathlib.Path, steps: int, running: Sequence[subprocess.Popen]) -> None:
    while not (run / "metrics.jsonl").exists() or len(rows(run)) < steps:
        assert all(process.poll() is None for process in running), both_said(running)
        time.sleep(0.05)


def assert_same_numbers(run: pathlib.Path, other: pathlib.Path) -> None:
    assert [row["step"] for row in rows(run)] == [row["step"] for row in rows(other)]
    for one, two in zip(rows(run), rows(other), strict=True):
        assert one == pytest.approx(two, rel=2e-4, abs=1e-5)


def queue_of(run: pathlib.Path) -> dict:
    found = checkpoint.latest(run / checkpoint.FOLDER)
    assert found is not None
    return checkpoint.restore(found.path, "method")["queue"]


def test_the_numbers_are_those_of_one_process(root):
    first, second = both_said(start_two(root, (*MAIN, "--workdir=runs/two"), devices=2))
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert "4 x cpu" in first.err
    assert "step" not in second.err
    assert_same_numbers(root / "runs/two", root / "runs/one")
    one, two = (queue_of(root / "runs" / name) for name in ("one", "two"))
    for name in ("group_id", "valid", "cursor"):
        np.testing.assert_array_equal(
            two[name], one[name][: len(two[name])] if one[name].ndim else one[name]
        )
    dropped = [(root / "runs" / name / "dropped.jsonl").read_text() for name in ("one", "two")]
    one, two = (
        [(row["step"], row["id"]) for row in map(json.loads, text.splitlines())] for text in dropped
    )
    assert one == two != []


def test_a_signal_to_one_stops_both_and_one_process_goes_on(root):
    run = root / "runs/stopped"
    # over two devices the 24 pairs of the queue lie in 32 columns, over one in 24
    flags = ("--config.evaluate_every=100 steps", "--config.method.column_chunk=8")
    command = (*MAIN, "--workdir=runs/stopped", *flags)
    running = start_two(root, command)
    wait_for_steps(run, 1, running)
    running[1].send_signal(signal.SIGTERM)
    first, second = both_said(running)
    step = checkpoint.latest(run / checkpoint.FOLDER).step
    assert (first.status, second.status) == ((75, 75) if step < 12 else (0, 0)), first.err
    said = run_apart(root, [sys.executable, *command])
    assert said.status == 0, said.err
    losses = [row["loss"] for row in rows(run) if "loss" in row]
    assert losses == pytest.approx(
        [r["loss"] for r in rows(root / "runs/one") if "loss" in r], rel=2e-4
    )


def test_where_the_first_refuses_the_other_ends_too(root):
    (root / "runs/foreign").mkdir()
    (root / "runs/foreign/mine").write_text("")
    first, second = both_said(start_two(root, (*MAIN, "--workdir=runs/foreign")))
    assert (first.status, second.status) == (1, 1)
    assert "holds files and no config.json" in first.err
    assert "error: process 0 cannot go on" in second.err


def test_processes_with_different_configs_are_refused(root):
    other = (*MAIN, "--workdir=runs/differ", "--config.seed=1")
    for said in both_said(start_two(root, (*MAIN, "--workdir=runs/differ"), other)):
        assert said.status == 1
        assert "the processes disagree on the config (hashes " in said.err
    assert not (root / "runs/differ").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_is_killed_the_other_ends_with_a_word(root, victim):
    run = f"runs/killed{victim}"
    running = start_two(root, (*MAIN, "--config.duration=1000 steps", f"--workdir={run}"))
    wait_for_steps(root / run, 2, running)
    running[victim].kill()
    other = both_said(running, timeout=90)[1 - victim]
    if victim == 1:
        assert other.status == 75, other.err
        assert "error: process 0 of 2 has lost another one, or the network to it (" in other.err
    else:  # JAX may be first to find out where the process that it meets at is gone
        assert other.status in (75, -signal.SIGABRT), other.err
        assert "another task died" in other.err or "has lost another one" in other.err


@pytest.mark.parametrize("victim", [0, 1])
def test_the_local_launcher_starts_both_again(root, victim):
    run = root / f"runs/again{victim}"
    launcher = [sys.executable, str(PROJECT / "launch/local.py"), "--processes=2", "--pause=0.1"]
    training = [sys.executable, *MAIN, f"--workdir={run}", "--config.checkpoint_every=3 steps"]
    with subprocess.Popen(
        [*launcher, "--", *training],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        wait_for_steps(run, 4, [running])
        while checkpoint.latest(run / checkpoint.FOLDER) is None:  # written while the run goes on
            assert running.poll() is None
            time.sleep(0.05)
        task = pathlib.Path(f"/proc/{running.pid}/task/{running.pid}/children")
        os.kill(int(task.read_text().split()[victim]), signal.SIGKILL)
        (said,) = both_said([running])
    assert said.status == 0, said.err
    assert "launch: starting again in 0.1 s, 1 of 10" in said.err
    assert "[0] tiny-contrastive: resuming at step " in said.err
    assert_same_numbers(run, root / "runs/one")
