# SPDX-License-Identifier: Apache-2.0
"""The launchers that need a cluster, as far as they go without one: linted, and run dry."""

import json
import os
import pathlib
import shlex
import subprocess
import sysconfig

import jsonschema
import kubernetes_validate
import pytest
import yaml
from doors import PROJECT, Said

LAUNCH = PROJECT / "launch"
TESTDATA = PROJECT / "tests" / "testdata"
TOOLS = pathlib.Path(sysconfig.get_path("scripts"))
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
ARGUMENTS = ["--config=configs/pretrain.py:cc4m", "--config.name=two words"]
TPU = {"NAME": "cots", "IMAGE": "here/cots", "TPU": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4"}
GPU = {"NAME": "cots", "IMAGE": "here/cots", "GPU": "nvidia-h100-80gb", "HOSTS": "4"}
POD = {"NAME": "cots", "ZONE": "us-east5-b", "TYPE": "v5litepod-16"}


def run(name: str, *arguments: str, **told: str) -> Said:
    done = subprocess.run(
        [LAUNCH / name, *arguments],
        env={"PATH": os.environ["PATH"], **told},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def dry(name: str, *arguments: str, **told: str) -> str:
    said = run(name, "--dry-run", *arguments, **told)
    assert (said.status, said.err) == (0, "")
    return said.out


def schema(name: str) -> dict:
    return json.loads((TESTDATA / f"{name}.schema.json").read_text())


def test_there_are_scripts():
    assert [path.name for path in SCRIPTS] == ["gke.sh", "sky.sh", "slurm.sh", "tpu_pod.sh"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script(path):
    linted = subprocess.run([TOOLS / "shellcheck", path], capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout
    lines = path.read_text().splitlines()
    assert lines[1] == "# SPDX-License-Identifier: Apache-2.0"
    assert "set -euo pipefail" in lines
    helped, bare = run(path.name, "--help", NAME="n", ZONE="z"), run(path.name, NAME="n", ZONE="z")
    assert helped.status == 0
    assert f"launch/{path.name} [--dry-run]" in helped.out
    assert (bare.status, bare.err) == (2, helped.out)


def test_the_dockerfile_is_linted():
    command = [TOOLS / "hadolint", LAUNCH / "Dockerfile"]
    linted = subprocess.run(command, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize(
    ("told", "replicas", "count", "chips"),
    [
        ({**TPU, "HOSTS": "4", "SLICES": "2"}, 2, 4, {"google.com/tpu": 4}),
        (GPU, 1, 4, {"nvidia.com/gpu": 8}),
        ({**GPU, "CHIPS": "1"}, 1, 4, {"nvidia.com/gpu": 1}),
    ],
)
def test_a_jobset_fits_its_schema(told, replicas, count, chips):
    jobset = yaml.safe_load(dry("gke.sh", *ARGUMENTS, **told))
    jsonschema.validate(jobset, schema("jobset"))
    (part,) = jobset["spec"]["replicatedJobs"]
    spec = part["template"]["spec"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one"}, "spec": spec}
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    (container,) = spec["template"]["spec"]["containers"]
    assert (part["replicas"], spec["parallelism"], spec["completions"]) == (replicas, count, count)
    assert container["resources"]["limits"] == chips
    assert container["args"] == ARGUMENTS
    # What Kubernetes demands, and no schema says.
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_hosts_with_gpus_meet_at_the_first():
    jobset = yaml.safe_load(dry("gke.sh", *ARGUMENTS, **GPU))
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    told = {one["name"]: one.get("value") for one in spec["containers"][0]["env"]}
    assert told == {
        "JAX_COORDINATOR_ADDRESS": "cots-train-0-0.cots:8482",
        "JAX_NUM_PROCESSES": "4",
        "JAX_PROCESS_ID": None,
    }


def test_a_managed_job_fits_its_schema():
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    jsonschema.validate(task, schema("skypilot"))
    for name in ("setup", "run"):
        command = [TOOLS / "shellcheck", "--shell=bash", "--exclude=SC2155", "-"]
        linted = subprocess.run(command, input=task[name], capture_output=True, text=True)
        assert linted.returncode == 0, linted.stdout
    words = shlex.split(dry("sky.sh", *ARGUMENTS, NODES="2", SHARED="true", SPOT="false"))
    assert words[:3] == ["sky", "jobs", "launch"]
    assert {"--num-nodes", "--no-use-spot"} < set(words)
    (arguments,) = [word for word in words if word.startswith("ARGUMENTS=")]
    assert shlex.split(arguments.removeprefix("ARGUMENTS=")) == ARGUMENTS


def test_several_nodes_of_a_managed_job_need_a_folder_that_they_share():
    said = run("sky.sh", "--dry-run", *ARGUMENTS, NODES="2")
    assert (said.status, said.out) == (2, "")
    assert "NODES=2: each node has a cache of /runs of its own" in said.line
    assert "--num-nodes 1" in dry("sky.sh", *ARGUMENTS)


def test_a_node_of_a_managed_job_is_told_where_it_belongs(tmp_path):
    """The task's own lines, with a program in place of the training's Python."""
    program = tmp_path / "cots_jax/bin/python"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/bash\nenv | grep ^JAX_ | sort\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    told = {
        "HOME": str(tmp_path),
        "SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.5",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1",
        "ARGUMENTS": shlex.join(ARGUMENTS),
    }
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    done = subprocess.run(
        ["bash", "-c", task["run"]],
        env={"PATH": os.environ["PATH"], **told},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        "JAX_COORDINATOR_ADDRESS=10.0.0.4:8482",
        "JAX_NUM_PROCESSES=2",
        "JAX_PROCESS_ID=1",
        "-m",
        "cots_jax.main",
        *ARGUMENTS,
    ]


@pytest.mark.parametrize(
    ("told", "flags"),
    [
        ({}, {"--node-id=cots", "--spot"}),
        (
            {"SLICES": "2", "TIER": "reserved"},
            {"--node-count=2", "--node-prefix=cots", "--reserved"},
        ),
        ({"TIER": "on-demand"}, {"--node-id=cots", "--accelerator-type=v5litepod-16"}),
    ],
)
def test_a_tpu_is_asked_for(told, flags):
    words = shlex.split(dry("tpu_pod.sh", "create", **POD, **told))
    assert words[:5] == ["gcloud", "compute", "tpus", "queued-resources", "create"]
    assert flags < set(words)
    assert ("--spot" in words) == ("--spot" in flags)


@pytest.mark.parametrize("step", ["setup", "run", "status", "watch", "stop", "delete"])
def test_a_step_of_a_tpu_is_one_for_bash(step):
    given = ["python", "-m", "cots_jax.main", *ARGUMENTS] if step == "run" else []
    for line in dry("tpu_pod.sh", step, *given, **POD).splitlines():
        words = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True
        ).stdout.split("\0")
        for remote in (word for word in words if word.startswith("--command=")):
            assert "queued-resources" in words
            command = [TOOLS / "shellcheck", "--shell=bash", "-"]
            script = remote.removeprefix("--command=")
            linted = subprocess.run(command, input=script, capture_output=True, text=True)
            assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize(
    ("name", "arguments", "told", "said"),
    [
        ("gke.sh", ["--config=a"], {}, "set NAME"),
        ("gke.sh", ["--config=a"], {"NAME": "n", "IMAGE": "i"}, "set TPU, or GPU"),
        ("tpu_pod.sh", ["create"], {"NAME": "n"}, "set ZONE"),
        ("tpu_pod.sh", ["create"], {**POD, "TIER": "cheap"}, "TIER=cheap: it is spot"),
        ("tpu_pod.sh", ["explode"], POD, "Steps, in this order"),
        ("slurm.sh", ["true"], {"PER": "core"}, "PER=core: it is node or gpu"),
        ("sky.sh", ["--config=a"], {"SPOT": "yes"}, "SPOT=yes: it is true or false"),
    ],
)
def test_what_is_missing_or_wrong_is_said(name, arguments, told, said):
    refused = run(name, "--dry-run", *arguments, **told)
    assert refused.status in (1, 2)
    assert said in refused.err
    assert refused.out == ""
