# SPDX-License-Identifier: Apache-2.0
"""Which examples the report shows, and that they show what was retrieved."""

import io

import numpy as np
import pytest
from PIL import Image

from cots_jax.errors import UserError
from cots_jax.retrieval.examples import EvaluatedSet, best_and_worst_examples
from cots_jax.retrieval.metrics import rank_both_ways
from cots_jax.retrieval.pictures import choose_best_and_worst, data_uri


def picture(row, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (row, 0, 0)).save(file, kind)
    return file.getvalue()


def evaluated(images=40, captions=2, noise=1.5):
    rng = np.random.default_rng(0)
    image = rng.standard_normal((images, 8)).astype(np.float32)
    text_group = np.repeat(np.arange(images), captions)
    text = image[text_group] + noise * rng.standard_normal((len(text_group), 8)).astype(np.float32)
    ranks = rank_both_ways(image, text, np.arange(images), text_group)
    names = [f"caption {x} of {g}" for x, g in enumerate(text_group)]
    return EvaluatedSet("dev", image, text, np.arange(images), text_group, ranks, names, picture)


def test_examples_agree_with_the_ranks():
    data = evaluated()
    sets = best_and_worst_examples(data, queries=4, shown=5)
    assert [len(s.examples) for s in sets] == [4, 4, 4, 4]
    for examples in sets:
        for example in examples.examples:
            places = [c.correct for c in example.candidates]
            assert len(places) == 5
            if example.rank <= 5:
                assert places.index(True) == example.rank - 1 and example.missed is None
            else:
                assert not any(places) and example.missed.correct
                assert example.missed.score < min(c.score for c in example.candidates)
    assert max(e.rank for e in sets[1].examples) == data.ranks.text_to_image.max()
    assert all(e.rank == 1 for e in sets[0].examples)
    assert any(e.missed for e in sets[1].examples)


def test_pictures_and_captions_stand_on_the_right_side():
    from_text, _, from_image, _ = best_and_worst_examples(evaluated(), queries=1, shown=2)
    assert isinstance(from_text.examples[0].query, str)
    assert all(c.image.startswith(b"\x89PNG") for c in from_text.examples[0].candidates)
    assert isinstance(from_image.examples[0].query, bytes)
    assert all(c.image is None and c.text for c in from_image.examples[0].candidates)


def test_best_are_spread_and_worst_are_last():
    ranks = np.array([1, 1, 9, 1, 1, 7, 1, 1, 30])
    chosen = choose_best_and_worst(ranks, 3)
    assert chosen.best.tolist() == [0, 3, 7] and chosen.worst.tolist() == [8, 2, 5]


@pytest.mark.parametrize("count", [1, 3, 50])
def test_no_query_is_shown_twice(count):
    for ranks in (np.array([1]), np.array([4, 4, 4]), np.arange(1, 6)):
        chosen = choose_best_and_worst(ranks, count)
        rows = [*chosen.best.tolist(), *chosen.worst.tolist()]
        assert len(rows) == len(set(rows)) and len(chosen.best) >= 1


@pytest.mark.parametrize(
    ("kind", "mime"), [("PNG", "png"), ("JPEG", "jpeg"), ("GIF", "gif"), ("WEBP", "webp")]
)
def test_picture_addresses_name_their_kind(kind, mime):
    assert data_uri(picture(3, kind)).startswith(f"data:image/{mime};base64,")


def test_other_bytes_are_refused():
    with pytest.raises(UserError, match="no PNG"):
        data_uri(b"BM123")
