# SPDX-License-Identifier: Apache-2.0
"""Watches the training loop: what crosses between host and device in each step, what is awaited,
and which programs are compiled."""

import contextlib
import dataclasses
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from cots_jax.train.skipped import SkippedSteps
from cots_jax.train.trace import Trace

COMPILED = "/jax/core/compile/backend_compile_duration"  # found in the compilation cache or not


@dataclasses.dataclass
class Watched:
    """One step of the loop, with all that is done before the next one begins."""

    events: Counter[str] = dataclasses.field(default_factory=Counter)
    programs: Counter[str] = dataclasses.field(default_factory=Counter)  # by name

    def counts(self) -> dict[str, int]:
        """Of transfers and waits, each by one call for however many arrays."""
        names = ("puts", "arrays put", "bytes put", "fetches", "waits for the step before")
        return {name: self.events[name] for name in (*names, "other waits")}


class Watch:
    """A context in which `train` is watched.

    Calls of other threads are not counted: nobody waits for them. strict: the numbers of steps in
    which a transfer to the devices that nobody asked for is an error.
    before: what is done until the first step. steps: each step.
    """

    def __init__(self, strict: Callable[[int], bool]) -> None:
        self.before, self.steps = Watched(), list[Watched]()
        self._strict, self._thread = strict, threading.get_ident()
        self._inside = 0
        self._seen: tuple[int, Any] = 0, None  # the newest step's number and what stands for it
        self._open, self._guard = contextlib.ExitStack(), contextlib.ExitStack()

    def __enter__(self) -> "Watch":
        def patch(owner: Any, name: str, wrapped: Any) -> None:
            self._open.enter_context(mock.patch.object(owner, name, wrapped))

        array: Any = type(jnp.zeros(()))
        patch(jax, "device_put", self._counted(jax.device_put, self._put))
        patch(jax, "device_get", self._counted(jax.device_get, self._fetched))
        patch(jax, "block_until_ready", self._counted(jax.block_until_ready, self._waited))
        wait = array.block_until_ready
        patch(array, "block_until_ready", self._counted(wait, self._waited))
        # float(x), x.item() and NumPy come through here, as device_get itself does.
        patch(array, "_value", property(self._counted(array._value.fget, self._fetched)))
        patch(Trace, "at", _after(self._begun, Trace.at))
        patch(SkippedSteps, "seen", _after(self._noted, SkippedSteps.seen))
        jax.monitoring.register_event_duration_secs_listener(self._compiled)
        self._open.callback(jax.monitoring.unregister_event_duration_listener, self._compiled)
        return self

    def __exit__(self, *_: object) -> None:
        self._guard.close()
        self._open.close()

    @property
    def _now(self) -> Watched:
        return self.steps[-1] if self.steps else self.before

    def _counted(self, call: Callable[..., Any], count: Callable[..., None]) -> Callable[..., Any]:
        """`call`, counted unless another that is counted makes it."""

        def watched(*arguments: Any, **named: Any) -> Any:
            if threading.get_ident() != self._thread:
                return call(*arguments, **named)
            if not self._inside:
                count(*arguments)
            self._inside += 1
            try:
                return call(*arguments, **named)
            finally:
                self._inside -= 1

        return watched

    def _begun(self, _: Trace, done: int, running: Any = None) -> None:
        self.steps.append(Watched())
        self._guard.close()
        if self._strict(done + 1):
            self._guard.enter_context(jax.transfer_guard_host_to_device("disallow"))

    def _noted(self, _: SkippedSteps, step: int, skipped: Any) -> None:
        self._seen = step, skipped

    def _put(self, tree: Any, *_: Any) -> None:
        leaves = [leaf for leaf in jax.tree.leaves(tree) if not isinstance(leaf, jax.Array)]
        sizes = [np.asarray(leaf).nbytes for leaf in leaves]
        self._now.events += Counter(puts=1, **{"arrays put": len(sizes), "bytes put": sum(sizes)})

    def _fetched(self, *_: Any) -> None:
        self._now.events["fetches"] += 1

    def _waited(self, tree: Any) -> None:
        done, newest = self._seen
        before = tree is newest and done == len(self.steps) - 1
        self._now.events["waits for the step before" if before else "other waits"] += 1

    def _compiled(self, event: str, duration_secs: float, **named: str | int) -> None:
        if event == COMPILED:
            self._now.programs[str(named.get("fun_name", ""))] += 1


def _after(told: Callable[..., None], call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, of which the watch is told first; what it fetches counts."""

    def watched(*arguments: Any) -> Any:
        told(*arguments)
        return call(*arguments)

    return watched
