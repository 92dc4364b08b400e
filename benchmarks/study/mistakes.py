# SPDX-License-Identifier: Apache-2.0
"""What the first answer to a composed emoji gets wrong: its sign, its skin tone, or both?

    python -m benchmarks.study.mistakes --data=FOLDER#SPLIT,… WORKDIR …

A composed name is a known sign with a known tone, seen together nowhere in training. Of every
trained folder, set and direction: the queries, and how many of them take another tone of the same
sign, another sign in the same tone, or another sign and tone. A rank that is shared counts against
the model, as everywhere here.
"""

import argparse
import dataclasses
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from benchmarks.measure import Cell, Table
from cots_jax.data.specs import parse_sources
from cots_jax.errors import UserError
from cots_jax.pretrained import Pretrained
from cots_jax.retrieval.answers import first_answers
from cots_jax.retrieval.contents import ReadSet, contents_of
from cots_jax.retrieval.evaluation import evaluate_set, open_sets

TONE = re.compile(r"\b(medium-light|medium-dark|light|medium|dark) skin tone\b")
KINDS = ("tone", "sign", "both")


@dataclasses.dataclass(frozen=True)
class Composed:
    """A name taken apart: `thumbs up`, (`dark`,)."""

    sign: str
    tones: tuple[str, ...]  # of two people two

    @classmethod
    def read(cls, name: str) -> "Composed":
        """Out of the name; without tones where it has none."""
        return cls(" ".join(TONE.sub(" ", name).split()), tuple(TONE.findall(name)))


def kinds_of(
    query: Float[np.ndarray, "q e"],
    candidate: Float[np.ndarray, "c e"],
    query_group: Int[np.ndarray, "q"],
    candidate_group: Int[np.ndarray, "c"],
    name_of_group: dict[int, str],
) -> Counter[str]:
    """How often each of KINDS is what the answer that comes before the right one gets wrong."""
    answers = first_answers(query, candidate, query_group, candidate_group)
    found: Counter[str] = Counter()
    for row in np.flatnonzero(answers.rank > 1):
        asked = Composed.read(name_of_group[int(query_group[row])])
        given = Composed.read(name_of_group[int(candidate_group[answers.wrong[row]])])
        if asked.sign == given.sign:
            found["tone"] += 1
        else:
            found["sign" if asked.tones == given.tones else "both"] += 1
    return found


def names_of(groups: Sequence[int], captions: Sequence[str], where: str) -> dict[int, str]:
    """The name of each group. Raises UserError where one has no tone."""
    plain = [name for name in captions if not Composed.read(name).tones]
    if plain:
        raise UserError(
            f"{len(plain)} of the {len(captions)} names of {where} have no skin tone, {plain[0]!r} "
            "for one: name splits of composed emoji, as data/emoji#emoji_composition_twemoji"
        )
    return dict(zip(groups, captions, strict=True))


def rows_of(workdir: Path, data: str) -> list[tuple[Cell, ...]]:
    """(folder, set, direction, queries, wrong, tone, sign, both). Raises UserError."""
    opened = Pretrained.load(workdir)
    sources = parse_sources(data, "--data")
    size, length = opened.preprocessing.size, opened.config.data.text_length
    rows: list[tuple[Cell, ...]] = []
    with open_sets(sources, opened.tokenizer, size=size, length=length) as sets:
        for one in sets:
            scored = evaluate_set(
                opened.towers, opened.model, opened.preprocessing, one, opened.lineage
            )
            images, texts = scored.images, scored.texts
            captions = ReadSet(one, contents_of(one.table)).captions()
            name_of = names_of(texts.group_id.tolist(), captions, one.name)
            for way, asked, given in (
                ("image to text", images, texts),
                ("text to image", texts, images),
            ):
                found = kinds_of(
                    asked.features, given.features, asked.group_id, given.group_id, name_of
                )
                counts = (found[kind] for kind in KINDS)
                queries = len(asked.features)
                rows.append((workdir.name, one.name, way, queries, found.total(), *counts))
    return rows


def main(argv: Sequence[str]) -> int:
    """Prints a table; exit status 1 with one line where a folder or set cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study.mistakes")
    parser.add_argument("--data", required=True, help="FOLDER#SPLIT,… of composed emoji")
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    flags = parser.parse_args(argv)
    try:
        rows = [row for workdir in flags.workdirs for row in rows_of(workdir, flags.data)]
    except UserError as error:
        print(f"mistakes: {error}", file=sys.stderr)
        return error.status
    columns = ("folder", "set", "way", "queries", "wrong", *KINDS)
    print(Table("What first answers get wrong", columns, rows).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
