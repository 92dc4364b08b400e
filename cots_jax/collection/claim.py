# SPDX-License-Identifier: Apache-2.0
"""An index folder written by one process at a time."""

import contextlib
import fcntl
from collections.abc import Generator
from pathlib import Path

from cots_jax.errors import UserError
from cots_jax.retrieval.index_files import INDEX_FILE

LOCK_FILE = ".index.lock"  # also marks a folder as ours before its index.json is there


@contextlib.contextmanager
def claimed(out: Path) -> Generator[None]:
    """Holds the folder, which is made where it is missing.

    UserError where it holds files of others, where another process writes it, and for what the
    system refuses meanwhile.
    """
    try:
        _begin(out)
        with (out / LOCK_FILE).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another run is writing {out}: wait for it") from None
            yield
    except OSError as error:
        raise _refused(out, error) from error


def begin(out: Path) -> None:
    """Makes the folder where it is missing, for several runs that write below it; UserError."""
    try:
        _begin(out)
    except OSError as error:
        raise _refused(out, error) from error


def _begin(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    used = any(out.iterdir())  # looked at first: whoever begins puts the mark before all else
    if used and not ((out / INDEX_FILE).exists() or (out / LOCK_FILE).exists()):
        raise UserError(f"{out} holds other files: choose another --out")
    (out / LOCK_FILE).open("a").close()


def _refused(out: Path, error: OSError) -> UserError:
    return UserError(
        f"{out} cannot be written ({error}): make room or mend its rights and run the same "
        "command again, which goes on after the finished parts"
    )
