# SPDX-License-Identifier: Apache-2.0
"""Names and shapes of published files, which are too large to be fetched by a test.

`testdata/published/*.json`, one a file: `arrays` by name, `{i}` for each of `layers` layers;
`sometimes`: those that some versions of the file hold; `known`: how the list is known here;
`held_against`: the class of Hugging Face, with its config where that is not the default one, that
`test_published.py` compares it with.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

FOLDER = pathlib.Path(__file__).parents[1] / "testdata" / "published"
NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))


@dataclasses.dataclass(frozen=True)
class Published:
    """One list, the layers written out."""

    arrays: Mapping[str, tuple[int, ...]]
    sometimes: Mapping[str, tuple[int, ...]]
    held_against: Mapping[str, Any] | None

    def tensors(self, *, all_of_them: bool = False) -> dict[str, np.ndarray]:
        """Arrays of these shapes that take no memory; what is made of them has a byte a number."""
        shapes = {**self.arrays, **self.sometimes} if all_of_them else self.arrays
        return {name: np.broadcast_to(np.int8(0), shape) for name, shape in shapes.items()}


def read(name: str) -> Published:
    """The list of that name."""
    content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))

    def written_out(arrays: Mapping[str, list[int]]) -> dict[str, tuple[int, ...]]:
        return {
            pattern.replace("{i}", str(layer)): tuple(shape)
            for pattern, shape in arrays.items()
            for layer in range(content["layers"] if "{i}" in pattern else 1)
        }

    arrays, sometimes = written_out(content["arrays"]), written_out(content["sometimes"])
    return Published(arrays, sometimes, content.get("held_against"))
