# SPDX-License-Identifier: Apache-2.0
"""Image-text retrieval models, trained or opened for use.

    from cots_jax import Index, Pretrained

    model = Pretrained.load("runs/demo")
    found = Index.open("indexes/photos").search(model.encode_texts(["a red car"]), 10)

What is named here is loaded when it is first asked for: to import the package takes no JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cots_jax.errors import UserError
    from cots_jax.pretrained import Pretrained
    from cots_jax.retrieval.index import Index

__all__ = ["Index", "Pretrained", "UserError"]

_HOMES = {"Index": "retrieval.index", "Pretrained": "pretrained", "UserError": "errors"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
