# SPDX-License-Identifier: Apache-2.0
"""A training step against the same one written in PyTorch.

    python -m benchmarks.step [--size=demo|b16-224|b16-384] [--batch=N] [--arms=full,contrastive]
        [--peers=eager,compiled,cut] [--precision=float32|bfloat16] [--parts] [--profile]
        [--config.KEY=value …] [--rounds=N] [--out=FILE.json]

The full objective and contrastive alone: ours, the peer (benchmarks/step/peer_step.py) eager, by
`torch.compile`, and compiled with last blocks that have no outputs but those that are read, as ours
have (cut); some steps each in turn, so that whatever else the machine does hits all alike; ratios
are medians over the rounds. Beforehand ours and the peer take two steps on the same pairs
from the same parameters, and their losses must agree; and the peer's towers are timed against
Hugging Face's. Codes come with the batch and pictures are not augmented; --parts times the parts of
our step by themselves, augmentation and the config's image tokenizer among them; --profile says in
which of XLA's instructions the time of the first arm goes and, on a CPU, in which of PyTorch's
operators that of its peers. In bfloat16, the default on a GPU, the peer runs under autocast; on a
CPU ours then has products of bfloat16 alone.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import torch

from benchmarks import plots
from benchmarks.measure import (
    PROJECT,
    Cell,
    Found,
    Table,
    bar,
    flags_of,
    in_turns,
    median,
    ratio,
    run_benchmark,
    spread,
)
from benchmarks.step.huggingface import passes
from benchmarks.step.ours import MOMENTUM, RATE, ours, peer_batch, peer_of
from benchmarks.step.parts import parts
from benchmarks.step.peer_step import PeerBatch
from benchmarks.step.profile import peer_tables
from benchmarks.step.profile import tables as profile_tables
from cots_jax.arguments import parse_arguments
from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.errors import UserError
from cots_jax.planning.tokenizers import tokenizer_shapes
from cots_jax.schema import Config
from cots_jax.switches import Forward
from cots_jax.train.flops import count_flops
from cots_jax.train.utilisation import as_counted

CONFIGS = PROJECT / "configs"
SIZES = {"demo": 64, "b16-224": 4, "b16-384": 2, "tiny": 16}  # pairs
TOKENIZERS = {"demo": "dvae.py:emoji", "tiny": "tiny.py:dvae"}
STILL = ("shift", "scale", "brightness", "contrast", "saturation", "hue", "grey_probability")
ARMS = {"full": "", "contrastive": "contrastive"}
PEERS = ("eager", "compiled", "cut")
PLACES = {"cpu": "cpu", "gpu": "cuda"}  # JAX's name of the device -> PyTorch's
AGREE = {"float32": 1e-4, "bfloat16": 5e-2}  # relative, of losses
ON_CPU = {"float32": "float32", "bfloat16": "bfloat16_operands"}  # hardware.precision
CHECKED, IN_A_ROW, ROUNDS = 2, 3, 9  # steps; steps of a turn
FULL_OVER = "full over contrastive alone"
AT_LEAST = {"demo": 2.0, "b16-224": 1.0}  # aims: the peer's time over ours, full objective
AT_MOST = {False: 1.85, True: 1.3}  # aims: full over contrastive; masked forwards shared or not

Call = Callable[[], Any]


def precision_of(asked: str) -> str:
    """The one that is asked for, else what this hardware is made for."""
    return asked or ("float32" if jax.default_backend() == "cpu" else "bfloat16")


def config_of(size: str, arm: str, batch: int, precision: str, *keys: str) -> Config:
    """The config that a size stands for, on this machine. Raises UserError."""
    own = [f"--config.augmentation.{name}=0.0" for name in STILL]
    file = f"{size}.py"
    if size == "tiny":
        own.append("--config.data.tokenizer=captions:300")  # as BERT's special ids need
    if size in TOKENIZERS:
        own.append(f"--config.image_tokenizer_config={CONFIGS / TOKENIZERS[size]}")
    else:
        file = "pretrain.py"
        own.append(f"--config.model={size}")
    on_cpu = jax.default_backend() == "cpu"
    own.append(f"--config.hardware.precision={ON_CPU[precision] if on_cpu else precision}")
    if on_cpu and size not in TOKENIZERS:  # 12 blocks are not worth the compiler's time
        own.append("--config.hardware.scan=on")
    spec = f"--config={CONFIGS / file}:{ARMS[arm]}"
    return parse_arguments([spec, f"--config.batch={batch}", *own, *keys], "").config


def place_of_peer() -> str:
    """PyTorch's name of the device that JAX uses. Raises UserError where it has none."""
    found = PLACES.get(jax.default_backend(), "")
    if found == "cuda" and not torch.cuda.is_available():
        raise UserError("JAX uses a GPU that PyTorch does not see: install its CUDA build")
    if not found:
        raise UserError(f"PyTorch has no {jax.default_backend()}: leave it out by --peers=")
    return found


def against_peer(config: Config, arm: str, peers: Sequence[str], precision: str) -> Any:
    """(ours, the calls that are timed, FLOPs a step). Raises UserError where losses differ."""
    mine = ours(config)
    calls: dict[str, Call] = {"ours": lambda: jax.block_until_ready(mine.run())}
    if peers:
        place = place_of_peer()
        peer = peer_of(config, mine, place)
        pairs = [peer_batch(config, mine, step, place) for step in range(CHECKED)]

        def to_its_end(call: Call) -> Call:
            """In the peer's precision, to the end of what the device does."""

            def run() -> Any:
                with torch.autocast(place, torch.bfloat16, enabled=precision == "bfloat16"):
                    found = call()
                if place == "cuda":
                    torch.cuda.synchronize()
                return found

            return run

        def step(one: PeerBatch, way: str) -> Call:
            flags = {"compiled": way != "eager", "cut": way == "cut"}
            return to_its_end(lambda: peer.step(one, mine.weights, RATE, MOMENTUM, **flags))

        for one in pairs:
            _check_losses(mine.run(), step(one, "eager")(), AGREE[precision])
        calls |= {way: step(pairs[-1], way) for way in peers}
        if arm == "full":
            towers = passes(mine.bare.model.config, peer.towers, pairs[-1], place)
            calls |= {name: to_its_end(call) for name, call in towers.items()}
    flops = count_flops(as_counted(mine.bare), mine.state, {}, mine.batch, mine.knobs)
    return mine, calls, flops


def _check_losses(mine: Mapping[str, Any], theirs: Mapping[str, torch.Tensor], near: float) -> None:
    for name, value in theirs.items():
        one, other = float(mine[f"loss/{name}"]), float(value.detach())
        if not np.isclose(one, other, rtol=near):
            raise UserError(f"not the same work: {name} is {one:.6f} here and {other:.6f} there")


def measured(flags: argparse.Namespace) -> Found:
    """Milliseconds by arm and call, ratios, and the parts of the first arm's step."""
    if flags.batch < 0 or not flags.arms:
        raise UserError("--batch is above 0, and --arms names one at least")
    size = flags.size or ("tiny" if flags.quick else "demo")
    batch = flags.batch or SIZES[size]
    precision = precision_of(flags.precision)
    calls: dict[str, Call] = {}
    flops, mine, configs = {}, {}, {}
    for arm in flags.arms:
        configs[arm] = config_of(size, arm, batch, precision, *flags.keys)
        mine[arm], found, flops[arm] = against_peer(configs[arm], arm, flags.peers, precision)
        calls |= {f"{arm}: {name}": call for name, call in found.items()}
    spent = _turns(calls, flags)
    title = f"A step of {size}, {batch} pairs, {precision}"
    tables = [_times(title, spent), _ratios(spent)]
    first = flags.arms[0]
    if flags.profile:
        tables += profile_tables(f"Ours, {first}", calls[f"{first}: ours"])
        for peer in flags.peers if jax.default_backend() == "cpu" else ():
            tables += peer_tables(f"The {peer} peer, {first}", calls[f"{first}: {peer}"])
    if flags.parts:
        found = parts(mine[first], tokenizer_shapes(configs[first]))
        times = _turns({name: part.run for name, part in found.items()}, flags)
        tables.append(_times("Its parts, each by itself", times))
    shared = configs[first].method.masked.forward is Forward.SHARED
    details = {"flops": flops, "batch": batch, "seconds": spent}
    return Found(tables, details, plotted(title, spent, size, shared))


def _turns(calls: Mapping[str, Call], flags: argparse.Namespace) -> dict[str, list[float]]:
    for call in calls.values():
        call()  # compiles
    return in_turns(calls, flags.rounds or (1 if flags.quick else ROUNDS), IN_A_ROW)


def _times(title: str, spent: Mapping[str, Sequence[float]]) -> Table:
    rows: list[tuple[Cell, ...]] = [(name, 1e3 * median(each)) for name, each in spent.items()]
    return Table(title, ("what", "ms"), rows)


def _pairs(spent: Mapping[str, Sequence[float]]) -> dict[str, tuple[str, str]]:
    """The ratios that are looked at, of one call's time over another's."""
    wanted = {
        f"{arm}: {peer} peer over ours": (f"{arm}: {peer}", f"{arm}: ours")
        for arm in ARMS
        for peer in PEERS
    }
    wanted[FULL_OVER] = ("full: ours", "contrastive: ours")
    wanted["peer's towers over Hugging Face's"] = (
        "full: peer's towers",
        "full: Hugging Face's towers",
    )
    return {name: pair for name, pair in wanted.items() if set(pair) <= set(spent)}


def _ratios(spent: Mapping[str, Sequence[float]]) -> Table:
    """Medians over the rounds of one call's time over another's, with their spread."""
    rows: list[tuple[Cell, ...]] = [
        (name, ratio(spent, *pair), spread(spent, *pair)) for name, pair in _pairs(spent).items()
    ]
    return Table("Ratios", ("what", "median", "over the rounds"), rows)


def plotted(title: str, spent: Mapping[str, Sequence[float]], size: str, shared: bool) -> str:
    """The ratios as bars, with the aims that the size has; nothing where there are none."""
    rows = []
    for name, pair in _pairs(spent).items():
        if name == FULL_OVER and size.startswith("b16"):
            rows.append(bar(name, spent, pair, AT_MOST[shared], at_least=False))
        elif name.startswith("full: "):
            rows.append(bar(name, spent, pair, AT_LEAST.get(size)))
        else:
            rows.append(bar(name, spent, pair))
    return plots.bars(title, "ratios of times", rows) if rows else ""


def _flags() -> argparse.ArgumentParser:
    parser = flags_of("step", __doc__ or "")
    parser.set_defaults(keys=())

    def some(known: Sequence[str]) -> Callable[[str], list[str]]:
        def read(text: str) -> list[str]:
            names = [name for name in text.split(",") if name]
            if unknown := [name for name in names if name not in known]:
                raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
            return names

        return read

    parser.add_argument("--size", default="", choices=SIZES, help="demo; of --quick: tiny")
    parser.add_argument("--batch", type=int, default=0, help=f"pairs; {SIZES}")
    parser.add_argument("--arms", type=some(list(ARMS)), default=list(ARMS))
    parser.add_argument("--peers", type=some(PEERS), default=list(PEERS), help="'' for none")
    parser.add_argument("--precision", default="", choices=("", *ON_CPU), help="of the products")
    parser.add_argument("--parts", action="store_true", help="the parts of our step as well")
    parser.add_argument("--profile", action="store_true", help="by instructions and operators")
    return parser


def main(argv: Sequence[str]) -> int:
    """Measures and prints. Exit status: 0 done, 1 failed with one line of reason, 2 wrong use."""
    use_compilation_cache()
    return run_benchmark("step", _flags(), argv, measured)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
