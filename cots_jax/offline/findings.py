# SPDX-License-Identifier: Apache-2.0
"""One set of an offline evaluation: all that is known of a trained folder on it."""

import dataclasses
from collections.abc import Sequence

from cots_jax.image_tokenizer import ImageTokenizer
from cots_jax.offline.labels import Sorters
from cots_jax.offline.levels import check_levels, task_distance
from cots_jax.pretrained import Pretrained
from cots_jax.retrieval.accuracy import Accuracy
from cots_jax.retrieval.breakdown import break_down
from cots_jax.retrieval.breakdown_page import ShownBreakdown
from cots_jax.retrieval.contents import ReadSet
from cots_jax.retrieval.evaluation import Scored, evaluate_set, with_intervals
from cots_jax.retrieval.examples import EvaluatedSet, best_and_worst_examples
from cots_jax.retrieval.leakage import audit
from cots_jax.retrieval.named import evaluate_by
from cots_jax.retrieval.pictures import ExampleSet
from cots_jax.retrieval.protocols import Result
from cots_jax.retrieval.report import LevelCheck


@dataclasses.dataclass(frozen=True)
class Findings:
    """Numbers and what is shown of one set; its vectors are gone."""

    result: Result
    levels: Sequence[LevelCheck]
    zero_shot: Accuracy | None
    linear_probe: Accuracy | None
    breakdown: ShownBreakdown
    examples: Sequence[ExampleSet]
    task_distance: float  # nats
    notes: Sequence[str]


def judge(
    opened: Pretrained,
    read: ReadSet,
    protocol: str,
    sorters: Sorters,
    image_tokenizer: ImageTokenizer | None,
) -> Findings:
    """Embeds a set once and draws everything from its vectors.

    protocol: the name of a published one, or empty. Raises UserError.
    """
    source = read.chosen.table.sources[0]
    trained_on = (*opened.lineage.trained_on, *opened.lineage.fine_tuned_on)
    audited = audit(trained_on, source.folder, source.split, read.contents.digests)
    scored = evaluate_set(
        opened.towers, opened.model, opened.preprocessing, read.chosen, opened.lineage
    )
    result = _named(protocol, scored) if protocol else with_intervals(scored)
    worst = audited.found[0] if audited.found else None
    said = dataclasses.replace(result.protocol, leakage=worst)
    result = dataclasses.replace(result, protocol=said)
    evaluated, images = _evaluated(read, scored), scored.images.features
    probed = sorters.linear_probe(result, images, read)
    return Findings(
        result=result,
        levels=check_levels(opened, image_tokenizer, read.chosen),
        zero_shot=sorters.zero_shot(result, images, read),
        linear_probe=probed,
        breakdown=_breakdown(read, evaluated),
        examples=best_and_worst_examples(evaluated),
        task_distance=task_distance(opened, scored),
        notes=audited.notes(read.where, len(read.contents.digests.picture)),
    )


def _named(protocol: str, scored: Scored) -> Result:
    images, texts = scored.images, scored.texts
    groups = images.group_id, texts.group_id
    return evaluate_by(protocol, scored.result, images.features, texts.features, *groups)


def _breakdown(read: ReadSet, evaluated: EvaluatedSet) -> ShownBreakdown:
    contents, table = read.contents, read.chosen.table
    text_source = [contents.source[row] for row in table.record_of_pair]
    found = break_down(evaluated, contents.source, text_source)
    shown = {group for pair in found.confused for group in (pair.first, pair.second)}
    first = {group: row for group, row in read.first_records().items() if group in shown}
    return ShownBreakdown(
        found,
        {group: contents.captions[row][0] for group, row in first.items()},
        {group: table.record(row).image for group, row in first.items()},
    )


def _evaluated(read: ReadSet, scored: Scored) -> EvaluatedSet:
    table = read.chosen.table
    return EvaluatedSet(
        name=read.chosen.name,
        image_embeddings=scored.images.features,
        text_embeddings=scored.texts.features,
        image_group=scored.images.group_id,
        text_group=scored.texts.group_id,
        ranks=scored.ranks,
        captions=read.captions(),
        picture=lambda row: table.record(row).image,
    )
