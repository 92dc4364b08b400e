# SPDX-License-Identifier: Apache-2.0
"""Two towers that meet only in a dot product, and their masked heads: sizes and pure functions."""

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from cots_jax.errors import UserError, nearest
from cots_jax.models.apply import apply
from cots_jax.models.masked_head import MaskedHead, MaskedHeadConfig
from cots_jax.models.text import Pooling, TextConfig, TextTower
from cots_jax.models.transformer import Activation, Norm, Span, TransformerConfig
from cots_jax.models.vision import Encoded, ImageTower, VisionConfig
from cots_jax.schema import Config, HardwareConfig, MaskedConfig
from cots_jax.switches import Condition, Switch

Params = Any  # nested dict of arrays

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # as published with its weights
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class TwoStreamConfig:
    """Both towers; e = embed_dim is shared."""

    vision: VisionConfig
    text: TextConfig


def _sizes() -> dict[str, TwoStreamConfig]:
    def vision(size: int, patch: int, stack: TransformerConfig, e: int = 256) -> VisionConfig:
        return VisionConfig(size, patch, stack, e)

    def text(stack: TransformerConfig, positions: int, e: int = 256) -> TextConfig:
        return TextConfig(stack, positions=positions, embed_dim=e)

    base = TransformerConfig(12, 768, 12, 3072, epsilon=1e-12)  # ViT-B, published epsilon of HF
    bert = TransformerConfig(12, 768, 12, 3072, norm=Norm.POST, epsilon=1e-12)
    quick = Activation.QUICK_GELU  # CLIP's own, and a third of the exact one's time on CPU
    small = TransformerConfig(4, 128, 4, 512, activation=quick, init_std=None)
    short = dataclasses.replace(small, layers=2, norm=Norm.POST, epsilon=1e-12)
    photo = TransformerConfig(4, 192, 6, 768, activation=quick, init_std=None)
    caption = dataclasses.replace(photo, layers=2, norm=Norm.POST, epsilon=1e-12)
    # The six-layer text towers of 22.7 M parameters that sentence-transformers publishes, trained
    # by the mean of their outputs.
    minilm = TransformerConfig(6, 384, 12, 1536, norm=Norm.POST, epsilon=1e-12)
    sentence = dataclasses.replace(text(minilm, 512), pooling=Pooling.MEAN)
    beit = {
        side: dataclasses.replace(base, layer_scale=0.1, relative_bias_side=side)
        for side in (14, 24)
    }
    clip = TransformerConfig(12, 768, 12, 3072, activation=quick, epsilon=1e-5)
    clip_text = dataclasses.replace(clip, width=512, heads=8, mlp=2048, span=Span.CAUSAL)
    tiny = TransformerConfig(2, 32, 2, 64, init_std=None)
    tiny_text = dataclasses.replace(tiny, layers=1, norm=Norm.POST, epsilon=1e-12)
    return {
        "b16-384": TwoStreamConfig(vision(384, 16, base), text(bert, 512)),
        "b16-224": TwoStreamConfig(vision(224, 16, base), text(bert, 512)),
        "beit-b16-384": TwoStreamConfig(vision(384, 16, beit[24]), text(bert, 512)),
        "beit-b16-224": TwoStreamConfig(vision(224, 16, beit[14]), text(bert, 512)),
        "clip-b16-224": TwoStreamConfig(
            VisionConfig(224, 16, clip, 512, embedding_norm=True, mean=CLIP_MEAN, std=CLIP_STD),
            TextConfig(clip_text, 77, 49_408, token_types=0, pooling=Pooling.LAST, embed_dim=512),
        ),
        "photo-32": TwoStreamConfig(vision(32, 8, small), text(short, 64)),
        "photo-64": TwoStreamConfig(vision(64, 16, photo), text(caption, 64)),
        "photo-96": TwoStreamConfig(vision(96, 16, photo), text(caption, 64)),
        "photo-64-minilm": TwoStreamConfig(vision(64, 16, photo), sentence),
        "emoji-32": TwoStreamConfig(vision(32, 8, small, 128), text(short, 32, 128)),
        "tiny-16": TwoStreamConfig(vision(16, 8, tiny, 16), text(tiny_text, 32, 16)),
    }


SIZES = _sizes()

Tower = TypeVar("Tower", VisionConfig, TextConfig)


def _scanned(tower: Tower) -> Tower:
    stack = dataclasses.replace(tower.transformer, scan=Switch.ON)
    return dataclasses.replace(tower, transformer=stack)


def model_size(
    name: str,
    hardware: HardwareConfig,
    vocabulary: int | None = None,
) -> TwoStreamConfig:
    """The named size under the hardware's precision, scan and remat. Raises UserError."""
    if name not in SIZES:
        raise UserError(f"unknown model {name!r}; {nearest(name, SIZES, 'models')}")
    size = SIZES[name]

    def placed(stack: TransformerConfig) -> TransformerConfig:
        return dataclasses.replace(
            stack,
            precision=hardware.precision,
            scan=hardware.scan,
            remat=hardware.remat,
            attention=hardware.attention,
        )

    return TwoStreamConfig(
        dataclasses.replace(size.vision, transformer=placed(size.vision.transformer)),
        dataclasses.replace(
            size.text,
            transformer=placed(size.text.transformer),
            vocabulary=vocabulary or size.text.vocabulary,
        ),
    )


def size_of(config: Config, vocabulary: int) -> TwoStreamConfig:
    """The size that a config names, and what else it says of the towers. Raises UserError."""
    size = model_size(config.model, config.hardware, vocabulary)
    vision = dataclasses.replace(
        size.vision,
        frame_mean=config.frame_mean,
        mean=_colours(config.image_mean) or size.vision.mean,
        std=_colours(config.image_std) or size.vision.std,
    )
    return dataclasses.replace(size, vision=vision)


def _colours(given: tuple[float, ...]) -> tuple[float, float, float] | None:
    if not given:
        return None
    red, green, blue = given
    return red, green, blue


@dataclasses.dataclass(frozen=True)
class TwoStream:
    """The model as pure functions over parameters {"image", "text"} and {"mvm", "mlm"} (heads)."""

    config: TwoStreamConfig
    masked: MaskedConfig
    codes: int = 0  # classes of MVM
    heads: frozenset[str] = frozenset()  # masked heads there are: mvm, mlm

    def init_towers(self, key: PRNGKeyArray) -> Params:
        """Fresh parameters of both towers.

        By scanned stacks, whatever the config runs: the same numbers out of one block's program,
        where an unrolled stack would have as many copies to compile as blocks.
        """
        image_key, text_key = jax.random.split(key)
        vision, text_config = _scanned(self.config.vision), _scanned(self.config.text)
        size = vision.image_size
        image = jnp.zeros((1, 1, size, size, 3), jnp.float32)
        text = jnp.zeros((1, 4), jnp.int32)
        return {
            "image": ImageTower(vision).init(image_key, image)["params"],
            "text": TextTower(text_config).init(text_key, text, jnp.array([4]))["params"],
        }

    def init_heads(self, key: PRNGKeyArray) -> Params:
        """Fresh parameters of the masked heads."""
        mvm_key, mlm_key = jax.random.split(key)
        widths = {
            "image": self.config.vision.transformer.width,
            "text": self.config.text.transformer.width,
        }
        e = self.config.vision.embed_dim
        joint = self.masked.condition is Condition.JOINT
        partner = {name: jnp.zeros((1, e if joint else width)) for name, width in widths.items()}
        params = {}
        if "mvm" in self.heads:
            image = jnp.zeros((1, 1, widths["image"]))
            params["mvm"] = self._mvm.init(mvm_key, image, partner["text"])["params"]
        if "mlm" in self.heads:
            text = jnp.zeros((1, 1, widths["text"]))
            words = jnp.zeros((self.config.text.vocabulary, widths["text"]))
            params["mlm"] = self._mlm.init(mlm_key, text, partner["image"], words)["params"]
        return params

    def encode_image(
        self,
        towers: Params,
        image: Float[Array, "b t s s 3"],
        mask: Bool[Array, "b n"] | None = None,
        positions: Int[Array, "b m"] | None = None,
    ) -> Encoded:
        """The image tower; the joint feature is what retrieval uses.

        Its outputs at patches are those at `positions`: without them none are computed.
        """
        return apply(ImageTower(self.config.vision), towers["image"], image, mask, positions)

    def encode_text(
        self,
        towers: Params,
        text: Int[Array, "b l"],
        length: Int[Array, "b"],
        positions: Int[Array, "b m"] | None = None,
    ) -> Encoded:
        """The text tower; the joint feature is what retrieval uses. `positions`: as above."""
        return apply(TextTower(self.config.text), towers["text"], text, length, positions)

    def predict_codes(
        self, heads: Params, hidden: Float[Array, "b m d"], partner: Float[Array, "b p"]
    ) -> Float[Array, "b m v"]:
        """MVM logits from outputs at masked patches and the paired text's feature."""
        return apply(self._mvm, heads["mvm"], hidden, partner)

    def predict_words(
        self,
        heads: Params,
        towers: Params,
        hidden: Float[Array, "b m d"],
        partner: Float[Array, "b p"],
    ) -> Float[Array, "b m v"]:
        """MLM logits from outputs at masked tokens and the paired image's feature."""
        words = towers["text"]["token_embedding"]
        return apply(self._mlm, heads["mlm"], hidden, partner, words)

    @property
    def _mvm(self) -> MaskedHead:
        stack = self.config.vision.transformer
        return MaskedHead(MaskedHeadConfig(stack, self.codes, self.masked.merge))

    @property
    def _mlm(self) -> MaskedHead:
        stack, words = self.config.text.transformer, self.config.text.vocabulary
        return MaskedHead(MaskedHeadConfig(stack, words, self.masked.merge))
