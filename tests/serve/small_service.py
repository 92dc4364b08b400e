# SPDX-License-Identifier: Apache-2.0
"""A service without a trained model: colours are the joint space."""

import contextlib
import io
import itertools
import pathlib
from collections.abc import Generator, Sequence

import numpy as np
from fastapi.testclient import TestClient
from films import write_film
from PIL import Image

from cots_jax.collection.originals import open_originals
from cots_jax.collection.sources import open_source
from cots_jax.collection.update import Encoder, Maker, update
from cots_jax.collection.videos import open_videos
from cots_jax.retrieval.index import Index
from cots_jax.retrieval.index_files import Storage
from cots_jax.serve.access import Access
from cots_jax.serve.app import make_app
from cots_jax.serve.finder import ALIKE, Embedder, Finder
from cots_jax.serve.gallery import Gallery
from cots_jax.serve.guard import Guard
from cots_jax.serve.service import Service

SIZE = 16  # pixels a side
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
    "yellow": (255, 255, 0),
}
UNLIMITED = Access(rate=1e6)
HOST = "http://127.0.0.1"


def write_pictures(folder: pathlib.Path, shades: int = 8) -> None:
    """`folder/NAME/N.png`: shades of each colour, the first two of them the same."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for shade in range(shades):
            mixed = np.array(colour) * (1 - max(0, shade - 1) / 16) + 9 * max(0, shade - 1)
            picture = np.full((24, 32, 3), mixed.clip(0, 255), np.uint8)
            Image.fromarray(picture).save(folder / name / f"{shade}.png")


def write_videos(folder: pathlib.Path) -> None:
    """`folder/NAME.webm`: two seconds of a colour and two of another, for each two neighbours."""
    folder.mkdir(parents=True)
    for name, other in itertools.pairwise(COLOURS):
        frames = [np.full((48, 64, 3), COLOURS[colour], np.uint8) for colour in (name, other)]
        film = [frame for frame in frames for _ in range(50)]
        write_film(folder / f"{name}.webm", film, codec="libvpx")


def embed_images(images: Sequence[np.ndarray], batch: int = 1) -> np.ndarray:
    """Mean colours."""
    return _unit(np.array([image.reshape(-1, 3).mean(0) + 1 for image in images]))


def embed_texts(texts: Sequence[str], batch: int = 1) -> np.ndarray:
    """The sum of the colours that a text names; grey for none."""
    assert len(texts) <= batch
    named = [[COLOURS[w] for w in text.split() if w in COLOURS] or [(9, 9, 9)] for text in texts]
    return _unit(np.array([np.sum(colours, axis=0) + 1 for colours in named]))


def make_index(pictures: pathlib.Path | str, out: pathlib.Path, seconds: float = 0) -> None:
    """An index of pictures by their colours, or of videos in pieces of so many seconds."""
    encoder = Encoder(embed_images, lambda texts: embed_texts(texts, len(texts)))
    maker = Maker(
        pathlib.Path("run"), {"step": 1}, {"size": SIZE}, Storage.FLOAT32, lambda: encoder
    )
    opening = open_videos(str(pictures), seconds, out) if seconds else None
    with opening or open_source(str(pictures), out) as source:
        update(out, source, maker)


@contextlib.contextmanager
def small_app(out: pathlib.Path, access: Access = UNLIMITED) -> Generator[Guard]:
    """The application over an index."""
    gallery = Gallery(Index.open(out))
    finder = Finder(Embedder(embed_texts, embed_images, SIZE), gallery)
    with open_originals(gallery.index.facts.images) as originals:
        yield make_app(Service(finder, originals), access, ALIKE)


@contextlib.contextmanager
def client_of(out: pathlib.Path, access: Access = UNLIMITED) -> Generator[TestClient]:
    """A client of the application, which runs in this process."""
    with small_app(out, access) as app, TestClient(app, HOST, follow_redirects=False) as client:
        yield client


def png(colour: tuple[int, int, int], side: int = 20) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(out, "PNG")
    return out.getvalue()


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
