# SPDX-License-Identifier: Apache-2.0
"""Augmentation against plain NumPy and Pillow: views, colours, repeatability."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from cots_jax.data import transforms
from cots_jax.data.transforms import Augmentation, View
from cots_jax.errors import UserError

augment = jax.jit(transforms.augment, static_argnums=(2, 3))
normalise = jax.jit(transforms.normalise, static_argnums=(1, 2, 3))
resample = jax.jit(transforms._resample, static_argnums=(3, 4))
MEAN, STD = (0.48, 0.45, 0.4), (0.27, 0.26, 0.28)


def _pictures(rows: int = 6, frames: int = 1, side: int = 16, seed: int = 0) -> jnp.ndarray:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, 256, (rows, frames, side, side, 3), dtype=np.uint8))


def _keys(rows: int = 6, seed: int = 0):
    return jax.random.split(jax.random.key(seed), rows)


def _plain(**settings) -> Augmentation:
    """Values stay in 0..1."""
    return Augmentation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), **settings)


def _view(picture, centre=(0.5, 0.5), extent=(1.0, 1.0), size=16, fill=1.0):
    """One picture [s, s, 3] in 0..1 through the resampler."""
    down, across = (View(jnp.float32(c), jnp.float32(e)) for c, e in zip(centre, extent))
    return np.asarray(resample(jnp.asarray(picture)[None], down, across, size, fill)[0])


def _random_views(augmentation, rows):
    draw = jax.jit(jax.vmap(lambda key: transforms._random_views(key, augmentation)))
    return draw(_keys(rows))


def test_normalise_is_the_formula():
    image = _pictures()
    expected = (np.asarray(image) / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(normalise(image, MEAN, STD), expected, atol=1e-5)


@pytest.mark.parametrize("size", [16, 8, 24])
def test_no_augmentation_is_normalisation(size):
    image = _pictures(frames=2)
    augmentation = Augmentation(mean=MEAN, std=STD)
    still = augment(_keys(), image, augmentation, size)
    assert still.shape == (6, 2, size, size, 3) and still.dtype == jnp.float32
    np.testing.assert_allclose(still, normalise(image, MEAN, STD, size), atol=2e-5)


@pytest.mark.parametrize("size", [8, 12, 16, 24, 37])
def test_resizing_is_antialiased_bilinear(size):
    image = _pictures(side=16)
    resized = normalise(image, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), size)
    shape = (6, 1, size, size, 3)
    expected = jax.image.resize(image.astype(jnp.float32) / 255, shape, "linear", antialias=True)
    np.testing.assert_allclose(resized, expected, atol=1e-5)


@pytest.mark.parametrize("pixels", [-5, -1, 0, 2, 16])
def test_a_shift_by_whole_pixels_moves_and_fills(pixels):
    picture = np.random.default_rng(0).random((16, 16, 3)).astype(np.float32)
    moved = _view(picture, centre=(0.5 + pixels / 16, 0.5), fill=0.25)
    expected = np.full_like(picture, 0.25)
    kept = slice(max(0, -pixels), 16 - max(0, pixels))
    expected[kept] = picture[max(0, pixels) : 16 + min(0, pixels)]
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_a_crop_is_pillows_crop():
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    box = (2.0, 4.0, 12.0, 16.0)  # left, top, right, bottom
    seen = _view(pixels / np.float32(255), centre=(10 / 16, 7 / 16), extent=(12 / 16, 10 / 16))
    channels = []
    for channel in range(3):
        plane = PIL.Image.fromarray(pixels[..., channel].astype(np.float32))
        padded = plane.crop(tuple(int(edge) for edge in box))
        channels.append(np.asarray(padded.resize((16, 16), PIL.Image.Resampling.BILINEAR)))
    # At its edge Pillow's crop sees nothing beyond, this view still sees the picture.
    inner = slice(2, 14)
    expected = np.stack(channels, -1)[inner, inner] / 255
    np.testing.assert_allclose(seen[inner, inner], expected, atol=1e-5)


def test_zooming_out_keeps_the_mean_and_shows_the_fill_around():
    picture = np.zeros((16, 16, 3), np.float32)
    seen = _view(picture, extent=(2.0, 2.0), fill=1.0)
    np.testing.assert_allclose(seen[:4], 1.0, atol=1e-6)
    np.testing.assert_allclose(seen[4:12, 4:12], 0.0, atol=1e-6)
    np.testing.assert_allclose(seen.mean(), 0.75, atol=1e-6)


@pytest.mark.parametrize("view", ["tower", "tokenizer"])
def test_what_lies_outside_has_the_value_that_was_asked_for(view):
    """A picture of the fill's own value cannot be told from what lies around it."""
    image = jnp.full((6, 1, 16, 16, 3), 51, jnp.uint8)

    def seen(fill):
        augmentation = _plain(shift=0.3, fill=fill)
        if view == "tower":
            return augment(_keys(), image, augmentation, 16)
        return transforms.tokenizer_view(_keys(), image, augmentation, 16, jittered=True)

    np.testing.assert_allclose(seen(0.2), 0.2, atol=1e-6)
    assert np.asarray(seen(0.6)).max() == pytest.approx(0.6)


def test_a_negative_extent_mirrors():
    picture = np.random.default_rng(0).random((16, 16, 3)).astype(np.float32)
    mirrored = _view(picture, extent=(1.0, -1.0))
    np.testing.assert_allclose(mirrored, picture[:, ::-1], atol=1e-6)


def test_flips_happen_as_often_as_asked():
    image = jnp.tile(_pictures(1), (400, 1, 1, 1, 1))
    flipped = augment(_keys(400), image, _plain(flip_probability=0.25), 16)
    plain = np.asarray(image[0]) / 255
    straight = abs(np.asarray(flipped) - plain).max((1, 2, 3, 4)) < 1e-5
    mirrored = abs(np.asarray(flipped) - plain[:, :, ::-1]).max((1, 2, 3, 4)) < 1e-5
    assert (straight ^ mirrored).all()
    assert abs(mirrored.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 400)


def test_random_views_stay_within_their_settings():
    augmentation = _plain(shift=0.1, scale=0.2)
    down, across = _random_views(augmentation, 2000)
    for view in (down, across):
        centre, extent = np.asarray(view.centre), np.asarray(view.extent)
        assert 0.4 <= centre.min() < 0.405 and 0.595 < centre.max() <= 0.6
        assert np.exp(-0.2) <= extent.min() < 0.83 and 1.2 < extent.max() <= np.exp(0.2) + 1e-6
    np.testing.assert_array_equal(down.extent, across.extent)
    assert abs(np.corrcoef(down.centre, across.centre)[0, 1]) < 0.1


def test_random_crops_stay_in_the_picture():
    augmentation = _plain(crop=(0.3, 1.0))
    down, across = _random_views(augmentation, 2000)
    for view in (down, across):
        assert (np.asarray(view.centre - view.extent / 2) > -1e-6).all()
        assert (np.asarray(view.centre + view.extent / 2) < 1 + 1e-6).all()
    area = np.asarray(down.extent * across.extent)
    aspect = np.asarray(across.extent / down.extent)
    assert 0.29 < area.min() < 0.32 and area.max() > 0.95
    assert 0.74 < aspect.min() < 0.77 and 1.3 < aspect.max() < 1.34


def _jitter(values, brightness, contrast, saturation, turn):
    """Float64, pixel by pixel where colorsys is needed."""

    def grey(v):
        return v @ np.array([0.299, 0.587, 0.114])

    values = np.clip(values * (1 + brightness), 0, 1)
    mean = grey(values).mean()
    values = np.clip((1 + contrast) * values - contrast * mean, 0, 1)
    values = np.clip((1 + saturation) * values - saturation * grey(values)[..., None], 0, 1)
    turned = [
        colorsys.hsv_to_rgb((h + turn) % 1, s, v)
        for h, s, v in (colorsys.rgb_to_hsv(*pixel) for pixel in values.reshape(-1, 3))
    ]
    return np.reshape(turned, values.shape)


def test_colour_jitter_is_the_formula():
    strengths = {"brightness": 0.4, "contrast": 0.5, "saturation": 0.6, "hue": 0.3}
    image, keys = _pictures(rows=8, side=8), _keys(8)
    jittered = augment(keys, image, _plain(**strengths), 8)
    for row in range(8):
        draws = np.asarray(jax.random.uniform(jax.random.split(keys[row])[1], (6,)), np.float64)
        factors = (2 * draws[:4] - 1) * list(strengths.values())
        expected = _jitter(np.asarray(image[row, 0]) / 255, *factors)
        np.testing.assert_allclose(jittered[row, 0], expected, atol=2e-5)


@pytest.mark.parametrize("setting", ["brightness", "contrast", "saturation", "hue"])
def test_each_colour_setting_acts_alone(setting):
    image = _pictures(rows=1, side=8)
    values = image[0].astype(jnp.float32) / 255
    key = jax.random.key(3)
    factor = (2 * np.asarray(jax.random.uniform(key, (6,)))[:4] - 1) * 0.4
    only = dict.fromkeys(("brightness", "contrast", "saturation", "turn"), 0.0)
    position = ["brightness", "contrast", "saturation", "hue"].index(setting)
    only["turn" if setting == "hue" else setting] = float(factor[position])
    recolour = jax.jit(transforms._recolour, static_argnums=2)
    seen = recolour(key, values, _plain(**{setting: 0.4}))
    np.testing.assert_allclose(seen[0], _jitter(np.asarray(values[0]), **only), atol=2e-5)
    assert abs(seen - values).max() > 0.01


def test_grey_pictures_have_no_hue_to_turn():
    grey = jnp.full((2, 1, 4, 4, 3), 77, jnp.uint8).at[1].set(0)
    turned = augment(_keys(2), grey, _plain(hue=0.5), 4)
    np.testing.assert_allclose(turned, np.asarray(grey) / 255, atol=1e-6)


def test_jitter_and_grey_happen_as_often_as_asked():
    image = jnp.tile(_pictures(1, side=4), (600, 1, 1, 1, 1))
    settings = _plain(brightness=0.4, jitter_probability=0.7, grey_probability=0.2)
    seen = np.asarray(augment(_keys(600), image, settings, 4))
    grey = (np.ptp(seen, axis=-1) < 1e-6).all((1, 2, 3))
    luma = (np.asarray(image) / 255) @ np.array(transforms.LUMA)
    same = abs(seen @ np.array(transforms.LUMA) - luma).max((1, 2, 3)) < 1e-5
    assert abs(grey.mean() - 0.2) < 5 * np.sqrt(0.16 / 600)
    assert abs(same.mean() - 0.3) < 5 * np.sqrt(0.21 / 600)


def test_a_row_depends_on_its_own_key_alone_and_frames_share_it():
    settings = Augmentation(
        shift=0.1,
        scale=0.2,
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
        hue=0.1,
        grey_probability=0.2,
        flip_probability=0.5,
    )
    image, keys = _pictures(rows=6, frames=1), _keys(6)
    image = jnp.tile(image, (1, 3, 1, 1, 1))
    whole = augment(keys, image, settings, 16)
    parts = [augment(keys[cut], image[cut], settings, 16) for cut in (slice(0, 2), slice(2, 6))]
    np.testing.assert_allclose(whole, jnp.concatenate(parts), atol=1e-5)
    np.testing.assert_allclose(whole[:, 0], whole[:, 2], atol=1e-6)
    np.testing.assert_array_equal(whole, augment(keys, image, settings, 16))
    assert (
        abs(whole - augment(_keys(6, seed=1), image, settings, 16)).max((1, 2, 3, 4)).min() > 0.05
    )


def test_values_stay_between_black_and_white():
    settings = _plain(shift=0.5, scale=0.5, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
    seen = augment(_keys(50), _pictures(50), settings, 16)
    assert np.isfinite(seen).all()
    assert seen.min() >= -1e-5 and seen.max() <= 1 + 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"shift": -0.1},
        {"flip_probability": 1.5},
        {"brightness": 2.0},
        {"hue": 0.6},
        {"crop": (0.5, 0.1)},
        {"std": (1.0, 0.0, 1.0)},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=f"augmentation {next(iter(settings))} ="):
        Augmentation(**settings)


GEOMETRY = {"shift": 0.2, "scale": 0.3, "flip_probability": 0.5}
COLOURS = {"brightness": 0.4, "hue": 0.2, "grey_probability": 0.3}


class TestTokenizerView:
    VIEW = staticmethod(
        jax.jit(transforms.tokenizer_view, static_argnums=(2, 3), static_argnames="jittered")
    )

    @pytest.mark.parametrize(("side", "size"), [(48, 24), (50, 24), (24, 36)])
    def test_it_is_pillows_lanczos_but_for_its_rounding(self, side, size):
        """Pillow rounds to whole levels after each axis: 0.5 twice, the second time amplified.

        It also cuts to 0..255 in between, so the pictures here stay away from both ends.
        """
        image = _pictures(rows=3, side=side) // 3 + 85
        found = np.asarray(self.VIEW(None, image, Augmentation(), size, jittered=False))
        for row in range(3):
            picture = PIL.Image.fromarray(np.asarray(image[row, 0]))
            wanted = np.asarray(picture.resize((size, size), PIL.Image.Resampling.LANCZOS)) / 255
            assert np.abs(found[row, 0] - wanted).max() < 1.6 / 255
            bilinear = picture.resize((size, size), PIL.Image.Resampling.BILINEAR)
            assert np.abs(found[row, 0] - np.asarray(bilinear) / 255).max() > 10 / 255

    def test_the_same_size_is_the_picture_itself(self):
        image = _pictures()
        found = self.VIEW(None, image, Augmentation(), 16, jittered=False)
        np.testing.assert_allclose(found, np.asarray(image) / 255, atol=1e-6)
        unmoved = self.VIEW(_keys(), image, Augmentation(hue=0.3), 16, jittered=False)
        np.testing.assert_array_equal(found, unmoved)

    def test_jittered_it_is_the_towers_view(self):
        augmentation = _plain(**GEOMETRY, **COLOURS)
        image = _pictures()
        tower = augment(_keys(), image, augmentation, 16)
        found = self.VIEW(_keys(), image, augmentation, 16, jittered=True)
        np.testing.assert_allclose(found, tower, atol=1e-5)

    def test_clean_it_is_cut_alike_and_keeps_its_colours(self):
        image = _pictures()
        moved = augment(_keys(), image, _plain(**GEOMETRY), 16)
        augmentation = _plain(**GEOMETRY, **COLOURS)
        found = self.VIEW(_keys(), image, augmentation, 16, jittered=False)
        np.testing.assert_allclose(found, moved, atol=1e-5)
        assert np.abs(found - augment(_keys(), image, augmentation, 16)).max() > 0.1

    def test_a_smaller_view_is_cut_alike(self):
        """Smooth pictures, so that the kernels differ little."""
        y, x = np.mgrid[:32, :32] / 32
        smooth = np.stack([y, x, (x + y) / 2], -1) * 200 + 20
        image = jnp.asarray(np.broadcast_to(smooth, (6, 1, 32, 32, 3)).astype(np.uint8))
        augmentation = _plain(shift=0.1, flip_probability=0.5, crop=(0.5, 0.9))
        tower = np.asarray(augment(_keys(), image, augmentation, 32))
        found = np.asarray(self.VIEW(_keys(), image, augmentation, 16, jittered=False))
        halved = tower.reshape(6, 1, 16, 2, 16, 2, 3).mean((3, 5))
        inner = (slice(None), slice(None), slice(3, -3), slice(3, -3))
        assert np.abs(found - halved)[inner].max() < 0.05
