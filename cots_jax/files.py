# SPDX-License-Identifier: Apache-2.0
"""Small files written so that a reader, or a crash, finds the old text or the new one."""

import os
from pathlib import Path

from cots_jax.errors import UserError


def write_whole(path: Path, text: str) -> None:
    """Replaces a text file at once; its folder is made where it is missing.

    Until then the text lies in a hidden file beside it. Raises UserError when the disk refuses.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}): make room or make its folder writable, then "
            "start again"
        ) from error
