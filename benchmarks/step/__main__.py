# SPDX-License-Identifier: Apache-2.0
"""A training step against the same one written in PyTorch.

    python -m benchmarks.step [--size=demo|b16-224|b16-384|…] [--batch=N] [--arms=full,contrastive]
        [--peers=eager,compiled] [--parts] [--config.KEY=value …] [--rounds=N] [--out=FILE.json]

The full objective and contrastive alone: ours, the peer (benchmarks/step/peer_step.py) eager and by
`torch.compile`, some steps each in turn, so that whatever else the machine does hits all alike;
ratios are medians over the rounds. Beforehand ours and the peer take two steps on the same pairs
from the same parameters, and their losses must agree; and the peer's towers are timed against
Hugging Face's. Codes come with the batch and pictures are not augmented; --parts times the parts of
our step by themselves, augmentation and the config's image tokenizer among them. On a GPU the peer
runs under bf16 autocast; on a CPU both are in float32.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import torch

from benchmarks.measure import (
    Cell,
    Found,
    Table,
    flags_of,
    median,
    ratio,
    run_benchmark,
    seconds,
    spread,
)
from benchmarks.step.huggingface import passes
from benchmarks.step.ours import MOMENTUM, RATE, ours, peer_batch, peer_of
from benchmarks.step.parts import parts
from cots_jax.arguments import parse_arguments
from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.errors import UserError
from cots_jax.models.two_stream import SIZES
from cots_jax.planning.tokenizers import tokenizer_shapes
from cots_jax.schema import Config
from cots_jax.train.flops import count_flops

STILL = ("shift", "scale", "brightness", "contrast", "saturation", "hue", "grey_probability")
ARMS = {"full": "", "contrastive": ":contrastive"}
PEERS = ("eager", "compiled")
AGREE = {"cpu": 1e-4, "cuda": 5e-2}  # relative, of losses in float32 and in bf16
CHECKED, IN_A_ROW, ROUNDS = 2, 3, 9  # steps; steps of a turn

Call = Callable[[], Any]


def config_of(size: str, arm: str, batch: int, *keys: str) -> Config:
    """The config that a size stands for, on this machine. Raises UserError."""
    if size == "demo":
        spec = [f"--config=configs/demo.py{ARMS[arm]}"]
    else:
        spec = [f"--config=configs/pretrain.py{ARMS[arm]}", f"--config.model={size}"]
        if jax.default_backend() == "cpu":
            spec.append("--config.hardware.scan=on")  # 12 blocks are not worth the compiler's time
    still = [f"--config.augmentation.{name}={0.0}" for name in STILL]
    row = ["--config.hardware.precision=float32"] if jax.default_backend() == "cpu" else []
    return parse_arguments([*spec, *row, f"--config.batch={batch}", *still, *keys], "").config


def against_peer(size: str, arm: str, batch: int, peers: Sequence[str], keys: Sequence[str]) -> Any:
    """(ours, the calls that are timed, FLOPs a step). Raises UserError where losses differ."""
    config = config_of(size, arm, batch, *keys)
    mine = ours(config)
    calls: dict[str, Call] = {"ours": lambda: jax.block_until_ready(mine.run())}
    if peers:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        peer = peer_of(config, mine, device)
        pairs = [peer_batch(config, mine, step, device) for step in range(CHECKED)]

        def step(pairs: Any, compiled: bool) -> dict[str, torch.Tensor]:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                found = peer.step(pairs, mine.weights, RATE, MOMENTUM, compiled)
            if device == "cuda":
                torch.cuda.synchronize()
            return found

        for one in pairs:
            _check_losses(mine.run(), step(one, False), AGREE[device])
        last = pairs[-1]
        calls |= {name: lambda name=name: step(last, name == "compiled") for name in peers}
        if arm == "full":
            calls |= passes(mine.bare.model.config, peer.towers, last, device)
    flops = count_flops(mine.bare, mine.state, {}, mine.batch, mine.knobs)
    return mine, calls, flops


def _check_losses(mine: Mapping[str, Any], theirs: Mapping[str, torch.Tensor], near: float) -> None:
    for name, value in theirs.items():
        one, other = float(mine[f"loss/{name}"]), float(value.detach())
        if not np.isclose(one, other, rtol=near):
            raise UserError(f"not the same work: {name} is {one:.6f} here and {other:.6f} there")


def measured(flags: argparse.Namespace) -> Found:
    """Milliseconds by arm and call, ratios, and the parts of the first arm's step."""
    batch = flags.batch or (64 if flags.size == "demo" else 4)
    calls: dict[str, Call] = {}
    flops, mine = {}, {}
    for arm in flags.arms:
        mine[arm], found, flops[arm] = against_peer(flags.size, arm, batch, flags.peers, flags.keys)
        calls |= {f"{arm}: {name}": call for name, call in found.items()}
    spent = _warm_turns(calls, flags.rounds or ROUNDS)
    tables = [_times(f"A step of {flags.size}, {batch} pairs", spent), _ratios(spent)]
    if flags.parts:
        config = config_of(flags.size, flags.arms[0], batch, *flags.keys)
        found = parts(mine[flags.arms[0]], tokenizer_shapes(config))
        times = _warm_turns(
            {name: part.run for name, part in found.items()}, flags.rounds or ROUNDS
        )
        tables.append(_times("Its parts, each by itself", times))
    return Found(tables, {"flops": flops, "batch": batch, "seconds": spent})


def _warm_turns(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds of a step in each round, the mean of several in a row after one that is not timed:
    threads of the one library wait busily for a while after its turn, which is no fault of the
    other's."""
    for call in calls.values():
        call()  # compiles
    names, spent = list(calls), {name: [0.0] * rounds for name in calls}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            call = calls[name]
            call()
            spent[name][number] = seconds(lambda call=call: [call() for _ in range(IN_A_ROW)])
    return {name: [each / IN_A_ROW for each in times] for name, times in spent.items()}


def _times(title: str, spent: Mapping[str, Sequence[float]]) -> Table:
    rows: list[tuple[Cell, ...]] = [(name, 1e3 * median(each)) for name, each in spent.items()]
    return Table(title, ("what", "ms"), rows)


def _ratios(spent: Mapping[str, Sequence[float]]) -> Table:
    """Medians over the rounds of one call's time over another's, with their spread."""
    wanted = {
        f"{arm}: {peer} peer over ours": (f"{arm}: {peer}", f"{arm}: ours")
        for arm in ARMS
        for peer in PEERS
    }
    wanted["full over contrastive alone"] = ("full: ours", "contrastive: ours")
    wanted["peer's towers over Hugging Face's"] = (
        "full: peer's towers",
        "full: Hugging Face's towers",
    )
    rows: list[tuple[Cell, ...]] = [
        (name, ratio(spent, *pair), spread(spent, *pair))
        for name, pair in wanted.items()
        if set(pair) <= set(spent)
    ]
    return Table("Ratios", ("what", "median", "over the rounds"), rows)


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

    parser.add_argument("--size", default="demo", choices=("demo", *SIZES))
    parser.add_argument("--batch", type=int, default=0, help="pairs; 64 of the demo, else 4")
    parser.add_argument("--arms", type=some(list(ARMS)), default=list(ARMS))
    parser.add_argument("--peers", type=some(PEERS), default=list(PEERS), help="'' for none")
    parser.add_argument("--parts", action="store_true", help="the parts of our step as well")
    return parser


def main(argv: Sequence[str]) -> int:
    """Measures and prints. Exit status: 0 done, 1 failed with one line of reason, 2 wrong use."""
    use_compilation_cache()
    return run_benchmark("step", _flags(), argv, measured)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
