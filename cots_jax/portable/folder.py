# SPDX-License-Identifier: Apache-2.0
"""A model exported into a folder, which is whole or not there at all."""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import importlib.resources
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jax import export

from cots_jax import manifest
from cots_jax.errors import UserError
from cots_jax.objectives import sigmoid, temperature
from cots_jax.portable.card import evaluated, write_card
from cots_jax.portable.forms import Form, require_packages
from cots_jax.portable.functions import Functions
from cots_jax.portable.parity import check_tokenizer, largest_difference, make_probes
from cots_jax.portable.preprocessing import write_preprocessing
from cots_jax.portable.running import runner, write_form
from cots_jax.pretrained import Pretrained
from cots_jax.switches import Towers
from cots_jax.weights.exported import IDENTITY, write_arrays, write_facts

EXAMPLES = {
    Form.SAFETENSORS: ("preprocess.py", "with_numpy.py"),
    Form.STABLEHLO: ("with_jax.py",),
    Form.ONNX: ("with_onnxruntime.py",),
}
LEARNED = (temperature.NAME, sigmoid.NAME)  # beside the masked heads, which stay behind
Differences = Mapping[str, Mapping[str, float]]  # of a form, of a tower


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written, and how far each form is from the model."""

    folder: Path
    step: int
    towers: str
    parity: Differences

    def summary(self) -> str:
        """A line a form, for the terminal."""
        lines = [f"the {self.towers} towers of step {self.step:,} are in {self.folder}"]
        for form, found in self.parity.items():
            apart = ", ".join(f"{value:.2g} ({tower})" for tower, value in found.items())
            lines.append(f"{form}: at most {apart} from the model")
        return "\n".join(lines)


def export_folder(
    model: Path, out: Path, forms: Sequence[Form], towers: Towers | None = None
) -> Exported:
    """Writes the towers of a trained folder into `out` in these forms, each checked against them.

    towers: None are those that the run's own evaluations use. Raises UserError: no model there, a
    damaged one, `out` in use, a package missing, a form that differs by more than it may.
    """
    if out.exists():
        raise UserError(f"{out} is there already: choose another --out, or remove it")
    require_packages(forms)
    opened = Pretrained.load(model, towers)
    if opened.config.data.frames > 1 and set(forms) != {Form.SAFETENSORS}:
        raise UserError(
            f"{model} was trained on {opened.config.data.frames} frames of a video, and the "
            "exported functions take single pictures: use --formats=safetensors"
        )
    which, identity = opened.lineage.towers, _identity(opened)
    with appearing(out) as staging:
        parity = _write(staging, opened, forms)
        write_card(staging, opened, forms, evaluated(model, identity, which), parity)
        write_facts(
            staging,
            opened.source.facts | _changed(opened),
            step=opened.step,
            identity=identity,
            formats=list(forms),
            architecture=dataclasses.asdict(opened.model.config),
            parity=parity,
            versions={name: importlib.metadata.version(name) for name in ("jax", "flax")},
        )
    return Exported(out, opened.step, which, parity)


def _write(folder: Path, opened: Pretrained, forms: Sequence[Form]) -> Differences:
    """All files but the card and the facts; what was measured on those read back."""
    (rows,) = export.symbolic_shape("b")
    signatures = Functions.of(opened).signatures(opened.towers, rows)
    write_arrays(folder, opened.towers)
    write_preprocessing(folder, opened)
    check_tokenizer(folder, opened)
    _copy_examples(folder, forms)
    probes = make_probes(signatures, opened.tokenizer.vocab_size)
    found = {}
    for form in forms:
        write_form(folder, form, signatures)
        found[str(form)] = largest_difference(form, runner(folder, form, signatures), probes)
    return found


def _copy_examples(folder: Path, forms: Sequence[Form]) -> None:
    there = importlib.resources.files("cots_jax") / "portable" / "examples"
    (folder / "examples").mkdir()
    for name in (name for form in forms for name in EXAMPLES[form]):
        text = (there / name).read_text(encoding="utf-8")
        (folder / "examples" / name).write_text(text, encoding="utf-8")


def _changed(opened: Pretrained) -> dict[str, Any]:
    """Facts that are others than in the checkpoint."""
    config = opened.source.facts["config"] | {"evaluation_towers": opened.lineage.towers}
    heads = opened.source.heads()
    learned = {name: float(heads[name]) for name in LEARNED if name in heads}
    return {"config": config, "temperature": opened.temperature(), "learned": learned}


def _identity(opened: Pretrained) -> dict[str, Any]:
    """Of the checkpoint, whose vectors these are; other towers than its own have other vectors."""
    named = {"towers": opened.lineage.towers}
    usual = opened.config.evaluation_towers == opened.lineage.towers
    return opened.identity() | ({} if usual else named)


@contextlib.contextmanager
def appearing(out: Path) -> Generator[Path]:
    """A hidden folder beside `out`, which takes that name with all its files and their manifest.

    What a killed run has left there is removed. UserError where another export is at it.
    """
    staging = out.with_name(f".{out.name}.unfinished")
    try:
        staging.mkdir(parents=True, exist_ok=True)
        with _held(staging):
            try:
                _empty(staging)
                yield staging
                manifest.write(staging, IDENTITY)
                staging.rename(out)
                manifest.sync(out.parent)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write {out} ({error}): make room or choose another --out, then start again"
        ) from error


@contextlib.contextmanager
def _held(folder: Path) -> Generator[None]:
    """The folder is no other process's meanwhile. UserError where it is."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # else who held it ends just now, and has renamed or removed it
            mine = folder.exists() and os.path.samestat(os.fstat(opened), folder.stat())
        except BlockingIOError:
            mine = False
        if not mine:
            raise UserError(f"another export writes {folder}: wait for it")
        yield
    finally:
        os.close(opened)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
