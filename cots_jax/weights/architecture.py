# SPDX-License-Identifier: Apache-2.0
"""What the towers of a checkpoint compute, in JSON beside their arrays (own choice).

A config names a model by its size, and a later version may build that name otherwise. Other shapes
would be noticed; another pooling, norm or activation would give other numbers in silence.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cots_jax.errors import UserError
from cots_jax.models.two_stream import TwoStreamConfig
from cots_jax.weights.mapping import flat

HARDWARE = ("precision", "scan", "remat", "attention")  # how it is computed, not what


def architecture(config: TwoStreamConfig) -> dict[str, Any]:
    """Of both towers everything but what the hardware chooses."""
    described = dataclasses.asdict(config)
    for tower in described.values():
        for name in HARDWARE:
            del tower["transformer"][name]
    return json.loads(json.dumps(described))  # as a checkpoint gives it back


def same_architecture(
    facts: Mapping[str, Any], config: TwoStreamConfig, folder: str | Path
) -> None:
    """Sees that a checkpoint's towers are built as they were when its facts were written.

    An option that is younger than the checkpoint had its default then. Checkpoints whose facts say
    nothing of this pass. Raises UserError.
    """
    if differing := differences(facts, config):
        named = [f"{key}: {old!r} then, {new!r} now" for key, (old, new) in differing.items()]
        raise UserError(
            f"the towers of {folder} were built otherwise than this version builds "
            f"{facts['config']['model']!r} ({'; '.join(named[:5])}): use the version that trained "
            "them, or train again"
        )


def differences(facts: Mapping[str, Any], config: TwoStreamConfig) -> dict[str, tuple[Any, Any]]:
    """Options by path, `vision/patch`, in which the towers behind facts and a config differ."""
    if not (then := facts.get("architecture")):
        return {}
    old = flat(json.loads(json.dumps(_defaults(config)))) | flat(then)
    new = flat(architecture(config))
    both = {key: (old.get(key), new.get(key)) for key in {**flat(then), **new}}
    return {key: (one, other) for key, (one, other) in both.items() if one != other}


def _defaults(config: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found[field.name] = _defaults(value)
        elif field.default is not dataclasses.MISSING:
            found[field.name] = field.default
    return found
