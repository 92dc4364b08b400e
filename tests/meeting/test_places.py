# SPDX-License-Identifier: Apache-2.0
"""Where a process belongs, by what launchers leave in the environment."""

import pytest
from jax._src.clusters.ompi_cluster import OmpiCluster
from jax._src.clusters.slurm_cluster import SlurmCluster

from cots_jax.errors import UserError
from cots_jax.meeting.places import ADDRESS, COUNT, INDEX, SWITCH, Place, find_place, may_be_tpu_pod

# Task 5 of eight on two nodes with four GPUs each, as srun gives it.
TASK = {
    "SLURM_JOB_ID": "812345",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_GPUS_ON_NODE": "4",
}
RANK = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
TOLD = {ADDRESS: "host0:1234", COUNT: "2", INDEX: "1"}


def test_a_place_told_outright():
    assert find_place(TOLD) == Place(1, 2, INDEX, "host0:1234")
    assert find_place({**TASK, **TOLD}).by == INDEX
    assert str(find_place(TOLD)) == "process 1 of 2, by JAX_PROCESS_ID"


def test_a_slurm_task():
    assert find_place(TASK) == Place(5, 8, "SLURM", f"gpu007:{61440 + 812345 % 4096}", (1,))


@pytest.mark.parametrize(
    "nodes",
    [
        "node001",
        "node001,host2",
        "node[001-015],host2",
        "node[001,007-015]",
        "a-b[3,5]",
        "n1.cluster",
    ],
)
def test_slurm_tasks_meet_where_jax_would_have_them(monkeypatch, nodes):
    for name, value in {**TASK, "SLURM_STEP_NODELIST": nodes}.items():
        monkeypatch.setenv(name, value)
    wanted = SlurmCluster.get_coordinator_address(None, None)
    assert find_place({**TASK, "SLURM_STEP_NODELIST": nodes}).address == wanted


@pytest.mark.parametrize(
    "uri",
    [
        "1531576320.0;tcp://10.96.0.1,10.148.0.1,10.108.0.1:34911",
        "1531576320.0;tcp://10.96.0.1:34911",
        "1314521088.0;tcp6://[fe80::b9b:ac5d:9cf0:b858,2620:10d:c083:150e::3000:2]:43370",
    ],
)
def test_open_mpi_ranks_meet_where_jax_would_have_them(monkeypatch, uri):
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", uri)
    found = find_place({**RANK, "OMPI_MCA_orte_hnp_uri": uri})
    assert found.address == OmpiCluster.get_coordinator_address(None, None)
    assert (found.index, found.count, found.by) == (3, 4, "Open MPI")


@pytest.mark.parametrize(
    "told",
    [
        {},
        {ADDRESS: "host0:1234"},
        {**TOLD, COUNT: "1", INDEX: "0"},
        {**TOLD, SWITCH: "alone"},
        {**TASK, SWITCH: "alone"},
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "a"},  # salloc
        {**TASK, "SLURM_STEP_NODELIST": ""},  # a batch script
        {**TASK, "SLURM_STEP_NUM_TASKS": "1"},  # an interactive step of an allocation for eight
        {**TASK, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"},
        {**RANK, "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"},
    ],
)
def test_alone(told):
    assert find_place(told) is None


def test_ranks_that_slurm_hosts_are_ranks():
    daemon = {**TASK, "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
    assert find_place({**daemon, **RANK}).by == "Open MPI"


@pytest.mark.parametrize(
    ("told", "devices"),
    [
        ({}, (1,)),  # one GPU a task
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x8)"}, ()),  # one task a node: all of them
        ({"SLURM_STEP_TASKS_PER_NODE": "4,4"}, (1,)),
        ({"SLURM_STEP_TASKS_PER_NODE": "6,2"}, (2, 3)),  # two tasks here share four
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (1,)),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ()),  # bound by SLURM
        ({"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_ON_NODE": "1"}, ()),
        ({"SLURM_GPUS_ON_NODE": ""}, (1,)),  # GPUs that SLURM knows nothing of
    ],
)
def test_gpus_of_a_task(told, devices):
    assert find_place({**TASK, **told}, lambda: 0).devices == devices


@pytest.mark.parametrize(
    ("told", "cards", "devices", "idle"),
    [
        ({}, 8, (4, 5, 6, 7), 0),
        ({}, 5, (2, 3), 1),
        ({}, 0, (1,), 0),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 8, (2, 3), 0),
    ],
)
def test_gpus_of_a_rank_are_its_share_of_those_of_its_host(told, cards, devices, idle):
    found = find_place({**RANK, **told}, lambda: cards)
    assert (found.devices, found.idle) == (devices, idle)


def test_an_address_and_a_port_can_be_given():
    assert find_place({**TASK, ADDRESS: "ib-gpu007:9"}).address == "ib-gpu007:9"
    assert find_place({**TASK, "JAX_COORDINATOR_PORT": "9"}).address == "gpu007:9"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({SWITCH: "off"}, "it is detect .* or alone"),
        ({COUNT: "2"}, "several processes need"),
        ({COUNT: "2", INDEX: "0"}, f"{ADDRESS} is not set"),
        ({**TOLD, COUNT: "two"}, "JAX_NUM_PROCESSES=two is no whole number"),
        ({**TOLD, INDEX: "2"}, "process 2 of 2.*count from 0, so that 1 is the last"),
        ({**TOLD, INDEX: "-1"}, "count from 0"),
        ({**TOLD, ADDRESS: "host0"}, "it is HOST:PORT"),
        ({**TOLD, ADDRESS: "host0:99999"}, "it is HOST:PORT"),
        ({**TASK, "SLURM_STEP_NUM_TASKS": "4"}, "SLURM_NTASKS=8 with SLURM_STEP_NUM_TASKS=4"),
        ({**TASK, "SLURM_PROCID": "8"}, "process 8 of 8, by SLURM"),
        ({**TASK, "SLURM_JOB_ID": "x"}, "SLURM_JOB_ID=x is no whole number"),
        ({**RANK, "OMPI_MCA_orte_hnp_uri": ""}, "does not say where they meet"),
    ],
)
def test_what_contradicts_itself_is_an_error(told, said):
    with pytest.raises(UserError, match=said):
        find_place(told)


def test_hosts_of_a_tpu_on_gke():
    assert may_be_tpu_pod({"TPU_WORKER_HOSTNAMES": "a,b"})
    assert may_be_tpu_pod({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"})
    assert not may_be_tpu_pod({"TPU_WORKER_HOSTNAMES": "localhost"})
    assert not may_be_tpu_pod({"TPU_WORKER_HOSTNAMES": "a,b", SWITCH: "alone"})
    assert not may_be_tpu_pod({"TPU_WORKER_HOSTNAMES": "a,b", **TOLD})
