# SPDX-License-Identifier: Apache-2.0
"""The PyTorch peer's step: keys, filter, losses, AdamW, momentum towers, queue.

The same order and the same mathematics as `cots_jax/train/step.py`, written as one writes it in
PyTorch: in-place queues, fused AdamW, `foreach` for the momentum and the clipping, every row of
logits computed once. A test holds its losses and its parameters against ours.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.step.peer_model import Encoded, Heads, Towers, tokens_at
from cots_jax.errors import UserError
from cots_jax.models.two_stream import TwoStreamConfig
from cots_jax.schema import MethodConfig, OptimizerConfig
from cots_jax.switches import (
    Condition,
    Direction,
    Forward,
    Gradient,
    Merge,
    Negatives,
    SameGroup,
    Teacher,
)

HIDDEN = -1e30  # the logit of a column that does not count


@dataclasses.dataclass
class PeerBatch:
    """A batch with its masks drawn. Shapes: cots_jax.batch.Batch and data.masking.MaskedText."""

    image: Tensor  # uint8 [b, s, s, 3]
    image_mask: Tensor
    image_tokens: Tensor
    text: Tensor
    text_length: Tensor
    group_id: Tensor
    masked_text: Tensor  # [b / text_every, l]
    positions: Tensor  # [b / text_every, m]
    targets: Tensor
    target_weight: Tensor


@dataclasses.dataclass
class Columns:
    """Candidates: keys of both modalities [c, e], their groups, whether they count."""

    image: Tensor
    text: Tensor
    group_id: Tensor
    valid: Tensor


class Peer(nn.Module):
    """State and step. Raises UserError for switches that it does not have."""

    def __init__(
        self,
        config: TwoStreamConfig,
        method: MethodConfig,
        optimizer: OptimizerConfig,
        codes: int,
        active: frozenset[str],
    ) -> None:
        super().__init__()
        _check(method)
        self.method, self.active, self.clip = method, active, optimizer.clip
        self.mean, self.std = (torch.tensor(x) for x in (config.vision.mean, config.vision.std))
        self.masked_patches = round(method.masked.image_ratio * config.vision.tokens)
        self.towers = Towers(config)
        self.heads = Heads(config, codes)
        for name in ("mvm", "mlm"):
            if name not in active:
                delattr(self.heads, name)
        self.momentum = Towers(config).requires_grad_(False)
        self.momentum.load_state_dict(self.towers.state_dict())
        k, e = method.queue_length, config.vision.embed_dim
        self.queue = Columns(
            torch.zeros(k, e),
            torch.zeros(k, e),
            torch.full((k,), -1),
            torch.zeros(k, dtype=torch.bool),
        )
        self.cursor = 0
        self.count = self.mean_seen = self.square_seen = 0.0
        self.optimizer = torch.optim.AdamW(
            _groups(self, optimizer.weight_decay),
            lr=1e-3,
            betas=(optimizer.b1, optimizer.b2),
            eps=optimizer.epsilon,
            fused=True,
        )

    @functools.cached_property
    def _compiled(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return torch.compile(self._keys), torch.compile(self._losses)

    def moved(self, device: str) -> "Peer":
        """All of it on a device; fused AdamW makes its moments where it first meets parameters."""
        self.to(device)
        for field in dataclasses.fields(self.queue):
            setattr(self.queue, field.name, getattr(self.queue, field.name).to(device))
        return self

    def step(
        self,
        batch: PeerBatch,
        weights: dict[str, float],
        rate: float,
        momentum: float,
        compiled: bool = False,
        cut: bool = False,
    ) -> dict[str, Tensor]:
        """One step in place, the filter on; the mean of each objective before its weight.

        cut: last blocks have the outputs that are read, and no others, as ours have.
        """
        encode, compare = self._compiled if compiled else (self._keys, self._losses)
        with torch.no_grad():
            image = self._normalised(batch.image)
            image_key, text_key = encode(image, batch.text, batch.text_length, cut)
            keep = self._judge(image_key, text_key)
        means = compare(image, batch, image_key, text_key, keep, cut)
        total = torch.stack([weights[name] * mean for name, mean in means.items()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if self.clip:
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, self.clip, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        with torch.no_grad():
            kept: list[Tensor] = list(self.momentum.parameters())
            torch._foreach_lerp_(kept, list[Tensor](self.towers.parameters()), 1 - momentum)
            self._enqueue(image_key, text_key, batch.group_id, keep)
        return means

    def _normalised(self, image: Tensor) -> Tensor:
        mean, std = self.mean.to(image.device), self.std.to(image.device)
        return (image.float() / 255 - mean) / std

    def _keys(
        self, image: Tensor, text: Tensor, length: Tensor, cut: bool
    ) -> tuple[Tensor, Tensor]:
        none = _no_tokens(image, cut)
        seen = self.momentum.image(image, wanted=none)
        return seen.joint, self.momentum.text(text, length, none).joint

    def _judge(self, image_key: Tensor, text_key: Tensor) -> Tensor:
        config = self.method.filter
        similarity = (image_key * text_key).sum(-1)
        b, reference = len(similarity), self.method.reference_batch
        share = 1 - config.momentum ** (b / reference)
        self.count += b
        self.mean_seen += share * (similarity.mean() - self.mean_seen)
        self.square_seen += share * ((similarity**2).mean() - self.square_seen)
        seen = 1 - config.momentum ** (self.count / reference)
        mean, square = self.mean_seen / seen, self.square_seen / seen
        bound = mean - config.kappa * (square - mean**2).clamp_min(0).sqrt()
        return similarity >= bound

    def _losses(
        self,
        image: Tensor,
        batch: PeerBatch,
        image_key: Tensor,
        text_key: Tensor,
        keep: Tensor,
        cut: bool,
    ) -> dict[str, Tensor]:
        weight, none = keep.float(), _no_tokens(image, cut)
        seen = self.towers.image(image, wanted=none)
        read = self.towers.text(batch.text, batch.text_length, none)
        means = self._compared(seen, read, batch.group_id, image_key, text_key, weight)
        if "mvm" in self.active:
            means["mvm"] = self._mvm(image, batch, read, weight, cut)
        if "mlm" in self.active:
            means["mlm"] = self._mlm(batch, seen, weight, cut)
        return means

    def _mvm(
        self, image: Tensor, batch: PeerBatch, read: Encoded, weight: Tensor, cut: bool
    ) -> Tensor:
        every = self.method.masked.image_every
        mask, rows = batch.image_mask[::every], weight[::every]
        places = torch.argsort(mask.int(), dim=1, descending=True, stable=True)
        places = places[:, : self.masked_patches]
        hidden = self.towers.image(image[::every], mask, places if cut else None).tokens
        if not cut:
            hidden = tokens_at(hidden, places)
        logits = self.heads.mvm(hidden, read.cls[::every])
        ids = batch.image_tokens[::every].gather(1, places).flatten()
        found = functional.cross_entropy(logits.flatten(0, 1).float(), ids, reduction="none")
        sums = found.view_as(places).sum(1)
        return (sums * rows).sum() / (rows.sum() * self.masked_patches)

    def _mlm(self, batch: PeerBatch, seen: Encoded, weight: Tensor, cut: bool) -> Tensor:
        every, places = self.method.masked.text_every, batch.positions
        read = self.towers.text
        hidden = read(batch.masked_text, batch.text_length[::every], places if cut else None).tokens
        if not cut:
            hidden = tokens_at(hidden, places)
        logits = self.heads.mlm(hidden, seen.cls[::every], read.token_embedding.weight)
        targets = batch.targets.flatten()
        found = functional.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none")
        slots = batch.target_weight * weight[::every, None]
        return (found.view_as(slots) * slots).sum() / slots.sum()

    def _compared(
        self,
        seen: Encoded,
        read: Encoded,
        group: Tensor,
        image_key: Tensor,
        text_key: Tensor,
        weight: Tensor,
    ) -> dict[str, Tensor]:
        """The instance and the task level."""
        tau, queue = self.method.temperature, self.queue
        columns = Columns(queue.image, queue.text, queue.group_id, queue.valid)
        if self.method.negatives is Negatives.QUEUE_AND_BATCH:
            columns = Columns(
                torch.cat([image_key, queue.image]),
                torch.cat([text_key, queue.text]),
                torch.cat([group, queue.group_id]),
                torch.cat([weight > 0, queue.valid]),
            )
        same = (group[:, None] == columns.group_id[None]) & (group >= 0)[:, None]
        keep = columns.valid[None] & ~same
        if self.method.negatives is Negatives.QUEUE_AND_BATCH:
            place = torch.arange(len(columns.valid), device=group.device)
            keep = keep & (place[: len(group), None] != place[None])  # the own key

        def rows(features: Tensor, positive: Tensor, candidates: Tensor) -> Tensor:
            """Log-probabilities, the positive first."""
            first = (features * positive).sum(-1, keepdim=True)
            rest = (features @ candidates.T).masked_fill(~keep, HIDDEN * tau)
            return torch.log_softmax(torch.cat([first, rest], dim=1) / tau, dim=1)

        x = rows(seen.joint, text_key, columns.text)
        y = rows(read.joint, image_key, columns.image)
        pairs = weight.sum()
        means = {"instance": -((x[:, 0] + y[:, 0]) * weight).sum() / pairs}
        if "task" in self.active:
            teach_x, teach_y = x, y
            if self.method.alignment.teacher is Teacher.MOMENTUM:
                with torch.no_grad():
                    teach_x = rows(image_key, text_key, columns.text)
                    teach_y = rows(text_key, image_key, columns.image)
            there = functional.kl_div(x, teach_y, reduction="none", log_target=True).sum(1)
            back = functional.kl_div(y, teach_x, reduction="none", log_target=True).sum(1)
            means["task"] = ((there + back) / 2 * weight).sum() / pairs
        return means

    def _enqueue(self, image_key: Tensor, text_key: Tensor, group: Tensor, keep: Tensor) -> None:
        k, b = self.method.queue_length, len(group)
        places = (self.cursor + torch.arange(b, device=group.device)) % k
        queue = self.queue
        queue.image[places], queue.text[places] = image_key, text_key
        queue.group_id[places], queue.valid[places] = group, keep
        self.cursor = (self.cursor + b) % k


def _no_tokens(image: Tensor, cut: bool) -> Tensor | None:
    """For a tower of which [CLS] alone is read."""
    return torch.empty(len(image), 0, dtype=torch.long, device=image.device) if cut else None


def _groups(peer: Peer, decay: float) -> list[dict]:
    """Kernels and embedding tables decay; biases, norms and single vectors do not."""
    trained = [*peer.towers.named_parameters(), *peer.heads.named_parameters()]
    matrices = [p for _, p in trained if p.ndim > 1]
    others = [p for _, p in trained if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _check(method: MethodConfig) -> None:
    masked, alignment = method.masked, method.alignment
    known = (
        masked.forward is Forward.SEPARATE,
        masked.merge is Merge.ADD,
        masked.condition is Condition.CLS,
        masked.gradient is Gradient.FLOW,
        method.same_group is SameGroup.MASK,
        alignment.direction is Direction.BOTH,
        alignment.teacher is not Teacher.STOPPED,
        not alignment.temperature,
        not method.column_chunk,
    )
    if not all(known):
        raise UserError("the peer has the switches of configs/demo.py and configs/pretrain.py only")
