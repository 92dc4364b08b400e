# SPDX-License-Identifier: Apache-2.0
"""What stands before the functions, done by the exported example, is what the package does."""

import importlib.util
import pathlib
import types

import numpy as np
import pytest
from PIL import Image
from random_run import LENGTH, WORDS, write_photo, write_run

from cots_jax import Pretrained
from cots_jax.data.pictures import decode_given
from cots_jax.portable.folder import export_folder
from cots_jax.portable.forms import Form

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("preprocess")
    export_folder(write_run(root / "run"), root / "out", (Form.SAFETENSORS,))
    return root / "out"


@pytest.fixture(scope="module")
def preprocess(out: pathlib.Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("preprocess", out / "examples" / "preprocess.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pictures_of_every_kind(folder: pathlib.Path) -> list[pathlib.Path]:
    files = []

    def keep(picture: Image.Image, name: str, **how: object) -> None:
        picture.save(folder / name, **how)
        files.append(folder / name)

    for name, size in {"large.jpg": (900, 700), "small.jpg": (90, 70), "tiny.png": (9, 7)}.items():
        write_photo(folder / name, size=size)
        files.append(folder / name)
    with Image.open(folder / "large.jpg") as opened:
        photo = opened.convert("RGB")
    for turn in (3, 5, 6, 8):
        exif = Image.Exif()
        exif[ORIENTATION] = turn
        keep(photo, f"turned{turn}.jpg", exif=exif)
    keep(photo.resize((60, 90)), "turned.png", exif=exif)
    for turn in (0, 9):  # no orientation that EXIF knows: upright
        exif[ORIENTATION] = turn
        keep(photo.resize((60, 90)), f"turned{turn}.jpg", exif=exif)
    keep(photo.resize((1200, 40)), "wide.jpg")
    keep(photo.convert("L"), "grey.jpg")
    keep(photo.convert("CMYK"), "cmyk.jpg")
    keep(photo.convert("LA"), "grey_alpha.png")
    seen_through = photo.convert("RGBA")
    seen_through.putalpha(photo.convert("L"))
    keep(seen_through, "alpha.png")
    keep(seen_through, "alpha.webp")
    keep(photo.convert("P"), "palette.gif")
    keep(photo.convert("P"), "hole.png", transparency=0)
    return files


def test_pictures_of_every_kind(preprocess: types.ModuleType, tmp_path: pathlib.Path) -> None:
    files = pictures_of_every_kind(tmp_path)
    for file, wanted in zip(files, decode_given(files, 16), strict=True):
        np.testing.assert_array_equal(preprocess.pixels([file])[0], wanted, err_msg=file.name)


def test_photographs(
    out: pathlib.Path, preprocess: types.ModuleType, shared_data: pathlib.Path
) -> None:
    files = sorted((shared_data / "coco_mini").rglob("*.jpg"))[:24]
    assert len(files) == 24
    model = Pretrained.load(out)
    theirs = model.encode_decoded(preprocess.pixels(files)[:, None])
    np.testing.assert_allclose(theirs, model.encode_images(files), atol=1e-4, rtol=0)


def test_texts(preprocess: types.ModuleType) -> None:
    texts = [
        "A red car",
        "",
        "two dogs " * 9,
        "a [SEP] [CLS] [PAD] car",
        "CAFÉ café 日本 \t\n",
        "dog" * 50,
    ]
    ids, lengths = preprocess.tokens(texts)
    wanted = WORDS.encode(texts, LENGTH)
    np.testing.assert_array_equal(ids, wanted.ids)
    np.testing.assert_array_equal(lengths, wanted.length)
    assert (ids.dtype, lengths.dtype) == (np.int32, np.int32)
