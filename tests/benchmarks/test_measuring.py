# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks of speed share, and the parts of them that are right or wrong."""

import json
import pathlib
import re
import xml.etree.ElementTree
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from benchmarks import embed, evaluate, performance_page, plots, scale, start
from benchmarks import input as reading
from benchmarks.measure import (
    Found,
    Table,
    flags_of,
    grown,
    in_turns,
    ratio,
    run_benchmark,
    spread,
)

TABLE = Table("Some", ("what", "s"), [("a", 0.123456), ("b", 12345.6), ("c", 7), ("d", None)])
MAIN = {"embed": embed.main, "evaluate": evaluate.main, "input": reading.main,
        "scale": scale.main, "start": start.main}  # fmt: skip


def run(argv: Sequence[str]) -> int:
    found = Found([TABLE], {"x": 1}, plots.bars("Some", "s", [plots.Bar("a", 0.1, 0.1, 0.2)]))
    return run_benchmark("some", flags_of("some", ""), argv, lambda _: found)


def test_calls_take_turns_and_each_begins_a_round() -> None:
    order: list[str] = []
    spent = in_turns({name: lambda name=name: order.append(name) for name in "abc"}, 4)
    assert "".join(order) == "abcbcacababc"
    assert {name: len(times) for name, times in spent.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_turn_may_be_several_calls_after_one_that_is_not_timed() -> None:
    order: list[str] = []
    spent = in_turns({name: lambda name=name: order.append(name) for name in "ab"}, 2, in_a_row=2)
    assert "".join(order) == "aaabbb" + "bbbaaa"
    assert {name: len(times) for name, times in spent.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_taken_round_by_round() -> None:
    """A machine that is ten times slower in one round changes nothing."""
    spent = {"ours": [2.0, 30.0, 4.0], "bare": [1.0, 10.0, 2.0]}
    assert ratio(spent, "ours", "bare") == 2.0
    assert spread(spent, "ours", "bare") == "2 to 3"


def test_memory_is_that_of_the_call() -> None:
    held = np.ones(2**23)  # 64 MiB that were there before
    assert 2**24 < grown(lambda: np.ones(2**22).sum()) < 2**26  # 32 MiB
    assert held[0] == 1


def test_a_table_shows_four_digits() -> None:
    assert TABLE.markdown().splitlines() == [
        "Some", "", "| what | s |", "| --- | --- |",
        "| a | 0.1235 |", "| b | 12,346 |", "| c | 7 |", "| d |  |",
    ]  # fmt: skip


def test_a_record_has_where_it_was_taken(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "some.json"
    assert run([f"--out={out}", "--rounds=3"]) == 0
    assert capsys.readouterr().out == f"{TABLE.markdown()}\n"
    record = json.loads(out.read_text("utf-8"))
    assert record["command"] == "python -m benchmarks.some --rounds=3"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record["date"])
    assert re.fullmatch(r"([0-9a-f]{40}\+?)?", record["commit"])
    assert {"python", "jax", "jaxlib", "numpy", "grain"} <= set(record["versions"])
    assert {"device", "cores", "load"} <= set(record["machine"])
    assert record["tables"][0]["rows"][1] == ["b", 12345.6]


@pytest.mark.parametrize(
    ("name", "flags", "named"),
    [
        ("evaluate", ["--rounds=-1"], "use 0 or more"),
        ("evaluate", ["--out=figures.txt"], "ends in .json"),
        ("evaluate", ["--sizes=5000"], "write IMAGESxTEXTS"),
        ("evaluate", ["--sizes=9x8"], "a text for each image"),
        ("embed", ["--texts=0"], "--texts is 0: use 1 or more"),
        ("embed", ["--size=b16-225"], "use one of b16-384"),
        ("input", ["--pictures=3"], "--pictures is 3: use 64 or more"),
        ("input", ["--model=photo"], "photo-32"),
        ("start", ["--cases=dem"], "demo"),
        ("scale", ["--axes=bach"], "batch"),
        ("scale", ["--axes=batch", "--config.btach=8"], "batch"),
    ],
)
def test_wrong_flags_are_one_line(
    name: str, flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert MAIN[name](flags) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("error: ")
    assert named in said.err


@pytest.mark.parametrize("name", MAIN)
def test_an_unknown_flag_is_wrong_use(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        MAIN[name](["--qiuck"])
    assert "unrecognized arguments: --qiuck" in capsys.readouterr().err


def peers() -> dict[str, Callable[[evaluate.World], evaluate.Ranks]]:
    return {"numpy": evaluate.by_numpy, "torch": lambda world: evaluate.by_torch(world)()}


@pytest.mark.parametrize("peer", peers())
@pytest.mark.parametrize("sizes", [(40, 200), (50, 50), (30, 47)])
def test_the_peers_rank_as_we_do(
    peer: str, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several blocks, and also where some images have more texts than others."""
    if peer == "torch":
        pytest.importorskip("torch", reason="needs the extra cots_jax[parity]")
    monkeypatch.setattr(evaluate, "BLOCK", 7 * sizes[1])
    world = evaluate.make_world(*sizes, width=16)
    ours, theirs = evaluate.ours(world), peers()[peer](world)
    assert evaluate.alike(ours, theirs) == 100
    assert ours.image_to_text.max() > 2


@pytest.mark.parametrize("power", [0, 1, 2])
def test_an_exponent_is_a_slope(power: int) -> None:
    sizes = [8, 16, 64]
    assert scale.exponent(sizes, [3.0 * size**power for size in sizes]) == pytest.approx(power)


def test_a_plot_has_a_point_for_each_value() -> None:
    lines = [[1.0, 20.0, 0.0], [0.5, 3.0, 900.0]]
    svg = plots.page([plots.panel("ms", "k", ("one", "two"), ("1", "2", "3"), lines)] * 3)
    drawn = xml.etree.ElementTree.fromstring(svg)
    found = [e for e in drawn.iter() if e.tag.endswith("polyline")]
    assert [len(e.attrib["points"].split()) for e in found] == [3] * 6
    heights = [float(point.split(",")[1]) for point in found[1].attrib["points"].split()]
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] > plots.TOP - 1
    ticks = [e.text for e in drawn.iter() if e.attrib.get("text-anchor") == "end"]
    assert ticks[:5] == ["0.1", "1", "10", "100", "1000"]


def test_bars_are_as_long_as_their_values_and_show_which_aim_is_missed() -> None:
    rows = [
        plots.Bar("half", 1.0, 0.5, 1.5, aim=2.0),
        plots.Bar("a < b", 2.0, 2.0, 2.0, aim=4.0, at_least=False),
        plots.Bar("no aim", 4.0, 4.0, 4.0),
    ]
    drawn = xml.etree.ElementTree.fromstring(plots.bars("Some", "x", rows))
    found = [e.attrib for e in drawn.iter() if e.attrib.get("class") == "bar"]
    assert [float(e["width"]) / plots.BARS for e in found] == [0.25, 0.5, 1.0]
    assert [e["fill"] for e in found] == [plots.COLOURS[1], *[plots.COLOURS[0]] * 2]
    marks = [e.attrib for e in drawn.iter() if e.attrib.get("class") == "aim"]
    assert [float(e["x1"]) - plots.NAMES for e in marks] == [plots.BARS / 2, plots.BARS]
    texts = [e.text for e in drawn.iter() if e.tag.endswith("text")]
    assert {"1 (aim: ≥ 2)", "2 (aim: ≤ 4)", "4", "a < b"} <= set(texts)


PAGE = "Before\n<!-- figures: some -->\n\nNot yet.\n\n<!-- end -->\nAfter\n"


class TestPage:
    def test_figures_take_the_place_of_those_before(self, tmp_path: pathlib.Path) -> None:
        page, folder = tmp_path / "page.md", tmp_path / "figures"
        page.write_text(PAGE, "utf-8")
        assert run([f"--out={folder / 'some.json'}"]) == 0
        flags = [str(folder), f"--page={page}"]
        assert performance_page.main(flags) == 0
        once = page.read_text("utf-8")
        assert once.startswith("Before\n<!-- figures: some -->\n")
        assert once.endswith("<!-- end -->\nAfter\n")
        assert TABLE.markdown() in once
        assert "Not yet" not in once
        assert "`python -m benchmarks.some` ([all times](page/some.json))" in once
        assert "![some: Some](page/some.svg)" in once
        for name in ("some.json", "some.svg"):
            copied = tmp_path / "page" / name
            assert copied.read_text("utf-8") == (folder / name).read_text("utf-8")
        assert performance_page.main(flags) == 0
        assert page.read_text("utf-8") == once

    @pytest.mark.parametrize(
        ("file", "flags", "named"),
        [
            ("some", ["--quick"], "measure without --quick"),
            ("other", [], "no section for other: it has some"),
        ],
    )
    def test_what_does_not_belong_there(
        self,
        file: str,
        flags: list[str],
        named: str,
        tmp_path: pathlib.Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        page = tmp_path / "page.md"
        page.write_text(PAGE, "utf-8")
        assert run([f"--out={tmp_path / file}.json", *flags]) == 0
        assert performance_page.main([str(tmp_path), f"--page={page}"]) == 1
        assert named in capsys.readouterr().err
        assert page.read_text("utf-8") == PAGE

    @pytest.mark.parametrize("text", ["{", "[]", "{}"])
    def test_what_is_no_record(self, text: str, tmp_path: pathlib.Path) -> None:
        (tmp_path / "some.json").write_text(text, "utf-8")
        with pytest.raises(performance_page.UserError, match="is no record of a benchmark"):
            performance_page.read_record(tmp_path / "some.json")

    def test_the_real_page_says_what_its_records_say(self) -> None:
        """And each record has a plot; sections of before there were records have neither."""
        page = performance_page.PAGE.read_text("utf-8")
        beside = performance_page.PAGE.with_suffix("")
        files = sorted(beside.glob("*.json"))
        records = {file.stem: performance_page.read_record(file) for file in files}
        assert len(records) >= 5
        assert sorted(beside.glob("*.svg")) == [file.with_suffix(".svg") for file in files]
        assert performance_page.filled(page, records, beside.name, records) == page

    def test_every_section_of_the_real_page_has_a_command(self) -> None:
        text = performance_page.PAGE.read_text("utf-8")
        assert set(performance_page.SECTION.findall(text)) == {
            *MAIN,
            "step_demo",
            "step_demo_bf16",
            "step_b16_224",
            "step_b16_224_bf16",
            "step_b16_224_compiled",
            "step_b16_224_shared",
            "step_b16_384",
            "step_b16_384_shared",
            "step_b16_384_full",
            "step_b16_384_contrastive",
            "embed_b16_224",
        }
        for name in (*MAIN, "step"):
            assert f"    python -m benchmarks.{name}" in text
