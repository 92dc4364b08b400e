# SPDX-License-Identifier: Apache-2.0
"""Counts that do not depend on the machine, held against the recorded ones.

    python -m benchmarks.counts [--part=steps,compiled,short_run]
    python -m benchmarks.counts --update [--part=…]

steps: FLOPs and bytes of the steps of demo and pre-training, from shapes. compiled: memory and
collectives of the tiny config's step on eight fake devices. short_run: programs, transfers and
waits of the training loop. Each is a process of its own on the CPU; all of it takes some minutes.
Prints a line for each count that differs from recorded.json beside this file, and exits with 1;
`--update` writes the counts there instead, to be read in the diff before they are committed. What
is promised (benchmarks/counts/parts.py) is held in any case, and is not updated away.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.counts.parts import PARTS, broken, measured
from benchmarks.counts.record import RECORDED, compare, read_counts, write_counts
from cots_jax.errors import UserError, nearest


def main(argv: Sequence[str]) -> int:
    """Counts and compares. Exit status: 0 as recorded, 1 not so, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.counts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--part", default=",".join(PARTS), help="with commas between")
    parser.add_argument("--update", action="store_true", help="write the counts down")
    parser.add_argument("--recorded", type=Path, default=RECORDED, help="another file of counts")
    flags = parser.parse_args(argv)
    parts = flags.part.split(",")
    for part in parts:
        if part not in PARTS:
            parser.error(f"no part {part!r}; {nearest(part, PARTS, 'parts')}")
    try:
        found: dict[str, Any] = {}
        for part in parts:
            print(f"counting {part}", file=sys.stderr, flush=True)
            found |= measured(part)
        return _judged(found, flags.recorded, update=flags.update)
    except UserError as error:
        print(f"counts: {error}", file=sys.stderr)
        return 1


def _judged(found: dict[str, Any], file: Path, *, update: bool) -> int:
    """Prints what is wrong or different, and writes down what may be."""
    if lines := broken(found):
        print("\n".join(lines))
        return 1
    if update:
        write_counts(found, file)
        return 0
    compared = compare(read_counts(file), found)
    for line in compared.not_compared:
        print(f"not compared: {line}", file=sys.stderr)
    print("\n".join(compared.differences or ["all counts are as recorded"]))
    return 1 if compared.differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
