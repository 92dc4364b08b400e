# SPDX-License-Identifier: Apache-2.0
"""A trained folder opened for use: towers, tokenizer, preprocessing, lineage."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from cots_jax import checkpoint
from cots_jax.config import build_config
from cots_jax.data.pictures import Given, decode_given
from cots_jax.data.tokenizer import Tokenizer
from cots_jax.errors import UserError
from cots_jax.models.two_stream import Params, TwoStream, size_of
from cots_jax.objectives.temperature import temperature_of
from cots_jax.retrieval.embed import EMBED_BATCH, Preprocessing, embed_images, embed_texts
from cots_jax.retrieval.evaluation import Lineage
from cots_jax.retrieval.loose import caption_batches, picture_batches
from cots_jax.schema import Config
from cots_jax.switches import TemperatureRule, Towers
from cots_jax.weights.architecture import same_architecture
from cots_jax.weights.trained import Trained, find_trained, started_from

CHECKPOINTS = checkpoint.FOLDER


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A trained COTS model. `source` is the checkpoint or exported folder it came from."""

    config: Config
    model: TwoStream
    towers: Params
    tokenizer: Tokenizer
    preprocessing: Preprocessing
    lineage: Lineage
    source: Trained
    image_tokens: str  # digest of the tokenizer whose codes were read from the shards; "" for none

    @classmethod
    def load(cls, folder: str | Path, towers: Towers | None = None) -> "Pretrained":
        """Opens a training folder, the best towers where the run kept them, else the newest; or an
        exported folder.

        towers: None are those that the run's own evaluations use. Raises UserError.
        """
        source = find_trained(Path(folder))
        facts = source.facts
        config = build_config(facts["config"])
        tokenizer = Tokenizer.from_json(facts["tokenizer"])
        model = TwoStream(
            size_of(config, tokenizer.vocab_size),
            config.method.masked,
            facts["codes"],
            frozenset(facts["heads"]),
        )
        same_architecture(facts, model.config, folder)
        which = towers or config.evaluation_towers
        return cls(
            config=config,
            model=model,
            towers=_on_device(source.towers(which)),
            tokenizer=tokenizer,
            preprocessing=preprocessing_of(facts["preprocessing"]),
            lineage=Lineage(
                tuple(facts["lineage"]),
                tuple(facts["fine_tuned_on"]),
                str(which),
                started_from(facts),
            ),
            source=source,
            image_tokens=facts.get("image_tokens", ""),
        )

    @property
    def step(self) -> int:
        """Optimizer steps behind the towers."""
        return self.source.step

    def encode_images(
        self, pictures: Iterable[Given], batch: int = EMBED_BATCH
    ) -> Float32[np.ndarray, "n e"]:
        """Unit vectors of pictures: paths, open PIL pictures or uint8 arrays [h, w, 3].

        The same bits as an evaluation of them; another number of rows at a time (`batch`) rounds
        otherwise. UserError names what is missing or no picture.
        """
        decoded = decode_given(pictures, self.preprocessing.size)
        return self.encode_decoded((picture[None] for picture in decoded), batch)

    def encode_decoded(
        self, images: Iterable[UInt8[np.ndarray, "t s s 3"]], batch: int = EMBED_BATCH
    ) -> Float32[np.ndarray, "n e"]:
        """Unit vectors of pictures (t = 1), or of t frames each of videos, that have the size of
        the tower already."""
        batches = picture_batches(images, batch)
        return embed_images(self.towers, self.model, self.preprocessing, batches).features

    def encode_texts(
        self, texts: Sequence[str], batch: int = EMBED_BATCH
    ) -> Float32[np.ndarray, "n e"]:
        """Unit vectors of captions; `batch` as in `encode_images`."""
        if isinstance(texts, str):
            raise UserError(f"encode_texts takes a list of texts: write [{texts[:40]!r}]")
        length = self.config.data.text_length
        batches = caption_batches(texts, self.tokenizer, length, batch)
        return embed_texts(self.towers, self.model, batches).features

    def knows(self, text: str) -> bool:
        """Whether any word of a text, or part of one, is in the vocabulary."""
        return bool(self.tokenizer.unknown([text])[0] < self.tokenizer.count([text])[0] - 2)

    def identity(self) -> dict[str, Any]:
        """What tells this checkpoint from any other, in JSON."""
        return self.source.identity

    def heads(self) -> Params:
        """The masked heads, for looking at the token level; empty where none were trained."""
        return _on_device(self.source.heads()) if self.model.heads else {}

    def temperature(self) -> float:
        """Of the contrastive logits, the learned one where it was learned."""
        if (exported := self.source.facts.get("temperature")) is not None:
            return float(exported)
        method = self.config.method
        learned = method.temperature_rule is TemperatureRule.LEARNED
        heads = self.source.heads() if learned else {}
        return float(temperature_of(heads, method))


def preprocessing_of(facts: dict[str, Any]) -> Preprocessing:
    """From its JSON form."""
    return Preprocessing(facts["size"], tuple(facts["mean"]), tuple(facts["std"]))


def read_config(workdir: Path) -> Config | None:
    """The config that a training folder was made with, or None where there is none."""
    file = workdir / "config.json"
    try:
        mapping = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(mapping, dict):
            raise ValueError("no JSON object")
        return build_config(mapping)
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise UserError(f"{file} cannot be read ({error}): choose another --workdir") from error


def _on_device(tree: Params) -> Params:
    return jax.device_put(tree, jax.local_devices()[0])
