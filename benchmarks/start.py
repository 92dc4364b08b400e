# SPDX-License-Identifier: Apache-2.0
"""How long it takes from the command to the end of the first step, and where the time goes.

    python -m benchmarks.start [--cases=demo,b16-384] [--demo=FOLDER]

Each start is a fresh process of `python -m cots_jax.main` in a fresh workdir, once with an empty
compilation cache (cold) and once with the one that this has left (cache); between them another
process only imports JAX and asks it for its devices (jax alone). In turns.

`demo` is what `make demo` trains, configs/demo.py:kl, in a folder where that has made data/emoji
(--demo; default: here), or else in a temporary one with the same drawings; `demo-all` the same with
all levels, and an image tokenizer that was never trained. `b16-384` is configs/pretrain.py, two
pairs a step, with made-up pictures, codes and words. `tiny`, which --quick takes, is
configs/tiny.py likewise. Medians over rounds: what the first start alone reads from the disk does
not decide.

Phases: `python`, until it runs our first line; `imports`; `config`, which asks for the devices;
`data`, opening, decoding what is kept in memory, words, tokenizer; `state`, the fresh parameters,
while a thread traces, lowers and compiles the step (or finds it in the cache);
`batch`, the first one; `step`, what is left of that, and its run.
"""

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.made_up import write_codes, write_pairs, write_tokenizer, write_vocabulary
from benchmarks.measure import PROJECT, Found, Table, flags_of, median, run_benchmark, seconds
from benchmarks.plots import Bar, bars
from benchmarks.start_marks import PHASES, STAGES
from cots_jax.errors import UserError, nearest

JAX_ALONE = "import jax; jax.devices()"
DALLE, BERT = 8192, 30_522  # codes, words
ROUNDS = 3
EMOJI = "data/emoji"


@dataclasses.dataclass(frozen=True)
class Case:
    """A config, keys of it, and what makes the folder that it is started in."""

    config: str
    make: Callable[[Path], None]
    keys: tuple[str, ...] = ()


def make_demo(root: Path) -> None:
    """The demo's drawings."""
    _door(root, "prepare", "emoji", f"--out={EMOJI}")


def make_all_levels(root: Path) -> None:
    """The demo's drawings, and a tokenizer in the place of its own."""
    make_demo(root)
    write_tokenizer(root / "runs/demo-dvae", "dvae-32-8")


def make_tiny(root: Path) -> None:
    """64 pictures of 16 px."""
    write_pairs(root / "data/tiny", 64, 16, held_out=16)
    write_tokenizer(root / "runs/tiny-dvae", "dvae-16-8")


def make_large(root: Path) -> None:
    """32 pictures of 384 px with codes, and a vocabulary."""
    write_pairs(root / "data/pairs", 32, 384, held_out=8)
    write_codes(root / "data/pairs", "b16-384", DALLE)
    write_vocabulary(root / "vocab.txt", BERT)


LARGE = ("data.train=data/pairs#train", "data.eval=data/pairs#val", "data.tokenizer=vocab.txt",
         "batch=2", "data.threads=2")  # fmt: skip
CASES = {
    "demo": Case("demo.py:kl", make_demo),
    "demo-all": Case("demo.py", make_all_levels),
    "b16-384": Case("pretrain.py", make_large, LARGE),
    "tiny": Case("tiny.py", make_tiny),
}
AIMS = {("demo", "cold"): 20.0, ("demo", "cache"): 8.0, ("b16-384", "cold"): 60.0}  # seconds


def _door(root: Path, door: str, *flags: str) -> None:
    command = [sys.executable, "-m", f"cots_jax.{door}", *flags]
    done = subprocess.run(command, cwd=root, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{door} has failed: {_last_line(done.stderr)}")


def _environment(cache: Path | None = None) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH", ""))))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
    return kept | {"PYTHONPATH": path, "COTS_JAX_CACHE": str(cache or "off")}


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["it said nothing"])[-1]


@dataclasses.dataclass(frozen=True)
class Started:
    """Seconds of each phase, of the stages of programs within it, and of the CPU."""

    phases: dict[str, float]
    programs: dict[str, dict[str, float]]
    cpu: float

    @property
    def total(self) -> float:
        """From the command to the first step."""
        return sum(self.phases.values())


def start(case: Case, root: Path, cache: Path) -> Started:
    """One start in a workdir of its own. Raises UserError where it comes to no step."""
    with tempfile.TemporaryDirectory() as workdir:
        config = f"--config={PROJECT / 'configs' / case.config}"
        keys = [f"--config.{key}" for key in case.keys]
        command = [sys.executable, "-m", "benchmarks.start_marks", config, *keys,
                   f"--workdir={workdir}"]  # fmt: skip
        begun = time.time()
        done = subprocess.run(
            command, cwd=root, env=_environment(cache), capture_output=True, text=True
        )
    try:
        said = json.loads(_last_line(done.stdout))
    except ValueError:
        why = _last_line(done.stderr).removeprefix("error: ")
        raise UserError(f"{case.config} has come to no step: {why}") from None
    ended = [begun, *(said["marks"][phase] for phase in PHASES)]
    spans = [after - before for before, after in itertools.pairwise(ended)]
    return Started(dict(zip(PHASES, spans)), said["programs"], said["cpu"])


def jax_alone() -> None:
    """A process that does the least that one with JAX can do."""
    subprocess.run([sys.executable, "-c", JAX_ALONE], check=True, env=_environment())


def measured(flags: argparse.Namespace) -> Found:
    """Two tables: the phases, and what programs took within them."""
    rounds = flags.rounds or (1 if flags.quick else ROUNDS)
    names = (flags.cases or ("tiny" if flags.quick else "demo,b16-384")).split(",")
    for name in names:
        if name not in CASES:
            raise UserError(f"--cases has {name!r}; {nearest(name, CASES, 'cases')}")
    rows: list[tuple[Any, ...]] = []
    stages: list[tuple[Any, ...]] = []
    alone: list[float] = []
    details: dict[str, Any] = {"jax alone": alone}
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            root = _world(name, flags.demo, Path(temporary))
            found: dict[str, list[Started]] = {"cold": [], "cache": []}
            for number in range(rounds):
                cache = Path(temporary) / f"{name}-cache{number}"
                for kind in found:
                    found[kind].append(start(CASES[name], root, cache))
                    alone.append(seconds(jax_alone))
                print(f"{name} {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for kind, starts in found.items():
                rows.append((name, kind, *_medians(starts)))
                stages += [(name, kind, *row) for row in _programs(starts)]
            details[name] = {k: [dataclasses.asdict(s) for s in of] for k, of in found.items()}
    rows.append(("jax alone", "", median(alone), *[None] * (len(PHASES) + 1)))
    phases = Table(
        "Seconds from the command to the first step",
        ("case", "programs", "in all", *PHASES, "CPU seconds"),
        rows,
    )
    columns = ("case", "programs", "phase", *STAGES.values())
    programs = Table("Of these, seconds on programs", columns, stages)
    return Found([phases, programs], details, plotted(details))


def plotted(details: Mapping[str, Any]) -> str:
    """Bars of the seconds in all, by case."""
    rows = []
    for name in filter(CASES.__contains__, details):
        for kind, starts in details[name].items():
            spent = [sum(one["phases"].values()) for one in starts]
            aim = AIMS.get((name, kind))
            rows.append(
                Bar(f"{name}, {kind}", median(spent), min(spent), max(spent), aim, at_least=False)
            )
    return bars("From the command to the first step", "s", rows)


def _world(name: str, demo: Path, temporary: Path) -> Path:
    """The folder to start in, made where it is not there."""
    if name == "demo" and (demo / EMOJI).is_dir():
        return demo
    root = temporary / name
    root.mkdir()
    CASES[name].make(root)
    return root


def _medians(starts: Sequence[Started]) -> list[float]:
    return [
        median([one.total for one in starts]),
        *(median([one.phases[phase] for one in starts]) for phase in PHASES),
        median([one.cpu for one in starts]),
    ]


def _programs(starts: Sequence[Started]) -> list[tuple[Any, ...]]:
    def of(one: Started, phase: str) -> Mapping[str, float]:
        return one.programs.get(phase, {})

    return [
        (phase, *(median([of(one, phase).get(stage, 0.0) for one in starts])
                  for stage in STAGES.values()))
        for phase in PHASES
        if any(of(one, phase) for one in starts)
    ]  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Exit status as `run_benchmark` has it."""
    parser = flags_of("start", __doc__ or "")
    parser.add_argument("--cases", default="", help=f"of {', '.join(CASES)}")
    parser.add_argument("--demo", type=Path, default=Path(), help="where `make demo` has run")
    return run_benchmark("start", parser, argv, measured)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
