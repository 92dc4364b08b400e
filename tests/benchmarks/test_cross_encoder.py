# SPDX-License-Identifier: Apache-2.0
"""The cross-encoder as a partner: its forward pass, its operations, the ratios it is used for."""

import dataclasses
import functools
import json
import pathlib
import statistics

import jax
import numpy as np
import pytest
from doors import load_benchmark

from cots_jax.models.text import TextConfig
from cots_jax.models.transformer import Norm, TransformerConfig
from cots_jax.models.two_stream import TwoStream, model_size
from cots_jax.schema import HardwareConfig, MaskedConfig
from cots_jax.train.flops import count_flops

bench = load_benchmark("cross_encoder")
STACK = TransformerConfig(2, 8, 2, 12, norm=Norm.POST, epsilon=1e-12)
CROSS = bench.CrossEncoder(TextConfig(STACK, positions=10, vocabulary=30))
WIDTH, N, L = 5, 4, 6  # of a feature; image tokens; text tokens
LENGTH = np.array([6, 3, 1], np.int32)
TINY = ("--model=tiny-16", "--images=7", "--texts=21", "--text_tokens=8", "--regions=3")
TINY_FLAGS = (*TINY, "--region_text=10", "--batch=1")


def pairs(seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(3, N, WIDTH)).astype(np.float32)
    return image, rng.integers(0, 30, (3, L), np.int32), LENGTH


@functools.cache
def params(module):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *pairs())["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


def score(image, text, length, module=CROSS):
    return np.asarray(bench.score_pairs(params(module), image, text, length, module=module))


def pre_norm():
    stack = dataclasses.replace(STACK, norm=Norm.PRE)
    return bench.CrossEncoder(dataclasses.replace(CROSS.config, transformer=stack))


@pytest.mark.parametrize("module", [CROSS, pre_norm()], ids=["post", "pre"])
def test_a_pair_has_one_logit(module) -> None:
    logits = score(*pairs(), module=module)
    assert logits.shape == (3,)
    assert np.isfinite(logits).all()
    assert len(set(logits.tolist())) == 3


def test_each_logit_reads_its_own_image_and_text() -> None:
    image, text, length = pairs()
    other_image, other_text, _ = pairs(1)
    before = score(image, text, length)
    for token in range(N):
        changed = image.copy()
        changed[1, token] = other_image[1, token]
        moved = np.abs(score(changed, text, length) - before) > 1e-4
        assert moved.tolist() == [False, True, False]
    for word in range(L):
        changed = text.copy()
        changed[0, word] = (text[0, word] + 1 + other_text[0, word] % 29) % 30
        moved = np.abs(score(image, changed, length) - before) > 1e-4
        assert moved.tolist() == [True, False, False]


def test_padding_does_not_change_a_score() -> None:
    image, text, length = pairs()
    before = score(image, text, length)
    padded = np.where(np.arange(L)[None] < length[:, None], text, 29 - text)
    np.testing.assert_array_equal(score(image, padded, length), before)
    longer = np.pad(text, ((0, 0), (0, 3)), constant_values=7)
    np.testing.assert_allclose(score(image, longer, length), before, rtol=1e-4, atol=1e-5)


def by_hand(stack: TransformerConfig, tokens: int, image_tokens: int, feature: int) -> int:
    """Two operations a multiply-add of every product of one pair; one output is read at the end."""
    d, m = stack.width, stack.mlp

    def block(read: int) -> int:
        qkv, attention = tokens * d * 3 * d, 2 * read * tokens * d
        return qkv + attention + read * d * d + 2 * read * d * m

    head = d
    blocks = (stack.layers - 1) * block(tokens) + block(1)
    return 2 * (image_tokens * feature * d + blocks + head)


def test_operations_of_a_pair_by_hand() -> None:
    function = functools.partial(bench.score_pairs, module=CROSS)
    one = [array[:1] for array in pairs()]
    assert count_flops(function, params(CROSS), *one) == by_hand(STACK, L + N, N, WIDTH)


def test_operations_of_the_parts_by_hand() -> None:
    size = model_size("tiny-16", HardwareConfig())
    sizes = bench.Sizes(images=300, texts=600, text_tokens=8, regions=3, region_text=10)
    found = bench.operations(bench.Bench(TwoStream(size, MaskedConfig()), sizes))
    vision, text, e = size.vision, size.text.transformer, size.vision.embed_dim
    projection = 2 * text.width * e
    plain = by_hand(text, 8, 0, 0) - 2 * text.width  # no image, no head of one logit
    assert found["text"] == found["query"] == plain + projection
    patched = 2 * vision.tokens * 3 * vision.patch**2 * vision.transformer.width
    stack = by_hand(vision.transformer, vision.tokens + 1, 0, 0) - 2 * vision.transformer.width
    assert found["image"] == patched + stack + projection
    assert found["regions"] == by_hand(text, 13, 3, 2054)
    tokens = vision.tokens + 1
    assert found["patches"] == by_hand(text, 8 + tokens, tokens, vision.transformer.width)
    tile = 2 * 256 * 1024 * e  # queries by candidates, as retrieval/tiles.py pads them
    assert (found["ranking"], found["search"]) == (2 * tile, tile)


def test_the_stack_is_the_text_towers_and_attends_to_everything() -> None:
    size = model_size("clip-b16-224", HardwareConfig())
    cross = bench.Bench(TwoStream(size, MaskedConfig()), bench.Sizes()).cross
    causal = size.text.transformer
    assert cross.config.transformer == dataclasses.replace(causal, span=bench.Span.FULL)


def test_blocks_have_about_as_many_tokens() -> None:
    size = model_size("b16-384", HardwareConfig())
    found = bench.Bench(TwoStream(size, MaskedConfig()), bench.Sizes())
    assert [found.rows(4, tokens) for tokens in (576 + 1 + 35, 577, 120, 35)] == [4, 4, 20, 69]
    assert found.rows(1, 700) == 1


def test_parts_take_turns_after_they_were_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    ran, seconds = [], {"a": 2.0, "b": 30.0}
    now = [0.0]

    def run(name: str) -> None:
        ran.append(name)
        now[0] += seconds[name]

    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    parts = {"a": bench.Part(lambda: run("a")), "b": bench.Part(lambda: run("b"), 4)}
    blocks = bench.timed(parts, 3)
    assert ran == ["a", "b"] * 4
    assert blocks == {"a": [2000.0] * 3, "b": [7500.0] * 3}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The program at the smallest size."""
    file = tmp_path_factory.mktemp("cross") / "found.json"
    assert bench.main([*TINY_FLAGS, "--repeats=3", f"--out={file}"]) == 0
    return file


def test_the_ratios_follow_from_the_parts(whole: pathlib.Path) -> None:
    found = json.loads(whole.read_text())
    assert found["sizes"]["images"] == 7
    assert found["sizes"]["texts"] == 21
    assert set(found["parts"]) == set(found["ratios"]) == {"operations", "milliseconds"}
    for unit, c in found["parts"].items():
        ratio = found["ratios"][unit]
        offline, online = 7 * c["image"] + 21 * c["text"] + c["ranking"], c["query"] + c["search"]
        for name in ("regions", "patches"):
            kept, anew = 7 * c["image"] + 147 * c[name], 147 * (c["image"] + c[name])
            assert ratio["offline"][f"{name}, cached"] == pytest.approx(kept / offline)
            assert ratio["offline"][f"{name}, uncached"] == pytest.approx(anew / offline)
            kept, anew = 7 * c[name], 7 * (c["image"] + c[name])
            assert ratio["online"][f"{name}, cached"] == pytest.approx(kept / online)
            assert ratio["online"][f"{name}, uncached"] == pytest.approx(anew / online)


def test_the_formulas_are_what_is_computed(whole: pathlib.Path) -> None:
    found = json.loads(whole.read_text())
    assert found["formulas"] == bench.FORMULAS
    cost, whole_cost = found["parts"]["milliseconds"], found["totals"]["milliseconds"]
    for case, formulas in found["formulas"].items():
        for name, value in whole_cost[case].items():
            partner, _, kind = name.partition(", ")
            known = {**cost, "images": 7, "texts": 21, "pair": cost.get(partner)}
            assert value == pytest.approx(eval(formulas[kind or partner], {}, known))


def test_the_parts_are_medians_of_their_blocks(whole: pathlib.Path) -> None:
    found = json.loads(whole.read_text())
    blocks = found["blocks_milliseconds"]
    assert set(blocks) == set(found["parts"]["milliseconds"]) == set(found["parts"]["operations"])
    for name, values in blocks.items():
        assert len(values) == 3
        assert min(values) > 0
        assert found["parts"]["milliseconds"][name] == statistics.median(values)


def test_the_machine_is_named(whole: pathlib.Path) -> None:
    found = json.loads(whole.read_text())
    assert found["device"]
    assert found["weights"] == "random"
    assert found["precision"] in ("float32", "bfloat16", "bfloat16_operands")
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["numpy"] == np.__version__


def test_without_repeats_operations_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([*TINY_FLAGS, "--repeats=0"]) == 0
    said = capsys.readouterr().out
    assert "GFLOP" in said
    assert "patches, uncached" in said
    assert " ms" not in said


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--texts=6", "--texts=6 is less than --images=7"),
        ("--region_text=33", "33 text tokens are more than the 32 positions of tiny-16"),
        ("--batch=0", "--batch is 0"),
        ("--repeats=-1", "--repeats is -1: use 0 or more"),
        ("--model=tiny", "tiny-16"),
        ("--hardware=h900", "h100"),
    ],
)
def test_what_the_user_can_mend(flag: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([*TINY_FLAGS, flag]) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
