# SPDX-License-Identifier: Apache-2.0
"""A progress line on standard error: done, rate and time left."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cots_jax.data.prepare.traces import ordinal

T = TypeVar("T")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


def track(items: Sequence[T], what: str) -> Iterator[T]:
    """Goes through `items` while a line on standard error says how far it is."""
    with _progress() as progress:
        yield from progress.track(items, total=len(items), description=what)


def track_units(
    units: Sequence[Callable[[], Iterator[T]]], what: str, first: int = 0
) -> Iterator[tuple[int, T]]:
    """(ordinal, item) of all units, of which the first has the number `first`; how many there will
    be is told by the units so far."""
    done = 0
    with _progress() as progress:
        task = progress.add_task(what, total=None)
        for number, unit in enumerate(units):
            for place, item in enumerate(unit()):
                yield ordinal(first + number, place), item
                done += 1
                progress.advance(task)
            progress.update(task, total=round(done * len(units) / (number + 1)))


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))
