# SPDX-License-Identifier: Apache-2.0
"""The local launcher with small programs in place of a training."""

import pathlib
import signal
import subprocess
import sys

import pytest
from doors import PROJECT, run_apart

LOCAL = str(PROJECT / "launch" / "local.py")
QUICK = ("--pause=0.05", "--grace=1")


def launched(root: pathlib.Path, *flags: str, script: str):
    return run_apart(root, [sys.executable, LOCAL, *QUICK, *flags, "--", "bash", "-c", script], 60)


def test_each_process_is_told_where_it_belongs_and_has_its_prefix(tmp_path):
    script = "echo $JAX_PROCESS_ID of $JAX_NUM_PROCESSES, GPU $JAX_LOCAL_DEVICE_IDS; echo bad >&2"
    said = launched(tmp_path, "--processes=2", script=script)
    assert said.status == 0
    assert sorted(said.out.splitlines()) == ["[0] 0 of 2, GPU 0", "[1] 1 of 2, GPU 1"]
    assert sorted(said.err.splitlines()) == ["[0] bad", "[1] bad"]


def test_alone_a_process_is_told_nothing(tmp_path):
    said = launched(tmp_path, script="echo ${JAX_PROCESS_ID-none}")
    assert (said.status, said.out, said.err) == (0, "none\n", "")


@pytest.mark.parametrize("way", ["exit 75", "kill -9 $$", "exit 134"])
def test_what_is_worth_starting_again_is(tmp_path, way):
    """The second time the file is there; all are started again, not the one that failed."""
    script = f"echo here; test $JAX_PROCESS_ID = 0 || test -e done || {{ touch done; {way}; }}"
    said = launched(tmp_path, "--processes=2", script=script)
    assert said.status == 0, said.err
    assert sorted(said.out.splitlines()) == ["[0] here"] * 2 + ["[1] here"] * 2
    assert "starting again in 0.05 s, 1 of 10" in said.err


@pytest.mark.parametrize("status", [1, 2])
def test_a_failure_is_not_started_again(tmp_path, status):
    """Also where the others take it for the loss of a process."""
    script = f"echo here; test $JAX_PROCESS_ID = 1 && exit {status}; exit 75"
    said = launched(tmp_path, "--processes=2", script=script)
    assert said.status == status
    assert sorted(said.out.splitlines()) == ["[0] here", "[1] here"]


def test_it_gives_up(tmp_path):
    said = launched(tmp_path, "--restarts=2", script="echo here; exit 75")
    assert (said.status, said.out) == (75, "here\n" * 3)
    assert said.err.endswith("launch: gave up after 2 restarts\n")


def test_what_outlives_a_failure_is_killed(tmp_path):
    script = "test $JAX_PROCESS_ID = 0 && exit 1; sleep 1000"
    said = launched(tmp_path, "--processes=2", script=script)
    assert said.status == 1
    assert "killing what still runs 1 s after another one failed" in said.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_all_to_stop_and_nothing_starts_again(tmp_path, number):
    script = "trap 'echo saved; exit 75' TERM; echo here; while true; do sleep 0.1; done"
    command = [sys.executable, LOCAL, "--processes=2", "--", "bash", "-c", script]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(2):
        assert "here" in running.stdout.readline()
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert sorted(out.splitlines()) == ["[0] saved", "[1] saved"]
    assert running.returncode == 75
    assert "launch:" not in err


ASKED_AT_A_START = """
import os, runpy, signal, subprocess, sys
class Popen(subprocess.Popen):
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        os.kill(os.getpid(), signal.SIGTERM)
subprocess.Popen = Popen
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_signal_while_a_process_starts_reaches_it(tmp_path):
    given = [LOCAL, "--processes=2", "--", "sleep", "1000"]
    said = run_apart(tmp_path, [sys.executable, "-c", ASKED_AT_A_START, *given], 60)
    assert (said.status, said.err) == (75, "")


def test_a_second_signal_kills(tmp_path):
    script = "trap 'echo asked' TERM; echo here; while true; do sleep 0.1; done"
    command = [sys.executable, LOCAL, "--processes=2", "--", "bash", "-c", script]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for word in ("here", "asked"):
        for _ in range(2):
            assert word in running.stdout.readline()
        running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 75


def test_a_dry_run_prints_commands_that_a_shell_can_run(tmp_path):
    given = ["--processes=2", "--dry-run", "--", "echo", "a b", "$HOME"]
    said = run_apart(tmp_path, [sys.executable, LOCAL, *given], 60)
    assert said.status == 0
    first, second = said.out.splitlines()
    assert first.startswith("JAX_COORDINATOR_ADDRESS=localhost:")
    assert "JAX_PROCESS_ID=1" in second
    assert run_apart(tmp_path, ["bash", "-c", second], 60).out == "a b $HOME\n"


def test_a_command_that_is_not_there(tmp_path):
    said = run_apart(tmp_path, [sys.executable, LOCAL, "--", "no-such-command"], 60)
    assert (said.status, said.line) == (
        2,
        "launch: cannot start no-such-command (No such file or directory)",
    )
