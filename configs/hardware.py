# SPDX-License-Identifier: Apache-2.0
"""Hardware rows: a chip kind with its settings per chip. Each value is an own choice (O).

`NAME` takes the number of chips from the devices found, `NAME-N` states it. No row but those of the
CPU has run on its hardware. Those of TPUs and GPUs were chosen by `python -m cots_jax.plan --sweep`
for configs/pretrain.py, `laptop` by one for configs/demo.py; docs/plan.md has what they tried.
"""

import difflib
from pathlib import Path

import jax
from ml_collections import ConfigDict

ROWS = {
    "cpu": {"precision": "float32", "scan": "off", "remat": "off"},
    "cpu_bf16": {"precision": "bfloat16_operands", "scan": "off", "remat": "off"},
    "laptop": {"precision": "float32", "scan": "off", "remat": "off"},
    "v4": {"precision": "bfloat16", "scan": "on", "remat": "on", "attention": "fused"},
    "v5e": {"precision": "bfloat16", "scan": "on", "remat": "on", "attention": "fused"},
    "v5p": {"precision": "bfloat16", "scan": "on", "remat": "dots", "attention": "fused"},
    "v6e": {"precision": "bfloat16", "scan": "on", "remat": "on", "attention": "fused"},
    "a100": {"precision": "bfloat16", "scan": "on", "remat": "dots", "attention": "fused"},
    "h100": {"precision": "bfloat16", "scan": "on", "remat": "on", "attention": "fused"},
    "h200": {"precision": "bfloat16", "scan": "on", "remat": "on", "attention": "fused"},
    "hopper": {"precision": "bfloat16", "scan": "on", "remat": "on", "attention": "fused"},
    "gpu": {"precision": "bfloat16", "scan": "on", "remat": "on"},
}

# What JAX calls a device -> row; the first that the lower-cased kind contains.
KINDS = {
    "v6": "v6e",
    "v5p": "v5p",
    "v5 lite": "v5e",
    "v5e": "v5e",
    "v5": "v5p",
    "v4": "v4",
    "gh200": "hopper",  # these have other peaks, bandwidths or memories than the SXM modules
    "h200 nvl": "hopper",
    "h100 nvl": "hopper",
    "h100 pcie": "hopper",
    "h200": "h200",
    "h100": "h100",
    "a100": "a100",
    "cpu": "cpu",
}


def split_names(names: str, variants: tuple[str, ...]) -> tuple[str, str]:
    """(variant, row) out of the comma list behind the colon of `--config`; "" where absent.

    ValueError for a name that is neither, and for a second one of a kind.
    """
    found = chosen(names, {"variant": variants})
    return found["variant"], found["hardware row"]


def chosen(names: str, kinds: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """One name of each kind, and of `hardware row`, out of the comma list; "" where absent.

    ValueError for a name of no kind, and for a second one of a kind.
    """
    found = dict.fromkeys([*kinds, "hardware row"], "")
    for name in filter(None, names.split(",")):
        kind = next((kind for kind, known in kinds.items() if name in known), "")
        if is_row(name):
            kind = "hardware row"
        if not kind:
            known = [*(one for group in kinds.values() for one in group), *ROWS]
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
            raise ValueError(
                f"unknown variant or hardware row {name!r}; nearest: {', '.join(close)}"
            )
        if found[kind]:
            raise ValueError(f"{found[kind]!r} and {name!r}: name one {kind} only")
        found[kind] = name
    return found


def is_row(name: str) -> bool:
    """NAME or NAME-N of the table."""
    kind, _, chips = name.partition("-")
    return kind in ROWS and (not chips or (chips.isdigit() and int(chips) > 0))


def multiplies_bfloat16() -> bool:
    """Whether this CPU has bf16 matrix instructions: then they are up to twice as fast."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def hardware(row: str = "") -> ConfigDict:
    """The settings of a row, or of the row of the devices found."""
    if not row:
        device = jax.devices()[0]
        kind = device.device_kind.lower()
        fallback = "gpu" if device.platform == "gpu" else "cpu"
        row = next((name for word, name in KINDS.items() if word in kind), fallback)
        if row == "cpu" and multiplies_bfloat16():
            row = "cpu_bf16"
    kind, _, chips = row.partition("-")
    return ConfigDict(
        {
            "row": row,
            "chips": int(chips) if chips else len(jax.devices()),
            "fsdp": 1,  # ways that parameters are cut
            "tensor": 1,  # ways that single layers are cut
            "accumulate": 1,  # gradient pieces a batch
            **ROWS[kind],
        }
    )
