# SPDX-License-Identifier: Apache-2.0
"""An exported folder on disk: the arrays of both towers, their tokenizer and what they come from.

`manifest.json` is written last and names every file. A model is opened from three of them; only
those must be as they were written, so that the card may be edited and an evaluation may add files.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from cots_jax import manifest
from cots_jax.errors import UserError
from cots_jax.models.two_stream import Params
from cots_jax.switches import Towers
from cots_jax.weights.files import read_tensors
from cots_jax.weights.mapping import flat, nested

FACTS = "export.json"
ARRAYS = "model.safetensors"
WORDS = "tokenizer.json"
FORMAT = 1  # of the folder; raised when an older version could not read it
IDENTITY = {"export": FORMAT}


@dataclasses.dataclass(frozen=True)
class ExportedFolder:
    """Towers in a folder that `export` has made.

    facts: as in a checkpoint; identity: of the checkpoint that the towers come from, whose vectors
    theirs are.
    """

    path: Path
    step: int
    facts: dict[str, Any]
    identity: dict[str, Any]

    @property
    def folder(self) -> Path:
        """That which `--model` names."""
        return self.path.resolve()

    def towers(self, which: Towers) -> Params:
        """{"image", "text"} as NumPy. Raises UserError where others were exported."""
        held = self.facts["config"]["evaluation_towers"]
        if which != held:
            raise UserError(f"{self.path} holds the {held} towers only: export the others as well")
        return read_arrays(self.path)

    def heads(self) -> Params:
        """A learned temperature and SigLIP's bias; masked heads are not exported."""
        learned = self.facts.get("learned", {})
        return {name: np.float32(value) for name, value in learned.items()}


def is_exported(folder: Path) -> bool:
    """Whether the folder says of itself that it was exported; nothing is checked."""
    return (folder / FACTS).is_file()


def open_exported(folder: Path) -> ExportedFolder:
    """Checks what a model is opened from. Raises UserError where it is not as it was written."""
    faults = (manifest.fault(folder, IDENTITY, name) for name in (FACTS, ARRAYS, WORDS))
    if fault := next(filter(None, faults), None):
        raise UserError(f"the exported folder {folder} is damaged ({fault}): export it again")
    content = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    words = (folder / WORDS).read_text(encoding="utf-8")
    facts = content["facts"] | {"tokenizer": words, "heads": []}
    return ExportedFolder(folder, content["step"], facts, content["identity"])


def write_arrays(folder: Path, towers: Params) -> None:
    """`model.safetensors`: the arrays by their paths, `image/cls`, in float32."""
    arrays = {path: np.ascontiguousarray(leaf, np.float32) for path, leaf in flat(towers).items()}
    (folder / ARRAYS).write_bytes(save(arrays, metadata={"format": "np"}))


def read_arrays(folder: Path) -> Params:
    """The inverse of `write_arrays`, as NumPy."""
    return nested(read_tensors(folder / ARRAYS))


def write_facts(folder: Path, facts: Mapping[str, Any], **beside: Any) -> None:
    """`export.json`; the tokenizer has a file of its own. beside: step, identity and figures."""
    kept = {name: value for name, value in facts.items() if name not in ("tokenizer", "heads")}
    text = json.dumps({"format": FORMAT, **beside, "facts": kept}, indent=1)
    (folder / FACTS).write_text(text + "\n", encoding="utf-8")
