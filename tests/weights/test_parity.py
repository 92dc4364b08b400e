# SPDX-License-Identifier: Apache-2.0
"""Towers with converted weights give what Hugging Face's torch implementations give."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from safetensors.numpy import save_file

from cots_jax.models.apply import apply
from cots_jax.models.dalle import LAPLACE, Encoder, code_ids
from cots_jax.models.masked_head import MaskedHead, MaskedHeadConfig
from cots_jax.models.text import Pooling, TextConfig, TextTower
from cots_jax.models.transformer import Activation, Norm, Span, TransformerConfig
from cots_jax.models.vision import ImageTower, VisionConfig
from cots_jax.switches import Merge, Precision
from cots_jax.weights import bert, clip, vit
from cots_jax.weights.dalle import read_dalle
from cots_jax.weights.files import read_tensors
from cots_jax.weights.mapping import flat, import_tree, nested

torch = pytest.importorskip("torch", reason="parity needs torch: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers")

run = quick.jit(apply, static_argnums=0)

WIDTH, LAYERS, HEADS, MLP, WORDS, LENGTH = 48, 3, 4, 96, 60, 11
SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": MLP,
}
STACK = TransformerConfig(LAYERS, WIDTH, HEADS, MLP, epsilon=1e-12)
TOLERANCE = {"float64": 1e-9, "float32": 2e-5}


@pytest.fixture(params=["float64", "float32"])
def kind(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def spread(model, kind):
    """Random parameters, norms and biases too: the published start would hide a swapped pair."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + 0.05)
    return model.to(getattr(torch, kind)).eval()


def tensors_of(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def converted(folder, fmt, tower, *inputs):
    """A tower's parameters out of a folder; our own start where the format has none."""
    fresh = quick.jit(tower.init)(jax.random.key(0), *inputs)["params"]
    tensors = vit.own_tables(bert.modern(read_tensors(folder)))
    found = flat(import_tree(tensors, fmt, fresh, source="test"))
    return jax.tree.map(jnp.asarray, nested(flat(fresh) | found))


def hidden_states(tower, params, *inputs):
    """Outputs after each block: a tower of the first blocks ends in a hidden state of the whole.

    At all tokens; `inputs` are pictures, or texts and their lengths.
    """
    config = tower.config
    tokens = config.tokens if isinstance(config, VisionConfig) else inputs[0].shape[1]
    everywhere = jnp.tile(jnp.arange(tokens), (len(inputs[0]), 1))
    inputs = (*inputs, *(None,) * (2 - len(inputs)), everywhere)
    for count in range(1, LAYERS + 1):
        stack = dataclasses.replace(tower.config.transformer, layers=count)
        shorter = type(tower)(dataclasses.replace(tower.config, transformer=stack))
        first = {
            path: leaf[:count] if path.startswith("transformer/blocks/") else leaf
            for path, leaf in flat(params).items()
        }
        yield run(shorter, nested(first), *inputs)


def assert_near(found, wanted, kind):
    wanted = wanted.detach().numpy()
    assert str(found.dtype) == kind
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE[kind] * scale)


class TestBert:
    @pytest.fixture
    def theirs(self, kind, tmp_path):
        config = transformers.BertConfig(
            vocab_size=WORDS, max_position_embeddings=20, attn_implementation="eager", **SIZES
        )
        theirs = spread(transformers.BertForMaskedLM(config), kind)
        theirs.save_pretrained(tmp_path)
        return theirs

    stack = dataclasses.replace(STACK, norm=Norm.POST)
    ours = TextTower(TextConfig(stack, positions=20, vocabulary=WORDS))

    def test_all_hidden_states(self, theirs, kind, tmp_path):
        rng = np.random.default_rng(0)
        text = jnp.asarray(rng.integers(0, WORDS, (3, LENGTH)), jnp.int32)
        length = jnp.array([LENGTH, 7, 4], jnp.int32)
        params = converted(tmp_path, bert.TEXT_TOWER, self.ours, text, length)
        seen = torch.tensor(np.arange(LENGTH)[None] < np.asarray(length)[:, None])
        with torch.no_grad():
            wanted = theirs.bert(
                torch.tensor(np.asarray(text)).long(),
                attention_mask=seen.long(),
                output_hidden_states=True,
            ).hidden_states
        for state, ours in zip(wanted[1:], hidden_states(self.ours, params, text, length)):
            assert_near(ours.tokens[seen.numpy()], state[seen], kind)
        mean = TextTower(dataclasses.replace(self.ours.config, pooling=Pooling.MEAN))
        share = seen.to(wanted[-1].dtype)
        pooled = torch.einsum("bn,bnd->bd", share / share.sum(1, keepdim=True), wanted[-1])
        assert_near(run(mean, params, text, length).cls, pooled, kind)

    def test_the_masked_head_without_a_partner(self, theirs, kind, tmp_path):
        """A partner of zeros leaves BERT's own head."""
        config = MaskedHeadConfig(self.stack, WORDS, Merge.ADD)
        hidden = jnp.asarray(np.random.default_rng(2).normal(size=(2, 5, WIDTH)), kind)
        nobody = jnp.zeros((2, 7), kind)
        tensors = read_tensors(tmp_path)
        words = jnp.asarray(tensors["bert.embeddings.word_embeddings.weight"])
        head = MaskedHead(config)
        fresh = quick.jit(head.init)(jax.random.key(0), hidden, nobody, words)["params"]
        found = import_tree(tensors, bert.MASKED_HEAD, fresh, source="test")
        params = jax.tree.map(jnp.asarray, nested(flat(fresh) | flat(found)))
        assert set(flat(fresh)) - set(flat(found)) == {"partner/kernel", "partner/bias"}
        with torch.no_grad():
            wanted = theirs.cls(torch.tensor(np.asarray(hidden)))
        assert_near(run(head, params, hidden, nobody, words), wanted, kind)


class TestImageTowers:
    SIDE, PATCH = 32, 8

    def image(self, kind):
        rng = np.random.default_rng(1)
        return jnp.asarray(rng.normal(size=(2, 1, self.SIDE, self.SIDE, 3)), kind)

    def hidden_states_of(self, theirs, image):
        pixels = torch.tensor(np.asarray(image[:, 0]).transpose(0, 3, 1, 2))
        with torch.no_grad():
            return theirs(pixels, output_hidden_states=True)

    def test_vit(self, kind, tmp_path):
        config = transformers.ViTConfig(image_size=self.SIDE, patch_size=self.PATCH, **SIZES)
        theirs = spread(transformers.ViTModel(config), kind)
        theirs.save_pretrained(tmp_path)
        tower = ImageTower(VisionConfig(self.SIDE, self.PATCH, STACK))
        image = self.image(kind)
        params = converted(tmp_path, vit.VIT, tower, image)
        wanted = self.hidden_states_of(theirs, image)
        norm = theirs.layernorm
        for state, ours in zip(wanted.hidden_states[1:], hidden_states(tower, params, image)):
            assert_near(ours.cls, norm(state)[:, 0], kind)
            assert_near(ours.tokens, norm(state)[:, 1:], kind)
        assert_near(ours.cls, wanted.last_hidden_state[:, 0], kind)

    @pytest.mark.parametrize("shared", [False, True], ids=["fine-tuned", "pre-trained"])
    def test_beit(self, kind, tmp_path, shared):
        """Pre-trained, all layers share a table, and the last norm is before the masked head."""
        config = transformers.BeitConfig(
            image_size=self.SIDE,
            patch_size=self.PATCH,
            use_relative_position_bias=not shared,
            use_shared_relative_position_bias=shared,
            use_mask_token=shared,
            layer_scale_init_value=0.1,
            vocab_size=WORDS,
            **SIZES,
        )
        whole = transformers.BeitForMaskedImageModeling if shared else transformers.BeitModel
        theirs = spread(whole(config), kind)
        theirs.save_pretrained(tmp_path)
        stack = dataclasses.replace(
            STACK, layer_scale=0.1, relative_bias_side=self.SIDE // self.PATCH
        )
        tower = ImageTower(VisionConfig(self.SIDE, self.PATCH, stack))
        image = self.image(kind)
        params = converted(tmp_path, vit.BEIT, tower, image)
        assert not params["position_embedding"].any()
        wanted = self.hidden_states_of(theirs.beit if shared else theirs, image)
        plain = torch.nn.LayerNorm(WIDTH, eps=1e-12, elementwise_affine=False)
        norm = theirs.layernorm if shared else plain
        mine = hidden_states(tower, params, image)
        for state, ours in zip(wanted.hidden_states[1:], mine):
            assert_near(ours.cls, norm(state)[:, 0], kind)
            assert_near(ours.tokens, norm(state)[:, 1:], kind)


class TestClip:
    SIDE, PATCH = 32, 8

    @pytest.fixture
    def theirs(self, kind, tmp_path):
        config = transformers.CLIPConfig(
            text_config={"vocab_size": WORDS, "max_position_embeddings": 20, **SIZES},
            vision_config={"image_size": self.SIDE, "patch_size": self.PATCH, **SIZES},
            projection_dim=12,
        )
        # The token of the highest id ends a text.
        config.text_config.eos_token_id = WORDS - 1
        theirs = spread(transformers.CLIPModel(config), kind)
        theirs.save_pretrained(tmp_path)
        return theirs

    stack = dataclasses.replace(STACK, epsilon=1e-5, activation=Activation.QUICK_GELU)

    def test_the_image_tower(self, theirs, kind, tmp_path):
        config = VisionConfig(self.SIDE, self.PATCH, self.stack, 12, embedding_norm=True)
        tower = ImageTower(config)
        rng = np.random.default_rng(1)
        image = jnp.asarray(rng.normal(size=(2, 1, self.SIDE, self.SIDE, 3)), kind)
        params = converted(tmp_path, clip.IMAGE_TOWER, tower, image)
        pixels = torch.tensor(np.asarray(image[:, 0]).transpose(0, 3, 1, 2))
        with torch.no_grad():
            states = theirs.vision_model(pixels, output_hidden_states=True).hidden_states
            norm = theirs.vision_model.post_layernorm
            for state, ours in zip(states[1:], hidden_states(tower, params, image)):
                assert_near(ours.tokens, norm(state)[:, 1:], kind)
            joint = theirs.visual_projection(norm(states[-1])[:, 0])
        assert_near(run(tower, params, image).joint, unit_rows(joint), kind)

    def test_the_text_tower(self, theirs, kind, tmp_path):
        stack = dataclasses.replace(self.stack, span=Span.CAUSAL)
        config = TextConfig(stack, 20, WORDS, token_types=0, pooling=Pooling.LAST, embed_dim=12)
        tower = TextTower(config)
        rng = np.random.default_rng(0)
        text = rng.integers(0, WORDS - 1, (3, LENGTH))
        length = np.array([LENGTH, 7, 4])
        text[np.arange(3), length - 1] = WORDS - 1
        inputs = jnp.asarray(text, jnp.int32), jnp.asarray(length, jnp.int32)
        params = converted(tmp_path, clip.TEXT_TOWER, tower, *inputs)
        seen = torch.tensor(np.arange(LENGTH)[None] < length[:, None])
        with torch.no_grad():
            found = theirs.text_model(
                torch.tensor(text), attention_mask=seen.long(), output_hidden_states=True
            )
            norm = theirs.text_model.final_layer_norm
            mine = hidden_states(tower, params, *inputs)
            for state, ours in zip(found.hidden_states[1:], mine):
                assert_near(ours.tokens[seen.numpy()], norm(state)[seen], kind)
            joint = theirs.text_projection(found.pooler_output)
        assert_near(run(tower, params, *inputs).joint, unit_rows(joint), kind)


class TestDalle:
    GRID, CODES, HIDDEN = 6, 40, 16

    @pytest.fixture
    def theirs(self, kind):
        config = transformers.FlavaImageCodebookConfig(
            hidden_size=self.HIDDEN, vocab_size=self.CODES
        )
        theirs = transformers.FlavaImageCodebook(config)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in theirs.parameters():  # He's start: pictures reach the codes
                fan = parameter[0].numel() if parameter.ndim > 1 else 200
                parameter.copy_(torch.randn_like(parameter) * (2 / fan) ** 0.5)
        return theirs.to(getattr(torch, kind)).eval()

    @pytest.mark.parametrize("names", ["hugging face", "openai"])
    def test_log_odds_and_ids(self, theirs, kind, names, tmp_path):
        if names == "openai":
            tensors = {
                openai_name(n): np.ascontiguousarray(t) for n, t in tensors_of(theirs).items()
            }
            save_file(tensors, tmp_path / "model.safetensors")
        else:
            theirs.save_pretrained(tmp_path)
        found = read_dalle(tmp_path, self.GRID, Precision.FLOAT32)
        assert (found.config.hidden, found.config.codes) == (self.HIDDEN, self.CODES)
        params = jax.tree.map(jnp.asarray, found.params)
        colours = np.random.default_rng(0).random((3, self.GRID, self.GRID, 3))
        pixels = colours.repeat(8, axis=1).repeat(8, axis=2)
        ours = run(Encoder(found.config), params, jnp.asarray(pixels, kind))
        mapped = torch.tensor(((1 - 2 * LAPLACE) * pixels + LAPLACE).transpose(0, 3, 1, 2))
        with torch.no_grad():
            wanted = theirs.blocks(mapped.to(getattr(torch, kind))).permute(0, 2, 3, 1)
        wanted = wanted.reshape(3, -1, self.CODES)
        assert_near(ours, wanted, kind)
        top = wanted.topk(2).values
        clear = (top[..., 0] - top[..., 1] > 1e-5).numpy()
        assert clear.mean() > 0.9
        ids = np.asarray(code_ids(ours))
        np.testing.assert_array_equal(ids[clear], wanted.argmax(-1).numpy()[clear])
        assert len(np.unique(ids)) > 3


def openai_name(name):
    """`blocks.group_1.group.block_1.res_path.path.conv_1.weight` in the names of `dall_e`."""
    name = name.replace(".group.", ".").replace(".path.", ".")
    return name.replace(".weight", ".w").replace(".bias", ".b")


def unit_rows(x):
    return x / x.norm(dim=-1, keepdim=True)
