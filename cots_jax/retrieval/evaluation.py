# SPDX-License-Identifier: Apache-2.0
"""Evaluation of two towers on prepared splits; the training loop and `evaluate` call the same."""

import contextlib
import dataclasses
from collections.abc import Generator, Sequence

from cots_jax.data.frames import FrameChoice
from cots_jax.data.pair_table import PairTable, Source
from cots_jax.data.pipeline import image_batches, text_batches
from cots_jax.data.records import has_videos
from cots_jax.data.specs import distinct_names
from cots_jax.data.tokenizer import Tokenizer
from cots_jax.models.two_stream import Params, TwoStream
from cots_jax.processes import WHOLE, this_process
from cots_jax.retrieval.embed import (
    EMBED_BATCH,
    Embedded,
    Preprocessing,
    embed_images,
    embed_texts,
    embedded_rows,
)
from cots_jax.retrieval.intervals import bootstrap
from cots_jax.retrieval.metrics import Ranks, rank_both_ways, summarise
from cots_jax.retrieval.protocols import Result, describe_set, make_result
from cots_jax.switches import Cache


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """A prepared split, opened, under the name that its numbers carry."""

    name: str
    table: PairTable


@dataclasses.dataclass(frozen=True)
class Scored:
    """A set's result with the vectors that it came from, for the report's examples."""

    result: Result
    images: Embedded
    texts: Embedded
    ranks: Ranks


@dataclasses.dataclass(frozen=True)
class Lineage:
    """Where the weights come from; stands beside every number.

    started_from: published weights, whose data is not known here.
    """

    trained_on: tuple[str, ...]
    fine_tuned_on: tuple[str, ...] = ()
    towers: str = "online"
    started_from: tuple[str, ...] = ()


@contextlib.contextmanager
def open_sets(
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    *,
    size: int,
    length: int,
    token_grid: int = 0,
    frames: int = 1,
) -> Generator[list[EvaluationSet]]:
    """Opens prepared splits for evaluation and closes them again; the split is the name.

    frames: of a video; sets of pictures have one whatever it says, as more of them are the same.
    Of several processes each decodes its share when it is asked for, and keeps nothing.
    """
    cache = Cache.AUTO if this_process() == WHOLE else Cache.NONE
    names = distinct_names(sources, [source.split for source in sources])
    with contextlib.ExitStack() as stack:
        yield [
            EvaluationSet(
                name,
                stack.enter_context(
                    PairTable(
                        [source],
                        tokenizer,
                        size=size,
                        length=length,
                        cache=cache,
                        token_grid=token_grid,
                        frames=frames if has_videos(source.folder) else 1,
                        frame_choice=FrameChoice.MIDDLE,
                    )
                ),
            )
            for name, source in zip(names, sources, strict=True)
        ]


def evaluate_set(
    towers: Params,
    model: TwoStream,
    preprocessing: Preprocessing,
    chosen: EvaluationSet,
    lineage: Lineage,
) -> Scored:
    """Embeds the set, ranks both ways and says by which protocol.

    All processes that there are call it together and share the work; the numbers are the same bits
    however many they are.
    """
    table = chosen.table
    share = this_process()
    pictures = image_batches(table, embedded_rows(table.frames), share=share)
    images = embed_images(towers, model, preprocessing, pictures, share)
    texts = embed_texts(towers, model, text_batches(table, EMBED_BATCH, share=share), share)
    groups = images.group_id, texts.group_id
    ranks = rank_both_ways(images.features, texts.features, *groups, share=share)
    protocol = describe_set(
        images.group_id,
        texts.group_id,
        dataset=table.sources[0].folder,
        split=table.sources[0].split,
        towers=lineage.towers,
        resolution=preprocessing.size,
        lineage=lineage.trained_on,
        fine_tuned_on=lineage.fine_tuned_on,
        frames=table.frames if has_videos(table.sources[0].folder) else None,
    )
    result = make_result(chosen.name, protocol, summarise(ranks))
    return Scored(result, images, texts, ranks)


def with_intervals(scored: Scored) -> Result:
    """The result with what other queries could have given."""
    ends = bootstrap(scored.ranks, scored.images.group_id, scored.texts.group_id)
    return dataclasses.replace(scored.result, interval_95=ends)


def flat(result: Result) -> dict[str, float]:
    """`recall/NAME/DIRECTION/r1` and so on, for logs."""
    directions = {"image_to_text": result.image_to_text, "text_to_image": result.text_to_image}
    flat = {
        f"recall/{result.name}/{direction}/{key}": float(getattr(recall, key))
        for direction, recall in directions.items()
        for key in ("r1", "r5", "r10", "median_rank")
    }
    return flat | {f"recall/{result.name}/rsum": float(result.rsum)}
