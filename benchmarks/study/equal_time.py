# SPDX-License-Identifier: Apache-2.0
"""How many steps an arm has that is given another's time.

A step of both is measured in turns on one core, in several processes.
"""

import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.arms import Arm, Suite
from benchmarks.study.circumstances import circumstances
from benchmarks.study.runs import LARGE_PAGES
from cots_jax.errors import UserError
from cots_jax.files import write_whole

NO_MATTER = ("duration", "optimizer.learning_rate")  # to what a step costs
MEASURED = 3  # processes, whose median counts: the same two arms were a sixth apart in two of them


def with_equal_time(suite: Suite, out: Path, wanted: Sequence[str]) -> Suite:
    """The suite with the steps of arms that are given another arm's time.

    What the wanted ones of them cost is measured and kept in OUT/SUITE/cost.json; of arms that
    differ in length or learning rate alone, one. What is wanted later is measured then, beside the
    arm whose time it is given, and what is there stays, so that no run is made again. Arms that
    were not measured keep the steps that they have.

    Raises UserError where measuring fails.
    """
    timed = [arm for arm in suite.arms if arm.as_long_as]
    named = {name for arm in timed for name in (arm.name, arm.as_long_as)}
    same = _first_alike([arm for arm in suite.arms if arm.name in named])
    pairs = {arm.name: (same[arm.as_long_as], same[arm.name]) for arm in timed}
    path = out / suite.name / "cost.json"
    kept = _measurements(path)
    missing = {pair for name, pair in pairs.items() if name in wanted and not _ratio(kept, pair)}
    if missing:
        names = sorted({name for pair in missing for name in pair})
        kept.append(_measure(suite.name, names))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"measurements": kept}, indent=1) + "\n")
    arms = []
    for arm in suite.arms:
        ratio = _ratio(kept, pairs[arm.name]) if arm.as_long_as else None
        if ratio:
            steps = math.ceil(ratio * steps_of(suite.arm(arm.as_long_as)) / 10) * 10
            arm = dataclasses.replace(arm, keys={**arm.keys, "duration": f"{steps} steps"})
        arms.append(arm)
    return dataclasses.replace(suite, arms=tuple(arms))


def steps_of(arm: Arm) -> int:
    """Out of its `duration = "N steps"`."""
    count, unit = arm.keys["duration"].split()
    if unit != "steps":
        raise ValueError(f"arm {arm.name} has duration {arm.keys['duration']!r}, not in steps")
    return int(count)


def _measurements(path: Path) -> list[dict[str, Any]]:
    """Those kept there; none where there is no such file or it cannot be read."""
    try:
        stored = json.loads(path.read_text("utf-8"))
        return stored.get("measurements", [stored])  # until commit d8491eb a file was one of them
    except (OSError, ValueError):
        return []


def _ratio(measurements: Sequence[Mapping[str, Any]], pair: tuple[str, str]) -> float | None:
    """Of the first measurement that has both: two of another moment are not compared."""
    for costs in (one["seconds_a_step"] for one in measurements):
        if set(pair) <= set(costs):
            return costs[pair[0]] / costs[pair[1]]
    return None


def _measure(suite: str, names: Sequence[str]) -> dict[str, Any]:
    print("measuring what a step of each arm costs", file=sys.stderr)
    core = min(os.sched_getaffinity(0))
    command = ["benchmarks.study.cost", suite.removesuffix("-quick"), *names]
    times = 1 if suite.endswith("-quick") else MEASURED
    each = [json.loads(_output(command, core)) for _ in range(times)]
    costs = {name: statistics.median(one[name] for one in each) for name in names}
    return {"seconds_a_step": costs, "each": each, "command": command, **circumstances()}


def _first_alike(arms: Sequence[Arm]) -> dict[str, str]:
    """Of each arm the first of these whose steps are the same, by name."""
    first: dict[str, str] = {}
    found = {}
    for arm in arms:
        keys = {key: value for key, value in arm.keys.items() if key not in NO_MATTER}
        found[arm.name] = first.setdefault(json.dumps([arm.config, keys]), arm.name)
    return found


def _output(command: Sequence[str], core: int) -> str:
    """What it prints."""
    done = subprocess.run(
        ["taskset", "-c", str(core), sys.executable, "-m", *command],
        env={"GLIBC_TUNABLES": LARGE_PAGES} | os.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise UserError(f"python -m {command[0]} ended with {done.returncode}")
    return done.stdout
