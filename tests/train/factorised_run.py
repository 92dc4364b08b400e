# SPDX-License-Identifier: Apache-2.0
"""Twenty steps of a small real model in float32 on meshes of 8 fake devices (test_factorisations).

`factorised_run.py OUT.npz SHAPE…`, a shape as data,fsdp,tensor; `~` before it takes the devices in
an order in which no process has neighbours. In one process, or in several that the environment
names, each with its part of the devices.
"""

import json
import sys

import jax
import numpy as np
import quick
from jax.sharding import AxisType, Mesh
from sharded_run import SHORT, b, make_batch, make_frozen, make_state, make_step

from cots_jax.objectives.total import Terms
from cots_jax.processes import is_first, join_processes
from cots_jax.schema import OptimizerConfig
from cots_jax.switches import Contrast
from cots_jax.train.mesh import fetch, place, place_rows, rows_of_process, state_shardings, whole
from cots_jax.train.optimizer import make_optimizer
from cots_jax.train.step import Knobs

STEPS = 20


def mesh_of(shape: str) -> Mesh:
    sizes = [int(size) for size in shape.removeprefix("~").split(",")]
    devices = np.array(jax.devices())
    if shape.startswith("~"):
        devices = devices.reshape(2, -1).T.ravel()
    cut = devices[: int(np.prod(sizes))].reshape(sizes)
    return Mesh(cut, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def run(mesh: Mesh):
    """Losses and decisions of each step, and the queue at the end."""
    step = make_step(mesh, SHORT, 1, Contrast.MOMENTUM)
    step = type(step)(**{**vars(step), "optimizer": make_optimizer(OptimizerConfig())})
    state = make_state(step, SHORT, np.float32)
    state = place(state, state_shardings(mesh, state))
    knobs = Knobs(
        seed=np.uint32(3),
        learning_rate=np.float32(1e-3),
        momentum=np.float32(0.9),
        weights=Terms(*np.float32((1.0, 0.5, 0.5, 1.0))),
        filter_warm=np.bool_(True),
    )
    knobs, frozen = place((knobs, make_frozen(np.float32)), whole(mesh))
    rows, losses, kept = rows_of_process(mesh, b), [], []
    stepped = quick.jit(step)
    for number in range(STEPS):
        batch = jax.tree.map(lambda leaf: leaf[rows], make_batch(number))
        state, metrics = stepped(state, frozen, place_rows(batch, mesh, b), knobs)
        measured = fetch(metrics)
        losses.append(float(measured["loss"]))
        kept.append([float(measured[f"kept/{source}"]) for source in range(2)])
    return losses, kept, fetch(state.method.queue)


def main(out: str, shapes: list[str]) -> None:
    join_processes()
    arrays, facts = {}, {}
    for shape in shapes:
        mesh = mesh_of(shape)
        losses, kept, queue = run(mesh)
        facts[shape] = {"losses": losses, "kept": kept}
        facts[shape]["rows"] = rows_of_process(mesh, b).tolist()
        arrays |= {f"{shape}/{name}": leaf for name, leaf in vars(queue).items()}
    if is_first():
        np.savez(out, facts=json.dumps(facts), **arrays)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
