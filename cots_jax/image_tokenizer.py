# SPDX-License-Identifier: Apache-2.0
"""The frozen image tokenizer of a run: a discrete VAE trained here, or DALL-E's published one."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, UInt8

from cots_jax import checkpoint
from cots_jax.data.image_tokens import TokenFacts, write_tokens
from cots_jax.data.records import read_facts
from cots_jax.data.transforms import Augmentation, tokenizer_view
from cots_jax.errors import UserError
from cots_jax.models.dalle import DalleConfig
from cots_jax.models.dvae import DvaeConfig
from cots_jax.models.image_tokens import TokenizerConfig, picture_ids
from cots_jax.models.two_stream import Params, model_size
from cots_jax.schema import HardwareConfig
from cots_jax.switches import Precision, Task
from cots_jax.weights.dalle import read_dalle
from cots_jax.weights.files import PICKLES, fetched
from cots_jax.weights.mapping import flat
from cots_jax.weights.trained import newest

FROZEN = "frozen"
KINDS = {"dvae": DvaeConfig, "dalle": DalleConfig}


@dataclasses.dataclass(frozen=True)
class ImageTokenizer:
    """A trained encoder; `lineage` says where its parameters come from."""

    config: TokenizerConfig
    params: Params
    lineage: tuple[str, ...]

    def ids(self, image: UInt8[Array, "b t s s 3"]) -> Int32[Array, "b n"]:
        """Codes of whole pictures in their own colours; in training they are cut as the tower's."""
        size = self.config.image_size
        pixels = tokenizer_view(None, image, Augmentation(), size, jittered=False)
        return picture_ids(self.config, self.params, pixels[:, 0])


def load_image_tokenizer(
    name: str, config: str = "", grid: int = 24, precision: Precision = Precision.FLOAT32
) -> ImageTokenizer:
    """A finished dVAE run, or DALL-E's encoder from a file, a folder or the hub.

    config: the `--config` that trains a dVAE, named in the error; grid and precision: for DALL-E's,
    which takes pictures of any size. Raises UserError where it is missing, unfinished or unfit.
    """
    folder = Path(name)
    if (folder / "config.json").exists() and not _is_published(folder):
        return _of_run(folder, config)
    if folder.exists() or is_of_hub(name):
        found = read_dalle(fetched(name, "image_tokenizer"), grid, precision)
        return ImageTokenizer(found.config, found.params, (name,))
    command = _train(folder, config)
    raise UserError(f"there is no image tokenizer in {folder}; train one with: {command}")


def is_of_hub(name: str) -> bool:
    """Whether a name that is not here is OWNER/NAME on the hub, and not where a run would lie: in
    `runs`, as trainings do by default, or in another folder that is there."""
    owner, _, rest = name.partition("/")
    path = owner.startswith(".") or owner == "runs" or Path(owner).is_dir()
    return bool(owner and rest) and "/" not in rest and not path


def make_image_tokens(folder: Path, name: str, model: str) -> str:
    """Ids of all pictures of a prepared folder for a tower of that model; says what was done.

    name: of the tokenizer, as in `config.image_tokenizer`. Raises UserError.
    """
    vision = model_size(model, HardwareConfig()).vision
    narrow = jax.default_backend() != "cpu"
    precision = Precision.BFLOAT16 if narrow else Precision.FLOAT32
    tokenizer = load_image_tokenizer(name, "configs/dvae.py", vision.side, precision)
    if tokenizer.config.grid != vision.side:
        raise UserError(
            f"{name} makes {tokenizer.config.grid} x {tokenizer.config.grid} codes, model {model} "
            f"has {vision.side} x {vision.side} patches: name the model that fits in --model"
        )
    facts = TokenFacts(
        tokenizer=name,
        digest=_digest(tokenizer.params),
        codes=tokenizer.config.codes,
        grid=vision.side,
        image_size=vision.image_size,
        precision=str(precision),
        fingerprint=read_facts(folder)["fingerprint"],
    )
    params = jax.device_put(tokenizer.params)

    @jax.jit
    def encode(params: Params, image: Array) -> Array:
        return dataclasses.replace(tokenizer, params=params).ids(image)

    def on_host(image: np.ndarray) -> np.ndarray:
        return np.asarray(encode(params, jnp.asarray(image)))

    made = write_tokens(folder, facts, on_host)
    return f"image tokens of {name} {'made' if made else 'already there'} in {folder}"


def _digest(params: Params) -> str:
    digest = hashlib.sha256()
    for path, leaf in sorted(flat(params).items()):
        digest.update(path.encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def load_frozen(workdir: Path) -> ImageTokenizer | None:
    """The image tokenizer that a training folder keeps for itself, if it does."""
    found = checkpoint.latest(workdir / FROZEN)
    if found is None:
        return None
    facts = checkpoint.read_fact(found.path, "facts")
    kind = next(kind for kind in KINDS if kind in facts)
    params = checkpoint.restore(found.path, "tokenizer")
    return ImageTokenizer(_config(kind, facts[kind]), params, tuple(facts["lineage"]))


def save_frozen(workdir: Path, tokenizer: ImageTokenizer) -> None:
    """Copies the image tokenizer into a training folder, once."""
    kind = next(kind for kind, known in KINDS.items() if isinstance(tokenizer.config, known))
    facts = {kind: dataclasses.asdict(tokenizer.config), "lineage": list(tokenizer.lineage)}
    trees = {"tokenizer": tokenizer.params}
    checkpoint.save(workdir / FROZEN, 0, trees, {"facts": facts}, keep=checkpoint.Keep(1))


def _of_run(folder: Path, config: str) -> ImageTokenizer:
    found = newest(folder)
    facts = checkpoint.read_fact(found.path, "facts")
    if facts["config"]["task"] != Task.DVAE:
        raise UserError(f"{folder} holds no image tokenizer: name the workdir of a dVAE run")
    if not facts["fit"]:
        raise UserError(
            f"the image tokenizer in {folder} has not finished: run again {_train(folder, config)}"
        )
    params = checkpoint.restore(found.path, "tokenizer")
    return ImageTokenizer(_config("dvae", facts["dvae"]), params, tuple(facts["lineage"]))


def _is_published(folder: Path) -> bool:
    """Hugging Face's folders have a config.json too, with the weights beside it."""
    return any(path.suffix in (".safetensors", *PICKLES) for path in folder.iterdir())


def _train(folder: str | Path, config: str) -> str:
    return f"python -m cots_jax.main --config={config or 'FILE'} --workdir={folder}"


def _config(kind: str, fields: dict[str, Any]) -> TokenizerConfig:
    if "precision" in fields:
        fields = fields | {"precision": Precision(fields["precision"])}
    return KINDS[kind](**fields)
