# SPDX-License-Identifier: Apache-2.0
"""Pictures, tars and what came of them, for the tests of prepare."""

import io
import json
import pathlib
import tarfile
from collections.abc import Iterable

import numpy as np
from PIL import Image

from cots_jax.data.records import Record, list_splits, open_split


def jpeg(seed: int, size: tuple[int, int] = (30, 20)) -> bytes:
    """A picture of soft blotches that no other seed gives."""
    blotches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(blotches).resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def write_tar(path: pathlib.Path, members: Iterable[tuple[str, bytes]]) -> pathlib.Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def records(folder: pathlib.Path, split: str) -> list[Record]:
    with open_split(folder, split) as opened:
        return [opened.record(i) for i in range(len(opened))]


def ids(folder: pathlib.Path) -> dict[str, list[str]]:
    """The records' ids by split."""
    return {split: [r.id for r in records(folder, split)] for split in list_splits(folder)}


def rejects(folder: pathlib.Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]


def reasons(folder: pathlib.Path) -> list[tuple[str, str]]:
    return [(line["reason"], line["id"]) for line in rejects(folder)]
