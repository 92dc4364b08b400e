# SPDX-License-Identifier: Apache-2.0
"""The SLURM script under commands that stand for SLURM's: a job, a step of two tasks, a requeue."""

import os
import pathlib
import subprocess
import sys

import pytest
from doors import PROJECT, Said

SCRIPT = PROJECT / "launch" / "slurm.sh"

# As much of SLURM as the script meets. Like it, srun ends with the highest status of its tasks.
SBATCH = """
export SLURM_JOB_ID=$$ SLURM_JOB_NODELIST=localhost SLURM_NTASKS=2 SLURM_PROCID=0 SLURM_LOCALID=0
for word; do
  case $word in
    --export=*) IFS=, read -ra told <<<"${word#--export=ALL,}"; export "${told[@]}" ;;
    --*) echo "$word" >>options ;;
    *) break ;;
  esac
  shift
done
exec "$@"
"""
SRUN = """
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=2
export SLURM_NODEID=0
tasks=() highest=0
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  tasks+=($!)
done
for task in "${tasks[@]}"; do
  status=0
  wait "$task" || status=$?
  ((status <= highest)) || highest=$status
done
exit "$highest"
"""
SCONTROL = """
if [[ $2 == show ]]; then
  echo "JobId=$4 JobName=cots_jax ${STATE:-JobState=RUNNING Reason=None} Dependency=(null)"
else
  echo "$1" >>requeued
fi
"""
MEET = """
from cots_jax.processes import join_processes, this_process
import numpy as np
from jax.experimental import multihost_utils
join_processes()
print(multihost_utils.process_allgather(np.int32(this_process().index)).tolist(), flush=True)
"""


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> pathlib.Path:
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}")
        path.chmod(0o755)
    return tmp_path


def submit(cluster: pathlib.Path, *command: str, **told: str) -> Said:
    path = f"{cluster / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        [SCRIPT, *command],
        cwd=cluster,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT), **told},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def in_each(script: str) -> tuple[str, ...]:
    return ("bash", "-c", script)


def test_it_asks_for_what_the_settings_say(cluster):
    said = submit(cluster, "true", NODES="3", PER="gpu", GPUS="2", TIME="1:00", NOTICE="60")
    assert (said.status, said.err) == (0, "")
    options = set((cluster / "options").read_text().split())
    assert options == {
        "--job-name=cots_jax",
        "--nodes=3",
        "--ntasks-per-node=2",
        "--cpus-per-task=16",
        "--gpus-per-node=2",
        "--time=1:00",
        "--signal=TERM@60",
        "--requeue",
        "--open-mode=append",
    }
    assert not (cluster / "requeued").exists()


@pytest.mark.parametrize("way", ["exit 75", "kill -9 $$"])
def test_what_is_worth_starting_again_is_queued_again(cluster, way):
    said = submit(cluster, *in_each(f"test $SLURM_PROCID = 0 || {{ {way}; }}"))
    assert said.status in (75, 137)
    assert (cluster / "requeued").read_text() == "requeue\n"


@pytest.mark.parametrize(
    ("state", "again"),
    [
        ("JobState=CANCELLED Reason=None", False),
        ("JobState=COMPLETING Reason=None", False),
        ("JobState=COMPLETING Reason=TimeLimit", True),
    ],
)
def test_what_was_cancelled_stays_so(cluster, state, again):
    """`scancel JOB` sends SIGTERM like all else that stops a step."""
    said = submit(cluster, *in_each("exit 75"), STATE=state)
    assert said.status == 75
    assert (cluster / "requeued").exists() == again
    assert ("not queued again" in said.err) != again


def test_where_the_state_is_not_known_it_is_queued_again(cluster):
    path = cluster / "bin" / "scontrol"
    path.write_text(path.read_text().replace('echo "JobId', 'false; exit 1; echo "JobId'))
    assert submit(cluster, *in_each("exit 75")).status == 75
    assert (cluster / "requeued").exists()


def test_it_gives_up(cluster):
    said = submit(cluster, *in_each("exit 75"), SLURM_RESTART_COUNT="3", RESTARTS="3")
    assert (said.status, said.err) == (75, "launch: gave up after 3 restarts\n")
    assert not (cluster / "requeued").exists()


@pytest.mark.parametrize("status", [1, 2])
def test_a_failure_that_the_others_hide_is_none_to_start_again(cluster, status):
    script = f"test $SLURM_PROCID = 0 && exit {status}; exit 75"
    said = submit(cluster, *in_each(script))
    assert said.status == 1
    assert "a process has failed and says why" in said.err
    assert not (cluster / "requeued").exists()
    assert not list(cluster.glob("*.failed"))


def test_a_process_that_is_asked_to_stop_is_waited_for(cluster):
    """SLURM sends the signal to the shell of the task as well."""
    said = submit(cluster, *in_each("trap 'echo saved; exit 75' TERM; kill $PPID $$; sleep 10"))
    assert (said.status, said.out) == (75, "saved\n" * 2)


@pytest.mark.slow
def test_its_tasks_meet(cluster):
    said = submit(cluster, sys.executable, "-c", MEET)
    assert said.status == 0, said.err
    assert said.out.splitlines() == ["[0, 1]"] * 2
    assert "process 1 of 2, by SLURM, meeting at localhost:" in said.err
