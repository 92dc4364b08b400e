# SPDX-License-Identifier: Apache-2.0
"""Several processes that work on one thing: how they meet, share work and exchange results.

A process is told where it belongs by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID; without them it is alone.
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

T = TypeVar("T")
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


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
    """Meets the other processes, where the environment names any.

    To be called before anything else of JAX. Raises UserError where what it says is not whole.
    """
    told = {name: os.environ.get(name, "") for name in (ADDRESS, COUNT, INDEX)}
    if not (told[COUNT] or told[INDEX]):
        return
    if not all(told.values()):
        missing = ", ".join(name for name, value in told.items() if not value)
        raise UserError(f"several processes need {', '.join(told)}: {missing} is not set")
    try:
        count, index = int(told[COUNT]), int(told[INDEX])
    except ValueError:
        raise UserError(f"{COUNT} and {INDEX} are whole numbers") from None
    if not 0 <= index < count:
        raise UserError(f"{INDEX}={index} with {COUNT}={count}: processes count from 0")
    if jax.distributed.is_initialized():  # by whoever called us
        return
    _keep_standard_output_ours()
    jax.distributed.initialize(told[ADDRESS], count, index, cluster_detection_method="deactivate")


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
