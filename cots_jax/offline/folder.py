# SPDX-License-Identifier: Apache-2.0
"""Offline evaluation of a trained folder: numbers with their protocol, levels, examples, report."""

import dataclasses
import importlib.metadata
import shlex
from pathlib import Path
from typing import Any

import jax

from cots_jax.data.pair_table import Source
from cots_jax.data.records import read_facts
from cots_jax.data.specs import parse_sources
from cots_jax.errors import UserError
from cots_jax.image_tokenizer import load_frozen
from cots_jax.offline.findings import judge
from cots_jax.offline.flags import LABELLING
from cots_jax.offline.labels import Labelling, Sorters
from cots_jax.offline.levels import token_grid
from cots_jax.offline.tokenizer import evaluate_tokenizer
from cots_jax.pretrained import Pretrained, read_config
from cots_jax.processes import is_first, this_process
from cots_jax.retrieval.accuracy import accuracy_table
from cots_jax.retrieval.accuracy_page import draw_accuracies
from cots_jax.retrieval.breakdown_page import draw_breakdowns
from cots_jax.retrieval.contents import ReadSet, contents_of
from cots_jax.retrieval.embeddings_io import Embeddings
from cots_jax.retrieval.evaluation import open_sets
from cots_jax.retrieval.intervals import bootstrap
from cots_jax.retrieval.metrics import rank_both_ways, summarise
from cots_jax.retrieval.metrics_log import curves_from_metrics
from cots_jax.retrieval.named import evaluate_by, named_protocol
from cots_jax.retrieval.protocols import (
    describe_set,
    make_result,
    results_json,
    table,
    write_results,
)
from cots_jax.retrieval.report import write_report
from cots_jax.retrieval.stored import (
    REPORT,
    RESULTS,
    Stored,
    beside_results,
    refuse_foreign,
    store,
    stored,
)
from cots_jax.switches import Switch, Task

MOST_FRAMES = 1024


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a trained folder; the flags of `evaluate` under their names."""

    data: str = ""  # FOLDER#SPLIT, …; empty: its own sets
    out: Path | None = None  # None: the folder itself
    again: Switch = Switch.OFF
    protocol: str = ""  # the name of a published one; the sets must be what it says
    frames: int = 0  # of a video; 0: as many as the training looked at
    classes: Path | None = None  # a file of classes, for zero-shot classification
    prompts: Path | None = None  # a file of templates for them
    probe: str = ""  # FOLDER#SPLIT to train a linear probe on


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found, and the file to look at."""

    found: Stored
    file: Path
    before: str = ""  # what was found evaluated already; empty: it was done now

    def notes(self) -> list[str]:
        """What to say beside the tables."""
        levels = self.found.levels
        checks = [f"{'ok ' if c.alive else 'NOT'} {c.name}: {c.value}" for c in levels]
        notes = [*checks, *self.found.notes]
        return [f"already evaluated: {self.before}", *notes] if self.before else notes

    def tables(self) -> str:
        """For the terminal; empty of an image tokenizer, which has notes only."""
        parts = {
            "zero-shot": self.found.zero_shot,
            "linear probe": self.found.linear_probe,
        }
        drawn = [table(self.found.results)] if self.found.results else []
        drawn += [accuracy_table(title, part) for title, part in parts.items() if part]
        return "\n\n".join(drawn)

    def json(self) -> dict[str, Any]:
        """What results.json holds of the numbers."""
        return results_json(self.found.results) | beside_results(self.found)


def evaluate_folder(folder: Path, request: Request) -> Evaluation:
    """Evaluates the newest good checkpoint of a folder.

    Writes report.html and results.json into `request.out`, unless they are there already, made from
    the same checkpoint, data and classes. A folder with an image tokenizer is evaluated as one.
    Several processes share the work, and the first one writes. Raises UserError.
    """
    out = request.out or folder
    refuse_foreign(out)
    if request.protocol:
        named_protocol(request.protocol)
    if not 0 <= request.frames <= MOST_FRAMES:
        raise UserError(f"--frames={request.frames}: take 1 to {MOST_FRAMES} frames of a video")
    asked = Labelling.read(request.classes, request.prompts, request.probe)
    config = read_config(folder)
    if config is not None and config.task is Task.DVAE:
        if asked != Labelling():
            raise UserError(f"{folder} holds an image tokenizer: it sorts nothing into classes")
        found = Stored([], evaluate_tokenizer(folder, request.data, out) if is_first() else [])
        return Evaluation(found, out / REPORT)
    opened = Pretrained.load(folder)
    sources = _sources(opened, request.data)
    made_from = _made_from(opened, sources) | asked.identity()
    named = {"protocol": request.protocol, "frames": request.frames}
    made_from |= {key: value for key, value in named.items() if value}
    before = None if request.again is Switch.ON else stored(out, made_from)
    if before is not None:
        said = f"{folder} at step {opened.step} (--again evaluates once more)"
        return Evaluation(before, out / REPORT, said)
    found = _evaluate(folder, opened, sources, request, asked)
    if is_first():
        store(out, found, made_from)
    return Evaluation(found, out / REPORT)


def _made_from(opened: Pretrained, sources: list[Source]) -> dict[str, Any]:
    """All that the numbers depend on but the machine."""
    try:
        version = importlib.metadata.version("cots_jax")
    except importlib.metadata.PackageNotFoundError:  # run from a copy that was not installed
        version = "unknown"
    prints = [f"{s.folder}#{s.split} {read_facts(s.folder)['fingerprint']}" for s in sources]
    return {"version": version, "data": prints, **opened.identity()}


def _evaluate(
    folder: Path, opened: Pretrained, sources: list[Source], request: Request, asked: Labelling
) -> Stored:
    """Scores every set and writes the report; of each set only what is shown is kept."""
    size, length = opened.preprocessing.size, opened.config.data.text_length
    image_tokenizer = load_frozen(folder) if "mvm" in opened.model.heads else None
    grid = token_grid(opened, sources)
    frames = request.frames or opened.config.data.frames
    opening = open_sets(
        sources, opened.tokenizer, size=size, length=length, token_grid=grid, frames=frames
    )
    with opening as sets:
        read = [ReadSet(chosen, contents_of(chosen.table)) for chosen in sets]
        sorters = Sorters.make(opened, asked, read)
        found = [judge(opened, one, request.protocol, sorters, image_tokenizer) for one in read]
    together = Stored(
        results=[one.result for one in found],
        levels=[level for one in found for level in one.levels],
        zero_shot=[one.zero_shot for one in found if one.zero_shot],
        linear_probe=[one.linear_probe for one in found if one.linear_probe],
        breakdown=[one.breakdown.row() for one in found],
        notes=[note for one in found for note in one.notes],
    )
    if not is_first():
        return together
    log = folder / "metrics.jsonl"
    distances = ", ".join(f"{one.result.name} {one.task_distance:.3f}" for one in found)
    facts = {"KL of the two tasks": f"{distances} nats; lower is closer"}
    write_report(
        (request.out or folder) / REPORT,
        title=opened.config.name,
        summary_facts=_facts(opened, folder, request) | facts,
        results=together.results,
        sections={
            "Zero-shot classification": draw_accuracies(together.zero_shot),
            "Linear probe": draw_accuracies(together.linear_probe),
            "Breakdown": draw_breakdowns([one.breakdown for one in found]),
        },
        curves=curves_from_metrics(log) if log.exists() else (),
        examples=[example for one in found for example in one.examples],
        levels=together.levels,
    )
    return together


def evaluate_embeddings(given: Embeddings, name: str, out: Path, protocol: str = "") -> Evaluation:
    """Scores anybody's vectors by the same protocol; writes results.json into `out`."""
    refuse_foreign(out)
    groups = given.image_group, given.text_group
    ranks = rank_both_ways(given.image, given.text, *groups, share=this_process())
    as_it_is = describe_set(
        *groups,
        dataset=name,
        split="given",
        towers="given",
        resolution=0,
    )
    ends = bootstrap(ranks, *groups)
    result = make_result(name, as_it_is, summarise(ranks), ends)
    if protocol:
        result = evaluate_by(protocol, result, given.image, given.text, *groups)
    if is_first():
        write_results(out / RESULTS, [result])
    return Evaluation(Stored([result], []), out / RESULTS)


def _sources(opened: Pretrained, data: str) -> list[Source]:
    config = opened.config.data
    named = data or ",".join(filter(None, (config.test, config.eval)))
    sources = parse_sources(named, "--data", config.prepare)
    if not sources:
        raise UserError("nothing to evaluate on: name it with --data=FOLDER#SPLIT")
    return sources


def _command(folder: Path, request: Request) -> str:
    given = {name: getattr(request, name) for name in ("data", "protocol", "frames", *LABELLING)}
    flags = {"workdir": folder} | {name: value for name, value in given.items() if value}
    said = (shlex.quote(f"--{name}={value}") for name, value in flags.items())
    return " ".join(["python -m cots_jax.evaluate", *said])


def _facts(opened: Pretrained, folder: Path, request: Request) -> dict[str, str]:
    config = opened.config
    parameters = sum(leaf.size for leaf in jax.tree.leaves(opened.towers))
    return {
        "model": f"{config.model}, {parameters:,} parameters in the towers",
        "step": f"{opened.step} at batch {config.batch}",
        "trained on": ", ".join(opened.lineage.trained_on),
        "hardware row": config.hardware.row,
        "evaluated on": jax.devices()[0].device_kind,
        "command": _command(folder, request),
    }
