# SPDX-License-Identifier: Apache-2.0
"""A world of 64 pairs: a pattern above another, and the two patterns' names."""

import csv
import dataclasses
import pathlib
import shutil

import numpy as np
from doors import PROJECT, Said, run_evaluate, run_main, run_prepare
from PIL import Image

CONFIG = PROJECT / "configs" / "tiny.py"

CELL = 8  # pixels a side: one patch, one code
PATTERNS = {
    "bars": lambda y, x: x % 4 < 2,
    "steps": lambda y, x: y % 4 < 2,
    "checks": lambda y, x: (x // 4 + y // 4) % 2 == 0,
    "left": lambda y, x: x < 4,
    "roof": lambda y, x: y < 4,
    "ring": lambda y, x: (abs(2 * x - 7) > 3) | (abs(2 * y - 7) > 3),
    "slope": lambda y, x: x > y,
    "night": lambda y, x: x < 0,
}
HELD_OUT_EVERY = 4  # 48 pairs to train on, 16 held out


def draw(above: str, below: str) -> Image.Image:
    """Two rows of a cell and its negative: 16 kinds of cells, as many as there are codes."""
    y, x = np.mgrid[:CELL, :CELL]
    cells = [np.where(PATTERNS[name](y, x), 255, 0).astype(np.uint8) for name in (above, below)]
    return Image.fromarray(np.block([[cell, 255 - cell] for cell in cells])).convert("RGB")


def write_pictures(folder: pathlib.Path, without: int = 0) -> None:
    """`folder/captions.csv` and `folder/pictures/`, as a user would have them, less the last."""
    (folder / "pictures").mkdir(parents=True)
    rows = [("image", "caption", "split")]
    for number, above in enumerate(PATTERNS):
        for other, below in enumerate(PATTERNS):
            name = f"{above}-{below}.png"
            draw(above, below).save(folder / "pictures" / name)
            held_out = (number + other) % HELD_OUT_EVERY == 0
            rows.append((name, f"{above} over {below}", "val" if held_out else "train"))
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows[: len(rows) - without])


def prepare_tiny(root: pathlib.Path, without: int = 0) -> Said:
    """`root/data/tiny`, made by the real door; `without` that many of the last pairs."""
    write_pictures(root, without)
    return run_prepare(
        root, "pairs", "--captions=captions.csv", "--images=pictures", "--out=data/tiny"
    )


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A folder in which the whole chain has run once, and what each door said."""

    root: pathlib.Path
    prepared: Said
    tokenizer: Said
    trained: Said
    evaluated: Said

    @property
    def run(self) -> pathlib.Path:
        """The trained workdir; tests that change it take a copy."""
        return self.root / "runs" / "tiny"

    def copy(self, root: pathlib.Path, *runs: str) -> "Tiny":
        """The same in a folder of its own, with these runs only."""
        shutil.copytree(self.root / "data", root / "data")
        for name in runs:
            shutil.copytree(self.root / "runs" / name, root / "runs" / name)
        return dataclasses.replace(self, root=root)


def make_tiny(root: pathlib.Path) -> Tiny:
    """prepare, main twice, evaluate."""
    return Tiny(
        root,
        prepare_tiny(root),
        run_main(root, f"--config={CONFIG}:dvae", "--workdir=runs/tiny-dvae"),
        run_main(root, f"--config={CONFIG}"),
        run_evaluate(root, "--workdir=runs/tiny"),
    )
