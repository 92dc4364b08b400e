# SPDX-License-Identifier: Apache-2.0
"""Anybody's embeddings from .npy files, to be scored by the same protocol as our own.

`I.npy` [images, e], `T.npy` [texts, e], `M.npy` [texts]: the image row that each text belongs to.
Rows are scored as they are: normalise them first where cosine similarity is meant.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, Shaped

from cots_jax.errors import UserError
from cots_jax.retrieval.checks import check_embeddings


@dataclass(frozen=True)
class Embeddings:
    """Both sides in the joint space; equal groups belong together."""

    image: Float32[np.ndarray, "i e"]
    text: Float32[np.ndarray, "x e"]
    image_group: Int64[np.ndarray, "i"]
    text_group: Int64[np.ndarray, "x"]


def load_embeddings(image_npy: Path, text_npy: Path, text_image_npy: Path) -> Embeddings:
    """Reads the three files; a UserError names the file and what is wrong with it."""
    image = _check_file(image_npy, "image")
    text = _check_file(text_npy, "text")
    if image.shape[1] != text.shape[1]:
        raise UserError(
            f"{image_npy} is {image.shape[1]} wide and {text_npy} {text.shape[1]}: both must come "
            "from the same joint space"
        )
    text_image = _check_text_image(_load(text_image_npy), text_image_npy, len(image), len(text))
    return Embeddings(image, text, np.arange(len(image)), text_image)


def _load(path: Path) -> Shaped[np.ndarray, "..."]:
    try:
        with path.open("rb") as file:  # NumPy leaves that of a cut .npz open
            array = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"there is no {path}: give the path of a .npy file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read as a plain .npy array ({error}): write it with numpy.save, "
            "numbers only"
        ) from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise UserError(f"{path} holds several arrays (.npz): write one .npy file an array")
    return array


def _check_file(path: Path, kind: str) -> Float32[np.ndarray, "n e"]:
    try:
        return check_embeddings(_load(path), kind)
    except UserError as error:
        message = str(error)
        raise UserError(message if str(path) in message else f"{path}: {message}") from None


def _check_text_image(
    text_image: Shaped[np.ndarray, "..."], path: Path, images: int, texts: int
) -> Int64[np.ndarray, "x"]:
    if text_image.shape != (texts,) or not np.issubdtype(text_image.dtype, np.integer):
        raise UserError(
            f"{path} has shape {list(text_image.shape)} and type {text_image.dtype}; give a whole "
            f"number for each of the {texts} texts: the row of its image"
        )
    outside = np.flatnonzero((text_image < 0) | (text_image >= images))
    if len(outside):
        raise UserError(
            f"{path}: {len(outside)} of {texts} texts name an image row outside 0 to {images - 1} "
            f"(the first is text {outside[0]}, row {text_image[outside[0]]})"
        )
    alone = np.setdiff1d(np.arange(images), text_image)
    if len(alone):
        raise UserError(
            f"{path}: {len(alone)} of {images} images have no text (the first is row {alone[0]}): "
            "leave them out of the image file, or add their texts"
        )
    return text_image.astype(np.int64)
