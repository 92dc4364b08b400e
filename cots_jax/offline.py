# SPDX-License-Identifier: Apache-2.0
"""Offline evaluation of a trained folder: numbers with their protocol, levels, examples, report."""

import dataclasses
import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cots_jax.batch import Batch
from cots_jax.data.image_tokens import token_facts
from cots_jax.data.pipeline import Source, paired_evaluation_batches
from cots_jax.data.records import read_facts
from cots_jax.data.specs import parse_sources
from cots_jax.data.tokenizer import text_masking
from cots_jax.errors import UserError
from cots_jax.image_tokenizer import ImageTokenizer, load_frozen
from cots_jax.objectives.levels import TokenLevel, code_level, retrieval_kl, word_level
from cots_jax.objectives.total import masked_patches
from cots_jax.offline_tokenizer import evaluate_tokenizer
from cots_jax.pretrained import Pretrained, read_config
from cots_jax.retrieval.embed import embedded_rows
from cots_jax.retrieval.embeddings_io import Embeddings
from cots_jax.retrieval.evaluation import (
    EvaluationSet,
    Scored,
    evaluate_set,
    open_sets,
    with_intervals,
)
from cots_jax.retrieval.examples import EvaluatedSet, best_and_worst_examples
from cots_jax.retrieval.intervals import bootstrap
from cots_jax.retrieval.metrics import rank_both_ways, summarise
from cots_jax.retrieval.metrics_log import curves_from_metrics
from cots_jax.retrieval.named import evaluate_by, named_protocol
from cots_jax.retrieval.pictures import ExampleSet
from cots_jax.retrieval.protocols import Result, describe_set, make_result, write_results
from cots_jax.retrieval.report import LevelCheck, write_report
from cots_jax.retrieval.stored import (
    REPORT,
    RESULTS,
    Stored,
    refuse_foreign,
    store,
    stored,
)
from cots_jax.switches import Switch, Task

MOST_FRAMES = 1024


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found, and the file to look at."""

    results: Sequence[Result]
    levels: Sequence[LevelCheck]
    file: Path
    before: str = ""  # what was found evaluated already; empty: it was done now

    def notes(self) -> list[str]:
        """What to say beside the table."""
        checks = [f"{'ok ' if c.alive else 'NOT'} {c.name}: {c.value}" for c in self.levels]
        return [f"already evaluated: {self.before}", *checks] if self.before else checks


def evaluate_folder(
    folder: Path,
    data: str = "",
    out: Path | None = None,
    again: Switch = Switch.OFF,
    protocol: str = "",
    frames: int = 0,
) -> Evaluation:
    """Evaluates the newest good checkpoint on `data` (FOLDER#SPLIT, …), by default on its own sets.

    protocol: the name of a published one (retrieval/named.py); the sets must be what it says.
    frames: of a video; 0: as many as the training looked at.

    Writes report.html and results.json into `out` (default: the folder), unless they are there
    already, made from the same checkpoint and data. A folder with an image tokenizer is evaluated
    as one. Raises UserError.
    """
    out = out or folder
    refuse_foreign(out)
    if protocol:
        named_protocol(protocol)
    config = read_config(folder)
    if config is not None and config.task is Task.DVAE:
        return Evaluation([], evaluate_tokenizer(folder, data, out), out / REPORT)
    opened = Pretrained.load(folder)
    sources = _sources(opened, data)
    if not 0 <= frames <= MOST_FRAMES:
        raise UserError(f"--frames={frames}: take 1 to {MOST_FRAMES} frames of a video")
    asked = {"protocol": protocol, "frames": frames}
    made_from = _made_from(opened, sources) | {key: x for key, x in asked.items() if x}
    found = None if again is Switch.ON else stored(out, made_from)
    before = f"{folder} at step {opened.step} (--again evaluates once more)" if found else ""
    if found is None:
        frames = frames or opened.config.data.frames
        found = _evaluate(folder, opened, sources, out / REPORT, protocol, frames)
        store(out, found, made_from)
    return Evaluation(found.results, found.levels, out / REPORT, before)


def _made_from(opened: Pretrained, sources: list[Source]) -> dict[str, Any]:
    """All that the numbers depend on but the machine."""
    try:
        version = importlib.metadata.version("cots_jax")
    except importlib.metadata.PackageNotFoundError:  # run from a copy that was not installed
        version = "unknown"
    prints = [f"{s.folder}#{s.split} {read_facts(s.folder)['fingerprint']}" for s in sources]
    return {"version": version, "data": prints, **opened.identity()}


def _evaluate(
    folder: Path,
    opened: Pretrained,
    sources: list[Source],
    report: Path,
    protocol: str,
    frames: int,
) -> Stored:
    size, length = opened.preprocessing.size, opened.config.data.text_length
    results, levels, examples, distances = [], [], [], {}
    image_tokenizer = load_frozen(folder) if "mvm" in opened.model.heads else None
    grid = _token_grid(opened, sources)
    opening = open_sets(
        sources, opened.tokenizer, size=size, length=length, token_grid=grid, frames=frames
    )
    with opening as sets:
        for chosen in sets:
            scored = evaluate_set(
                opened.towers, opened.model, opened.preprocessing, chosen, opened.lineage
            )
            results.append(_named(protocol, scored) if protocol else with_intervals(scored))
            levels += check_levels(opened, image_tokenizer, chosen)
            examples += _examples(chosen, scored)
            distances[chosen.name] = task_distance(opened, scored)
    log = folder / "metrics.jsonl"
    write_report(
        report,
        title=opened.config.name,
        summary_facts=_facts(opened, folder) | {"KL of the two tasks": _distances(distances)},
        results=results,
        curves=curves_from_metrics(log) if log.exists() else (),
        examples=examples,
        levels=levels,
    )
    return Stored(results, levels)


def _named(protocol: str, scored: Scored) -> Result:
    images, texts = scored.images, scored.texts
    groups = images.group_id, texts.group_id
    return evaluate_by(protocol, scored.result, images.features, texts.features, *groups)


def evaluate_embeddings(given: Embeddings, name: str, out: Path, protocol: str = "") -> Evaluation:
    """Scores anybody's vectors by the same protocol; writes results.json into `out`."""
    refuse_foreign(out)
    ranks = rank_both_ways(given.image, given.text, given.image_group, given.text_group)
    as_it_is = describe_set(
        given.image_group,
        given.text_group,
        dataset=name,
        split="given",
        towers="given",
        resolution=0,
    )
    ends = bootstrap(ranks, given.image_group, given.text_group)
    result = make_result(name, as_it_is, summarise(ranks), ends)
    if protocol:
        groups = given.image_group, given.text_group
        result = evaluate_by(protocol, result, given.image, given.text, *groups)
    results = [result]
    write_results(out / RESULTS, results)
    return Evaluation(results, [], out / RESULTS)


def _token_grid(opened: Pretrained, sources: list[Source]) -> int:
    """The grid of the codes beside the pictures; 0 where they are not those of the training."""
    vision = opened.model.config.vision
    wanted = (opened.image_tokens, vision.side, vision.image_size)
    found = [token_facts(source.folder) for source in sources]
    same = [facts and (facts.digest, facts.grid, facts.image_size) == wanted for facts in found]
    return vision.side if all(same) else 0


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


def _distances(distances: dict[str, float]) -> str:
    parts = [f"{name} {value:.3f}" for name, value in distances.items()]
    return ", ".join(parts) + " nats; lower is closer"


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


def _examples(chosen: EvaluationSet, scored: Scored) -> list[ExampleSet]:
    table = chosen.table
    captions = [
        table.record(int(table.record_of_pair[pair])).captions[int(table.caption_of_pair[pair])]
        for pair in range(table.pairs)
    ]
    return best_and_worst_examples(
        EvaluatedSet(
            name=chosen.name,
            image_embeddings=scored.images.features,
            text_embeddings=scored.texts.features,
            image_group=scored.images.group_id,
            text_group=scored.texts.group_id,
            ranks=scored.ranks,
            captions=captions,
            picture=lambda row: table.record(row).image,
        )
    )


def _sources(opened: Pretrained, data: str) -> list[Source]:
    config = opened.config.data
    named = data or ",".join(filter(None, (config.test, config.eval)))
    sources = parse_sources(named, "--data", config.prepare)
    if not sources:
        raise UserError("nothing to evaluate on: name it with --data=FOLDER#SPLIT")
    return sources


def _facts(opened: Pretrained, folder: Path) -> dict[str, str]:
    config = opened.config
    parameters = sum(leaf.size for leaf in jax.tree.leaves(opened.towers))
    return {
        "model": f"{config.model}, {parameters:,} parameters in the towers",
        "step": f"{opened.step} at batch {config.batch}",
        "trained on": ", ".join(opened.lineage.trained_on),
        "hardware row": config.hardware.row,
        "evaluated on": jax.devices()[0].device_kind,
        "command": f"python -m cots_jax.evaluate --workdir={folder}",
    }
