# SPDX-License-Identifier: Apache-2.0
"""Several processes that work on one thing: how they meet, share work and exchange results.

A process is told where it belongs by its launcher (cots_jax/meeting/places.py); else it is alone.
"""

import contextlib
import dataclasses
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int32, Shaped

from cots_jax.errors import UserError
from cots_jax.meeting.places import find_place, may_be_tpu_pod
from cots_jax.meeting.roll_call import call_roll

T = TypeVar("T")
JOIN, HEARTBEAT = "COTS_JAX_JOIN_TIMEOUT", "COTS_JAX_HEARTBEAT_TIMEOUT"
TIMEOUTS = {JOIN: 300, HEARTBEAT: 60}  # seconds


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of a piece of work that process `index` of `count` does."""

    index: int = 0
    count: int = 1

    def of(self, pieces: int) -> range:
        """Its pieces: a run of them, so that all shares in order are all pieces in order."""
        return range(
            self.index * pieces // self.count,
            (self.index + 1) * pieces // self.count,
        )


WHOLE = Share()


def join_processes() -> None:
    """Meets the other processes, where the environment names any, and says so.

    To be called before anything else of JAX. Raises UserError where what the environment says is
    not whole, or where they do not all come.
    """
    place = find_place(os.environ)
    # Read before anything is there to wait for.
    patience = {name: _seconds(name, default) for name, default in TIMEOUTS.items()}
    if jax.distributed.is_initialized():  # by whoever called us
        return
    if place is None:
        if may_be_tpu_pod(os.environ):
            _join_tpu_hosts(patience)
        return
    idle = f"; {place.idle} GPUs of this host are left over" if place.idle else ""
    print(f"{place}, meeting at {place.address}{idle}", file=sys.stderr, flush=True)
    call_roll(place, patience[JOIN])
    _keep_standard_output_ours()
    jax.distributed.initialize(
        place.address,
        place.count,
        place.index,
        local_device_ids=place.devices or None,
        cluster_detection_method="deactivate",
        initialization_timeout=patience[JOIN],
        heartbeat_timeout_seconds=patience[HEARTBEAT],
    )


def _join_tpu_hosts(patience: dict[str, int]) -> None:
    """The hosts of a TPU know each other by its metadata, which JAX reads."""
    try:
        jax.distributed.initialize(
            initialization_timeout=patience[JOIN], heartbeat_timeout_seconds=patience[HEARTBEAT]
        )
    except ValueError as error:
        if "should be defined" not in str(error):
            raise
        return  # TPU chips of no cloud: it finds nothing that names other hosts
    print(f"process {jax.process_index()} of {jax.process_count()}, by Cloud TPU", file=sys.stderr)


def _seconds(name: str, default: int) -> int:
    told = os.environ.get(name) or str(default)
    if not told.isdecimal() or int(told) == 0:
        raise UserError(f"{name}={told}: it is a whole number of seconds, {default} where not set")
    return int(told)


def _keep_standard_output_ours() -> None:
    """The CPU's collectives tell how they connect, in C++ and on standard output, where only
    results belong: that goes to standard error."""
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(ours, "w", encoding=sys.stdout.encoding)


def this_process() -> Share:
    """The share of this process; the whole where it is alone."""
    return Share(jax.process_index(), jax.process_count())


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def agree_on(what: str, text: str) -> None:
    """Raises UserError in all processes where they do not all have the same text."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest()[:4], np.uint32)
    found = multihost_utils.process_allgather(digest).ravel()
    if len(set(found.tolist())) > 1:
        hashes = ", ".join(f"{one:08x}" for one in found)
        raise UserError(
            f"the processes disagree on {what} (hashes {hashes}): start all of them by the same "
            "command with the same code"
        )


def code_of_the_package() -> str:
    """All of its source, for processes to compare."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return "".join(file.read_text("utf-8") for file in files)


def first_says(answer: bool) -> bool:
    """What the first process says, to all; for what a folder holds that it may just be writing."""
    if jax.process_count() == 1:
        return answer
    return bool(multihost_utils.broadcast_one_to_all(np.bool_(answer)))


@contextlib.contextmanager
def entered_together(context: contextlib.AbstractContextManager[T]) -> Iterator[T]:
    """Enters a context in all processes, or in none: where one refuses, the others end as well.

    Raises UserError, the process's own or one that says which other process has one.
    """
    with contextlib.ExitStack() as stack:
        refusal, entered = None, []
        try:
            entered.append(stack.enter_context(context))
        except UserError as error:
            refusal = error
        refuse_together(refusal)
        yield entered[0]


def refuse_together(refusal: UserError | None) -> None:
    """Raises UserError in all processes where one has a refusal: its own, or one that names it."""
    if jax.process_count() == 1:
        refused = []
    else:
        refused = np.flatnonzero(multihost_utils.process_allgather(np.bool_(refusal))).tolist()
    if refusal:
        raise refusal
    if refused:
        raise UserError(f"process {refused[0]} cannot go on, and says why")


def gather_rows(part: Shaped[np.ndarray, "n *rest"], share: Share) -> Shaped[np.ndarray, "m *rest"]:
    """The rows of all shares in order, to every process; they may differ in number.

    Elements have at most 4 bytes: JAX cuts wider ones without a word.
    """
    if share.count == 1:
        return part
    if part.dtype.itemsize > 4:
        raise ValueError(f"{part.dtype} rows would be cut to 32 bits")
    counts = multihost_utils.process_allgather(np.int32(len(part)))
    padded = np.zeros((int(counts.max()), *part.shape[1:]), part.dtype)
    padded[: len(part)] = part
    together = np.asarray(multihost_utils.process_allgather(padded))
    return np.concatenate([rows[:count] for rows, count in zip(together, counts, strict=True)])


def add_up(part: Int32[np.ndarray, "n"], share: Share) -> Int32[np.ndarray, "n"]:
    """The sum over all shares, to every process."""
    if share.count == 1:
        return part
    return np.asarray(multihost_utils.process_allgather(part)).sum(axis=0, dtype=np.int32)
