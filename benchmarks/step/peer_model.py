# SPDX-License-Identifier: Apache-2.0
"""The PyTorch peer's model: the towers and masked heads of cots_jax, as one writes them there.

Fused attention (`scaled_dot_product_attention`), one product for q, k and v, heads on the masked
positions alone. `from_ours` takes our parameters, so that losses can be held against each other.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cots_jax.models.text import TextConfig
from cots_jax.models.transformer import Activation, Norm, TransformerConfig
from cots_jax.models.two_stream import TwoStreamConfig
from cots_jax.models.vision import VisionConfig


class Block(nn.Module):
    """One encoder block, [b, n, d] to the same."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d = config.width
        self.heads, self.pre = config.heads, config.norm is Norm.PRE
        self.activation = config.activation
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp_in, self.mlp_out = nn.Linear(d, config.mlp), nn.Linear(config.mlp, d)
        self.attention_norm = nn.LayerNorm(d, config.epsilon)
        self.mlp_norm = nn.LayerNorm(d, config.epsilon)

    def forward(self, x: Tensor, seen: Tensor | None, wanted: Tensor | None = None) -> Tensor:
        """`seen`: bool [b, 1, 1, n], the keys that may be attended to.

        wanted: int [b, m]; with it the outputs at [CLS] and at these tokens alone, [b, 1 + m, d].
        """
        keys = self.attention_norm(x) if self.pre else x
        if wanted is None:
            q, k, v = self._project(keys, 0, 3)
        else:
            (q,) = self._project(first_and(keys, wanted), 0, 1)
            k, v = self._project(keys, 1, 3)
            x = first_and(x, wanted)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        mixed = self.out(mixed.transpose(1, 2).flatten(2))
        if self.pre:
            x = x + mixed
            return x + self._mlp(self.mlp_norm(x))
        x = self.attention_norm(x + mixed)
        return self.mlp_norm(x + self._mlp(x))

    def _project(self, x: Tensor, begin: int, end: int) -> tuple[Tensor, ...]:
        """These of q, k, v, each [b, heads, n, d / heads], by one product."""
        b, n, d = x.shape
        rows = slice(begin * d, end * d)
        made = functional.linear(x, self.qkv.weight[rows], self.qkv.bias[rows])
        made = made.view(b, n, end - begin, self.heads, d // self.heads)
        return tuple(part.transpose(1, 2) for part in made.unbind(2))

    def _mlp(self, x: Tensor) -> Tensor:
        hidden = self.mlp_in(x)
        if self.activation is Activation.QUICK_GELU:
            return self.mlp_out(hidden * torch.sigmoid(1.702 * hidden))
        return self.mlp_out(functional.gelu(hidden))


def first_and(x: Tensor, places: Tensor) -> Tensor:
    """The first token and those at `places` [b, m] of x [b, n, d]: [b, 1 + m, d]."""
    if not places.shape[1]:
        return x[:, :1]
    return torch.cat([x[:, :1], tokens_at(x, places)], dim=1)


def tokens_at(x: Tensor, places: Tensor) -> Tensor:
    """[b, m, d]: those at `places` [b, m] of x [b, n, d]."""
    return x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))


@dataclasses.dataclass
class Encoded:
    """Outputs at the tokens [b, n, d], at [CLS] [b, d], and the unit feature [b, e].

    Where a tower was asked for some tokens, those alone are in `tokens`.
    """

    tokens: Tensor
    cls: Tensor
    joint: Tensor


class ImageTower(nn.Module):
    """A Vision Transformer with a mask embedding."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        d, stack = config.transformer.width, config.transformer
        self.patch = config.patch
        self.patch_embedding = nn.Linear(3 * config.patch**2, d)
        self.cls = nn.Parameter(torch.zeros(d))
        self.mask_embedding = nn.Parameter(torch.zeros(d))
        self.position_embedding = nn.Parameter(torch.zeros(config.tokens + 1, d))
        self.blocks = nn.ModuleList(Block(stack) for _ in range(stack.layers))
        self.final_norm = nn.LayerNorm(d, stack.epsilon)
        self.projection = nn.Linear(d, config.embed_dim)

    def forward(
        self, image: Tensor, mask: Tensor | None = None, wanted: Tensor | None = None
    ) -> Encoded:
        """image: float [b, s, s, 3], normalised; mask: bool [b, n], patches that are hidden.

        wanted: int [b, m], the patches whose outputs are needed; without it all.
        """
        b, s = image.shape[:2]
        side, patch = s // self.patch, self.patch
        cut = image.view(b, side, patch, side, patch, 3).permute(0, 1, 3, 2, 4, 5)
        x = self.patch_embedding(cut.reshape(b, side * side, -1))
        if mask is not None:
            x = torch.where(mask[:, :, None], self.mask_embedding.to(x.dtype), x)
        x = torch.cat([self.cls.to(x.dtype).expand(b, 1, -1), x], dim=1) + self.position_embedding
        *before, last = self.blocks
        for block in before:
            x = block(x, None)
        x = self.final_norm(last(x, None, wanted if wanted is None else wanted + 1))
        cls = x[:, 0]
        return Encoded(x[:, 1:], cls, functional.normalize(self.projection(cls).float(), dim=-1))


class TextTower(nn.Module):
    """A BERT encoder."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        d, stack = config.transformer.width, config.transformer
        self.token_embedding = nn.Embedding(config.vocabulary, d)
        self.position_embedding = nn.Parameter(torch.zeros(config.positions, d))
        self.type_embedding = nn.Parameter(torch.zeros(config.token_types, d))
        self.embedding_norm = nn.LayerNorm(d, stack.epsilon)
        self.blocks = nn.ModuleList(Block(stack) for _ in range(stack.layers))
        self.projection = nn.Linear(d, config.embed_dim)

    def forward(self, text: Tensor, length: Tensor, wanted: Tensor | None = None) -> Encoded:
        """text: ids [b, l]; length: tokens before the padding [b]; wanted: int [b, m], as above."""
        l = text.shape[1]
        x = self.token_embedding(text) + self.position_embedding[:l] + self.type_embedding[0]
        x = self.embedding_norm(x)
        seen = (torch.arange(l, device=text.device) < length[:, None])[:, None, None, :]
        *before, last = self.blocks
        for block in before:
            x = block(x, seen)
        x = last(x, seen, wanted)
        cls = x[:, 0]
        tokens = x if wanted is None else x[:, 1:]
        return Encoded(tokens, cls, functional.normalize(self.projection(cls).float(), dim=-1))


class MaskedHead(nn.Module):
    """BERT's transform of hidden + partner, then an output matrix: own, or the given one."""

    def __init__(self, width: int, partner: int, classes: int, epsilon: float, tied: bool) -> None:
        super().__init__()
        self.partner, self.transform = nn.Linear(partner, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, epsilon)
        self.bias = nn.Parameter(torch.zeros(classes))
        self.output = None if tied else nn.Linear(width, classes, bias=False)

    def forward(self, hidden: Tensor, partner: Tensor, words: Tensor | None = None) -> Tensor:
        """Logits [b, m, v] of hidden [b, m, d]."""
        x = self.norm(functional.gelu(self.transform(hidden + self.partner(partner)[:, None])))
        if self.output is not None:
            return self.output(x) + self.bias
        assert words is not None, "a tied head needs the words"
        return functional.linear(x, words) + self.bias


class Towers(nn.Module):
    """Both towers; the momentum copy is another one of these."""

    def __init__(self, config: TwoStreamConfig) -> None:
        super().__init__()
        self.image, self.text = ImageTower(config.vision), TextTower(config.text)


class Heads(nn.Module):
    """The masked heads."""

    def __init__(self, config: TwoStreamConfig, codes: int) -> None:
        super().__init__()
        image, text = config.vision.transformer, config.text.transformer
        words = config.text.vocabulary
        self.mvm = MaskedHead(image.width, text.width, codes, image.epsilon, tied=False)
        self.mlm = MaskedHead(text.width, image.width, words, text.epsilon, tied=True)


def from_ours(params: Mapping[str, Any]) -> dict[str, Tensor]:
    """Our parameters of towers or heads under the names of the modules above."""
    found: dict[str, Tensor] = {}
    for name, leaf in _leaves(params):
        if ".transformer.blocks." in name:
            before, _, rest = name.partition(".transformer.blocks.")
            rest = rest.removeprefix("attention.")
            for layer, part in enumerate(leaf):
                found |= _named(f"{before}.blocks.{layer}.{rest}", part)
        else:
            found |= _named(name, leaf)
    return found


def _named(name: str, leaf: np.ndarray) -> dict[str, Tensor]:
    owner, _, last = name.rpartition(".")
    if owner.endswith("qkv"):
        leaf = leaf.reshape(-1, leaf.size // len(leaf)) if last == "kernel" else leaf.reshape(-1)
    if owner.endswith(".out") and last == "kernel":
        leaf = leaf.reshape(-1, leaf.shape[-1])
    if last == "kernel":
        leaf, last = leaf.T, "weight"
    elif last == "scale" or name.endswith("token_embedding"):
        owner, last = (owner, "weight") if last == "scale" else (name, "weight")
    return {f"{owner}.{last}" if owner else last: torch.tensor(np.array(leaf))}


def _leaves(tree: Mapping[str, Any], before: str = "") -> list[tuple[str, np.ndarray]]:
    found = []
    for name, value in tree.items():
        path = f"{before}.{name}" if before else name
        found += _leaves(value, path) if isinstance(value, Mapping) else [(path, np.array(value))]
    return found
