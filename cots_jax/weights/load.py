# SPDX-License-Identifier: Apache-2.0
"""`config.init_from`: published weights into freshly started towers."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cots_jax.errors import UserError
from cots_jax.models.two_stream import Params, TwoStreamConfig
from cots_jax.schema import InitConfig
from cots_jax.weights import bert, clip, vit
from cots_jax.weights.files import fetched, read_tensors
from cots_jax.weights.mapping import Format, allowed, flat, import_tree, nested, recognised
from cots_jax.weights.own import own_parts
from cots_jax.weights.positions import Resize, resized_positions
from cots_jax.weights.settings import check_colours, check_settings

RECOGNISED = 0.5  # least share of a format's names; BERT's and ViT's have a third in common
WORDS = ("word_embeddings.weight", "token_embedding.weight")


@dataclasses.dataclass(frozen=True)
class ImageFormat:
    """A format of image towers: what its position embeddings are called, and resized how."""

    format: Format
    positions: str = ""
    resize: Resize = Resize.BICUBIC


TEXT_FORMATS = (bert.TEXT_TOWER, clip.TEXT_TOWER)
IMAGE_FORMATS = (
    ImageFormat(clip.IMAGE_TOWER, "vision_model.embeddings.position_embedding.weight"),
    ImageFormat(vit.BEIT),
    ImageFormat(vit.VIT, "embeddings.position_embeddings"),
    ImageFormat(vit.TIMM, "pos_embed", Resize.ANTIALIASED),
    ImageFormat(vit.AUGREG, "posembed_input/pos_embedding", Resize.CORNERS),
    ImageFormat(vit.BIG_VISION, "pos_embedding", Resize.CORNERS),
)


def read_initial(init: InitConfig, size: TwoStreamConfig, like: Params) -> Params:
    """Those parameters of {"towers", "heads"} that `init` names weights for, in float32.

    like: the shapes of all parameters. Raises UserError before anything is trained: weights that
    are missing, damaged, of another architecture or another vocabulary.
    """
    if init.run:
        return own_parts(init.run, size, like)
    allowed(init.allow)  # a mistake in it is said before anything is read
    found: dict[str, np.ndarray] = {}
    if init.image:
        file = fetched(init.image, "init_from.image")
        tensors, like_image = read_tensors(file), like["towers"]["image"]
        side = size.vision.side
        tree = image_tower(tensors, side, like_image, source=init.image, allow=init.allow)
        check_settings(file, size.vision, init.image)
        check_colours(file, size.vision, init.image)
        found |= _finite({f"towers/image/{p}": leaf for p, leaf in flat(tree).items()}, init.image)
    if init.text:
        file = fetched(init.text, "init_from.text")
        parts = text_parts(read_tensors(file), like, source=init.text, allow=init.allow)
        check_settings(file, size.text, init.text)
        found |= _finite(flat(parts), init.text)
    return nested(found)


def _finite(leaves: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """In float32. Raises UserError where a number is none there."""
    with np.errstate(over="ignore"):  # it becomes an infinity, which is refused
        found = {path: np.asarray(leaf, np.float32) for path, leaf in leaves.items()}
    broken = [path for path, leaf in found.items() if not np.isfinite(leaf).all()]
    if broken:
        raise UserError(
            f"{source} holds numbers that are not finite, for {', '.join(broken[:3])}: fetch it "
            "again, or take other weights"
        )
    return found


def merged(fresh: Params, initial: Params) -> Params:
    """The fresh parameters, those of `initial` in their place."""
    if not isinstance(fresh, Mapping):
        return initial
    return {
        name: merged(tree, initial[name]) if name in initial else tree
        for name, tree in fresh.items()
    }


def image_tower(
    tensors: Mapping[str, np.ndarray],
    side: int,
    like: Mapping[str, Any],
    *,
    source: str,
    allow: str = "",
) -> Params:
    """The arrays of a file as our image tower with `side` patches a side. Raises UserError."""
    tensors = vit.own_tables(tensors)
    fmt = _format_of(tensors, [known.format for known in IMAGE_FORMATS], "image", source)
    chosen = next(known for known in IMAGE_FORMATS if known.format is fmt)
    name = next((n for n in tensors if chosen.positions and n.endswith(chosen.positions)), "")
    table = tensors.get(name, np.zeros(()))
    if table.ndim >= 2 and math.prod(table.shape[:-2]) == 1:
        rows = resized_positions(table.reshape(table.shape[-2:]), side, chosen.resize)
        tensors[name] = rows.reshape(*table.shape[:-2], *rows.shape)
    return import_tree(tensors, fmt, like, source=source, allow=allow)


def text_parts(
    tensors: Mapping[str, np.ndarray], like: Params, *, source: str, allow: str = ""
) -> Params:
    """The arrays of a file as {"towers": {"text"}}, and {"heads": {"mlm"}} where it has BERT's.

    Raises UserError.
    """
    tensors = bert.modern(tensors)
    tower, heads = like["towers"]["text"], like["heads"]
    _check_vocabulary(tensors, tower, source)
    fmt = _format_of(tensors, TEXT_FORMATS, "text", source)
    found = {"towers": {"text": import_tree(tensors, fmt, tower, source=source, allow=allow)}}
    if "mlm" in heads and any("cls.predictions." in name for name in tensors):
        head = import_tree(tensors, bert.MASKED_HEAD, heads["mlm"], source=source, allow=allow)
        found["heads"] = {"mlm": head}
    return found


def _format_of(
    tensors: Mapping[str, np.ndarray], formats: Sequence[Format], tower: str, source: str
) -> Format:
    """The format of which a file has most names; what it lacks of them is an error of its own."""
    shares = [recognised(tensors, fmt)[0] for fmt in formats]
    if max(shares) > RECOGNISED:
        return formats[shares.index(max(shares))]
    known = ", ".join(fmt.name for fmt in formats)
    raise UserError(
        f"{source} holds no {tower} tower that is known here ({known}); its first names are "
        f"{', '.join(sorted(tensors)[:3]) or 'none'}"
    )


def _check_vocabulary(tensors: Mapping[str, np.ndarray], like: Mapping[str, Any], source: str):
    words = next((t for n, t in tensors.items() if n.endswith(WORDS)), None)
    wanted = like["token_embedding"].shape[0]
    if words is None or words.ndim != 2 or len(words) == wanted:
        return
    padded = ", or cut the rows beyond off where it is that one and the table is padded"
    raise UserError(
        f"{source} embeds {len(words):,} tokens and the tokenizer has {wanted:,}: set "
        "config.data.tokenizer to the one that belongs to the weights"
        f"{padded if len(words) > wanted else ''}"
    )
