# SPDX-License-Identifier: Apache-2.0
"""Pytrees and JSON facts to disk and back, so that no damage passes unseen.

A checkpoint is `folder/STEP/`: one Orbax item a tree, one JSON file a fact, and `manifest.json`
with the size and SHA-256 of every file. It is written in `STEP.saving` and takes its name last,
so that a save killed at any moment leaves either the whole checkpoint or none. Orbax restores
flipped bytes without a word, therefore everything is checked against the manifest before use.
Other names in the folder: `STEP.replaced` (being exchanged for a newer save of the same step; still
good), `STEP.deleted` (on its way out), `STEP.aside` (of a later step than the run went on from).
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from cots_jax import manifest
from cots_jax.errors import UserError

FOLDER = "checkpoints"  # within a training folder
BEST = "best"  # beside it: towers and heads of the step with the best held-out recall
CLAIM = re.compile(r"(\d+)(\.replaced)?")  # names of folders that may hold a whole checkpoint


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which checkpoints outlive a save: the newest few, and the best by the caller's measure."""

    last: int = 3
    best: int | None = None  # its step

    def __post_init__(self) -> None:
        if self.last < 1:
            raise UserError(f"keep.last = {self.last} keeps nothing: use 1 or more")


@dataclasses.dataclass(frozen=True)
class Damage:
    """A checkpoint that may not be used, and why."""

    step: int
    path: Path
    reason: str


@dataclasses.dataclass(frozen=True)
class Found:
    """The newest good checkpoint, with the newer ones that had to be passed over."""

    step: int
    path: Path
    damaged: tuple[Damage, ...] = ()


# ---------------------------------------------------------------- save


def save(
    folder: Path,
    step: int,
    trees: Mapping[str, PyTree],
    facts: Mapping[str, object],
    *,
    keep: Keep,
) -> Path:
    """Writes `folder/step` and deletes what `keep` does not name; returns when it is on the disk.

    trees: arrays, sharded ones too, scalars, None and empty containers; typed PRNG keys are not
        taken. Every process calls with its shards, on a folder that all of them see.
    facts: values that JSON holds exactly; NaN is a ValueError.
    A checkpoint of the same step is exchanged. Those of later steps, left by a run that was since
    resumed from before them, are renamed to `STEP.aside`.
    Raises UserError when the disk refuses; the checkpoints that were there stay as they are.
    """
    documents = {name: json.dumps(value, allow_nan=False) for name, value in facts.items()}
    storable = {name: jax.tree.map(_storable, tree) for name, tree in trees.items()}
    staging = folder / f"{step}.saving"
    with _refusals_explained(folder, step):
        if jax.process_index() == 0:
            _clean(folder)
            staging.mkdir(parents=True)
        _barrier(f"checkpoint {step} folder")
        with _orbax() as orbax:
            for name, tree in storable.items():
                orbax.save(staging.absolute() / name, args=ocp.args.PyTreeSave({"tree": tree}))
        if jax.process_index() == 0:
            for name, document in documents.items():
                (staging / f"{name}.json").write_text(document + "\n", encoding="utf-8")
            manifest.write(staging, {"step": step})
            _publish(staging, folder / str(step))
            _retire(folder, step, keep)
        _barrier(f"checkpoint {step} done")
    return folder / str(step)


def _storable(leaf: Any) -> Any:
    """Orbax takes no NumPy scalars, and no arrays without elements (nothing to store)."""
    array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    return array if array.size else None


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def _orbax() -> Iterator[ocp.Checkpointer]:
    """An Orbax checkpointer that keeps its notes to itself; its errors are raised all the same."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.FATAL)
    handler = ocp.PyTreeCheckpointHandler()
    try:
        with _nothing_left_running(), ocp.Checkpointer(handler) as checkpointer:
            yield checkpointer
    finally:
        absl.logging.set_verbosity(verbosity)


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that lets what it has begun end before it closes."""

    def close(self) -> None:
        if not self.is_closed():
            self.run_until_complete(_all_done())
        super().close()


async def _all_done() -> None:
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.gather(*others, return_exceptions=True)


@contextlib.contextmanager
def _nothing_left_running() -> Iterator[None]:
    """Waits for all of Orbax's writes, also where one of them was refused.

    Orbax raises the first refusal and closes its event loops, each in a thread, while TensorStore
    goes on writing: into a folder that we then remove, and with a traceback for each write that
    finds its loop closed.
    """
    before = asyncio.new_event_loop
    asyncio.new_event_loop = _PatientLoop
    try:
        yield
    finally:
        for thread in threading.enumerate():
            if type(thread).__module__.startswith("orbax."):
                threading.Thread.join(thread)  # its own `join` would raise once more
        asyncio.new_event_loop = before


@contextlib.contextmanager
def _refusals_explained(folder: Path, step: int) -> Iterator[None]:
    """Turns a refusal of the disk, TensorStore's kind included, into a UserError."""
    try:
        yield
    except Exception as error:
        reason = _refusal(error)
        if reason is None:
            raise
        shutil.rmtree(folder / f"{step}.saving", ignore_errors=True)
        raise UserError(
            f"cannot save step {step} in {folder}: {reason} ({_left(folder)}); make room or make "
            "it writable, then start again"
        ) from error


def _refusal(error: Exception) -> str | None:
    """What the operating system said, through Python or TensorStore; None for other errors."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else None


def _left(folder: Path) -> str:
    """What a failed save has left: room on the disk, and the last checkpoint."""
    try:
        free = shutil.disk_usage(folder).free / 1e9
        steps = [candidate.step for candidate in _candidates(folder)]
    except OSError:
        return "the folder cannot be opened"
    last = f"step {steps[0]} is still there" if steps else "nothing was saved before"
    return f"{free:.2f} GB free, {last}"


def _publish(staging: Path, final: Path) -> None:
    """Gives a finished checkpoint its name; an older one of that name is good until then."""
    replaced = final.with_name(f"{final.name}.replaced")
    if final.exists():
        _delete(replaced)
        final.rename(replaced)
    staging.rename(final)
    manifest.sync(final.parent)
    _delete(replaced)


def _delete(path: Path) -> None:
    """Takes the name away first: half a checkpoint never goes by the name of a whole one."""
    if path.exists():
        doomed = path.with_name(f"{path.name}.deleted")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed)


def _clean(folder: Path) -> None:
    """Removes what killed saves have left."""
    for suffix in ("saving", "deleted"):
        for leftover in folder.glob(f"*.{suffix}"):
            shutil.rmtree(leftover)


def _retire(folder: Path, step: int, keep: Keep) -> None:
    """Deletes what `keep` does not name, now that `step` is saved."""
    candidates = _candidates(folder)
    for later in (one for one in candidates if one.step > step):
        aside = folder / f"{later.step}.aside"
        _delete(aside)
        later.path.rename(aside)
    steps = sorted({one.step for one in candidates if one.step <= step}, reverse=True)
    kept = {*steps[: keep.last], keep.best}
    for old in (one for one in candidates if one.step <= step):
        superseded = old.path.name != str(old.step) and (folder / str(old.step)).exists()
        if superseded or old.step not in kept:
            _delete(old.path)


# ---------------------------------------------------------------- find and verify


def latest(folder: Path) -> Found | None:
    """The newest checkpoint whose every file is as it was written; None where there is none at all.

    Damaged ones before it are reported in `Found.damaged` and left alone. In a run of several
    processes the first one looks and the others follow.
    Raises UserError when there are checkpoints and none of them is good: to start from nothing
    then is the user's decision.
    """
    if jax.process_count() == 1:
        return _judge(folder)
    found, refusal = None, None
    if jax.process_index() == 0:
        try:
            found = _judge(folder)
        except UserError as error:
            refusal = error
    nothing, refused = -1, -2
    verdict = refused if refusal else found.step if found else nothing
    step = int(multihost_utils.broadcast_one_to_all(np.int32(verdict)))
    if step == refused:
        raise refusal or UserError(f"no checkpoint in {folder} is whole: see the first process")
    return found if found or step == nothing else _candidate(folder, step)


def _judge(folder: Path) -> Found | None:
    damaged = []
    for candidate in _candidates(folder):
        reason = verify(candidate.path)
        if reason is None:
            return dataclasses.replace(candidate, damaged=tuple(damaged))
        damaged.append(Damage(candidate.step, candidate.path, reason))
    if damaged:
        listing = "; ".join(f"{one.path.name}: {one.reason}" for one in damaged)
        raise UserError(
            f"no checkpoint in {folder} is whole ({listing}): "
            "bring one back from a copy, or move the folder away to start from nothing"
        )
    return None


def _candidates(folder: Path) -> list[Found]:
    """Every folder that claims to be a checkpoint, newest first; nothing is checked yet."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := CLAIM.fullmatch(path.name):
            found.append(Found(int(match[1]), path))
    return sorted(found, key=lambda one: (one.step, one.path.suffix == ""), reverse=True)


def _candidate(folder: Path, step: int) -> Found:
    for candidate in _candidates(folder):
        if candidate.step == step:
            return candidate
    raise UserError(
        f"process {jax.process_index()} does not see {folder / str(step)}, which the first process "
        "does: use a folder that all hosts share"
    )


def verify(path: Path) -> str | None:
    """Why this checkpoint may not be used, or None when every file is as it was written."""
    return _fault(path, "")


def _fault(path: Path, part: str) -> str | None:
    """A folder named by a step must be of that step; a copy under another name may be of any."""
    match = CLAIM.fullmatch(path.name)
    return manifest.fault(path, {"step": int(match[1])} if match else None, part)


def _require(path: Path, part: str) -> None:
    if reason := _fault(path, part):
        raise UserError(f"the checkpoint {path} is damaged ({reason}): use another one")


# ---------------------------------------------------------------- restore


def read_fact(path: Path, name: str) -> Any:
    """The JSON value saved under this name; UserError where it is damaged or was never saved."""
    _require(path, f"{name}.json")
    file = path / f"{name}.json"
    if not file.is_file():
        raise UserError(f"the checkpoint {path} holds no {name}.json")
    return json.loads(file.read_text(encoding="utf-8"))


def restore(path: Path, name: str, target: PyTree | None = None) -> PyTree:
    """One saved tree, bit for bit.

    target: arrays or jax.ShapeDtypeStruct in the structure wanted. A leaf with a sharding comes
        back as a jax.Array in it, whatever devices it was saved from; any other as NumPy. None:
        everything as NumPy in plain dicts and lists (arrays without elements come back as None).
    Raises UserError where the files are damaged, or where structure, shapes or types differ.
    """
    _require(path, f"{name}/")
    item = path.absolute() / name
    wanted = {key: _spec(leaf) for key, leaf in _by_name(target).items()}
    with _orbax() as orbax:
        metadata = orbax.metadata(item).item_metadata if item.is_dir() else None
        if metadata is None:
            raise UserError(f"the checkpoint {path} holds no {name!r}")
        saved = metadata.tree["tree"]
        if target is not None:
            _compare(item, _by_name(saved), wanted)
        how = jax.tree_util.tree_map_with_path(lambda key, _: _how(wanted.get(_name(key))), saved)
        arguments = ocp.args.PyTreeRestore(restore_args={"tree": how})
        restored = orbax.restore(item, args=arguments)["tree"]
    if target is None:
        return restored
    leaves = _by_name(restored)
    filled = [leaves[key] if key in leaves else _nothing(spec) for key, spec in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(target), filled)


def _name(key: Any) -> str:
    return jax.tree_util.keystr(key, simple=True, separator="/")


def _by_name(tree: PyTree) -> dict[str, Any]:
    return {_name(key): leaf for key, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _spec(leaf: Any) -> jax.ShapeDtypeStruct:
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=getattr(array, "sharding", None))


def _how(spec: jax.ShapeDtypeStruct | None) -> ocp.RestoreArgs:
    if spec is None or spec.sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=spec.sharding)


def _nothing(spec: jax.ShapeDtypeStruct) -> Any:
    """An array without elements, which had no need of being saved."""
    empty = np.zeros(spec.shape, spec.dtype)
    return empty if spec.sharding is None else jax.device_put(empty, spec.sharding)


def _compare(
    item: Path, saved: Mapping[str, Any], wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> None:
    """Raises UserError with every leaf that is not in both, or not of one shape and type."""
    held = {name: _kind(leaf) for name, leaf in saved.items()}
    asked = {name: _kind(spec) for name, spec in wanted.items() if 0 not in spec.shape}
    differing = [
        f"{name}: saved {held.get(name, 'nothing')}, wanted {asked.get(name, 'nothing')}"
        for name in sorted({*held, *asked})
        if held.get(name) != asked.get(name)
    ]
    if differing:
        more = f"; and {len(differing) - 20} more" if len(differing) > 20 else ""
        raise UserError(
            f"{item} does not fit this model, {len(differing)} of {len({*held, *asked})} arrays "
            f"differ: use the config it was made with ({'; '.join(differing[:20])}{more})"
        )


def _kind(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
