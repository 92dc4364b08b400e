# SPDX-License-Identifier: Apache-2.0
"""The PyTorch peer of the step benchmark does the same work, down to momentum and queue."""

import jax
import numpy as np
import pytest
import torch
from doors import PROJECT

from benchmarks.step.ours import MOMENTUM, RATE, Ours, ours, peer_batch, peer_of
from benchmarks.step.peer_model import from_ours
from benchmarks.step.peer_step import Peer
from cots_jax.arguments import parse_arguments
from cots_jax.errors import UserError
from cots_jax.models.two_stream import SIZES

STEPS = 3
TINY = f"--config={PROJECT / 'configs' / 'tiny.py'}"
KEYS = (
    *(f"--config.augmentation.{name}=0.0" for name in ("shift", "brightness")),
    "--config.data.tokenizer=captions:300",
    f"--config.image_tokenizer_config={PROJECT / 'configs' / 'tiny.py'}:dvae",
)
PRETRAIN = (  # the switches of configs/pretrain.py, where the demo's differ
    "--config.method.negatives=queue",
    "--config.method.alignment.teacher=online",
    "--config.method.masked.text_every=1",
    "--config.method.masked.image_every=1",
    "--config.method.masked.text_ratio=0.15",
    "--config.method.queue_length=32",
)


def trained(
    *flags: str, cut: bool = False
) -> tuple[Ours, Peer, list[dict[str, tuple[float, float]]]]:
    """Both after the same steps, and the losses of each step: (ours, the peer's)."""
    config = parse_arguments([*flags, *KEYS], "").config
    mine = ours(config)
    peer = peer_of(config, mine, "cpu")
    found = []
    for step in range(STEPS):
        pairs = peer_batch(config, mine, step, "cpu")
        metrics, theirs = mine.run(), peer.step(pairs, mine.weights, RATE, MOMENTUM, cut=cut)
        found.append(
            {n: (float(metrics[f"loss/{n}"]), float(v.detach())) for n, v in theirs.items()}
        )
    return mine, peer, found


@pytest.mark.slow
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("flags", "objectives"),
    [
        ((f"{TINY}:cpu-1",), {"instance", "mvm", "mlm", "task"}),
        ((f"{TINY}:cpu-1", *PRETRAIN), {"instance", "mvm", "mlm", "task"}),
        ((f"{TINY}:contrastive,cpu-1",), {"instance"}),
    ],
    ids=["demo", "pretrain", "contrastive"],
)
def test_after_some_steps_both_are_the_same(flags, objectives: set[str], cut: bool) -> None:
    mine, peer, losses = trained(*flags, cut=cut)
    for step in losses:
        assert set(step) == objectives
        for one, other in step.values():
            assert one == pytest.approx(other, rel=1e-5)
    state = jax.device_get(mine.state)
    for module, params in (
        (peer.towers, state.params["towers"]),
        (peer.heads, state.params["heads"]),
        (peer.momentum, state.method.momentum_params),
    ):
        theirs = dict(module.named_parameters())
        named = from_ours(params)
        assert set(named) == set(theirs)
        for name, value in named.items():
            other = theirs[name].detach()
            if name.endswith("qkv.bias"):
                # A key's bias moves no attention. Its gradient is rounding alone, by whose size
                # Adam divides it.
                value, other = (torch.cat([b.chunk(3)[0], b.chunk(3)[2]]) for b in (value, other))
            # Where a gradient is near rounding the sign of its step is, too.
            torch.testing.assert_close(value, other, rtol=0, atol=0.5 * RATE)
    k = len(peer.queue.valid)
    np.testing.assert_array_equal(state.method.queue.valid[:k], peer.queue.valid.numpy())
    np.testing.assert_array_equal(state.method.queue.group_id[:k], peer.queue.group_id.numpy())
    np.testing.assert_allclose(state.method.queue.text[:k], peer.queue.text, atol=1e-4)
    assert int(state.method.queue.cursor) == peer.cursor


@pytest.mark.slow
def test_the_filter_drops_the_same_pairs_of_some() -> None:
    """So that what the test above compares is not a filter that keeps everything."""
    mine, peer, _ = trained(f"{TINY}:cpu-1", "--config.method.filter.kappa=0.1")
    written = np.asarray(mine.state.method.queue.valid)
    assert 0 < np.count_nonzero(~written) < len(written)
    np.testing.assert_array_equal(written, peer.queue.valid.numpy())


def test_switches_that_the_peer_lacks_are_refused() -> None:
    config = parse_arguments([f"{TINY}:cpu-1", *KEYS, "--config.method.masked.merge=concat"], "")
    method, optimizer = config.config.method, config.config.optimizer
    with pytest.raises(UserError, match="switches"):
        Peer(SIZES["tiny-16"], method, optimizer, codes=16, active=frozenset({"instance"}))
