# SPDX-License-Identifier: Apache-2.0
"""The command line of the export door."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cots_jax.portable.forms import Form
from cots_jax.switches import Towers


def parse_flags(argv: Sequence[str], description: str | None) -> argparse.Namespace:
    """`model`, `out`, `formats`, `towers` and `json`. Wrong use ends the program with status 2."""
    parser = argparse.ArgumentParser("python -m cots_jax.export", description=description)
    add = parser.add_argument
    add("--model", "--workdir", dest="model", required=True, type=Path,
        help="a training folder, or an exported one")  # fmt: skip
    add("--out", required=True, type=Path, help="the folder to make; must not be there yet")
    add("--formats", type=_forms, default=tuple(Form),
        help=f"some of {','.join(Form)} (default: all); the first is always written")  # fmt: skip
    add("--towers", type=Towers, choices=list(Towers),
        help="default: those that the run's own evaluations use")  # fmt: skip
    add("--json", action="store_true", help="export.json on standard output")
    return parser.parse_args(argv)


def _forms(text: str) -> tuple[Form, ...]:
    try:
        named = {Form(name.strip()) for name in text.split(",")}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}: choose of {','.join(Form)}") from None
    return tuple(form for form in Form if form in named | {Form.SAFETENSORS})
