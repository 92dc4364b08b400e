# SPDX-License-Identifier: Apache-2.0
"""Test protocols by name, so that a number means what its name says.

R: as the field reports them; those of emoji are ours (O). Each counts the first captions of an
image in stored order. With folds, consecutive images form a fold with candidates of its own; the
figures are means over them.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from cots_jax.errors import UserError, nearest
from cots_jax.retrieval.intervals import bootstrap
from cots_jax.retrieval.metrics import Ranks, Summary, rank_both_ways, summarise
from cots_jax.retrieval.protocols import Protocol, Result, describe_set, make_result


@dataclass(frozen=True)
class NamedProtocol:
    """`images` in all, of which each fold has its share; `captions` of each image count."""

    images: int
    captions: int
    folds: int = 1


NAMED = {
    "coco_5k": NamedProtocol(5000, 5),
    "coco_1k": NamedProtocol(5000, 5, folds=5),
    "flickr30k_1k": NamedProtocol(1000, 5),
    "flickr8k_1k": NamedProtocol(1000, 5),
    "msrvtt_1k_a": NamedProtocol(1000, 1),
    "msrvtt_full": NamedProtocol(2990, 20),
    "emoji_style": NamedProtocol(1000, 1),
    "emoji_composition_twemoji": NamedProtocol(300, 1),
    "emoji_composition_openmoji": NamedProtocol(300, 1),
}


@dataclass(frozen=True)
class Fold:
    """Rows of the images and of the texts that choose among each other."""

    images: Int[np.ndarray, "i"]
    texts: Int[np.ndarray, "x"]


def named_protocol(name: str) -> NamedProtocol:
    """Of that name. Raises UserError with the nearest ones."""
    if name not in NAMED:
        raise UserError(f"unknown protocol {name!r}; {nearest(name, NAMED, 'protocols')}")
    return NAMED[name]


def folds_of(
    name: str, image_group: Int[np.ndarray, "i"], text_group: Int[np.ndarray, "x"]
) -> list[Fold]:
    """The folds of a named protocol. Raises UserError where the set is not what the name says."""
    named = named_protocol(name)
    images = len(image_group)
    if len(np.unique(image_group)) != images:
        raise UserError(f"protocol {name} has one image to a group, and here several share one")
    order = np.argsort(text_group, kind="stable")
    groups, first, counts = np.unique(text_group[order], return_index=True, return_counts=True)
    place = np.minimum(np.searchsorted(groups, image_group), max(len(groups) - 1, 0))
    found = np.where(groups[place] == image_group, counts[place], 0) if len(groups) else [0]
    if images != named.images or np.min(found) < named.captions:
        raise UserError(
            f"protocol {name} is {named.images:,} images with at least {named.captions} captions "
            f"each; here are {images:,} images with {int(np.min(found))} or more: rejects.jsonl of "
            "the prepared folder says what was dropped; without --protocol the set is scored as "
            "it is, and not called by that name"
        )
    texts = order[first[place][:, None] + np.arange(named.captions)[None]]  # [images, captions]
    rows = np.arange(images).reshape(named.folds, -1)
    return [Fold(part, np.sort(texts[part].reshape(-1))) for part in rows]


def evaluate_by(
    name: str,
    whole: Result,
    image: Float[np.ndarray, "i e"],
    text: Float[np.ndarray, "x e"],
    image_group: Int[np.ndarray, "i"],
    text_group: Int[np.ndarray, "x"],
) -> Result:
    """The result under a named protocol; lineage and the like are those of `whole`."""
    folds = folds_of(name, image_group, text_group)
    ranks = [
        rank_both_ways(image[f.images], text[f.texts], image_group[f.images], text_group[f.texts])
        for f in folds
    ]
    pooled = Ranks(
        np.concatenate([r.image_to_text for r in ranks]),
        np.concatenate([r.text_to_image for r in ranks]),
    )
    order = [np.concatenate([getattr(f, side) for f in folds]) for side in ("images", "texts")]
    ends = bootstrap(pooled, image_group[order[0]], text_group[order[1]])
    summary = _with_medians_of(ranks, summarise(pooled))
    return make_result(
        name, _said(name, whole.protocol, folds, image_group, text_group), summary, ends
    )


def _with_medians_of(ranks: list[Ranks], pooled: Summary) -> Summary:
    """Folds are alike in size, so recalls and mean ranks are those of all queries together."""
    each = [summarise(r) for r in ranks]
    return replace(
        pooled,
        image_to_text=replace(
            pooled.image_to_text,
            median_rank=float(np.mean([s.image_to_text.median_rank for s in each])),
        ),
        text_to_image=replace(
            pooled.text_to_image,
            median_rank=float(np.mean([s.text_to_image.median_rank for s in each])),
        ),
    )


def _said(
    name: str,
    whole: Protocol,
    folds: list[Fold],
    image_group: Int[np.ndarray, "i"],
    text_group: Int[np.ndarray, "x"],
) -> Protocol:
    first = folds[0]
    counted = describe_set(
        image_group[first.images],
        text_group[first.texts],
        dataset=whole.dataset,
        split=whole.split,
        towers=whole.towers,
        resolution=whole.resolution,
        lineage=whole.lineage,
        fine_tuned_on=whole.fine_tuned_on,
        frames=whole.frames,
    )
    return replace(
        counted,
        named=name,
        folds=len(folds),
        images=len(folds) * counted.images,
        texts=len(folds) * counted.texts,
    )
