# SPDX-License-Identifier: Apache-2.0
"""Whether each level of interaction works on held-out pairs of a trained folder."""

from collections.abc import Iterator

import numpy as np

from cots_jax.batch import Batch
from cots_jax.data.image_tokens import token_facts
from cots_jax.data.pair_table import Source
from cots_jax.data.pipeline import paired_evaluation_batches
from cots_jax.data.tokenizer import text_masking
from cots_jax.image_tokenizer import ImageTokenizer
from cots_jax.objectives.levels import TokenLevel, code_level, retrieval_kl, word_level
from cots_jax.objectives.total import masked_patches
from cots_jax.pretrained import Pretrained
from cots_jax.retrieval.embed import embedded_rows
from cots_jax.retrieval.evaluation import EvaluationSet, Scored
from cots_jax.retrieval.report import LevelCheck


def check_levels(
    opened: Pretrained, image_tokenizer: ImageTokenizer | None, chosen: EvaluationSet
) -> list[LevelCheck]:
    """What is known of the token level on this set; nothing for heads that were not trained.

    image_tokenizer: of the run; None where its codes came with the pictures, or MVM was off. Codes
    belong to one picture, so they are looked at where videos are evaluated with one frame.
    """
    model, heads, name = opened.model, opened.heads(), chosen.name
    vision = model.config.vision

    def batches() -> Iterator[Batch]:
        masked, side, rows = masked_patches(model), vision.side, embedded_rows(chosen.table.frames)
        return paired_evaluation_batches(chosen.table, rows, masked=masked, patch_side=side)

    checks = []
    if "mlm" in model.heads:
        masking = text_masking(opened.tokenizer)
        found = word_level(model, opened.towers, heads, masking, batches())
        checks += _token_checks("masked language modelling", name, found, 0.2)
    has_codes = image_tokenizer is not None or chosen.table.token_facts is not None
    if has_codes and chosen.table.frames == 1:
        tokenize = image_tokenizer.ids if image_tokenizer is not None else None
        found = code_level(model, opened.towers, heads, tokenize, batches())
        checks += _token_checks("masked vision modelling", name, found, 0.1)
    return checks


def task_distance(opened: Pretrained, scored: Scored) -> float:
    """Mean KL in nats between the two retrieval tasks over the pairs of a set.

    Says something beside another run's figure only, so it is a fact and not a check.
    """
    first = _first_captions(scored)
    temperature = opened.temperature()
    return retrieval_kl(scored.images.features, scored.texts.features[first], temperature)


def token_grid(opened: Pretrained, sources: list[Source]) -> int:
    """The grid of the codes beside the pictures; 0 where they are not those of the training."""
    vision = opened.model.config.vision
    wanted = (opened.image_tokens, vision.side, vision.image_size)
    found = [token_facts(source.folder) for source in sources]
    same = [facts and (facts.digest, facts.grid, facts.image_size) == wanted for facts in found]
    return vision.side if all(same) else 0


def _token_checks(level: str, name: str, found: TokenLevel, better_by: float) -> list[LevelCheck]:
    if found.pairs < 2:  # nobody to exchange a feature with
        return []
    bar = (1 - better_by) * found.unigram_entropy
    unigram = f"below {bar:.3f} ({better_by:.0%} under unigram)"
    noise = 3 * found.standard_error
    return [
        LevelCheck(
            f"{level} on {name}",
            found.cross_entropy,
            unigram,
            "cross-entropy at masked positions of held-out pairs, nats a token",
            found.cross_entropy <= bar,
        ),
        LevelCheck(
            f"{level} on {name}: gain from the paired feature",
            found.difference,
            f"above {noise:.3f} (3 standard errors)",
            "how much worse it is when the pair's feature is exchanged for another pair's, nats",
            found.difference > noise,
        ),
    ]


def _first_captions(scored: Scored) -> np.ndarray:
    """The first caption of each picture, in the pictures' order."""
    rows = {int(group): row for row, group in reversed(list(enumerate(scored.texts.group_id)))}
    return np.array([rows[int(group)] for group in scored.images.group_id])
