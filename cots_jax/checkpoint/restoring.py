# SPDX-License-Identifier: Apache-2.0
"""Trees back from a checkpoint, on whatever devices are wanted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from cots_jax.checkpoint import quietly
from cots_jax.checkpoint.finding import require
from cots_jax.errors import UserError


def restore(path: Path, name: str, target: PyTree | None = None) -> PyTree:
    """One saved tree, bit for bit.

    target: arrays or jax.ShapeDtypeStruct in the structure wanted. A leaf with a sharding comes
        back as a jax.Array in it, whatever devices it was saved from; any other as NumPy. None:
        everything as NumPy in plain dicts and lists (arrays without elements come back as None).
    Raises UserError where the files are damaged, or where structure, shapes or types differ.
    """
    item = path.absolute() / name
    wanted = {key: _spec(leaf) for key, leaf in _by_name(target).items()}
    with quietly.reading() as orbax:
        saved = _saved(orbax, path, name)
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


def shapes(path: Path, name: str) -> dict[str, tuple[int, ...]]:
    """The shape of each array of a saved tree, by its path in it. Raises UserError."""
    with quietly.reading() as orbax:
        saved = _saved(orbax, path, name)
    return {key: tuple(leaf.shape) for key, leaf in _by_name(saved).items()}


def _saved(orbax: Any, path: Path, name: str) -> PyTree:
    """What is known of a saved tree's arrays without reading them. Raises UserError."""
    require(path, f"{name}/")
    item = path.absolute() / name
    metadata = orbax.metadata(item).item_metadata if item.is_dir() else None
    if metadata is None:
        raise UserError(f"the checkpoint {path} holds no {name!r}")
    return metadata.tree["tree"]


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
