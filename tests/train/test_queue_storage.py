# SPDX-License-Identifier: Apache-2.0
"""A queue goes on where other devices, or other chunks, want other padding behind its pairs."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from cots_jax import checkpoint
from cots_jax.checkpoint import Keep
from cots_jax.errors import UserError
from cots_jax.objectives.queue import Queue, empty_queue, enqueue
from cots_jax.schema import HardwareConfig
from cots_jax.train.mesh import make_mesh, whole
from cots_jax.train.queue_storage import queue_as_saved, queue_placed_like

LENGTH, WIDTH = 24, 4
FILL = functools.partial(jax.jit(enqueue, static_argnames="length"), length=LENGTH)


def filled(shards: int) -> Queue:
    """Written 40 rows, so that the ring is past its end."""
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 40, WIDTH)).astype(np.float32)
    group = rng.integers(-1, 5, 40).astype(np.int32)
    return FILL(empty_queue(LENGTH, WIDTH, shards), image, text, group, rng.random(40) < 0.7)


def moved(folder: pathlib.Path, saved: int, wanted: int) -> Queue:
    """Saved in storage that divides by one number, restored into that of another."""
    mesh = make_mesh(HardwareConfig(chips=len(jax.devices())))
    trees = {"method": {"queue": filled(saved)}}
    path = checkpoint.save(folder, 1, trees, {}, keep=Keep())
    like = jax.device_put(empty_queue(LENGTH, WIDTH, wanted), whole(mesh))
    asked = queue_as_saved(path, like, LENGTH, mesh)
    restored = checkpoint.restore(path, "method", {"queue": asked})["queue"]
    return queue_placed_like(restored, like, LENGTH)


@pytest.mark.parametrize(("saved", "wanted"), [(10, 16), (16, 10), (10, 1), (1, 7), (5, 5)])
def test_the_pairs_are_the_same_and_the_padding_is_nobody(tmp_path, saved, wanted):
    found, before = moved(tmp_path, saved, wanted), filled(saved)
    pristine = filled(wanted)  # as if it had always been in that storage
    for name in ("image", "text", "group_id", "valid", "cursor"):
        np.testing.assert_array_equal(getattr(found, name), getattr(pristine, name))
    np.testing.assert_array_equal(found.image[:LENGTH], before.image[:LENGTH])
    assert found.valid.shape == (-(-LENGTH // wanted) * wanted,)


def test_a_shorter_queue_is_refused(tmp_path):
    mesh = make_mesh(HardwareConfig(chips=len(jax.devices())))
    path = checkpoint.save(tmp_path, 1, {"method": {"queue": filled(1)}}, {}, keep=Keep())
    like = empty_queue(40, WIDTH)
    asked = queue_as_saved(path, like, 40, mesh)
    with pytest.raises(UserError, match=r"queue/image: saved float32\[24, 4\], wanted float32\[40"):
        checkpoint.restore(path, "method", {"queue": asked})


def test_shapes_are_known_without_reading(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"method": {"queue": filled(10)}}, {}, keep=Keep())
    found = checkpoint.shapes(path, "method")
    assert found["queue/image"] == (30, WIDTH)
    assert found["queue/cursor"] == ()
    with pytest.raises(UserError, match="towers"):
        checkpoint.shapes(path, "towers")
