# SPDX-License-Identifier: Apache-2.0
"""Do the objectives pull together? Angles between their gradients in each tower.

    python -m benchmarks.study.gradients WORKDIR [--batches=8] [--out=FILE.json]

For every checkpoint that the run has kept (train with --config.keep=20): gradients of each
objective alone at weight 1, over the batches that come next, summed over them; their norms, the
cosine of each with the instance level's, and, so that the sampling noise can be seen, the cosine of
the sums over the odd and over the even batches of one and the same objective.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.study.circumstances import circumstances
from cots_jax import checkpoint
from cots_jax.errors import UserError
from cots_jax.files import write_whole
from cots_jax.objectives.total import OBJECTIVES, Terms
from cots_jax.pretrained import CHECKPOINTS, read_config
from cots_jax.schema import Config
from cots_jax.train.assemble import assembled
from cots_jax.train.cots import CotsTask
from cots_jax.train.mesh import by_rows, make_mesh, whole

TOWERS = ("image", "text")


@dataclasses.dataclass(frozen=True)
class Pull:
    """One objective's gradient in one tower."""

    step: int
    objective: str
    tower: str
    norm: float
    with_instance: float  # cosine
    with_itself: float  # cosine of the sums over odd and even batches


def pulls(config: Config, workdir: Path, batches: int) -> list[Pull]:
    """Of every kept checkpoint. Raises UserError where there is none."""
    steps = sorted(int(p.name) for p in (workdir / CHECKPOINTS).glob("*") if p.name.isdigit())
    if not steps:
        raise UserError(f"{workdir} holds no checkpoint: train first")
    mesh = make_mesh(config.hardware)
    found = []
    with assembled(config, workdir, mesh) as task:
        if not isinstance(task, CotsTask):
            raise UserError(f"{workdir} holds no retrieval model")
        gradients = _compiled(task)
        for step in steps:
            path = workdir / CHECKPOINTS / str(step)
            state = task.restored(path, task.fresh(), len(task.table.sources))
            stream = iter(task.batches())
            stream.set_state(checkpoint.read_fact(path, "data")["iterator"])
            drawn = [jax.device_put(next(stream), by_rows(mesh)) for _ in range(batches)]
            each = {name: [gradients(state, b, step, name) for b in drawn] for name in _on(task)}
            found += _compare(step, each)
    return found


def _on(task: CotsTask) -> list[str]:
    return [name for name in OBJECTIVES if name in task.schedules.active]


def _compiled(task: CotsTask) -> Any:
    frozen = task.frozen()
    compiled = jax.jit(lambda *arguments: task.gradients(*arguments).grads["towers"])

    def gradients(state: Any, batch: Any, at: int, name: str) -> dict[str, np.ndarray]:
        weights = Terms(**{other: np.float32(other == name) for other in OBJECTIVES})
        knobs = dataclasses.replace(task.knobs(at), weights=weights)
        towers = compiled(state, frozen, batch, jax.device_put(knobs, whole(task.mesh)))
        return {tower: _flat(towers[tower]) for tower in TOWERS}

    return gradients


def _flat(tree: Any) -> np.ndarray:
    leaves = [np.asarray(leaf, np.float64).reshape(-1) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves)


def _compare(step: int, each: Mapping[str, Sequence[Mapping[str, np.ndarray]]]) -> list[Pull]:
    rows = []
    for tower in TOWERS:
        sums = {name: _sum(drawn, tower) for name, drawn in each.items()}
        for name, drawn in each.items():
            odd, even = (_sum(drawn[start::2], tower) for start in (0, 1))
            rows.append(
                Pull(
                    step,
                    name,
                    tower,
                    float(np.linalg.norm(sums[name])) / len(drawn),
                    _cosine(sums[name], sums["instance"]) if "instance" in sums else float("nan"),
                    _cosine(odd, even),
                )
            )
    return rows


def _sum(drawn: Sequence[Mapping[str, np.ndarray]], tower: str) -> np.ndarray:
    return np.sum([one[tower] for one in drawn], axis=0)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    length = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / length if length else float("nan")


def in_words(found: Sequence[Pull]) -> str:
    """A Markdown table."""
    head = ("step", "objective", "tower", "norm", "cosine with instance", "with itself")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for one in found:
        numbers = f"{one.norm:.3g} | {one.with_instance:+.3f} | {one.with_itself:+.3f}"
        lines.append(f"| {one.step} | {one.objective} | {one.tower} | {numbers} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Prints the table; writes the same with its circumstances where --out says so."""
    parser = argparse.ArgumentParser("python -m benchmarks.study.gradients", description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--batches", type=int, default=8, help="of the run's own stream (even)")
    parser.add_argument("--out", type=Path, help="a JSON file to write, with commit and machine")
    flags = parser.parse_args(argv)
    config = read_config(flags.workdir)
    try:
        if config is None:
            raise UserError(f"{flags.workdir} is no training folder")
        found = pulls(config, flags.workdir, max(2, flags.batches))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(in_words(found))
    if flags.out:
        facts = {
            "command": f"python -m benchmarks.study.gradients {' '.join(argv)}",
            **circumstances(),
            "config": config.to_dict(),
            "rows": [dataclasses.asdict(row) for row in found],
        }
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(flags.out, json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
