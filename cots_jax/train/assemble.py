# SPDX-License-Identifier: Apache-2.0
"""From a config to a task on a mesh: opens data and tokenizers, checks that all of it fits."""

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from cots_jax.data.pair_table import PairTable, Source
from cots_jax.data.records import open_split, read_facts
from cots_jax.data.specs import (
    TRAINING,
    lineage_of,
    parse_sources,
    read_sources,
    same_sources,
)
from cots_jax.data.tokenizer import Tokenizer, load_tokenizer, train_wordpiece
from cots_jax.errors import UserError, nearest
from cots_jax.files import write_whole
from cots_jax.image_tokenizer import (
    ImageTokenizer,
    load_frozen,
    load_image_tokenizer,
    save_frozen,
)
from cots_jax.models.dvae import DvaeConfig
from cots_jax.models.two_stream import SIZES
from cots_jax.pretrained import read_config
from cots_jax.processes import first_says, is_first
from cots_jax.retrieval.evaluation import Lineage, open_sets
from cots_jax.schedule import Clockwork, schedule_values
from cots_jax.schema import OF_THE_RUN, Config
from cots_jax.switches import Task
from cots_jax.train.cots import CotsTask
from cots_jax.train.dvae import DvaeTask
from cots_jax.train.mirror import Mirror, NoMirror, Say
from cots_jax.weights.own import read_origin

DVAES = {
    "dvae-32-8": DvaeConfig(32, 8, codes=128, layers=1, encoder_reach=1),
    "dvae-64-16": DvaeConfig(64, 16, codes=512, layers=1, encoder_reach=1),
    "dvae-96-16": DvaeConfig(96, 16, codes=512, layers=1, encoder_reach=1),
    "dvae-16-8": DvaeConfig(image_size=16, patch=8, codes=16, code_dim=8, width=32, layers=1),
}

# May differ from the config that made a workdir: what changes the parameters by rounding at most.
FREE = frozenset(
    [
        *("log_every", "checkpoint_every", "evaluate_every", "diagnose_every", "keep", "keep_best"),
        *("keep_every", "stalled_after", "mirror"),
        "image_tokenizer_config",
        *(f"data.{key}" for key in ("threads", "cache", "test", "eval", "prepare")),
        *(f"hardware.{key}" for key in ("row", "chips", "fsdp", "tensor", "accumulate")),
        *(f"hardware.{key}" for key in ("scan", "remat", "attention", "tokenizer_pieces")),
    ]
)
PRECISION = "hardware.precision"
SOURCES = "data.train"  # may have other weights, and more sources behind those it had
ORIGIN = "origin.json"  # what the run that this one started from was trained on


@contextlib.contextmanager
def claimed(workdir: Path, config: Config, say: Say) -> Generator[Mirror | NoMirror]:
    """Sees that the workdir is empty or of the same config, and that no second run is in it.

    Gives the run's copy elsewhere, after what is newer there has come back. Of several processes,
    the first one does so for all.
    """
    if not is_first():
        yield NoMirror()
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("a")
    except OSError as error:
        raise UserError(
            f"cannot write in {workdir} ({error.strerror}): choose another --workdir"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another run works in {workdir}: wait for it, or choose another --workdir"
            ) from None
        before = read_config(workdir)
        if before is not None:
            _same_run(before, config, workdir)
        elif not all(path.name.startswith(".") for path in workdir.iterdir()):
            raise UserError(
                f"{workdir} holds files and no config.json, so no run of ours: choose another "
                "--workdir"
            )
        mirror = Mirror(workdir, config.mirror) if config.mirror else NoMirror()
        mirror.fetch(lambda found: _same_run(found, config, config.mirror), say)
        yield mirror


def _same_run(before: Config, config: Config, workdir: Path | str) -> None:
    old, new = _flat(before.to_dict()), _flat(config.to_dict())
    keys = [key for key in old if old[key] != new[key] and key not in FREE]
    if SOURCES in keys:
        if not same_sources(old[SOURCES], new[SOURCES]):
            raise UserError(
                f"{workdir} was begun with {TRAINING} = {old[SOURCES]!r}, and here is "
                f"{new[SOURCES]!r}: give its sources in the same order, with other weights if you "
                "like (FOLDER#SPLIT*0 leaves one out) and more of them behind; or choose another "
                "--workdir"
            )
        keys.remove(SOURCES)
    if keys == [PRECISION]:
        raise UserError(
            f"{workdir} was trained in {old[PRECISION]} on hardware row {old['hardware.row']}, and "
            f"row {new['hardware.row']} has {new[PRECISION]}: go on in the same by "
            f"--config.{PRECISION}={old[PRECISION]}, or by naming a row that has it, e.g. "
            f"--config=FILE:{old['hardware.row'].partition('-')[0]}; or choose another --workdir"
        )
    if keys:
        differing = [f"{key}: {old[key]!r} then, {new[key]!r} now" for key in keys]
        raise UserError(
            f"{workdir} was made with another config ({'; '.join(differing[:5])}): choose another "
            "--workdir, or use the config that made it"
        )


def same_origin(before: Mapping[str, Any], now: Mapping[str, Any], workdir: Path) -> None:
    """Sees that data and tokenizer are those of a checkpoint. Both arguments are a task's facts.

    Raises UserError where a run would go on from other rows, or from other words for its ids.
    """
    old, new = ((*f["lineage"], *f.get("fine_tuned_on", ())) for f in (before, now))
    if new[: len(old)] != old:  # sources may have come behind
        raise UserError(
            f"{workdir} was trained on {', '.join(old)}, and here are "
            f"{', '.join(new)} (folder, split, fingerprint of the rows): bring the data "
            "back, or choose another --workdir"
        )
    if before.get("image_tokens", "") != now.get("image_tokens", ""):
        raise UserError(
            f"the image tokens beside the data are not those that {workdir} was trained with: make "
            "them again with the same tokenizer, or choose another --workdir"
        )
    if before.get("tokenizer") != now.get("tokenizer"):
        raise UserError(
            f"{workdir}/tokenizer.json is not the one that the checkpoints there were trained "
            "with: bring it back from a copy, remove it to have it made again, or choose another "
            "--workdir"
        )


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return flat


@contextlib.contextmanager
def assembled(config: Config, workdir: Path, mesh: Mesh) -> Generator[CotsTask | DvaeTask]:
    """The task of a config with its data open.

    Raises UserError before anything is trained, and before the workdir is bound to the config.
    """
    data = config.data
    train = parse_sources(data.train, TRAINING, data.prepare)
    if not train:
        raise UserError(f"{TRAINING} names nothing to train on: write FOLDER#SPLIT")
    held_out = parse_sources(data.eval, "config.data.eval", data.prepare)
    prints = [read_facts(source.folder)["fingerprint"] for source in train]
    size, length, grid = _image_size(config), data.text_length, _token_grid(config)
    with contextlib.ExitStack() as stack:
        begun = first_says((workdir / "config.json").exists())
        tokenizer = _tokenizer(config, workdir, train)
        table = stack.enter_context(
            PairTable(
                train,
                tokenizer,
                size=size,
                length=length,
                cache=data.cache,
                token_grid=grid,
                frames=data.frames,
            )
        )
        sets = stack.enter_context(
            open_sets(held_out, tokenizer, size=size, length=length, frames=data.frames)
        )
        clock = Clockwork(config.batch, _pairs_of_an_epoch(table, workdir))
        total = clock.steps(config.duration, "config.duration")
        if total < 1:
            raise UserError(
                f"config.duration = {config.duration!r} is no step at all: make it longer"
            )
        clock = dataclasses.replace(clock, total_steps=total)
        lineage = lineage_of(train, prints)
        before = _before(config, workdir)
        image_tokenizer = _image_tokenizer(config, workdir)
        if config.task is Task.DVAE:
            task = DvaeTask(config, clock, mesh, table, DVAES[config.model], sets, lineage)
        else:
            chain = _chain(config, before, lineage)
            task = CotsTask(config, clock, mesh, table, tokenizer, image_tokenizer, sets, chain)
            if not begun:
                _ = task.initial  # read now, so that what does not fit is found before all else
        _bind(workdir, config, tokenizer, image_tokenizer)
        if before is not None and is_first() and not (workdir / ORIGIN).exists():
            note = dataclasses.asdict(before)
            del note["towers"]
            write_whole(workdir / ORIGIN, json.dumps(note, indent=1) + "\n")
        yield task


def _pairs_of_an_epoch(table: PairTable, workdir: Path) -> int:
    """Those of all sources that the run was begun with, so that no time moves for more of them."""
    begun = read_config(workdir)
    sources = read_sources(begun.data.train, TRAINING) if begun else table.sources
    return sum(table.pairs_of_source[: len(sources)])


def _before(config: Config, workdir: Path) -> Lineage | None:
    """What the run that this one starts from was trained on; by our own note once there is one."""
    if not config.init_from.run:
        return None
    note = workdir / ORIGIN
    if not first_says(note.exists()):
        origin = read_origin(config.init_from.run)
        return Lineage(origin.trained_on, origin.fine_tuned_on, started_from=origin.started_from)
    try:
        known = json.loads(note.read_text("utf-8"))
        trained_on, fine_tuned_on = tuple(known["trained_on"]), tuple(known["fine_tuned_on"])
        return Lineage(trained_on, fine_tuned_on, started_from=tuple(known.get("started_from", ())))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{note} cannot be read ({error}): choose another --workdir") from error


def _chain(config: Config, before: Lineage | None, lineage: tuple[str, ...]) -> Lineage:
    """Of this run: what its towers began with, and all rows that they have seen."""
    if before is not None:
        rows = (*before.fine_tuned_on, *lineage)
        return dataclasses.replace(before, fine_tuned_on=rows)
    published = dict.fromkeys(filter(None, (config.init_from.image, config.init_from.text)))
    return Lineage(lineage, started_from=tuple(published))


def _bind(
    workdir: Path, config: Config, tokenizer: Tokenizer, image_tokenizer: ImageTokenizer | None
) -> None:
    """Writes what a first start has found; config.json first, since the others follow from it."""
    if is_first() and not (workdir / "config.json").exists():
        write_whole(workdir / "config.json", json.dumps(config.to_dict(), indent=1) + "\n")
    if is_first() and not (workdir / "tokenizer.json").exists():
        tokenizer.save(workdir / "tokenizer.json")
    if image_tokenizer is not None and load_frozen(workdir) is None:
        save_frozen(workdir, image_tokenizer)


def _image_size(config: Config) -> int:
    known: dict[str, Any] = DVAES if config.task is Task.DVAE else SIZES
    if config.model not in known:
        raise UserError(f"unknown model {config.model!r}; {nearest(config.model, known, 'models')}")
    model = known[config.model]
    return model.image_size if config.task is Task.DVAE else model.vision.image_size


def _token_grid(config: Config) -> int:
    """The grid of image tokens that may be there ahead of time; 0 where none are wanted."""
    if config.task is Task.DVAE or config.image_tokenizer:
        return 0
    wanted = any(schedule_values(config.method.weight_mvm, "config.method.weight_mvm"))
    return SIZES[config.model].vision.side if wanted else 0


def _tokenizer(config: Config, workdir: Path, train: list[Source]) -> Tokenizer:
    """The run's own tokenizer; at its first start that which the config names."""
    file = workdir / "tokenizer.json"
    if first_says(file.exists()):
        return load_tokenizer(file)
    if config.data.tokenizer == OF_THE_RUN:
        return read_origin(config.init_from.run).tokenizer
    name, _, size = config.data.tokenizer.partition(":")
    if name == "captions":
        if not size.isdigit():
            raise UserError(
                f"config.data.tokenizer = {config.data.tokenizer!r}: write captions:SIZE"
            )
        return train_wordpiece(_captions(train), int(size))
    return load_tokenizer(config.data.tokenizer)


def _captions(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        with contextlib.closing(open_split(source.folder, source.split)) as split:
            for row in range(len(split)):
                yield from split.record(row).captions


def _image_tokenizer(config: Config, workdir: Path) -> ImageTokenizer | None:
    """The run's own copy of its image tokenizer; at its first start that which the config names."""
    if config.task is Task.DVAE or not config.image_tokenizer:
        return None
    grid = SIZES[config.model].vision.side
    return load_frozen(workdir) or load_image_tokenizer(
        config.image_tokenizer, config.image_tokenizer_config, grid, config.hardware.precision
    )
