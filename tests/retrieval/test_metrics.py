# SPDX-License-Identifier: Apache-2.0
"""Ranks against a brute-force oracle, and the models whose recall is known beforehand."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cots_jax.errors import UserError
from cots_jax.retrieval.checks import check_embeddings, check_truth
from cots_jax.retrieval.metrics import Ranks, rank_both_ways, recall_at, summarise
from cots_jax.retrieval.tiles import TileShape

SMALL_TILE = TileShape(rows=128, columns=128)


def oracle(queries, candidates, query_group, candidate_group):
    """1 + wrong candidates at least as good as the best correct one, query by query, in float64."""
    ranks = []
    for query, group in zip(queries.astype(np.float64), query_group, strict=True):
        scores = candidates.astype(np.float64) @ query
        correct = candidate_group == group
        ranks.append(1 + np.count_nonzero(scores[~correct] >= scores[correct].max()))
    return np.array(ranks)


def assert_equals_oracle(image, text, image_group, text_group, **options):
    ranks = rank_both_ways(image, text, image_group, text_group, **options)
    np.testing.assert_array_equal(ranks.image_to_text, oracle(image, text, image_group, text_group))
    np.testing.assert_array_equal(ranks.text_to_image, oracle(text, image, text_group, image_group))


def exact(rng, rows, width):
    """Small whole numbers: float32 holds every score exactly, and ties are frequent."""
    return rng.integers(-2, 3, (rows, width)).astype(np.float32)


def unit(rng, rows, width):
    rows = rng.standard_normal((rows, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("captions", [1, 5])
def test_equal_captions_per_image(captions):
    rng = np.random.default_rng(captions)
    images = 300
    text_group = rng.permutation(np.repeat(np.arange(images), captions))
    assert_equals_oracle(
        exact(rng, images, 5), exact(rng, images * captions, 5), np.arange(images), text_group
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    groups=st.integers(1, 150),
    width=st.integers(1, 6),
    most=st.integers(1, 4),
)
def test_any_number_of_images_and_captions_a_group(seed, groups, width, most):
    rng = np.random.default_rng(seed)
    names = rng.choice(10**9, groups, replace=False)
    image_group = rng.permutation(np.repeat(names, rng.integers(1, most + 1, groups)))
    text_group = rng.permutation(np.repeat(names, rng.integers(1, most + 1, groups)))
    image, text = exact(rng, len(image_group), width), exact(rng, len(text_group), width)
    assert_equals_oracle(image, text, image_group, text_group, tile_shape=SMALL_TILE)


def test_group_ids_beyond_32_bits_stay_apart():
    rng = np.random.default_rng(7)
    groups = np.arange(40) * 2**32  # equal once cut to 32 bits
    assert_equals_oracle(exact(rng, 40, 4), exact(rng, 40, 4), groups, groups)


def test_ordinary_floats_match_float64_where_scores_are_apart():
    rng = np.random.default_rng(11)
    image = unit(rng, 400, 64)
    text = unit(rng, 400, 64) + 0.5 * image
    ranks = rank_both_ways(image, text, np.arange(400), np.arange(400))
    scores = image.astype(np.float64) @ text.astype(np.float64).T
    correct = np.diag(scores)[:, None]
    tolerance = 1e-6  # float32 sums of 64 products of size 1
    least = np.count_nonzero(scores > correct + tolerance, axis=1) + 1
    most = np.count_nonzero(scores >= correct - tolerance, axis=1)  # the correct one included
    assert (least <= ranks.image_to_text).all() and (ranks.image_to_text <= most).all()
    assert np.mean(least == most) > 0.95


@pytest.mark.parametrize("width", [1, 3, 64, 100, 256, 257])
def test_constant_model_finds_nothing(width):
    rng = np.random.default_rng(width)
    point = unit(rng, 1, width)
    images, texts = np.repeat(point, 700, 0), np.repeat(point, 1400, 0)
    group = np.arange(700)
    ranks = rank_both_ways(images, texts, group, np.repeat(group, 2))
    assert (ranks.image_to_text == 1399).all() and (ranks.text_to_image == 700).all()
    summary = summarise(ranks)
    assert summary.rsum == 0 and summary.image_to_text.r10 == 0


def test_two_pairs_on_one_point_never_rank_first():
    rng = np.random.default_rng(3)
    points = np.repeat(unit(rng, 300, 32), 2, axis=0)
    summary = summarise(rank_both_ways(points, points, np.arange(600), np.arange(600)))
    for direction in (summary.image_to_text, summary.text_to_image):
        assert direction.r1 == 0 and direction.r5 == 100 and direction.median_rank == 2


def test_perfect_model():
    points = unit(np.random.default_rng(4), 1100, 32)
    summary = summarise(rank_both_ways(points, points, np.arange(1100), np.arange(1100)))
    assert summary.rsum == 600 and summary.text_to_image.mean_rank == 1


def test_random_model_is_at_chance():
    rng = np.random.default_rng(5)
    n = 2000
    ranks = rank_both_ways(unit(rng, n, 64), unit(rng, n, 64), np.arange(n), np.arange(n))
    for direction in (ranks.image_to_text, ranks.text_to_image):
        # ranks are uniform on 1..n: 4.5 standard errors either way
        assert abs(direction.mean() - (n + 1) / 2) < 4.5 * n / np.sqrt(12 * n)
        assert recall_at(direction, 10) < 100 * (10 / n + 4.5 * np.sqrt(10) / n)


def test_answer_does_not_depend_on_the_tile():
    rng = np.random.default_rng(6)
    image, text = unit(rng, 500, 48), unit(rng, 900, 48)
    image_group, text_group = np.arange(500), rng.permutation(np.arange(900) % 500)
    shapes = [TileShape(), TileShape(128, 128), TileShape(512, 256)]
    first, *others = [rank_both_ways(image, text, image_group, text_group, s) for s in shapes]
    for other in others:
        np.testing.assert_array_equal(first.image_to_text, other.image_to_text)
        np.testing.assert_array_equal(first.text_to_image, other.text_to_image)


def test_answer_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(8)
    image, text, group = unit(rng, 500, 48), unit(rng, 500, 48), np.arange(500)
    ranks = rank_both_ways(image, text, group, group)
    p, q = rng.permutation(500), rng.permutation(500)
    shuffled = rank_both_ways(image[p], text[q], group[p], group[q])
    np.testing.assert_array_equal(ranks.image_to_text[p], shuffled.image_to_text)
    np.testing.assert_array_equal(ranks.text_to_image[q], shuffled.text_to_image)


def test_device_arrays_and_half_precision_are_taken():
    points = jnp.eye(16, dtype=jnp.bfloat16)
    ranks = rank_both_ways(points, points, jnp.arange(16), jnp.arange(16))
    assert (ranks.image_to_text == 1).all()


def test_summary_counts_ranks_from_one():
    ranks = np.array([1, 2, 5, 6, 10, 11])
    summary = summarise(Ranks(image_to_text=ranks, text_to_image=np.array([1])))
    direction = summary.image_to_text
    assert direction.r1 == pytest.approx(100 / 6)
    assert direction.r5 == pytest.approx(300 / 6)
    assert direction.r10 == pytest.approx(500 / 6)
    assert direction.median_rank == 5.5
    assert direction.mean_rank == pytest.approx(35 / 6)
    assert summary.rsum == pytest.approx(900 / 6 + 300)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_embeddings_are_an_error(bad):
    image = unit(np.random.default_rng(9), 20, 8)
    text = image.copy()
    text[[4, 7], 3] = bad
    with pytest.raises(UserError, match=r"2 of 20 text embeddings .* first is row 4"):
        rank_both_ways(image, text, np.arange(20), np.arange(20))


def test_huge_finite_rows_are_not_called_infinite():
    rows = np.full((3, 8), 3e38, np.float32)
    np.testing.assert_array_equal(check_embeddings(rows, "image"), rows)


def test_queries_without_an_answer_are_counted():
    points = unit(np.random.default_rng(10), 6, 4)
    with pytest.raises(UserError, match=r"2 of 6 images have no correct text .* row 1, group -1"):
        rank_both_ways(points, points, np.array([0, -1, 2, 9, 4, 5]), np.arange(6))
    with pytest.raises(UserError, match=r"1 of 6 images have no correct text .* row 2, group -1"):
        groups = np.array([0, 1, -1, 3, 4, 5])  # no group, on both sides: not a pair
        rank_both_ways(points, points, groups, groups)
    with pytest.raises(UserError, match=r"1 of 6 texts have no correct image"):
        rank_both_ways(points[:5], points, np.arange(5), np.arange(6))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.zeros((0, 4), np.float32), "shape"),
        (np.zeros((4, 0), np.float32), "shape"),
        (np.zeros(4, np.float32), "shape"),
        (np.zeros((4, 4), np.int32), "int32"),
    ],
)
def test_unfit_matrices(rows, said):
    with pytest.raises(UserError, match=said):
        check_embeddings(rows, "image")


def test_unfit_truth():
    image, text = np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32)
    group = np.arange(3)
    with pytest.raises(UserError, match="4 wide and text embeddings 5"):
        check_truth(image, np.zeros((3, 5), np.float32), group, group)
    with pytest.raises(UserError, match=r"shape \[2\] for 3 image"):
        check_truth(image, text, group[:2], group)
    with pytest.raises(UserError, match="float64"):
        check_truth(image, text, group, group.astype(float))
