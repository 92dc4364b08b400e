# SPDX-License-Identifier: Apache-2.0
"""The one kind of error that is the user's to mend, its exit status, and the nearest names."""

import difflib
from collections.abc import Iterable

AGAIN = 75  # exit status (EX_TEMPFAIL) of what is worth starting again by the same command


class UserError(ValueError):
    """Something the user can mend; the message is one sentence that says how."""

    status = 1  # of the door that it ends


class WrongUseError(UserError):
    """A flag that is not known, or whose value cannot be one of its values."""

    status = 2


def nearest(name: str, known: Iterable[str], what: str) -> str:
    """The end of an "unknown NAME" message: the closest known names, or all where none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return (
        f"the nearest {what}: {', '.join(close)}" if close else f"known {what}: {', '.join(names)}"
    )
