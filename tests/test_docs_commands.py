# SPDX-License-Identifier: Apache-2.0
"""Every command of the pages, held against its door: flags, config files, names and keys.

Some are run as they stand, in a folder that has what the pages speak of. tests/test_tutorial.py
runs all of its page.
"""

import dataclasses
import importlib.util
import pathlib
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from doors import PROJECT, Said, run_evaluate, run_main, run_prepare, run_search
from PIL import Image
from tiny_world import CONFIG, PATTERNS, write_pictures

from cots_jax.arguments import parse_arguments
from cots_jax.collection.flags import parser as search_parser
from cots_jax.data.prepare.flags import parser as prepare_parser
from cots_jax.offline.flags import parse_flags as parse_evaluate
from cots_jax.planning.flags import parse_flags as parse_plan
from cots_jax.portable.flags import parse_flags as parse_export
from cots_jax.schedule import Clockwork
from cots_jax.switches import Task
from cots_jax.train.cots import read_schedules

PAGES = (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))

# What each door makes of its words, without doing it; wrong ones end with an error or an exit.
PARSERS: dict[str, Callable[[Sequence[str]], object]] = {
    "main": lambda words: parse_arguments(words, ""),
    "prepare": lambda words: prepare_parser("").parse_args(words),
    "evaluate": lambda words: parse_evaluate(words, ""),
    "search": lambda words: search_parser("").parse_args(words),
    "plan": parse_plan,
    "export": lambda words: parse_export(words, ""),
}


class Command(NamedTuple):
    """A command of a page: `python -m cots_jax.DOOR WORDS`."""

    page: str
    door: str
    words: list[str]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to the reader: no …, and no SOURCE or FILE of his own."""
        theirs = {"…", "SOURCE", "--config=FILE", "--config=FILE:ROW"}
        return bool(self.words) and not theirs & set(self.words)

    def __str__(self) -> str:
        return f"{self.page}: {self.door} {' '.join(self.words)}"


def commands() -> list[Command]:
    """Of all pages, in indented blocks and in lines; a comment behind two blanks is left out."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        in_lines = [re.sub(r"\s+", " ", each) for each in re.findall(r"`([^`]+)`", _prose(text))]
        for line in [*(each for each in text.splitlines() if each.startswith("    ")), *in_lines]:
            typed = re.fullmatch(
                r"\s*(?:\w+=\S+ )*(?:\.venv/bin/)?python -m cots_jax\.(\w+)\b(.*?)(?:  +#.*)?", line
            )
            if typed:
                words = shlex.split(typed[2])
                if typed[1] == "main" and words[-1:] == ["…"]:  # further keys, as one likes
                    words.pop()
                found.append(Command(page.name, typed[1], words))
    return found


def _prose(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def test_commands_are_found() -> None:
    found = commands()
    assert len(found) > 40
    assert {each.door for each in found} >= set(PARSERS)
    assert {"README.md", "processes.md", "own_data.md"} <= {each.page for each in found}
    assert any("#train" in word for each in found for word in each.words)


@pytest.mark.parametrize("command", [c for c in commands() if c.is_whole], ids=str)
def test_a_command_is_understood(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    PARSERS[command.door](command.words)


@pytest.mark.parametrize(
    "command", [c for c in commands() if c.is_whole and c.door == "main"], ids=str
)
def test_the_schedules_of_a_command_go_on(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a duration in steps is shorter than an epoch of a large set."""
    monkeypatch.chdir(PROJECT)
    config = parse_arguments(command.words, "").config
    clock = Clockwork(config.batch, pairs=5_300_000)
    clock = dataclasses.replace(clock, total_steps=clock.steps(config.duration))
    for name in ("log", "evaluate", "checkpoint", "diagnose"):
        assert clock.every(getattr(config, f"{name}_every"), name)
    if config.task is Task.COTS:
        read_schedules(config, clock)


def test_what_pages_call_by_its_module_is_there() -> None:
    for page in PAGES:
        for module in re.findall(r"python -m (benchmarks\.\w+)", page.read_text(encoding="utf-8")):
            assert importlib.util.find_spec(module), f"{page.name}: {module}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """What the pages speak of: pictures and a short run of them, under the names of the pages."""
    root = tmp_path_factory.mktemp("pages")
    write_pictures(root)
    (root / "configs").symlink_to(PROJECT / "configs")
    flags = ("--captions=captions.csv", "--images=pictures", "--out=data/tiny")
    assert run_prepare(root, "pairs", *flags).status == 0
    said = run_main(root, f"--config={CONFIG}:contrastive", "--config.duration=4 steps")
    assert said.status == 0, said.err
    for name, real in (("runs/mine", "tiny-contrastive"), ("runs/demo", "tiny-contrastive")):
        (root / name).symlink_to(real)
    (root / "photos").symlink_to("pictures")
    (root / "data/mine").symlink_to("tiny")
    _classes(root)
    vectors = np.eye(4, dtype=np.float32)
    for name, array in (("I", vectors), ("T", vectors), ("M", np.arange(4))):
        np.save(root / f"{name}.npy", array)
    return root


def _classes(root: pathlib.Path) -> None:
    """`pets`: a folder of pictures for each class, in both splits."""
    for split in ("train", "val"):
        for number, name in enumerate(PATTERNS):
            folder = root / "pets" / split / name
            folder.mkdir(parents=True)
            others = list(PATTERNS)[number % 2 :: 2]
            for below in others[:2] if split == "val" else others[2:]:
                with Image.open(root / "pictures" / f"{name}-{below}.png") as picture:
                    picture.save(folder / f"{below}.png")
    (root / "classes.txt").write_text("\n".join(PATTERNS) + "\n")
    (root / "prompts.txt").write_text("{} over night\n{} over roof\n")


RUN = {"prepare": run_prepare, "main": run_main, "evaluate": run_evaluate, "search": run_search}


def type_in(root: pathlib.Path, page: str, door: str, beginning: str, *more: str) -> Said:
    """Runs the command of a page that is or begins so, as it stands, with `more` behind it."""
    here = [each.words for each in commands() if (each.page, each.door) == (page, door)]
    whole = [words for words in here if " ".join(words) == beginning]
    (words,) = whole or [words for words in here if " ".join(words).startswith(beginning)]
    said = RUN[door](root, *words, *more)
    assert said.status == 0, said.err
    return said


@pytest.mark.slow
def test_the_commands_of_searching(world: pathlib.Path) -> None:
    type_in(world, "README.md", "search", "index")
    assert len(type_in(world, "README.md", "search", "query").out.splitlines()) == 5
    asked = "query --index=indexes/photos --text=a red car"
    assert "pictures" in type_in(world, "search.md", "search", asked).out


@pytest.mark.slow
def test_the_commands_of_evaluation(world: pathlib.Path) -> None:
    type_in(world, "evaluation.md", "prepare", "classes")
    assert "candidates" in type_in(world, "README.md", "evaluate", "--workdir=runs/mine").out
    vectors = type_in(world, "evaluation.md", "evaluate", "--image_embeddings")
    assert "100.0" in vectors.out
    assert (world / "I_evaluation/results.json").is_file()
    for added in ("--workdir=runs/mine --data=data/pets#val --classes",
                  "--workdir=runs/mine --data=data/pets#val --probe"):  # fmt: skip
        assert "top 1" in type_in(world, "evaluation.md", "evaluate", added).out


@pytest.mark.slow
def test_the_commands_of_fine_tuning(world: pathlib.Path) -> None:
    """At the size of the run that stands for theirs."""
    shutil.copytree(world / "runs/tiny-contrastive", world / "runs/flickr8k")
    small = ("--config.model=tiny-16", "--config.batch=16", "--config.data.text_length=8")
    short = ("--workdir=runs/tuned", "--config.duration=4 steps", "--config.hardware.chips=1")
    own = "--config=configs/finetune.py:own --workdir=runs/mine --config.init_from.run=runs"
    type_in(world, "finetune.md", "main", own, *small, *short)
    assert (world / "runs/tuned/best").is_dir()
