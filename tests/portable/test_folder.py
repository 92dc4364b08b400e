# SPDX-License-Identifier: Apache-2.0
"""An exported folder: what is in it, used by others, opened again, and what is refused."""

import dataclasses
import json
import pathlib
import re
import shutil

import jax.export
import numpy as np
import pytest
from clip_like import clip_like
from doors import PROJECT, Said, run_export
from random_run import (
    LENGTH,
    STEP,
    TEXTS,
    WORDS,
    scores_of_example,
    write_photo,
    write_run,
)

from cots_jax import Pretrained, checkpoint, manifest
from cots_jax.errors import UserError
from cots_jax.models import two_stream
from cots_jax.models.text import Pooling, TextConfig
from cots_jax.models.transformer import Activation, Span, TransformerConfig
from cots_jax.models.vision import VisionConfig
from cots_jax.portable import forms, parity
from cots_jax.portable.card import evaluated
from cots_jax.portable.folder import appearing, export_folder
from cots_jax.portable.forms import Form
from cots_jax.portable.preprocessing import is_lower_case
from cots_jax.switches import Towers
from cots_jax.weights.own import own_parts, read_origin

STACK = TransformerConfig(2, 16, 2, 32, init_std=None)
ARRAYS_ALONE = (Form.SAFETENSORS,)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """`run`, exported to `out` as arrays and as ONNX, and `photo.png`."""
    root = tmp_path_factory.mktemp("export")
    write_run(root / "run")
    write_photo(root / "photo.png")
    said = run_export(root, "--model=run", "--out=out", "--formats=onnx", "--json")
    assert said.status == 0, said.err
    assert json.loads(said.out) == json.loads((root / "out" / "export.json").read_text())
    assert "the online towers of step 7 are in out" in said.err
    return root


def scores(folder: pathlib.Path, picture: pathlib.Path) -> np.ndarray:
    model = Pretrained.load(folder)
    return model.encode_texts(TEXTS) @ model.encode_images([picture])[0]


def failed(root: pathlib.Path, *flags: str) -> str:
    said = run_export(root, *flags)
    assert said.status == 1, said
    return said.line


def test_both_forms_are_there_and_within_the_bound(world: pathlib.Path) -> None:
    out = world / "out"
    assert manifest.fault(out, {"export": 1}) is None
    measured = json.loads((out / "export.json").read_text())["parity"]
    assert list(measured) == ["safetensors", "onnx"]
    assert all(0 <= value <= 1e-5 for form in measured.values() for value in form.values())
    assert {"image.onnx", "text.onnx", "model.safetensors"} <= {p.name for p in out.rglob("*")}
    assert not (out / "stablehlo").exists()
    assert not (out / "examples" / "with_jax.py").exists()


@pytest.mark.parametrize("example", ["with_onnxruntime.py", "with_numpy.py"])
def test_examples_without_the_package(world: pathlib.Path, example: str) -> None:
    photo = world / "photo.png"
    found = scores_of_example(world / "out", example, photo)
    np.testing.assert_allclose(found, scores(world / "run", photo), atol=1e-5)


@pytest.mark.slow
def test_stablehlo(world: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Written, run by its example, for three platforms, and without a path of this machine."""
    done = export_folder(world / "run", tmp_path / "out", tuple(Form))
    assert list(done.parity) == ["safetensors", "stablehlo", "onnx"]
    assert max(done.parity["stablehlo"].values()) < 1e-5
    photo = world / "photo.png"
    found = scores_of_example(tmp_path / "out", "with_jax.py", photo)
    np.testing.assert_allclose(found, scores(world / "run", photo), atol=1e-5)
    for name in ("image", "text"):
        stored = (tmp_path / "out" / "stablehlo" / f"{name}.jax_export").read_bytes()
        # Names of functions stay (of pytest's too, behind a dot); names of files do not.
        assert re.search(rb"\w\.py\b", stored) is None
        assert str(PROJECT).encode() not in stored
        function = jax.export.deserialize(bytearray(stored))
        assert function.platforms == ("cpu", "cuda", "tpu")
        custom = set(re.findall(r"custom_call @(\w+)", function.mlir_module()))
        assert custom <= {"shape_assertion"}


def test_opened_again_it_is_the_same_model(world: pathlib.Path) -> None:
    run, out = Pretrained.load(world / "run"), Pretrained.load(world / "out")
    photo = [world / "photo.png"]
    np.testing.assert_array_equal(out.encode_images(photo), run.encode_images(photo))
    np.testing.assert_array_equal(out.encode_texts(TEXTS), run.encode_texts(TEXTS))
    for name in ("config", "preprocessing", "lineage", "step", "image_tokens"):
        assert getattr(out, name) == getattr(run, name), name
    assert out.lineage.fine_tuned_on == ("data/other#train (ba9876543210)",)
    assert (out.identity(), out.temperature()) == (run.identity(), run.temperature())


def test_another_run_starts_from_it(world: pathlib.Path) -> None:
    origins = [read_origin(str(world / name)) for name in ("run", "out")]
    assert origins[0].trained_on == origins[1].trained_on == ("data/own#train (0123456789ab)",)
    assert origins[0].fine_tuned_on == origins[1].fine_tuned_on
    ids = [origin.tokenizer.encode(TEXTS, LENGTH).ids for origin in origins]
    np.testing.assert_array_equal(*ids)
    size = Pretrained.load(world / "run").model.config
    like = {"towers": Pretrained.load(world / "run").towers, "heads": {}}
    parts = [own_parts(str(world / name), size, like)["towers"] for name in ("run", "out")]
    assert parts[0].keys() == parts[1].keys() == {"image", "text"}
    np.testing.assert_array_equal(*(part["text"]["token_embedding"] for part in parts))


def test_what_was_learned_of_the_loss_goes_with_it(tmp_path: pathlib.Path) -> None:
    learned = {"log_temperature": np.float32(-2.5), "sigmoid_bias": np.float32(-7.25)}
    keys = {"method__temperature_rule": "learned", "method__contrast": "sigmoid"}
    keys |= {"method__queue_length": 0, "method__filter__state": "off"}
    run = write_run(tmp_path / "run", heads=learned, **keys)
    first = export_folder(run, tmp_path / "first", ARRAYS_ALONE).folder
    second = export_folder(first, tmp_path / "second", ARRAYS_ALONE).folder
    opened = Pretrained.load(run)
    like = {"towers": opened.towers, "heads": learned}
    for folder in (run, first, second):
        heads = own_parts(str(folder), opened.model.config, like)["heads"]
        assert heads.keys() == learned.keys(), folder
        for name, value in learned.items():
            assert heads[name] == value


def test_two_exports_do_not_write_one_folder(tmp_path: pathlib.Path) -> None:
    with appearing(tmp_path / "out") as first:
        (first / "kept").touch()
        with (
            pytest.raises(UserError, match=r"another export writes .*\.out\.unfinished: wait"),
            appearing(tmp_path / "out"),
        ):
            pytest.fail("two at once")
        assert (first / "kept").exists()
    assert (tmp_path / "out" / "kept").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_export_left_is_removed(tmp_path: pathlib.Path) -> None:
    left = tmp_path / ".out.unfinished" / "examples"
    left.mkdir(parents=True)
    (left.parent / "model.safetensors").touch()
    with appearing(tmp_path / "out") as staging:
        assert list(staging.iterdir()) == []


def test_an_exported_folder_is_exported_again(world: pathlib.Path, tmp_path: pathlib.Path) -> None:
    export_folder(world / "out", tmp_path / "again", ARRAYS_ALONE)
    for name in ("model.safetensors", "tokenizer.json", "preprocessing.json"):
        assert (tmp_path / "again" / name).read_bytes() == (world / "out" / name).read_bytes(), name
    assert not (tmp_path / "again" / "onnx").exists()
    first, second = (Pretrained.load(f) for f in (world / "out", tmp_path / "again"))
    assert (first.lineage, first.identity()) == (second.lineage, second.identity())


def test_the_card_says_what_it_must(world: pathlib.Path) -> None:
    card = (world / "out" / "README.md").read_text()
    for words in (
        "library_name: cots_jax",
        "| sees | 16 x 16 pixels in patches of 8 | 9 tokens of",
        "trained on data/own#train (0123456789ab): its licence note was not at hand",
        "fine-tuned on data/other#train (ba9876543210)",
        "None is known here (not evaluated)",
        "pip install numpy pillow tokenizers onnxruntime",
        "None of them is a pickle",
        "temperature, 0.05",
    ):
        assert words in card, words


def test_published_weights_at_the_start_are_named(tmp_path: pathlib.Path) -> None:
    run = write_run(tmp_path / "run", init_from__image="w/vit", init_from__text="own/bert")
    out = export_folder(run, tmp_path / "out", ARRAYS_ALONE).folder
    card = (out / "README.md").read_text()
    for name in ("w/vit", "own/bert"):
        assert f"- started from {name}, whose data and licence are not known here" in card
    assert read_origin(str(out)).started_from == ("w/vit", "own/bert")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"results": [], "made_from": {"step": 6, "checkpoint": "a"}}', "of another checkpoint"),
        ('{"results": []}', "of another checkpoint"),
        ('{"results": [{}], "made_from": {"step": 7, "checkpoint": "a"}}', "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
    ],
)
def test_recalls_of_other_weights_are_not_told(tmp_path: pathlib.Path, text: str, why: str) -> None:
    (tmp_path / "results.json").write_text(text)
    found = evaluated(tmp_path, {"step": 7, "checkpoint": "a"}, "online")
    assert not found.results
    assert why in found.why


def test_what_others_need_to_know_of_the_inputs(world: pathlib.Path) -> None:
    spec = json.loads((world / "out" / "preprocessing.json").read_text())
    assert spec["image"]["size"] == 16
    assert spec["image"]["normalisation"]["mean"] == [0.5, 0.5, 0.5]
    assert spec["text"]["length"] == LENGTH
    assert spec["text"]["lower_case"] is True
    assert spec["text"]["padding"] == {"token": "[PAD]", "id": WORDS.pad_id, "side": "right"}
    assert is_lower_case(clip_like()) is False


def test_a_copy_that_an_editor_left_is_no_damage(world: pathlib.Path) -> None:
    copy = world / "out" / "export.json~"
    copy.write_text("{}")
    Pretrained.load(world / "out")
    copy.unlink()


def test_colours_of_another_mean_and_spread(tmp_path: pathlib.Path) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    run = write_run(tmp_path / "run", image_mean=mean, image_std=std)
    write_photo(tmp_path / "photo.png")
    out = export_folder(run, tmp_path / "out", ARRAYS_ALONE).folder
    there = json.loads((out / "preprocessing.json").read_text())["image"]["normalisation"]
    assert (tuple(there["mean"]), tuple(there["std"])) == (mean, std)
    for folder in (run, out):
        opened = Pretrained.load(folder)
        assert opened.model.config.vision.mean == opened.preprocessing.mean == mean
    found = scores_of_example(out, "with_numpy.py", tmp_path / "photo.png")
    np.testing.assert_allclose(found, scores(run, tmp_path / "photo.png"), atol=1e-5)


def test_the_card_may_be_edited_and_nothing_else(
    world: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    out = shutil.copytree(world / "out", tmp_path / "out")
    (out / "README.md").write_text("mine")
    (out / "results.json").write_text("{}")
    assert Pretrained.load(out).step == STEP
    for name in ("model.safetensors", "export.json", "tokenizer.json"):
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        with pytest.raises(UserError, match=rf"out is damaged \({name} has changed"):
            Pretrained.load(out)
        (out / name).write_bytes(whole)
    (out / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        Pretrained.load(out)


def test_momentum_towers_are_another_model(world: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done = export_folder(world / "run", tmp_path / "m", ARRAYS_ALONE, Towers.MOMENTUM)
    assert done.towers == "momentum"
    usual, momentum = Pretrained.load(world / "run"), Pretrained.load(tmp_path / "m")
    assert momentum.lineage.towers == "momentum"
    assert np.abs(usual.encode_texts(TEXTS) - momentum.encode_texts(TEXTS)).max() > 0.1
    assert momentum.identity() == usual.identity() | {"towers": "momentum"}
    with pytest.raises(UserError, match="holds the momentum towers only"):
        Pretrained.load(tmp_path / "m", Towers.ONLINE)


def _sizes() -> dict[str, two_stream.TwoStreamConfig]:
    """All options that a stack may have, on small ones."""
    layered = dataclasses.replace(STACK, layer_scale=0.1, relative_bias_side=2)
    tanh = dataclasses.replace(STACK, activation=Activation.GELU_TANH)
    quick = dataclasses.replace(STACK, activation=Activation.QUICK_GELU, epsilon=1e-5)
    causal = dataclasses.replace(quick, span=Span.CAUSAL)
    last = TextConfig(causal, 12, token_types=0, pooling=Pooling.LAST, embed_dim=8)
    return {
        "small-beit": two_stream.TwoStreamConfig(
            VisionConfig(16, 8, layered, 8),
            TextConfig(tanh, 12, pooling=Pooling.MEAN, embed_dim=8),
        ),
        "small-clip": two_stream.TwoStreamConfig(
            VisionConfig(16, 4, quick, 8, embedding_norm=True, mean=(0.4, 0.5, 0.6)), last
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small-beit", "small-clip"])
def test_every_option_of_a_tower(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ONNX by the check that every export makes; as NumPy by the example."""
    monkeypatch.setitem(two_stream.SIZES, name, _sizes()[name])
    words = clip_like() if name == "small-clip" else WORDS
    write_run(tmp_path / "run", name, words)
    done = export_folder(tmp_path / "run", tmp_path / "out", (Form.SAFETENSORS, Form.ONNX))
    assert max(done.parity["onnx"].values()) < 1e-5
    write_photo(tmp_path / "photo.jpg")
    found = scores_of_example(tmp_path / "out", "with_numpy.py", tmp_path / "photo.jpg")
    np.testing.assert_allclose(found, scores(tmp_path / "run", tmp_path / "photo.jpg"), atol=1e-5)


def test_what_cannot_be_exported(world: pathlib.Path, tmp_path: pathlib.Path) -> None:
    to = f"--out={tmp_path / 'new'}"
    assert "out is there already: choose another --out" in failed(world, "--model=run", "--out=out")
    assert "there is no training folder none" in failed(world, "--model=none", to)
    assert "holds no good checkpoint" in failed(world, f"--model={tmp_path}", to)
    write_run(tmp_path / "dvae", task="dvae")
    assert "holds a dvae run" in failed(tmp_path, "--model=dvae", to)
    write_run(tmp_path / "video", data__frames=4, method__weight_mvm="0")
    said = failed(tmp_path, "--model=video", to, "--formats=onnx")
    assert "was trained on 4 frames of a video" in said
    assert run_export(world, "--model=run", to, "--formats=pickle").status == 2
    assert run_export(world, "--model=run").status == 2
    assert not (tmp_path / "new").exists()
    assert run_export(tmp_path, "--model=video", to, "--formats=safetensors").status == 0


def test_a_damaged_checkpoint(tmp_path: pathlib.Path) -> None:
    run = write_run(tmp_path / "run")
    facts = run / checkpoint.FOLDER / str(STEP) / "facts.json"
    facts.write_text(facts.read_text().replace("tiny-16", "tiny-17"))
    assert "facts.json has changed since it was saved" in failed(
        tmp_path, "--model=run", "--out=new"
    )


def test_a_package_that_is_missing(
    world: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(forms.NEEDED, Form.ONNX, ("not_installed_anywhere",))
    to = f"--out={tmp_path / 'new'}"
    said = failed(world, "--model=run", to)
    assert "--formats=onnx needs not_installed_anywhere: pip install 'cots-jax[export]'" in said
    assert run_export(world, "--model=run", to, "--formats=safetensors").status == 0


def test_a_form_that_differs_leaves_nothing(
    world: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "TOLERANCE", -1.0)
    said: Said = run_export(world, "--model=run", f"--out={tmp_path / 'new'}")
    assert "the image tower as safetensors differs from the model by 0" in said.line
    assert list(tmp_path.iterdir()) == []
