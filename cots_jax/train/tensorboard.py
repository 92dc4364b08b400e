# SPDX-License-Identifier: Apache-2.0
"""What we use of tensorboardX, without PyTorch.

tensorboardX imports torch wherever that is installed, for tensors that it is never given here:
more than two of the seconds before a first step. It does without one that cannot be imported.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """Within, a module that nobody has imported yet counts as not installed."""
    modules: dict[str, Any] = sys.modules
    if name in modules:
        yield
        return
    modules[name] = None  # what `import` takes for absent
    try:
        yield
    finally:
        del modules[name]


with _without("torch"):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.summary import Summary
    from tensorboardX.writer import Event, SessionLog

__all__ = ["Event", "EventsWriter", "SessionLog", "Summary"]
