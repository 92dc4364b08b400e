# SPDX-License-Identifier: Apache-2.0
"""The adaptive momentum filter, against weighted averages over whole histories."""

import functools

import jax
import numpy as np
import oracles
import pytest
import quick

from cots_jax.objectives.momentum_filter import (
    FilterState,
    empty_filter,
    filter_threshold,
    judge,
)

SOURCES, E, REFERENCE = 3, 8, 16


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def compiled(kappa=1.0, momentum=0.9, reference_batch=REFERENCE):
    settings = {"kappa": kappa, "momentum": momentum, "reference_batch": reference_batch}
    return quick.jit(functools.partial(judge, **settings))


def keys_of(similarity, dtype=np.float64):
    """Unit keys whose dot products are the given similarities."""
    similarity = np.asarray(similarity)
    image = np.zeros((len(similarity), E), dtype)
    text = np.zeros_like(image)
    image[:, 0], text[:, 0] = 1, similarity
    text[:, 1] = np.sqrt(1 - similarity**2)
    return image, text


def history(seed, b=6, batches=5):
    """(similarity, source, weight) of some batches; source 2 stays away from the even ones."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(batches):
        source = rng.integers(0, 2 if number % 2 == 0 else 3, b).astype(np.int32)
        weight = (rng.random(b) < 0.8).astype(np.float64)
        found.append((rng.uniform(-0.5, 0.9, b), source, weight))
    return found


def oracle_statistics(batches, source, momentum, reference):
    """E and D: each batch's share decays by momentum ** (rows / reference) a later batch."""
    shares, means, squares = [], [], []
    for similarity, sources, weight in batches:
        mine = [s for s, at, w in zip(similarity, sources, weight) if at == source and w > 0]
        decay = momentum ** (len(mine) / reference)
        shares = [share * decay for share in shares]
        if mine:
            shares.append(1 - decay)
            means.append(sum(mine) / len(mine))
            squares.append(sum(s * s for s in mine) / len(mine))
    if not shares:
        return None
    mean = np.average(means, weights=shares)
    return mean, np.sqrt(max(np.average(squares, weights=shares) - mean**2, 0))


def run(batches, dtype=np.float64, warm=True, sources=SOURCES, **settings):
    judgements, state = [], empty_filter(sources)
    state = jax.tree.map(lambda leaf: leaf.astype(dtype), state)
    for similarity, source, weight in batches:
        image, text = keys_of(similarity, dtype)
        args = image, text, source, weight.astype(dtype)
        judgements.append(compiled(**settings)(state, *args, warm=np.bool_(warm)))
        state = judgements[-1].state
    return judgements


def test_statistics_and_decisions_agree_with_the_oracle():
    batches = history(0)
    judgements = run(batches)
    for step, (similarity, source, weight) in enumerate(batches):
        for i in np.flatnonzero(weight):
            mean, deviation = oracle_statistics(batches[: step + 1], source[i], 0.9, REFERENCE)
            margin = similarity[i] - (mean - 1.0 * deviation)
            assert abs(margin) < 1e-12 or abs(margin) > 1e-5  # nothing is close but a lone row
            assert bool(judgements[step].keep[i]) == (margin > -1e-9)
    threshold = filter_threshold(judgements[-1].state, 1.0, 0.9, REFERENCE)
    for source in range(SOURCES):
        mean, deviation = oracle_statistics(batches, source, 0.9, REFERENCE)
        np.testing.assert_allclose(threshold[source], mean - deviation, rtol=1e-12)


@pytest.mark.parametrize("rows", [1, 64])
def test_pairs_that_are_all_alike_stay_whatever_is_rounded(rows):
    """The mean of equal numbers is another one in its last bits, and its deviation 0 or nothing."""
    for similarity in np.random.default_rng(0).uniform(-1, 1, 50):
        batch = np.full(rows, similarity), np.zeros(rows, np.int32), np.ones(rows)
        (found,) = run([batch], np.float32, kappa=0.0)
        assert found.keep.all()


def test_the_decisions_are_not_all_alike():
    judgements = run(history(0))
    kept = np.concatenate([judgement.keep for judgement in judgements])
    assert 0.2 < kept.mean() < 0.9


def test_an_absent_source_stays_as_it_was():
    batches = history(1)
    before, after = (judgement.state for judgement in run(batches)[1:3])
    assert (batches[2][1] != 2).all()
    for name in ("count", "mean", "mean_square"):
        old, new = getattr(before, name), getattr(after, name)
        assert old[2] == new[2]
        assert old[0] != new[0]


def test_rows_of_weight_zero_neither_count_nor_stay():
    similarity, source, weight = np.array([0.5, 0.4, 0.9]), np.zeros(3, np.int32), np.ones(3)
    weight[2] = 0
    (found,) = run([(similarity, source, weight)])
    assert found.state.count[0] == 2
    assert not found.keep[2]
    np.testing.assert_allclose(found.similarity, similarity, rtol=1e-12)


def test_first_update_then_judge():
    """The outlier widens D before it is judged: against the old statistics it would go."""
    ordinary = (np.array([0.5, 0.52, 0.48, 0.5]), np.zeros(4, np.int32), np.ones(4))
    outlier = (np.array([0.5, 0.52, 0.48, 0.4]), np.zeros(4, np.int32), np.ones(4))
    before, after = run([ordinary, outlier], kappa=2.6)
    old = filter_threshold(before.state, 2.6, 0.9, REFERENCE)[0]
    assert old > 0.4
    assert after.keep.all()


def test_nothing_is_dropped_before_it_is_warm_but_the_statistics_move():
    cold, warm = run(history(2), warm=False), run(history(2), warm=True)
    for (_, _, weight), one, other in zip(history(2), cold, warm):
        np.testing.assert_array_equal(one.keep, weight > 0)
        np.testing.assert_array_equal(one.state.mean, other.state.mean)
    assert any((one.keep != other.keep).any() for one, other in zip(cold, warm))


def test_momentum_is_per_reference_batch():
    """The same rows at once or in two batches of the same mean give the same statistics."""
    half = (np.array([0.2, 0.6]), np.zeros(2, np.int32), np.ones(2))
    whole = tuple(np.concatenate([column, column]) for column in half)
    twice, once = run([half, half])[-1].state, run([whole])[-1].state
    for name in ("count", "mean", "mean_square"):
        np.testing.assert_allclose(getattr(twice, name), getattr(once, name), rtol=1e-12)


def test_a_batch_may_be_dropped_whole():
    seen = FilterState(np.full(1, 1e6), np.full(1, 0.9), np.full(1, 0.81))
    image, text = keys_of([0.1, -0.3])
    args = image, text, np.zeros(2, np.int32), np.ones(2)
    found = compiled(reference_batch=10**9)(seen, *args, warm=np.bool_(True))
    assert not found.keep.any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(("momentum", "rows"), [(0.99, 64), (0.999, 8)])
def test_float32_keeps_the_deviation(momentum, rows):
    """Batches far smaller than the reference: 1 - decay is near the float32 rounding of decay."""
    rng = np.random.default_rng(0)
    batches = [
        (rng.normal(0.7, 0.03, rows), np.zeros(rows, np.int32), np.ones(rows)) for _ in range(30)
    ]
    settings = {"momentum": momentum, "reference_batch": 2048}
    mean, deviation = oracle_statistics(batches, 0, momentum, 2048)
    with jax.enable_x64(False):
        state = run(batches, np.float32, sources=1, **settings)[-1].state
        zero, one = (
            float(filter_threshold(state, kappa, momentum, 2048)[0]) for kappa in (0.0, 1.0)
        )
    np.testing.assert_allclose(zero, mean, rtol=1e-4)
    np.testing.assert_allclose(zero - one, deviation, rtol=0.02)


def test_an_unseen_source_drops_nothing():
    threshold = filter_threshold(empty_filter(2), 3.0, 0.9, REFERENCE)
    assert (threshold < -1).all()


def test_no_number_is_narrowed():
    state = jax.tree.map(lambda leaf: leaf.astype(np.float64), empty_filter(2))
    image, text = keys_of([0.1, 0.2])
    args = (state, image, text, np.zeros(2, np.int32), np.ones(2), np.bool_(True))

    def call(state, image, text, source, weight, warm):
        settings = {"kappa": 1.0, "momentum": 0.9, "reference_batch": 4}
        return judge(state, image, text, source, weight, warm=warm, **settings)

    assert not oracles.downcasts(jax.make_jaxpr(call)(*map(_device, args)).jaxpr)


def _device(tree):
    return jax.tree.map(jax.numpy.asarray, tree)
