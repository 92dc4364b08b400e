# SPDX-License-Identifier: Apache-2.0
"""The probe is the optimum that scipy finds in float64, and is chosen on what it has not seen."""

import numpy as np
import pytest

from cots_jax.errors import UserError
from cots_jax.retrieval import probe
from cots_jax.retrieval.probe import (
    STRENGTHS,
    fit_path,
    fit_probe,
    held_out_tenth,
    linear_answers,
)

CLASSES, WIDTH, PICTURES = 5, 12, 150  # the same everywhere: each shape compiles for seconds
ALL = np.ones(PICTURES, bool)


def problem(seed: int = 0, pictures: int = PICTURES, noise: float = 1.0):
    """Unit features around a centre of each class, and their labels."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, WIDTH))
    label = rng.integers(0, CLASSES, pictures)
    x = centres[label] + noise * rng.normal(size=(pictures, WIDTH))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), label


def objective(flat: np.ndarray, x: np.ndarray, label: np.ndarray, strength: float):
    """Value and gradient, written down once more in float64."""
    weights = flat.reshape(CLASSES, WIDTH + 1)
    logits = x @ weights[:, :-1].T + weights[:, -1]
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    rows = np.arange(len(label))
    value = -log_p[rows, label].mean() + strength / 2 * (weights[:, :-1] ** 2).sum()
    off = np.exp(log_p)
    off[rows, label] -= 1
    off /= len(label)
    slope = np.concatenate([off.T @ x + strength * weights[:, :-1], off.sum(0)[:, None]], axis=1)
    return value, slope.reshape(-1)


@pytest.mark.parametrize("chunk", [4096, 64])
def test_it_is_the_optimum(monkeypatch, chunk):
    optimize = pytest.importorskip("scipy.optimize", reason="needs the extra cots_jax[parity]")
    monkeypatch.setattr(probe, "CHUNK", chunk)
    x, label = problem()
    strengths = (1e-1, 1e-3, 1e-5)
    for strength, fitted in zip(
        strengths, fit_path(x, label, ALL, CLASSES, strengths), strict=True
    ):
        wide = x.astype(np.float64)
        found = optimize.minimize(
            objective,
            np.zeros(CLASSES * (WIDTH + 1)),
            (wide, label, strength),
            method="L-BFGS-B",
            jac=True,
            options={"maxiter": 20_000, "maxfun": 40_000, "gtol": 1e-9, "ftol": 1e-15},
        )
        reached, _ = objective(fitted.weights.astype(np.float64).reshape(-1), wide, label, strength)
        assert fitted.loss == pytest.approx(found.fun, rel=2e-4, abs=1e-6)
        assert found.fun - 1e-9 <= reached <= found.fun * (1 + 2e-4) + 1e-6
        best = found.x.reshape(CLASSES, WIDTH + 1)
        expected = (wide @ best[:, :-1].T + best[:, -1]).argmax(axis=1)
        ours = (wide @ fitted.weights[:, :-1].T + fitted.weights[:, -1]).argmax(axis=1)
        assert np.mean(expected == ours) > 0.99
        assert fitted.steps < probe.MOST_STEPS


def test_what_is_held_out_teaches_nothing():
    x, label = problem(3)
    taught = np.arange(PICTURES) % 5 > 0
    (fitted,) = fit_path(x, label, taught, CLASSES, (1e-3,))
    other = np.where(taught, label, 0)
    (again,) = fit_path(np.where(taught[:, None], x, 0), other, taught, CLASSES, (1e-3,))
    assert fitted.weights == pytest.approx(again.weights, abs=1e-3)


def test_the_same_data_give_the_same_probe():
    x, label = problem()
    first, again = (fit_path(x, label, ALL, CLASSES, (1e-3,))[0] for _ in range(2))
    assert np.array_equal(first.weights, again.weights)


def test_the_strength_is_chosen_on_pictures_that_it_has_not_seen():
    x, label = problem(1, noise=2.5)
    held_out = np.arange(PICTURES) % 5 == 0
    found = fit_probe(x, label, held_out, CLASSES)
    assert [tried.strength for tried in found.tried] == list(STRENGTHS)
    mean = x.mean(axis=0)
    scaled = ((x - mean) / np.sqrt(np.mean((x - mean) ** 2))).astype(np.float32)
    path = fit_path(scaled, label, ~held_out, CLASSES, STRENGTHS)
    right = [
        100 * np.mean((scaled[held_out] @ f.weights[:, :-1].T + f.weights[:, -1]).argmax(1)
                      == label[held_out])
        for f in path
    ]  # fmt: skip
    assert [tried.top1 for tried in found.tried] == pytest.approx(right)
    assert found.strength == STRENGTHS[int(np.argmax(right))]
    assert found.held_out == 30
    whole = fit_path(scaled, label, ALL, CLASSES, STRENGTHS[: STRENGTHS.index(found.strength) + 1])[
        -1
    ]
    assert found.fitted.loss == pytest.approx(whole.loss, rel=1e-4)
    logits = x @ found.weights[:, :-1].T + found.weights[:, -1]
    expected = scaled @ whole.weights[:, :-1].T + whole.weights[:, -1]
    assert logits == pytest.approx(expected, abs=1e-2)


def test_answers_are_those_of_the_logits():
    x, label = problem(2)
    fitted = fit_path(x, label, ALL, CLASSES, (1e-4,))[0]
    logits = x @ fitted.weights[:, :-1].T + fitted.weights[:, -1]
    rows = np.arange(len(label))
    ranks = (logits >= logits[rows, label][:, None]).sum(axis=1)
    assert np.mean(linear_answers(fitted.weights, x, label).rank == ranks) > 0.99


def test_a_tenth_is_held_out_whatever_else_there_is():
    digest = np.random.default_rng(0).integers(0, 2**64, 5000, np.uint64)
    held_out = held_out_tenth(digest)
    assert held_out.sum() == 500
    order = np.random.default_rng(1).permutation(5000)
    assert np.array_equal(held_out_tenth(digest[order]), held_out[order])
    assert np.array_equal(held_out_tenth(np.repeat(digest, 2)), np.repeat(held_out, 2))
    assert held_out_tenth(digest[:3]).sum() == 1


@pytest.mark.parametrize("held_out", [True, False])
def test_too_few_pictures(held_out):
    x, label = problem()
    with pytest.raises(UserError, match="--probe has 150 pictures"):
        fit_probe(x, label, np.full(PICTURES, held_out), CLASSES)
