# SPDX-License-Identifier: Apache-2.0
"""Signs that a run goes wrong, long before its recall says so. Limits are own choices."""

import collections
import math
import statistics
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from cots_jax.models.two_stream import Params
from cots_jax.objectives.queue import Queue

SAME = 0.99  # norm of the mean key from which on the keys of a queue are as good as one
WINDOW, FEW, SPREADS = 50, 10, 8.0  # logged losses looked at; fewer say nothing; in deviations


def momentum_distance(online: Params, momentum: Params) -> Float[Array, ""]:
    """|online - momentum| / |online| over both towers."""
    difference = jax.tree.map(lambda one, other: one - other, online, momentum)
    return optax.tree.norm(difference) / optax.tree.norm(online)


def queue_health(queue: Queue, length: int) -> dict[str, Float[Array, ""]]:
    """Share of the queue's columns that may serve as negatives, and how alike its keys are.

    length: of the queue without its padding. Alike: the norm of the mean over valid unit keys, near
    0 where they point everywhere and 1 where they are one and the same.
    """
    valid = queue.valid[:, None]
    count = jnp.maximum(jnp.sum(queue.valid), 1)
    means = {
        "image": jnp.sum(jnp.where(valid, queue.image, 0), axis=0) / count,
        "text": jnp.sum(jnp.where(valid, queue.text, 0), axis=0) / count,
    }
    alike = {f"queue/alike_{name}": jnp.linalg.norm(mean) for name, mean in means.items()}
    return {"queue/valid": jnp.sum(queue.valid) / max(length, 1), **alike}


def concerns(measured: Mapping[str, float]) -> list[str]:
    """What the user should be told of a queue; mostly nothing."""
    said = []
    if measured.get("queue/valid", 1.0) == 0:
        said.append(
            "the queue is dead: none of its columns is valid, so the instance and task levels have "
            "no negatives; look at kept/… in metrics.jsonl, and at config.method.filter"
        )
    for name in ("image", "text"):
        alike = measured.get(f"queue/alike_{name}", 0.0)
        if alike > SAME:
            said.append(
                f"the {name} keys of the queue are all but one (their mean has norm {alike:.3f}): "
                "the tower has collapsed, or has not begun to learn; lower "
                "config.optimizer.learning_rate, or warm it up longer"
            )
    return said


class Spikes:
    """Finds logged losses far above the recent ones."""

    def __init__(self) -> None:
        self._recent: collections.deque[float] = collections.deque(maxlen=WINDOW)

    def consider(self, step: int, loss: float) -> str:
        """What to tell the user; mostly nothing. A spike does not count among the recent ones."""
        if len(self._recent) >= FEW:
            middle = statistics.median(self._recent)
            spread = statistics.median(abs(one - middle) for one in self._recent)
            if loss > middle + SPREADS * max(spread, 0.01 * abs(middle)):
                return (
                    f"step {step}: the loss jumped to {loss:.4g} from about {middle:.4g}; if it "
                    "does not come back, lower config.optimizer.learning_rate or set "
                    "config.optimizer.clip"
                )
        if math.isfinite(loss):  # a NaN is in no order, so that the median would be any
            self._recent.append(loss)
        return ""
