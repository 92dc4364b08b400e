# SPDX-License-Identifier: Apache-2.0
"""From the names and shapes of a published format to our parameters, and back.

A format is a list of rules. A rule says which of their arrays make one of ours and how; `{i}` in a
name stands for the layer, and our arrays under `blocks` are stacked over the layers.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cots_jax.errors import UserError

Shape = tuple[int, ...]
SHOWN = 8  # names in an error


@dataclasses.dataclass(frozen=True)
class Turn:
    """How arrays of theirs become one of ours, and the inverse.

    theirs: the shapes of theirs that give ours.
    """

    theirs: Callable[[Shape], list[Shape]]
    into: Callable[[Sequence[np.ndarray], Shape], np.ndarray]
    back: Callable[[np.ndarray], list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """`theirs` names one or several arrays; an empty name stands for zeros that they leave out."""

    theirs: tuple[str, ...]
    ours: str  # path, joined by slashes
    turn: Turn

    @property
    def layered(self) -> bool:
        """Whether ours is a stack over the layers."""
        return any("{i}" in name for name in self.theirs)


@dataclasses.dataclass(frozen=True)
class Format:
    """A way to name and shape the parameters of one tower.

    prefixes: what may stand before all names ("" first). left: patterns of arrays that we have no
    use for. fresh: our parameters that files of this format lack and that start at random; zero:
    those that they lack because their towers have no such part, so 0 makes ours the same function.
    """

    name: str
    rules: tuple[Rule, ...]
    prefixes: tuple[str, ...] = ("",)
    left: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    zero: tuple[str, ...] = ()


def flat(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested dicts -> {"a/b": leaf}."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        at = f"{path}/{key}" if path else key
        found |= flat(value, at) if isinstance(value, Mapping) else {at: value}
    return found


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        at = tree
        for folder in folders:
            at = at.setdefault(folder, {})
        at[name] = leaf
    return tree


def import_tree(
    tensors: Mapping[str, np.ndarray],
    fmt: Format,
    like: Mapping[str, Any],
    *,
    source: str,
    allow: str = "",
) -> dict[str, Any]:
    """Their arrays as a tree of ours; parameters that the format does not have are left out.

    like: our parameters, or their shapes. allow: a pattern of their names, with the format's prefix
    or without it, that may be left over.
    Raises UserError that lists what is left over, missing or of another shape.
    """
    leaves = flat(like)
    fit = _Fit(tensors, recognised(tensors, fmt)[1])
    found: dict[str, np.ndarray] = {}
    for rule in fmt.rules:
        optional = _matches(rule.ours, fmt.fresh)
        if rule.ours in leaves and not (optional and fit.lacks(rule)):
            found[rule.ours] = fit.filled(rule, tuple(leaves[rule.ours].shape))
    for path, leaf in leaves.items():
        if _matches(path, fmt.zero):
            found[path] = np.zeros(leaf.shape, leaf.dtype)
    may_stay = [*fmt.left, *allowed(allow)]
    over = [
        full
        for name, full in fit.unused().items()
        if not _matches(name, may_stay) and not _matches(full, allowed(allow))
    ]
    problems = {"missing": fit.missing, "of another shape": fit.wrong, "left over": over}
    if any(problems.values()):
        listed = [f"{kind}: {_listed(names)}" for kind, names in problems.items() if names]
        raise UserError(f"{source} does not fit the model as {fmt.name}: {'; '.join(listed)}")
    unknown = [path for path in leaves if path not in found and not _matches(path, fmt.fresh)]
    if unknown:
        raise UserError(f"{source}: {fmt.name} has nothing for {_listed(unknown)} of the model")
    return nested(found)


def export_tree(tree: Mapping[str, Any], fmt: Format) -> dict[str, np.ndarray]:
    """Our parameters under the format's names (without a prefix): the inverse of `import_tree`."""
    leaves = {path: np.asarray(leaf) for path, leaf in flat(tree).items()}
    tensors: dict[str, np.ndarray] = {}
    for rule in fmt.rules:
        if rule.ours not in leaves:
            continue
        leaf = leaves[rule.ours]
        for layer, piece in enumerate(leaf if rule.layered else leaf[None]):
            names = [name.format(i=layer) for name in rule.theirs]
            for name, array in zip(names, rule.turn.back(piece), strict=True):
                if name:
                    tensors[name] = np.ascontiguousarray(array)
    return tensors


def recognised(tensors: Mapping[str, Any], fmt: Format) -> tuple[float, str]:
    """The share of a format's names outside of layers 1… that a file has, and their prefix."""
    names = [name.format(i=0) for rule in fmt.rules for name in rule.theirs if name]
    counts = {p: sum(p + name in tensors for name in names) for p in ("", *fmt.prefixes)}
    prefix = max(counts, key=counts.__getitem__)
    return counts[prefix] / len(names), prefix


def allowed(allow: str) -> list[str]:
    """`config.init_from.allow` as patterns, none where it is empty. Raises UserError."""
    try:
        re.compile(allow)
    except re.error as error:
        raise UserError(f"config.init_from.allow = {allow!r} is no pattern: {error}") from error
    return [allow] if allow else []


class _Fit:
    """Their arrays on the way into ours, and what was found wrong with them.

    prefix: which most names have, and rules do without; names that lack it stay as they are.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], prefix: str) -> None:
        self.tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        self.full = {name.removeprefix(prefix): name for name in tensors}
        self.prefix = prefix
        self.used: set[str] = set()
        self.missing: list[str] = []
        self.wrong: list[str] = []

    def lacks(self, rule: Rule) -> bool:
        """Whether the file has none of what the rule needs."""
        return not any(name.format(i=0) in self.tensors for name in rule.theirs)

    def unused(self) -> dict[str, str]:
        """Names that no rule asked for, and what the file calls them."""
        return {name: full for name, full in self.full.items() if name not in self.used}

    def filled(self, rule: Rule, shape: Shape) -> np.ndarray:
        """Our array of this shape; zeros where something is missing or wrong, which is noted."""
        if not rule.layered:
            return self._one(rule, list(rule.theirs), shape)
        layers = range(shape[0])
        named = [[name.format(i=layer) for name in rule.theirs] for layer in layers]
        return np.stack([self._one(rule, names, shape[1:]) for names in named])

    def _one(self, rule: Rule, names: Sequence[str], shape: Shape) -> np.ndarray:
        self.used |= set(names)
        arrays = []
        for name, wanted in zip(names, rule.turn.theirs(shape), strict=True):
            array = self.tensors.get(name)
            if array is None:
                self.missing += [self.prefix + name] if name else []
            elif array.shape != wanted:
                shapes = f"is {list(array.shape)} and should be {list(wanted)}"
                self.wrong.append(f"{self.full[name]} {shapes}")
            else:
                arrays.append(array)
                continue
            arrays.append(np.zeros(wanted, np.float32))
        # An array that they leave out is 0 in the dtype of its neighbours.
        known = [self.tensors[name].dtype for name in names if name in self.tensors]
        kind = np.result_type(*known) if known else np.dtype(np.float32)
        return rule.turn.into(arrays, shape).astype(kind, copy=False)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
