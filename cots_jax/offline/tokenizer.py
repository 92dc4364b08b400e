# SPDX-License-Identifier: Apache-2.0
"""Offline evaluation of an image tokenizer that was trained here: its codes, error, pictures."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from cots_jax import checkpoint
from cots_jax.config import build_config
from cots_jax.data.pipeline import image_batches
from cots_jax.data.specs import parse_sources
from cots_jax.data.tokenizer import load_tokenizer
from cots_jax.errors import UserError
from cots_jax.image_tokenizer import load_image_tokenizer
from cots_jax.models.dvae import DvaeConfig
from cots_jax.objectives.reconstruction import least_perplexity, most_dead
from cots_jax.objectives.tokenizer_quality import (
    TokenizerQuality,
    reconstructions,
    tokenizer_quality,
)
from cots_jax.retrieval.evaluation import EvaluationSet, open_sets
from cots_jax.retrieval.metrics_log import curves_from_metrics
from cots_jax.retrieval.pictures import PictureRows
from cots_jax.retrieval.protocols import write_results
from cots_jax.retrieval.report import LevelCheck, write_report
from cots_jax.retrieval.stored import REPORT, RESULTS, refuse_foreign
from cots_jax.weights.trained import newest

SHOWN = 12  # pictures a set


def evaluate_tokenizer(folder: Path, data: str, out: Path) -> Sequence[LevelCheck]:
    """Measures the newest checkpoint of a finished dVAE run and writes report.html and results.json
    (without results, with what was measured as `levels`) into `out`.

    data: FOLDER#SPLIT, …; empty: the run's own held-out sets. Raises UserError.
    """
    refuse_foreign(out)
    found = newest(folder)
    config = build_config(checkpoint.read_fact(found.path, "facts")["config"])
    tokenizer = load_image_tokenizer(str(folder))
    if not isinstance(tokenizer.config, DvaeConfig):
        raise UserError(f"{folder} holds no discrete VAE: an encoder alone reconstructs nothing")
    sources = parse_sources(data or config.data.eval, "--data", config.data.prepare)
    if not sources:
        raise UserError("nothing to evaluate on: name it with --data=FOLDER#SPLIT")
    size, length = tokenizer.config.image_size, config.data.text_length
    params = jax.device_put(tokenizer.params)
    checks, pictures = [], []
    words = load_tokenizer(folder / "tokenizer.json")
    with open_sets(sources, words, size=size, length=length) as sets:
        for chosen in sets:
            batches = image_batches(chosen.table, 64)
            quality = tokenizer_quality(tokenizer.config, params, batches)
            checks += _checks(chosen.name, quality, tokenizer.config.codes)
            pictures.append(_pictures(chosen, tokenizer.config, params))
    log = folder / "metrics.jsonl"
    write_report(
        out / REPORT,
        title=config.name,
        summary_facts={
            "model": f"{config.model}, {tokenizer.config.codes} codes, "
            f"{tokenizer.config.grid} x {tokenizer.config.grid} a picture of {size} px",
            "step": f"{found.step} at batch {config.batch}",
            "trained on": ", ".join(tokenizer.lineage),
            "evaluated on": jax.devices()[0].device_kind,
            "command": f"python -m cots_jax.evaluate --workdir={folder}",
        },
        levels=checks,
        curves=curves_from_metrics(log) if log.exists() else (),
        pictures=pictures,
        question="Is it fit for use?",
        answer="fit",
    )
    write_results(out / RESULTS, [], {"levels": [dataclasses.asdict(check) for check in checks]})
    return checks


def _checks(name: str, quality: TokenizerQuality, codes: int) -> list[LevelCheck]:
    least = least_perplexity * codes
    return [
        LevelCheck(
            f"reconstruction error on {name}",
            quality.error,
            f"below {quality.shrunk_error:.5f} (shrunk to the code grid and enlarged)",
            "mean squared difference over pixels and channels in 0..1, held-out pictures",
            quality.error < quality.shrunk_error,
        ),
        LevelCheck(
            f"codebook perplexity on {name}",
            quality.perplexity,
            f"at least {least:.1f} ({least_perplexity:.0%} of {codes})",
            "codes in even use that would be as varied",
            quality.perplexity >= least,
        ),
        LevelCheck(
            f"dead codes on {name}",
            quality.dead_fraction,
            f"at most {most_dead:g}",
            "share of the codes that never occur",
            quality.dead_fraction <= most_dead,
        ),
    ]


def _pictures(chosen: EvaluationSet, config: DvaeConfig, params: object) -> PictureRows:
    table = chosen.table
    rows = np.unique(np.linspace(0, table.records - 1, SHOWN).astype(np.int32))
    made = reconstructions(config, params, jax.numpy.asarray(table.images(rows)))
    shown = {name: [_png(picture) for picture in np.asarray(of)] for name, of in made.items()}
    note = f"{len(rows)} of {table.records:,} held-out pictures, evenly spaced over the set."
    return PictureRows(chosen.name, note, shown)


def _png(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.rint(picture * 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()
