# SPDX-License-Identifier: Apache-2.0
"""Weights, tokenizers and image tokens that cannot be used: one line at the door, no training."""

import dataclasses
import json
import pathlib
import pickle

import jax
import numpy as np
import pytest
from clip_like import clip_like
from damage import Payload, larger, lying
from doors import Said, run_main
from safetensors.numpy import save, save_file
from tiny_world import CONFIG, prepare_tiny

from cots_jax.data.image_tokens import TokenFacts, write_tokens
from cots_jax.data.records import read_facts
from cots_jax.models.text import TextTower
from cots_jax.models.two_stream import model_size
from cots_jax.models.vision import ImageTower
from cots_jax.schema import HardwareConfig
from cots_jax.weights import bert, vit
from cots_jax.weights.mapping import export_tree

WORDS = 100  # of the tokenizer that configs/tiny.py trains, at most


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Prepared pairs; nothing is ever trained here."""
    root = tmp_path_factory.mktemp("world")
    assert prepare_tiny(root).status == 0
    return root


def refused(root: pathlib.Path, *flags: str) -> str:
    """The one line of a start that fails, and has bound no workdir and trained nothing."""
    said: Said = run_main(root, f"--config={CONFIG}:contrastive", "--workdir=runs/bad", *flags)
    assert said.status == 1, said
    assert {path.name for path in (root / "runs" / "bad").glob("*")} <= {".lock"}
    assert "Traceback" not in said.err
    return said.line


def zeros(tower, fmt, *inputs) -> dict[str, np.ndarray]:
    shapes = jax.eval_shape(tower.init, jax.random.key(0), *inputs)["params"]
    return export_tree(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes), fmt)


def image_weights(**changes) -> dict[str, np.ndarray]:
    """ViT as Hugging Face names it, of the tiny size but for these changes of its stack."""
    vision = model_size("tiny-16", HardwareConfig()).vision
    stack = dataclasses.replace(vision.transformer, **changes)
    tower = ImageTower(dataclasses.replace(vision, transformer=stack))
    return zeros(tower, vit.VIT, np.zeros((1, 1, 16, 16, 3), np.float32))


def text_weights(words: int) -> dict[str, np.ndarray]:
    text = model_size("tiny-16", HardwareConfig(), words).text
    return zeros(TextTower(text), bert.TEXT_TOWER, np.zeros((1, 4), np.int32), np.array([4]))


class TestWeights:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"width": 48, "heads": 3}, "embeddings.cls_token is [1, 1, 48] and should be [1, 1,"),
            ({"layers": 3}, "left over: encoder.layer.2."),
            ({"layers": 1}, "missing: encoder.layer.1."),
        ],
    )
    def test_of_another_size(self, world, tmp_path, changes, said):
        save_file(image_weights(**changes), tmp_path / "model.safetensors")
        line = refused(world, f"--config.init_from.image={tmp_path}")
        assert f"{tmp_path} does not fit the model as Hugging Face's ViT" in line
        assert said in line

    @pytest.mark.parametrize("tower", ["image", "text"])
    def test_of_the_other_tower(self, world, tmp_path, tower):
        other = text_weights(WORDS) if tower == "image" else image_weights()
        save_file(other, tmp_path / "model.safetensors")
        line = refused(world, f"--config.init_from.{tower}={tmp_path}")
        assert f"{tmp_path} holds no {tower} tower that is known here" in line

    @pytest.mark.parametrize("key", ["init_from.image", "init_from.text", "image_tokenizer"])
    @pytest.mark.parametrize("damage", ["cut", "lying"])
    def test_a_damaged_file(self, world, tmp_path, key, damage):
        tensors = image_weights()
        tensors["a.weight"] = np.zeros((2, 3), np.float32)
        whole = save(tensors)
        content = {"cut": whole[:-100], "lying": lying(tensors, larger)}[damage]
        (tmp_path / "model.safetensors").write_bytes(content)
        line = refused(world, f"--config.{key}={tmp_path}")
        assert "model.safetensors cannot be read" in line
        assert "fetch it again" in line

    @pytest.mark.parametrize(
        ("key", "name"),
        [
            ("init_from.image", "w/pytorch_model.bin"),
            ("init_from.text", "w/model.ckpt"),
            ("image_tokenizer", "w/encoder.pkl"),
            ("image_tokenizer", "w/pytorch_model.bin"),
        ],
    )
    def test_a_pickle_is_not_opened(self, world, tmp_path, key, name):
        trace, file = tmp_path / "trace", tmp_path / name
        file.parent.mkdir()
        file.write_bytes(pickle.dumps(Payload(str(trace))))
        (file.parent / "config.json").write_text("{}")  # as Hugging Face's folders have
        for path in (file, file.parent):
            assert "is a pickle" in refused(world, f"--config.{key}={path}")
        assert not trace.exists()


class TestTokenizer:
    def test_of_another_vocabulary(self, world, tmp_path):
        save_file(text_weights(WORDS + 1), tmp_path / "model.safetensors")
        line = refused(world, f"--config.init_from.text={tmp_path}")
        assert f"embeds {WORDS + 1} tokens and the tokenizer has" in line
        assert "config.data.tokenizer" in line

    def test_that_belongs_to_other_weights(self, world, tmp_path):
        save_file(text_weights(WORDS), tmp_path / "model.safetensors")
        (tmp_path / "tokenizer.json").write_text(clip_like().to_json())
        flags = (f"--config.{key}={tmp_path}" for key in ("init_from.text", "data.tokenizer"))
        assert f"embeds {WORDS} tokens and the tokenizer has 4" in refused(world, *flags)


class TestImageTokens:
    """Made ahead of time for tiny-16: 2 x 2 of 16 px."""

    READ = ("--config.method.weight_mvm=1", "--config.augmentation.shift=0")

    @pytest.fixture
    def ahead(self, tmp_path):
        assert prepare_tiny(tmp_path).status == 0
        folder = tmp_path / "data" / "tiny"
        rows = read_facts(folder)["fingerprint"]
        facts = TokenFacts("a tokenizer", "0", 16, 2, 16, "float32", rows)
        assert write_tokens(folder, facts, lambda image: np.zeros((len(image), 4), np.int32))
        return tmp_path

    def change(self, root, **fields):
        file = root / "data" / "tiny" / "image_tokens.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    def test_for_another_model(self, ahead):
        line = refused(ahead, *self.READ, "--config.model=emoji-32")
        assert "are 2 x 2 a picture of 16 px, the image tower has 4 x 4 patches of 32 px" in line

    def test_of_another_grid(self, ahead):
        self.change(ahead, grid=4)
        assert "are 4 x 4 a picture of 16 px" in refused(ahead, *self.READ)

    def test_of_other_rows(self, ahead):
        self.change(ahead, fingerprint="of others")
        assert "image_tokens.json belongs to other rows" in refused(ahead, *self.READ)

    def test_with_damaged_facts(self, ahead):
        self.change(ahead, colour="red")
        assert "image_tokens.json is damaged" in refused(ahead, *self.READ)

    @pytest.mark.parametrize("kept", [0, 60, 200])
    def test_cut_short(self, ahead, kept):
        file = ahead / "data" / "tiny" / "train" / "image_tokens.npy"
        file.write_bytes(file.read_bytes()[:kept])
        assert "image_tokens.npy cannot be read" in refused(ahead, *self.READ)

    def test_of_another_kind(self, ahead):
        file = ahead / "data" / "tiny" / "train" / "image_tokens.npy"
        np.save(file, np.load(file).astype(np.float32))
        assert "image_tokens.npy holds float32 and no ids" in refused(ahead, *self.READ)
