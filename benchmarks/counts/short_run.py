# SPDX-License-Identifier: Apache-2.0
"""A short real run of the tiny config through the training loop: programs, transfers and waits.

On two fake devices: what lies on several of them NumPy cannot read without asking JAX, so that no
fetch passes uncounted, which on one device of a CPU it would.
"""

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from PIL import Image

from benchmarks.counts.configs import config_of
from benchmarks.counts.record import VERSION, installed_version
from benchmarks.counts.watch import Watch, Watched
from cots_jax.data.prepare.pairs import PairsOptions, prepare_pairs
from cots_jax.image_tokenizer import ImageTokenizer
from cots_jax.planning.tokenizers import tokenizer_shapes
from cots_jax.schema import Config
from cots_jax.train import assemble
from cots_jax.train.loop import train

STEPS, LOG, REST = 14, 4, 7  # steps, and how often is logged, and all else done
PAIRS, HELD_OUT, SIDE = 48, 4, 16  # every fourth is held out
WORDS = ("bars", "steps", "checks", "left", "roof", "ring", "slope", "night")
TINY = "tiny"
PLAIN = "a step that nothing else falls on"


def count() -> dict[str, Any]:
    """Trains. `short_run` holds for any version of JAX, `programs` are of this one."""
    with tempfile.TemporaryDirectory() as folder:
        watched = _trained(Path(folder))
    first, *steps = watched.steps
    plain = [one for number, one in enumerate(steps, 2) if _is_plain(number)]
    logged = steps[LOG + 1 - 2]  # a step's numbers are fetched while the next one runs
    compiled = [one.programs for one in steps]
    return {
        "short_run": {
            TINY: {
                PLAIN: _agreed(plain),
                "the step after a logged one": logged.counts(),
                "programs of the first step": first.programs.total(),
                "programs of later steps": sum(
                    one.total() for number, one in enumerate(compiled, 2) if number != REST
                ),
                "programs of the second evaluation": compiled[2 * REST - 2].total(),
            }
        },
        "programs": {
            VERSION: installed_version(),
            "before the first step": dict(watched.before.programs),
            "first evaluation, diagnosis and checkpoint": dict(compiled[REST - 2]),
        },
    }


def broken(found: dict[str, Any]) -> list[str]:
    """Lines on what a step makes the host wait for, and on programs that are compiled again."""
    run = found[TINY]
    nothing = {f"{PLAIN}: {name}": run[PLAIN][name] for name in ("fetches", "other waits")}
    nothing |= {name: run[name] for name in run if name.startswith("programs of ")}
    nothing.pop("programs of the first step")
    return [
        f"{TINY}: {name} should be 0 and is {value}" for name, value in nothing.items() if value
    ]


def _is_plain(number: int) -> bool:
    """Whether the numbered step neither ends nor follows one with something to do after it."""
    due = {number, number - 1}
    return not any(step % LOG == 0 or step % REST == 0 for step in due)


def _agreed(steps: list[Watched]) -> dict[str, int]:
    """The most of each count: a step that differs from the others shows."""
    return {name: max(one.counts()[name] for one in steps) for name in steps[0].counts()}


def _trained(folder: Path) -> Watch:
    data = folder / "data"
    prepare_pairs(data, _pairs(folder))
    always = (
        f"--config.data.train={data}#train",
        f"--config.data.eval={data}#val",
        *(f"--config.{name}_every={REST} steps" for name in ("evaluate", "checkpoint", "diagnose")),
        f"--config.log_every={LOG} steps",
    )
    off = "--config.method.filter.list_dropped=off"  # which fetches each step's rows, a step late
    duration = f"--config.duration={STEPS} steps"
    config = config_of("tiny", "cpu-2", "--config.hardware.scan=on", off, *always, duration)
    tokenizer = _untrained(config)
    with (
        mock.patch.object(assemble, "load_image_tokenizer", lambda *_: tokenizer),
        Watch(_is_plain) as watch,
    ):
        train(config, folder / "run", io.StringIO())
    return watch


def _untrained(config: Config) -> ImageTokenizer:
    """All zeros: what the codes are changes no count."""
    shapes = tokenizer_shapes(config)
    assert shapes is not None
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes.params)
    return ImageTokenizer(shapes.config, params, ())


def _pairs(folder: Path) -> PairsOptions:
    """Pictures of noise, and two words for each."""
    (folder / "pictures").mkdir()
    random = np.random.default_rng(0)
    with (folder / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "caption", "split"))
        for number in range(PAIRS):
            pixels = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
            words = f"{WORDS[number % 8]} over {WORDS[number // 8]}"
            rows.writerow((f"{number}.png", words, "train" if number % HELD_OUT else "val"))
    return PairsOptions(captions=folder / "captions.csv", images=folder / "pictures")


if __name__ == "__main__":
    print(json.dumps(count()))
