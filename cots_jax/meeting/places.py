# SPDX-License-Identifier: Apache-2.0
"""Where a process belongs among several, by what its launcher left in the environment.

The signs are those that `jax.distributed.initialize()` goes by. They are read here because it takes
the shell of a SLURM allocation for a task, and gives each task one GPU whatever SLURM gave it.
"""

import dataclasses
import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from cots_jax.errors import UserError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
PORT = "JAX_COORDINATOR_PORT"
SWITCH = "COTS_JAX_PROCESSES"
PORTS = (61440, 4096)  # the first of them and how many; those that JAX takes for SLURM and Open MPI


@dataclasses.dataclass(frozen=True)
class Place:
    """One of `count` processes, which meet at `address` (host:port of the first)."""

    index: int
    count: int
    by: str  # what said so
    address: str = ""  # none where the process is alone
    devices: tuple[int, ...] = ()  # its own among the GPUs that it sees; none: all of them
    idle: int = 0  # GPUs of its host that are nobody's

    def __str__(self) -> str:
        return f"process {self.index} of {self.count}, by {self.by}"


def count_cards() -> int:
    """NVIDIA's cards of this host, without asking its driver."""
    return len([*Path("/dev").glob("nvidia[0-9]*")])


def find_place(told: Mapping[str, str], cards: Callable[[], int] = count_cards) -> Place | None:
    """The place that the environment `told` gives this process; None where it is alone.

    cards: counts the host's GPUs, for a launcher that says nothing of them.
    Raises UserError for an environment that contradicts itself.
    """
    switch = told.get(SWITCH) or "detect"
    if switch not in ("detect", "alone"):
        raise UserError(f"{SWITCH}={switch}: it is detect (the default) or alone")
    if switch == "alone":
        return None
    # Open MPI before SLURM, whose variables its ranks inherit from the daemon of their node.
    found = _by_jax(told) or _by_open_mpi(told, cards) or _by_slurm(told, cards)
    if found is None or found.count == 1:
        return None
    if not 0 <= found.index < found.count:
        raise UserError(f"{found}: processes count from 0, so that {found.count - 1} is the last")
    return found


def may_be_tpu_pod(told: Mapping[str, str]) -> bool:
    """Whether this is a TPU host that may have others beside it, so that JAX is to be asked."""
    if told.get(SWITCH) == "alone" or told.get(COUNT) or told.get(INDEX):
        return False
    if names := told.get("TPU_PROCESS_ADDRESSES") or told.get("TPU_WORKER_HOSTNAMES"):  # GKE
        return "," in names or (_optional(told, "MEGASCALE_NUM_SLICES") > 1)
    chips = (*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*"))
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _by_jax(told: Mapping[str, str]) -> Place | None:
    if not (told.get(COUNT) or told.get(INDEX)):
        return None  # an address alone corrects what another launcher says
    names = (ADDRESS, COUNT, INDEX)
    if missing := [name for name in names if not told.get(name)]:
        raise UserError(
            f"several processes need {', '.join(names)}: {', '.join(missing)} is not set"
        )
    return Place(_number(told, INDEX), _number(told, COUNT), INDEX, _address(told, ""))


def _by_open_mpi(told: Mapping[str, str], cards: Callable[[], int]) -> Place | None:
    if not (told.get("OMPI_COMM_WORLD_SIZE") and told.get("OMPI_COMM_WORLD_RANK")):
        return None
    count, index = _number(told, "OMPI_COMM_WORLD_SIZE"), _number(told, "OMPI_COMM_WORLD_RANK")
    if count == 1:
        return Place(index, count, "Open MPI")
    uri = re.match(r"(\d+)\..*?tcp6?://\[?(.+?)[,\]]", told.get("OMPI_MCA_orte_hnp_uri", "") + ",")
    meeting = ""
    if uri:  # job ids are multiples of 4,096; an address without brackets ends in :PORT
        host = uri[2] if "tcp6://" in uri[0] else uri[2].partition(":")[0]
        meeting = f"{host}:{_port(told, int(uri[1]) // 4096)}"
    elif not told.get(ADDRESS):
        raise UserError(
            f"Open MPI has started {count} processes and does not say where they meet: give all of "
            f"them {ADDRESS}=HOST:PORT, with the host of rank 0 (mpirun -x {ADDRESS}=…)"
        )
    local = _optional(told, "OMPI_COMM_WORLD_LOCAL_RANK")
    gpus = _own_gpus(told, local, _optional(told, "OMPI_COMM_WORLD_LOCAL_SIZE"), cards)
    return Place(index, count, "Open MPI", _address(told, meeting), *gpus)


def _by_slurm(told: Mapping[str, str], cards: Callable[[], int]) -> Place | None:
    names = (
        "SLURM_JOB_ID",
        "SLURM_STEP_NODELIST",
        "SLURM_NTASKS",
        "SLURM_PROCID",
        "SLURM_LOCALID",
    )
    if not all(told.get(name) for name in names):
        return None  # a login node, the shell of an allocation or a batch script: no task of srun
    count = _number(told, "SLURM_NTASKS")
    tasks = _optional(told, "SLURM_STEP_NUM_TASKS") or count
    if tasks == 1:
        return Place(0, 1, "SLURM")  # an interactive step, whatever its allocation is for
    if tasks != count:
        raise UserError(
            f"SLURM_NTASKS={count} with SLURM_STEP_NUM_TASKS={tasks}: give srun --ntasks, or set "
            f"{SWITCH}=alone for processes that work apart"
        )
    first = re.match(r"([^,\[]+)(?:\[(\w+))?", told["SLURM_STEP_NODELIST"])
    host = "".join(part or "" for part in first.groups()) if first else ""
    meeting = f"{host}:{_port(told, _number(told, 'SLURM_JOB_ID'))}"
    gpus = _own_gpus(told, _number(told, "SLURM_LOCALID"), _tasks_on_this_node(told), cards)
    return Place(_number(told, "SLURM_PROCID"), count, "SLURM", _address(told, meeting), *gpus)


def _tasks_on_this_node(told: Mapping[str, str]) -> int:
    """Out of SLURM's "4(x2),3": four tasks on each of two nodes, three on the third."""
    runs = re.findall(r"(\d+)(?:\(x(\d+)\))?", told.get("SLURM_STEP_TASKS_PER_NODE", ""))
    nodes = [int(tasks) for tasks, times in runs for _ in range(int(times or 1))]
    here = _optional(told, "SLURM_NODEID")
    return nodes[here] if here < len(nodes) else 1


def _own_gpus(
    told: Mapping[str, str], local: int, tasks: int, cards: Callable[[], int]
) -> tuple[tuple[int, ...], int]:
    """The share of process `local` of `tasks` on this host, which all see the same GPUs, and how
    many are left over.

    None where it is alone there, or where the launcher has bound GPUs to it: then it sees no more
    than its own.
    """
    listed = told.get("CUDA_VISIBLE_DEVICES", "")
    here = _optional(told, "SLURM_GPUS_ON_NODE")
    seen = len(listed.split(",")) if listed else here
    if tasks <= 1 or 0 < seen < max(here, tasks):
        return (), 0
    each, idle = divmod(seen or cards(), tasks)
    return (tuple(range(local * each, (local + 1) * each)), idle) if each else ((local,), 0)


def _address(told: Mapping[str, str], found: str) -> str:
    """HOST:PORT that is said outright, else what was found. Raises UserError for another form."""
    address = told.get(ADDRESS) or found
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"{ADDRESS}={address}: it is HOST:PORT of the first process")
    return address


def _port(told: Mapping[str, str], job: int) -> int:
    return _number(told, PORT) if told.get(PORT) else PORTS[0] + job % PORTS[1]


def _optional(told: Mapping[str, str], name: str) -> int:
    return _number(told, name) if told.get(name) else 0


def _number(told: Mapping[str, str], name: str) -> int:
    try:
        return int(told[name])
    except ValueError:
        raise UserError(f"{name}={told[name]} is no whole number") from None
