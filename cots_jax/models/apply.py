# SPDX-License-Identifier: Apache-2.0
"""Linen modules as pure functions of their parameters."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn


def apply(
    module: nn.Module, params: Any, *inputs: Any, method: Callable[..., Any] | None = None
) -> Any:
    """`module(*inputs)` with these parameters, or another `method` of it; nothing is mutable."""
    return module.apply({"params": params}, *inputs, method=method)
