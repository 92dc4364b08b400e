# SPDX-License-Identifier: Apache-2.0
"""The shape of results.json, its round trip, and the table for the terminal."""

import dataclasses
import json

import numpy as np
import pytest

from cots_jax.errors import UserError
from cots_jax.retrieval.intervals import bootstrap
from cots_jax.retrieval.metrics import DirectionSummary, Ranks, summarise
from cots_jax.retrieval.protocols import (
    Leakage,
    count_captions,
    describe_set,
    make_result,
    read_results,
    results_json,
    table,
    write_results,
)


def result(name="own", captions=(1, 1, 1), **options):
    images = np.arange(len(captions))
    texts = np.repeat(images, captions)
    protocol = describe_set(
        images,
        texts,
        **{"dataset": "d", "split": "val", "towers": "momentum", "resolution": 32} | options,
    )
    ranks = Ranks(image_to_text=np.array([1, 2, 30]), text_to_image=np.ones(len(texts), int))
    return make_result(name, protocol, summarise(ranks))


def test_results_have_the_promised_shape():
    row = results_json([result(lineage=["scratch", "d train"])])["results"][0]
    assert set(row) == {"name", "protocol", "image_to_text", "text_to_image", "rsum"}
    assert set(row["protocol"]) == {
        "dataset", "split", "images", "texts", "captions_per_image", "candidates", "tie_rule",
        "towers", "resolution", "lineage", "fine_tuned_on",
    }  # fmt: skip
    assert set(row["image_to_text"]) == {"r1", "r5", "r10", "median_rank", "mean_rank"}
    assert row["protocol"]["tie_rule"] == "pessimistic"
    assert row["protocol"]["candidates"] == {"image_to_text": 3, "text_to_image": 3}
    assert row["image_to_text"]["r1"] == pytest.approx(100 / 3)
    assert row["rsum"] == pytest.approx(500 / 3 + 300)


def test_intervals_are_kept_where_there_are_any(tmp_path):
    group = np.arange(3)
    ranks = Ranks(image_to_text=np.array([1, 2, 30]), text_to_image=np.ones(3, int))
    plain = result()
    judged = dataclasses.replace(plain, interval_95=bootstrap(ranks, group, group))
    write_results(tmp_path / "results.json", [plain, judged])
    assert read_results(tmp_path / "results.json") == [plain, judged]
    row = results_json([judged])["results"][0]
    assert row["interval_95"]["image_to_text"]["r1"] == {"low": 0.0, "high": 100.0}
    assert " 0.0-100.0 " in table([judged])


def test_frames_appear_for_videos_only():
    assert results_json([result(frames=12)])["results"][0]["protocol"]["frames"] == 12


def test_leakage_appears_where_there_is_some(tmp_path):
    found = result()
    protocol = dataclasses.replace(found.protocol, leakage=Leakage("data/a", "train", 2, 1))
    leaking = dataclasses.replace(found, protocol=protocol)
    row = results_json([leaking])["results"][0]["protocol"]
    assert row["leakage"] == {
        "folder": "data/a",
        "split": "train",
        "pictures": 2,
        "with_caption": 1,
    }
    assert "leakage" not in results_json([found])["results"][0]["protocol"]
    write_results(tmp_path / "results.json", [leaking, found])
    assert read_results(tmp_path / "results.json") == [leaking, found]


def test_uneven_captions_are_said():
    uneven = result(captions=(2, 5, 5))
    protocol = results_json([uneven])["results"][0]["protocol"]
    assert protocol["captions_per_image"] == 4 and protocol["captions_per_image_range"] == [2, 5]
    assert "2 to 5 captions per image (4.00 on average)" in table([uneven])


def test_captions_are_counted_by_group():
    counts = count_captions(np.array([9, 4, 9]), np.array([4, 9, 4, 4]))
    assert (counts.mean, counts.least, counts.most) == (pytest.approx(5 / 3), 1, 3)


def test_written_results_read_back_equal(tmp_path):
    results = [result("a", frames=4), result("ü", captions=(1, 2, 3), fine_tuned_on=["d train"])]
    path = tmp_path / "new" / "results.json"
    write_results(path, results)
    write_results(path, results)
    assert read_results(path) == results
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]
    assert json.loads(path.read_text())["results"][1]["name"] == "ü"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, [result("old")])
    broken = result("new")
    nan = DirectionSummary(*[float("nan")] * 5)
    with pytest.raises(ValueError, match="JSON"):
        write_results(path, [make_result("new", broken.protocol, summarise_as(nan))])
    assert read_results(path)[0].name == "old" and len(list(tmp_path.iterdir())) == 1


def summarise_as(direction):
    from cots_jax.retrieval.metrics import Summary

    return Summary(direction, direction, 0.0)


@pytest.mark.parametrize("content", ["{", "[]", '{"results": [{}]}', '{"results": 3}'])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(UserError, match="no results file"):
        read_results(path)


def test_absent_results_name_the_remedy(tmp_path):
    with pytest.raises(UserError, match="evaluate --workdir"):
        read_results(tmp_path / "results.json")


def test_table_lines_up():
    lines = table([result("short"), result("a_longer_name", fine_tuned_on=["d train"])]).split("\n")
    header, rule, *rows = lines
    assert header.index("R@1") + 3 == rows[0].index("33.3") + 4
    assert len({len(row) for row in [rule, *rows[:4]]}) == 1
    assert "short: momentum towers, not fine-tuned, 1 caption per image, 32 px" in lines[-2]
    assert "a_longer_name: momentum towers, fine-tuned on d train" in lines[-1]
