# SPDX-License-Identifier: Apache-2.0
"""A card that shows what an image tokenizer's codes keep, of pictures that are nobody else's.

    python -m benchmarks.reconstruction_card --out=card.png runs/demo-dvae runs/flickr8k-dvae

Twelve signs drawn by this file, which no tokenizer has seen; below them the same through the codes
of each tokenizer, and last shrunk to the code grid and enlarged, which is the bar.
"""

import argparse
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from cots_jax.errors import UserError
from cots_jax.image_tokenizer import load_image_tokenizer
from cots_jax.models.dvae import DvaeConfig
from cots_jax.objectives.tokenizer_quality import reconstructions

SIDE = 256  # pixels that a sign is drawn at, a unit of 1/64 being 4
SHOWN, GAP = 80, 8  # pixels
RED, BLUE, GREEN, GOLD, BROWN, INK = (
    "#d62828",
    "#2463b0",
    "#2e8b57",
    "#f2b705",
    "#8b5a2b",
    "#222222",
)


def signs() -> UInt8[np.ndarray, "12 s s 3"]:
    """Twelve simple signs on white."""
    drawn = []
    for draw_sign in (_face, _sun, _house, _tree, _flag, _boat, _fish, _cup, _apple, _arrow, _die):
        picture = Image.new("RGB", (SIDE, SIDE), "white")
        draw_sign(ImageDraw.Draw(picture))
        drawn.append(np.asarray(picture))
    drawn.append(drawn[0].transpose(1, 0, 2))  # the face on its side
    return np.stack(drawn)


def card(folders: list[Path]) -> Image.Image:
    """Rows of pictures: the signs, each tokenizer, the bar. Raises UserError."""
    made = [_made(folder) for folder in folders]
    return _laid_out([made[0][0], *(through for _, through, _ in made), made[-1][-1]])


def _made(folder: Path) -> list[np.ndarray]:
    """The signs at a tokenizer's size, through its codes, and shrunk and enlarged."""
    tokenizer = load_image_tokenizer(str(folder))
    if not isinstance(tokenizer.config, DvaeConfig):
        raise UserError(f"{folder} holds no discrete VAE: an encoder alone draws nothing")
    size = tokenizer.config.image_size
    small = jnp.asarray(np.stack([_resized(sign, size) for sign in signs()]))[:, None]
    made = reconstructions(tokenizer.config, tokenizer.params, small)
    return [np.asarray(pictures) for pictures in made.values()]


def _resized(picture: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def _laid_out(rows: list[np.ndarray]) -> Image.Image:
    step = SHOWN + GAP
    sheet = Image.new("RGB", (GAP + len(rows[0]) * step, GAP + len(rows) * step), "#dddddd")
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            shown = Image.fromarray(np.rint(picture * 255).astype(np.uint8))
            place = (GAP + across * step, GAP + down * step)
            sheet.paste(shown.resize((SHOWN, SHOWN), Image.Resampling.NEAREST), place)
    return sheet


def _face(to: ImageDraw.ImageDraw) -> None:
    to.ellipse((24, 24, 232, 232), fill=GOLD, outline=INK, width=8)
    to.ellipse((80, 84, 108, 120), fill=INK)
    to.ellipse((148, 84, 176, 120), fill=INK)
    to.arc((72, 84, 184, 192), 20, 160, fill=INK, width=12)


def _sun(to: ImageDraw.ImageDraw) -> None:
    for turn in range(8):
        angle = turn * np.pi / 4
        end = (128 + 116 * np.cos(angle), 128 + 116 * np.sin(angle))
        to.line((128, 128, *end), fill=GOLD, width=16)
    to.ellipse((68, 68, 188, 188), fill=GOLD, outline=RED, width=8)


def _house(to: ImageDraw.ImageDraw) -> None:
    to.rectangle((56, 116, 200, 228), fill=GOLD, outline=INK, width=6)
    to.polygon(((32, 120), (128, 28), (224, 120)), fill=RED, outline=INK)
    to.rectangle((108, 160, 148, 228), fill=BROWN)


def _tree(to: ImageDraw.ImageDraw) -> None:
    to.rectangle((112, 160, 144, 236), fill=BROWN)
    to.polygon(((128, 20), (48, 176), (208, 176)), fill=GREEN)


def _flag(to: ImageDraw.ImageDraw) -> None:
    for place, colour in enumerate((BLUE, GOLD, RED)):
        to.rectangle((28, 56 + 48 * place, 228, 104 + 48 * place), fill=colour)


def _boat(to: ImageDraw.ImageDraw) -> None:
    to.polygon(((32, 168), (224, 168), (188, 220), (68, 220)), fill=BROWN)
    to.polygon(((128, 28), (128, 156), (212, 156)), fill=RED)
    to.line((124, 24, 124, 168), fill=INK, width=8)


def _fish(to: ImageDraw.ImageDraw) -> None:
    to.ellipse((24, 76, 184, 180), fill=BLUE)
    to.polygon(((164, 128), (236, 72), (236, 184)), fill=BLUE)
    to.ellipse((56, 108, 76, 128), fill="white")


def _cup(to: ImageDraw.ImageDraw) -> None:
    to.ellipse((148, 92, 220, 172), outline=INK, width=16)
    to.rectangle((48, 76, 176, 204), fill=RED, outline=INK, width=8)


def _apple(to: ImageDraw.ImageDraw) -> None:
    to.ellipse((44, 72, 212, 232), fill=RED)
    to.line((128, 80, 144, 28), fill=BROWN, width=12)
    to.ellipse((140, 28, 200, 64), fill=GREEN)


def _arrow(to: ImageDraw.ImageDraw) -> None:
    to.rectangle((28, 28, 228, 228), fill=BLUE)
    to.polygon(((128, 52), (204, 132), (52, 132)), fill="white")
    to.rectangle((104, 128, 152, 204), fill="white")


def _die(to: ImageDraw.ImageDraw) -> None:
    to.rectangle((40, 40, 216, 216), outline=INK, width=12)
    for x, y in ((84, 84), (172, 84), (128, 128), (84, 172), (172, 172)):
        to.ellipse((x - 16, y - 16, x + 16, y + 16), fill=INK)


def main() -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.reconstruction_card", description=__doc__
    )
    parser.add_argument("folders", nargs="+", type=Path, help="finished dVAE runs")
    parser.add_argument("--out", required=True, type=Path, help="the PNG to write")
    flags = parser.parse_args()
    try:
        card(flags.folders).save(flags.out, "PNG")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
