# SPDX-License-Identifier: Apache-2.0
"""Model FLOPs utilisation (Chowdhery et al., 2022): what a run gets out of its chips.

The products of the step over the time it takes and the chips' peak in bf16. Padding counts as work,
since the step does it; what is computed again in the backward pass does not. Nothing is said where
the chip's peak is not known, as of a CPU.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from cots_jax.chips import CHIPS, Chip
from cots_jax.models.transformer import TransformerConfig
from cots_jax.models.two_stream import TwoStreamConfig
from cots_jax.schema import Config, HardwareConfig
from cots_jax.switches import AttentionForm, Remat
from cots_jax.train.flops import count_flops
from cots_jax.train.planning import arguments_of
from cots_jax.train.step import CotsStep


class Utilisation:
    """A run's, from how many pairs it trains a second.

    batch: pairs a step. flops: of the step that ends at a step's number, on all chips; None: nobody
    counts them.
    """

    def __init__(
        self, hardware: HardwareConfig, batch: int, flops: Callable[[int], int] | None
    ) -> None:
        self._chip, self._chips = chip_of(hardware), hardware.chips
        self._batch, self._flops = batch, flops

    def numbers(self, step: int, pairs_per_second: float) -> dict[str, float]:
        """{"mfu": 0..1} of steps like this one at that rate; nothing where the chip is not known.

        pairs_per_second: that of the last steps, since a schedule changes what a step costs.
        """
        if self._chip is None or self._flops is None:
            return {}
        done = self._flops(step) * pairs_per_second / self._batch
        return {"mfu": done / (self._chips * self._chip.flops)}


def chip_of(hardware: HardwareConfig) -> Chip | None:
    """The chip of a hardware row, where its peak is known."""
    return CHIPS.get(hardware.row.partition("-")[0])


def step_flops(
    step: CotsStep, config: Config, on: frozenset[str], frozen: Any = None, sources: int = 1
) -> int:
    """Products of a step of these objectives, nothing computed twice.

    frozen: of the image tokenizer, where the step has one.
    """
    bare = dataclasses.replace(as_counted(step), active=on, paused=frozenset())
    return count_flops(bare, *arguments_of(step, config, frozen, sources))


def as_counted(step: CotsStep) -> CotsStep:
    """The step whose operations are the model's: nothing computed again, attention written out,
    since what cuDNN's kernel does stands in no jaxpr."""
    model = dataclasses.replace(step.model, config=_not_again(step.model.config))
    return dataclasses.replace(step, model=model)


def _not_again(size: TwoStreamConfig) -> TwoStreamConfig:
    def kept(stack: TransformerConfig) -> TransformerConfig:
        return dataclasses.replace(stack, remat=Remat.OFF, attention=AttentionForm.WRITTEN_OUT)

    vision, text = size.vision, size.text
    return TwoStreamConfig(
        dataclasses.replace(vision, transformer=kept(vision.transformer)),
        dataclasses.replace(text, transformer=kept(text.transformer)),
    )
