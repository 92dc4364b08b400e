# SPDX-License-Identifier: Apache-2.0
"""Augmentation and normalisation on the device: uint8 pictures in, float32 tower inputs out.

Resampling is two small matrix products a picture, one for the rows and one for the columns, since
gathers are slow on accelerators and on CPU alike.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Key, UInt8

from cots_jax.errors import UserError

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as torchvision's grey
LOG_ASPECT = 0.2876821  # log(4/3): the crops' aspect ratio is log-uniform in 3/4..4/3
HALF = (0.5, 0.5, 0.5)

Kernel = Callable[[Array], Array]  # of a distance of 0 or more, in pixels of the coarser grid


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far training pairs may stray; the default does nothing but normalise.

    shift: furthest move, in fractions of the side. scale: largest change of log size. crop: range
    of the area of a random resized crop, None without. brightness, contrast, saturation: the
    factor is uniform in 1-x..1+x. hue: furthest turn, in full circles. fill: the value in 0..1
    shown outside of the picture. word_dropout: share of a text's tokens that the online text tower
    does not see (`masking.drop_words`).
    """

    shift: float = 0.0
    scale: float = 0.0
    crop: tuple[float, float] | None = None
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter_probability: float = 1.0
    grey_probability: float = 0.0
    flip_probability: float = 0.0
    fill: float = 1.0
    word_dropout: float = 0.0
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF

    def __post_init__(self):
        for name in ("jitter_probability", "grey_probability", "flip_probability", "fill"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0..1")
        for name in ("shift", "scale"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("brightness", "contrast", "saturation"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0..1")
        _require(0 <= self.hue <= 0.5, "hue", self.hue, "0..0.5")
        _require(0 <= self.word_dropout < 1, "word_dropout", self.word_dropout, "0 to below 1")
        if self.crop is not None:
            _require(
                0 < self.crop[0] <= self.crop[1] <= 1, "crop", self.crop, "0 < low <= high <= 1"
            )
        _require(min(self.std) > 0, "std", self.std, "above 0")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class View:
    """The part of a picture that is shown, along one axis, in fractions of the side."""

    centre: Array
    extent: Array  # negative: mirrored


def augment(
    keys: Key[Array, "b"],
    image: UInt8[Array, "b t s s 3"],
    augmentation: Augmentation,
    size: int,
) -> Float32[Array, "b t size size 3"]:
    """Random geometry, then colour jitter and grey, then normalisation (order: own choice).

    All frames of a row share one draw, and row i depends on keys[i] alone.
    """
    row = functools.partial(_augment_row, augmentation=augmentation, size=size)
    return normalise_values(jax.vmap(row)(keys, image), augmentation.mean, augmentation.std)


def tokenizer_view(
    keys: Key[Array, "b"] | None,
    image: UInt8[Array, "b t s s 3"],
    augmentation: Augmentation,
    size: int,
    *,
    jittered: bool,
) -> Float32[Array, "b t size size 3"]:
    """What an image tokenizer sees, in 0..1: cut as `augment` cuts it with the same keys.

    Resized by Lanczos' kernel of three lobes where the size differs (BEiT; R), as Pillow does but
    for its rounding after each axis. jittered: in `augment`'s colours, else in the picture's own.
    No keys: the whole picture in its own colours.
    """
    if keys is None:
        return _whole(_unit(image), size, _lanczos)

    def row(key: Array, picture: Array) -> Array:
        geometry_key, colour_key = jax.random.split(key)
        values = _unit(picture)
        if moves(augmentation):
            down, across = _random_views(geometry_key, augmentation)
            kernel = _triangle if size == values.shape[1] else _lanczos
            values = _resample(values, down, across, size, augmentation.fill, kernel)
            values = jnp.clip(values, 0.0, 1.0)
        else:
            values = _whole(values, size, _lanczos)
        return _recolour(colour_key, values, augmentation) if jittered else values

    return jax.vmap(row)(keys, image)


def _whole(values: Array, size: int, kernel: Kernel) -> Array:
    """The whole picture at another size; Lanczos may overshoot, and is cut to 0..1."""
    if size == values.shape[-2]:
        return values
    still = View(jnp.asarray(0.5, jnp.float32), jnp.asarray(1.0, jnp.float32))
    return jnp.clip(_resample(values, still, still, size, 0.0, kernel), 0.0, 1.0)


def normalise(
    image: UInt8[Array, "b t s s 3"],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    size: int | None = None,
) -> Float32[Array, "b t size size 3"]:
    """The evaluation view: resized where the size differs, then (x / 255 - mean) / std."""
    values = _unit(image)
    if size is not None and size != image.shape[2]:
        still = View(jnp.asarray(0.5), jnp.asarray(1.0))
        values = _resample(values, still, still, size, fill=0.0)
    return normalise_values(values, mean, std)


def normalise_values(
    values: Float32[Array, "b t size size 3"],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Float32[Array, "b t size size 3"]:
    """(x - mean) / std a channel, for values in 0..1."""
    scale = 1 / jnp.asarray(std, jnp.float32)
    offset = -jnp.asarray(mean, jnp.float32) * scale
    return values * scale[None, None, None, None] + offset[None, None, None, None]


def _augment_row(key: Array, image: Array, augmentation: Augmentation, size: int) -> Array:
    geometry_key, colour_key = jax.random.split(key)
    values = _unit(image)
    if moves(augmentation) or size != image.shape[1]:
        down, across = _random_views(geometry_key, augmentation)
        values = _resample(values, down, across, size, augmentation.fill)
    return _recolour(colour_key, values, augmentation)


def _unit(image: Array) -> Array:
    return image.astype(jnp.float32) * jnp.float32(1 / 255)


def moves(a: Augmentation) -> bool:
    """Whether the picture's geometry changes."""
    return bool(a.shift or a.scale or a.flip_probability or a.crop)


def recolours(a: Augmentation) -> bool:
    """Whether the picture's colours change."""
    jitter = a.jitter_probability and (a.brightness or a.contrast or a.saturation or a.hue)
    return bool(jitter or a.grey_probability)


def _random_views(key: Array, a: Augmentation) -> tuple[View, View]:
    """The shown part of the picture along rows and columns."""
    area, aspect, y, x, zoom, up, right, flip = jax.random.uniform(key, (8,), jnp.float32)
    low, high = a.crop or (1.0, 1.0)
    area = low + (high - low) * area
    ratio = jnp.exp((2 * aspect - 1) * LOG_ASPECT / 2) if a.crop else 1.0
    # A crop longer than the picture is cut to it, as there is nothing more to show.
    height, width = (jnp.minimum(jnp.sqrt(area) * r, 1.0) for r in (1 / ratio, ratio))
    smaller = jnp.exp((2 * zoom - 1) * a.scale)
    mirror = jnp.where(flip < a.flip_probability, -1.0, 1.0)
    down = View(0.5 + (y - 0.5) * (1 - height) + (2 * up - 1) * a.shift, height * smaller)
    across = View(0.5 + (x - 0.5) * (1 - width) + (2 * right - 1) * a.shift, width * smaller)
    return down, View(across.centre, across.extent * mirror)


def _triangle(x: Array) -> Array:
    """Bilinear."""
    return jnp.maximum(0.0, 1 - x)


def _lanczos(x: Array) -> Array:
    """Three lobes of sinc under the main one of a wider sinc."""
    return jnp.where(x < 3, jnp.sinc(x) * jnp.sinc(x / 3), 0.0)


def _resample(
    values: Array, down: View, across: View, size: int, fill: float, kernel: Kernel = _triangle
) -> Array:
    """Antialiased views of [..., s, s, 3]; outside of the picture lies `fill`."""
    side = values.shape[-2]
    rows = _resampling_matrix(down, side, size, kernel)
    columns = _resampling_matrix(across, side, size, kernel)
    exact = jax.lax.Precision.HIGHEST
    values = jnp.einsum("os,...sxc->...oxc", rows, values - fill, precision=exact)
    return jnp.einsum("os,...ysc->...yoc", columns, values, precision=exact) + fill


def _resampling_matrix(view: View, side: int, size: int, kernel: Kernel) -> Array:
    """[size, side]: how much of each input pixel an output pixel takes.

    The kernel as wide as the larger of both pixels, normalised over the picture, times the part
    of the output pixel that the picture covers; the rest is left to the fill.
    """
    step = view.extent * side / size
    width = jnp.maximum(jnp.abs(step), 1.0)
    offset = jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2
    position = view.centre * side - 0.5 + offset * step
    pixel = jnp.arange(side, dtype=jnp.float32)
    weight = kernel(jnp.abs(position[:, None] - pixel[None]) / width)
    total = weight.sum(axis=1, keepdims=True)
    pace = jnp.abs(step)
    inside = jnp.minimum(position + pace / 2, side - 0.5) - jnp.maximum(position - pace / 2, -0.5)
    covered = jnp.clip(inside / pace, 0.0, 1.0)
    return weight * (covered[:, None] / jnp.maximum(total, 1e-6))


def _recolour(key: Array, values: Array, a: Augmentation) -> Array:
    """Brightness, contrast, saturation, hue in this order, each clipped to 0..1; then grey."""
    strengths = jnp.asarray([a.brightness, a.contrast, a.saturation, a.hue], jnp.float32)
    draws = jax.random.uniform(key, (6,), jnp.float32)
    on = draws[4] < a.jitter_probability
    brightness, contrast, saturation, turn = jnp.where(on, (2 * draws[:4] - 1) * strengths, 0.0)
    # Plane by plane: three times as fast on CPU as arithmetic beside a last axis of 3.
    planes = [values[..., channel] for channel in range(3)]
    if a.brightness:
        planes = [jnp.clip(plane * (1 + brightness), 0.0, 1.0) for plane in planes]
    if a.contrast:
        planes = _blend(planes, _grey(planes).mean(axis=(1, 2), keepdims=True), 1 + contrast)
    if a.saturation:
        planes = _blend(planes, _grey(planes), 1 + saturation)
    if a.hue:
        planes = _turn_hue(planes, turn)
    if a.grey_probability:
        grey, chosen = _grey(planes), draws[5] < a.grey_probability
        planes = [jnp.where(chosen, grey, plane) for plane in planes]
    return jnp.stack(planes, axis=-1)


def _grey(planes: list[Array]) -> Array:
    return LUMA[0] * planes[0] + LUMA[1] * planes[1] + LUMA[2] * planes[2]


def _blend(planes: list[Array], base: Array, factor: Array) -> list[Array]:
    """base + factor * (plane - base), clipped: torchvision's blend."""
    return [jnp.clip(base + (plane - base) * factor, 0.0, 1.0) for plane in planes]


def _turn_hue(planes: list[Array], turn: Array) -> list[Array]:
    """Turns the hue of HSV by a fraction of the circle; value and saturation stay."""
    red, green, blue = planes
    top = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = top - jnp.minimum(jnp.minimum(red, green), blue)
    over = jnp.where(chroma > 0, 1 / jnp.where(chroma > 0, chroma, 1.0), 0.0)
    green_or_blue = jnp.where(top == green, 2 + (blue - red) * over, 4 + (red - green) * over)
    sector = jnp.where(top == red, (green - blue) * over, green_or_blue) + 6 * turn
    turned = []
    for corner in (5.0, 3.0, 1.0):
        k = sector + corner
        k = k - 6 * jnp.floor(k * (1 / 6))
        turned.append(top - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0))
    return turned


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise UserError(f"augmentation {name} = {value} is out of range: use {allowed}")
