# SPDX-License-Identifier: Apache-2.0
"""A short real run of the tiny config through the training loop: programs, transfers and waits.

On two fake devices: what lies on several of them NumPy cannot read without asking JAX, so that no
fetch passes uncounted, which on one device of a CPU it would.
"""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.counts.configs import config_of
from benchmarks.counts.record import VERSION, installed_version
from benchmarks.counts.watch import Watch, Watched
from benchmarks.made_up import write_pairs, write_tokenizer
from cots_jax.train.loop import train

STEPS, LOG, REST = 14, 4, 7  # steps, and how often is logged, and all else done
PAIRS, HELD_OUT, SIDE = 48, 12, 16
TINY = "tiny"
STEP = "cots_step"
PLAIN = "a step that nothing else falls on"


def count() -> dict[str, Any]:
    """Trains. `short_run` holds for any version of JAX, `programs` are of this one."""
    with tempfile.TemporaryDirectory() as folder:
        watched = _trained(Path(folder))
    first, *steps = watched.steps
    plain = [one for number, one in enumerate(steps, 2) if _is_plain(number)]
    logged = steps[LOG + 1 - 2]  # a step's numbers are fetched while the next one runs
    compiled = [one.programs for one in steps]
    started = watched.before.programs + first.programs  # a thread makes the step's meanwhile
    return {
        "short_run": {
            TINY: {
                PLAIN: _agreed(plain),
                "the step after a logged one": logged.counts(),
                "times that the step was compiled": sum(
                    n for name, n in started.items() if STEP in name
                ),
                "programs of later steps": sum(
                    one.total() for number, one in enumerate(compiled, 2) if number != REST
                ),
                "programs of the second evaluation": compiled[2 * REST - 2].total(),
            }
        },
        "programs": {
            VERSION: installed_version(),
            "until the end of the first step": dict(started),
            "first evaluation, diagnosis and checkpoint": dict(compiled[REST - 2]),
        },
    }


def broken(found: dict[str, Any]) -> list[str]:
    """Lines on what a step makes the host wait for, and on programs that are compiled again."""
    run = found[TINY]
    wanted = {f"{PLAIN}: {name}": 0 for name in ("fetches", "other waits")}
    wanted |= {name: 0 for name in run if name.startswith("programs of ")}
    wanted["times that the step was compiled"] = 1
    values = {name: run[name] for name in run if name != PLAIN}
    values |= {f"{PLAIN}: {name}": value for name, value in run[PLAIN].items()}
    return [
        f"{TINY}: {name} should be {number} and is {values[name]}"
        for name, number in wanted.items()
        if values[name] != number
    ]


def _is_plain(number: int) -> bool:
    """Whether the numbered step neither ends nor follows one with something to do after it."""
    due = {number, number - 1}
    return not any(step % LOG == 0 or step % REST == 0 for step in due)


def _agreed(steps: list[Watched]) -> dict[str, int]:
    """The most of each count: a step that differs from the others shows."""
    return {name: max(one.counts()[name] for one in steps) for name in steps[0].counts()}


def _trained(folder: Path) -> Watch:
    data, tokenizer = folder / "data", folder / "dvae"
    write_pairs(data, PAIRS, SIDE, HELD_OUT)
    write_tokenizer(tokenizer, "dvae-16-8")
    always = (
        f"--config.data.train={data}#train",
        f"--config.data.eval={data}#val",
        *(f"--config.{name}_every={REST} steps" for name in ("evaluate", "checkpoint", "diagnose")),
        f"--config.log_every={LOG} steps",
        f"--config.image_tokenizer={tokenizer}",
    )
    off = "--config.method.filter.list_dropped=off"  # which fetches each step's rows, a step late
    duration = f"--config.duration={STEPS} steps"
    config = config_of(TINY, "cpu-2", "--config.hardware.scan=on", off, *always, duration)
    with Watch(_is_plain) as watch:
        train(config, folder / "run", io.StringIO())
    return watch


if __name__ == "__main__":
    print(json.dumps(count()))
