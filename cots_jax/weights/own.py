# SPDX-License-Identifier: Apache-2.0
"""A trained folder of ours as the start of another run: its towers, and the heads that fit."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cots_jax.data.tokenizer import Tokenizer
from cots_jax.errors import UserError
from cots_jax.models.two_stream import Params, TwoStreamConfig
from cots_jax.switches import Towers
from cots_jax.weights.architecture import differences
from cots_jax.weights.mapping import flat, nested
from cots_jax.weights.positions import Resize, resized_positions
from cots_jax.weights.settings import compare_colours
from cots_jax.weights.trained import Trained, find_trained, started_from

KEY = "config.init_from.run"
POSITIONS = "image/position_embedding"
# May be others in a run that starts from another one; shapes and colours are compared apart.
FREE = {
    *("vision/image_size", "vision/frame_mean", "vision/mean", "vision/std", "text/vocabulary"),
    *(
        f"{tower}/transformer/{option}"
        for tower in ("vision", "text")
        for option in ("relative_bias_side", "layer_scale", "init_std")
    ),
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a run starts from: what that was trained on and began with, and its words."""

    trained_on: tuple[str, ...]
    fine_tuned_on: tuple[str, ...]
    started_from: tuple[str, ...]
    tokenizer: Tokenizer


def read_origin(folder: str) -> Origin:
    """Of a training folder, its best towers where it kept them, or of an exported one.

    Raises UserError.
    """
    facts = _find(folder).facts
    tokenizer = Tokenizer.from_json(facts["tokenizer"])
    lineage, fine_tuned_on = tuple(facts["lineage"]), tuple(facts["fine_tuned_on"])
    return Origin(lineage, fine_tuned_on, started_from(facts), tokenizer)


def own_parts(folder: str, size: TwoStreamConfig, like: Params) -> Params:
    """Both towers, those that its own evaluations use, and the masked heads where they fit.

    Position embeddings of pictures are resized to another grid (bicubic, not antialiased). Raises
    UserError where a tower is of another shape.
    """
    found = _find(folder)
    towers = found.towers(Towers(found.facts["config"]["evaluation_towers"]))
    leaves = {path: np.asarray(leaf, np.float32) for path, leaf in flat(towers).items()}
    wanted = {path: leaf.shape for path, leaf in flat(like["towers"]).items()}
    if leaves[POSITIONS].shape[1:] == wanted[POSITIONS][1:]:
        table, side = leaves[POSITIONS], size.vision.side
        leaves[POSITIONS] = resized_positions(table, side, Resize.BICUBIC)
    _check(leaves, wanted, folder, found.facts["config"]["model"])
    _check_options(found.facts, size, folder)
    heads = flat(found.heads())
    fresh = {path: leaf.shape for path, leaf in flat(like["heads"]).items()}
    fitting = {p: np.asarray(v, np.float32) for p, v in heads.items() if _fits(p, heads, fresh)}
    all_of_it = {f"towers/{path}": leaf for path, leaf in leaves.items()}
    return nested(all_of_it | {f"heads/{path}": leaf for path, leaf in fitting.items()})


def _fits(path: str, heads: Mapping[str, Any], fresh: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the whole head that an array belongs to has the shapes of the new one."""
    head = path.partition("/")[0]
    old = {p: np.shape(v) for p, v in heads.items() if p.partition("/")[0] == head}
    return old == {p: shape for p, shape in fresh.items() if p.partition("/")[0] == head}


def _check(
    leaves: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[int, ...]],
    folder: str,
    model: str,
) -> None:
    words = "text/token_embedding"
    if leaves[words].shape[0] != wanted[words][0]:
        raise UserError(
            f"{folder} embeds {leaves[words].shape[0]:,} tokens and the tokenizer has "
            f"{wanted[words][0]:,}: set config.data.tokenizer=init_from"
        )
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    wrong = [
        f"{path} {shapes.get(path, 'missing')} there, {shape} here"
        for path, shape in wanted.items()
        if shapes.get(path) != shape
    ]
    wrong += [f"{path} is not in this model" for path in leaves if path not in wanted]
    if wrong:
        raise UserError(
            f"{KEY} = {folder} holds model {model}, whose towers do not fit config.model: "
            f"{'; '.join(wrong[:3])}"
        )


def _check_options(facts: Mapping[str, Any], size: TwoStreamConfig, folder: str) -> None:
    """Arrays of one shape may be meant for another activation, or for other colours."""
    wrong = [
        f"{key} {there!r} there, {here!r} here"
        for key, (there, here) in differences(facts, size).items()
        if key not in FREE
    ]
    if wrong:
        raise UserError(
            f"{KEY} = {folder} holds model {facts['config']['model']}, whose towers compute "
            f"otherwise than config.model: {'; '.join(wrong[:3])}"
        )
    if colours := facts.get("preprocessing"):
        compare_colours([*colours["mean"], *colours["std"]], size.vision, folder)


def _find(folder: str) -> Trained:
    try:
        return find_trained(Path(folder))
    except UserError as error:
        raise UserError(f"{KEY} = {folder!r}: {error}") from error
