# SPDX-License-Identifier: Apache-2.0
"""Files of published weights as named arrays; nothing in them is ever executed."""

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from cots_jax.errors import UserError

Tensors = Mapping[str, np.ndarray]

# What a damaged file makes zipfile, zlib, NumPy and safetensors raise.
DAMAGE = (
    *(OSError, ValueError, EOFError, KeyError, RuntimeError),
    *(zlib.error, zipfile.BadZipFile, SafetensorError),
)
KINDS = ("BF16", "BOOL", *(f"F{bits}" for bits in (16, 32, 64)))
KINDS += tuple(f"{sign}{bits}" for sign in "IU" for bits in (8, 16, 32, 64))
UNNAMED = np.dtype("V2")  # NumPy's files have no name for bfloat16

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "weights = torch.load(sys.argv[1], weights_only=True); "
    'save_file(dict((k, v.clone()) for k, v in weights.items()), sys.argv[2])"'
)


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a `.safetensors` or `.npz` file, or of a folder that holds one (or shards).

    bfloat16 becomes float32. Raises UserError: nothing there, damaged, numbers of a kind that is
    not known, or a pickle, which could run code when it is read.
    """
    path = Path(path)
    files = _files_of(path) if path.is_dir() else [path]
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        found = _read_file(file)
        twice = sorted(set(found) & set(tensors))
        if twice:
            raise UserError(f"{path}: {twice[0]} stands in more than one file: keep one of them")
        tensors |= found
    return tensors


def fetched(name: str, key: str) -> Path:
    """The folder or file of that name, or a download of the hub's repository of that name.

    key: of the config, for the error.
    """
    if Path(name).exists():
        return Path(name)
    # A repository is OWNER/NAME; anything else was meant to be a path.
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise UserError(f"config.{key} = {name!r}: there is no such file or folder")
    from huggingface_hub import snapshot_download  # slow to import, and seldom needed

    try:
        return Path(snapshot_download(name, allow_patterns=["model*.safetensors", "*.json"]))
    except Exception as error:  # of any of its many kinds: no network, no such name, no rights
        raise UserError(
            f"config.{key} = {name!r} is no file or folder here, and it cannot be "
            f"fetched from the hub ({type(error).__name__}): fetch it by hand and name its folder"
        ) from error


def _files_of(folder: Path) -> list[Path]:
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    for found in ([folder / "model.safetensors"], shards, sorted(folder.glob("*.npz"))):
        if found and all(file.is_file() for file in found):
            _check_shards(folder, found)
            return found
    pickled = [file for file in sorted(folder.iterdir()) if file.suffix in PICKLES]
    if pickled:
        _refuse_pickle(pickled[0])
    raise UserError(f"{folder} holds no model.safetensors and no .npz: name the file itself")


def _check_shards(folder: Path, found: list[Path]) -> None:
    number = re.search(r"-of-0*(\d+)\.", found[0].name)
    if number and len(found) != int(number.group(1)):
        raise UserError(f"{folder} holds {len(found)} of {number.group(1)} shards: fetch the rest")


def _read_file(file: Path) -> dict[str, np.ndarray]:
    if file.suffix in PICKLES:
        _refuse_pickle(file)
    if not file.is_file():
        raise UserError(f"there are no weights at {file}")
    try:
        found = _read_npz(file) if file.suffix == ".npz" else _read_safetensors(file)
    except UserError:
        raise
    except DAMAGE as error:
        raise UserError(
            f"{file} cannot be read ({error}): it is damaged, or no .safetensors or .npz file; "
            "fetch it again"
        ) from error
    return {name: _widened(tensor, file, name) for name, tensor in found.items()}


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    with safe_open(file, framework="np") as opened:
        names = opened.keys()
        for name in names:
            if (kind := opened.get_slice(name).get_dtype()) not in KINDS:
                _refuse_kind(file, name, kind)
        return {name: opened.get_tensor(name) for name in names}


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    opened = np.load(file, allow_pickle=False)
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise ValueError("it is a single array")
    with opened:
        return {name: np.asarray(opened[name]) for name in opened.files}


def _widened(tensor: np.ndarray, file: Path, name: str) -> np.ndarray:
    if tensor.dtype == UNNAMED:
        tensor = tensor.view(ml_dtypes.bfloat16)
    if tensor.dtype == ml_dtypes.bfloat16:
        return tensor.astype(np.float32)
    if tensor.dtype.kind not in "fiub":
        _refuse_kind(file, name, tensor.dtype.name)
    return tensor


def _refuse_kind(file: Path, name: str, kind: str) -> NoReturn:
    raise UserError(
        f"{file}: {name} holds {kind}, which is not read here: take weights in float32, float16 or "
        "bfloat16"
    )


def _refuse_pickle(file: Path) -> None:
    command = f"{CONVERT} {file} {file.with_suffix('.safetensors')}"
    raise UserError(
        f"{file} is a pickle, which may run code when it is read. If you trust it, convert it "
        f"where torch is installed: {command}"
    )
