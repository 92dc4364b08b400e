# SPDX-License-Identifier: Apache-2.0
"""The forms in which a model leaves, and what each of them needs."""

import enum
import importlib.util
from collections.abc import Sequence

from cots_jax.errors import UserError


class Form(enum.StrEnum):
    """SAFETENSORS: the arrays, which are always there. STABLEHLO: both functions for JAX on any
    platform, with the arrays as an argument. ONNX: both functions with their arrays.
    """

    SAFETENSORS = "safetensors"
    STABLEHLO = "stablehlo"
    ONNX = "onnx"


NEEDED = {
    Form.SAFETENSORS: (),
    Form.STABLEHLO: ("flatbuffers",),  # how jax.export writes
    Form.ONNX: ("onnx", "onnxruntime"),
}


def require_packages(forms: Sequence[Form]) -> None:
    """Raises UserError where a form needs what is not installed."""
    for form in forms:
        missing = [name for name in NEEDED[form] if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(
                f"--formats={form} needs {' and '.join(missing)}: pip install 'cots-jax[export]', "
                f"or leave {form} out of --formats"
            )
