# SPDX-License-Identifier: Apache-2.0
"""A share of a source for each of several machines (`--task=i/n`)."""

import argparse
import pathlib
import re
from dataclasses import dataclass

TASK = re.compile(r"([0-9]{1,5})/([0-9]{1,5})")


@dataclass(frozen=True)
class Task:
    """Task `number` of 1 to `of`."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def folder(self, out: pathlib.Path) -> pathlib.Path:
        """Where its part of the set is written."""
        return out / f"task-{self.number:05d}-of-{self.of:05d}"

    def share(self, units: int) -> range:
        """Its units: neighbours, so that the parts follow each other as the source has them."""
        return range((self.number - 1) * units // self.of, self.number * units // self.of)


def parse_task(text: str) -> Task:
    """Reads `i/n`, for argparse."""
    match = TASK.fullmatch(text)
    task = Task(int(match[1]), int(match[2])) if match else None
    if task is None or not 1 <= task.number <= task.of:
        raise argparse.ArgumentTypeError(f"{text!r}: write i/n with i from 1 to n, such as 1/4")
    return task
