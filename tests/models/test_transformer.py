# SPDX-License-Identifier: Apache-2.0
"""The encoder block under every published option, against NumPy in float64."""

import concurrent.futures
import dataclasses
import functools
import math
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import quick
from jax.extend.core import jaxprs_in_params

from cots_jax.models.outputs import FIRST, outputs_at
from cots_jax.models.stacks import split_last
from cots_jax.models.transformer import (
    Activation,
    Block,
    Norm,
    Span,
    Transformer,
    TransformerConfig,
    relative_index,
)
from cots_jax.switches import Precision, Remat, Switch

SMALL = TransformerConfig(layers=2, width=8, heads=2, mlp=12, epsilon=1e-5)
b, SIDE = 2, 2
n = SIDE * SIDE + 1

# Both places of the norm and each option at least once; BERT, ViT, CLIP and BEiT as published.
OPTIONS = {
    "bert": {"norm": Norm.POST, "epsilon": 1e-12},
    "vit": {"norm": Norm.PRE, "epsilon": 1e-6},
    "clip": {"norm": Norm.PRE, "activation": Activation.QUICK_GELU, "span": Span.CAUSAL},
    "beit": {"norm": Norm.PRE, "layer_scale": 0.1, "relative_bias_side": SIDE},
    "other": {"norm": Norm.POST, "activation": Activation.GELU_TANH, "layer_scale": 0.3},
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def random_params(config, seed=0):
    shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((b, n, 8)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape), shapes["params"])


def inputs(dtype=np.float64):
    rng = np.random.default_rng(1)
    bias = np.zeros((b, 1, 1, n))
    bias[0, 0, 0, 3:] = -1e9
    return rng.normal(size=(b, n, SMALL.width)).astype(dtype), bias.astype(dtype)


@functools.cache
def compiled(config):
    return quick.jit(lambda params, *args: Transformer(config).apply({"params": params}, *args))


def layer_norm(x, p, epsilon):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * p["scale"] + p["bias"]


ACTIVATIONS = {
    Activation.GELU: lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    Activation.GELU_TANH: lambda x: (
        0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    Activation.QUICK_GELU: lambda x: x / (1 + math.exp(-1.702 * x)),
}


def relative_row(i, j):
    """Row of BEiT's table: offsets of the grid, then [CLS] as query, as key, and both."""
    offsets = (2 * SIDE - 1) ** 2
    if i == 0 or j == 0:
        return offsets + (2 if i == j else 0 if i == 0 else 1)
    (y, x), (v, u) = divmod(i - 1, SIDE), divmod(j - 1, SIDE)
    return (y - v + SIDE - 1) * (2 * SIDE - 1) + (x - u + SIDE - 1)


def attention(x, bias, p, config):
    heads, width = config.heads, config.width // config.heads
    kernel, shift = p["qkv"]["kernel"], p["qkv"]["bias"]
    out = np.zeros_like(x)
    for row in range(len(x)):
        for h in range(heads):
            q, key, value = (x[row] @ kernel[:, part, h] + shift[part, h] for part in range(3))
            for i in range(n):
                logits = [q[i] @ key[j] / math.sqrt(width) + bias[row, 0, 0, j] for j in range(n)]
                if config.relative_bias_side:
                    logits = [
                        logit + p["relative_bias"][relative_row(i, j), h]
                        for j, logit in enumerate(logits)
                    ]
                seen = i + 1 if config.span is Span.CAUSAL else n
                weights = np.exp(oracles.log_softmax(logits[:seen]))
                out[row, i] += weights @ value[:seen] @ p["out"]["kernel"][h]
    return out + p["out"]["bias"]


def oracle(x, bias, params, config):
    activate = np.vectorize(ACTIVATIONS[config.activation])
    for layer in range(config.layers):
        p = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])

        def mlp(y, p=p):
            hidden = activate(y @ p["mlp_in"]["kernel"] + p["mlp_in"]["bias"])
            return hidden @ p["mlp_out"]["kernel"] + p["mlp_out"]["bias"]

        def attend(y, p=p):
            return attention(y, bias, p["attention"], config)

        for branch, name in ((attend, "attention"), (mlp, "mlp")):
            scale = p[f"{name}_scale"] if config.layer_scale is not None else 1.0
            norm = p[f"{name}_norm"]
            if config.norm is Norm.PRE:
                x = x + scale * branch(layer_norm(x, norm, config.epsilon))
            else:
                x = layer_norm(x + scale * branch(x), norm, config.epsilon)
    return x


@pytest.mark.parametrize("name", OPTIONS)
def test_agrees_with_the_oracle(name):
    config = dataclasses.replace(SMALL, **OPTIONS[name])
    params, (x, bias) = random_params(config), inputs()
    found = compiled(config)(params, x, bias)
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, oracle(x, bias, params, config), rtol=1e-10, atol=1e-12)


def test_each_option_matters():
    params, (x, bias) = random_params(dataclasses.replace(SMALL, **OPTIONS["beit"])), inputs()
    outputs = []
    for change in (
        {},
        {"norm": Norm.POST},
        {"activation": Activation.QUICK_GELU},
        {"activation": Activation.GELU_TANH},
        {"span": Span.CAUSAL},
        {"layer_scale": 0.1},
        {"relative_bias_side": SIDE},
        {"epsilon": 1e-2},
    ):
        config = dataclasses.replace(SMALL, **change)
        outputs.append(oracle(x, bias, params, config))
    for i, one in enumerate(outputs):
        for other in outputs[:i]:
            assert np.abs(one - other).max() > 1e-5


def test_scanning_and_recomputing_change_neither_names_nor_results():
    x, bias = inputs()
    params = random_params(SMALL)
    before = compiled(SMALL)(params, x, bias)
    for change in ({"scan": Switch.ON}, *({"scan": Switch.ON, "remat": how} for how in Remat)):
        config = dataclasses.replace(SMALL, **change)
        assert jax.tree.structure(random_params(config)) == jax.tree.structure(params)
        np.testing.assert_allclose(compiled(config)(params, x, bias), before, rtol=1e-12)


WANTED = {
    "the first": FIRST,
    "one of each row": np.array([[3], [0]]),
    "some, one of them twice": np.array([[4, 1, 1], [0, 2, 3]]),
}


def with_gradients(config, params, x, bias, weight, *, wanted, inside):
    """Outputs at these tokens, left out of the last block or taken after it, and gradients."""

    def call(params, x):
        stack = Transformer(config)
        found = stack.apply({"params": params}, x, bias, wanted if inside else None)
        return found if inside else outputs_at(found, wanted)

    outputs, back = jax.vjp(call, params, x)
    return outputs, *back(weight[:, : outputs.shape[1]])


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED)
@pytest.mark.parametrize("name", OPTIONS)
def test_outputs_that_are_not_wanted_change_nothing(name, wanted, layers):
    """Against whole blocks, whose outputs are thrown away afterwards: values and gradients."""
    scan = Switch.ON if name in ("bert", "beit") else Switch.OFF
    config = dataclasses.replace(SMALL, layers=layers, scan=scan, **OPTIONS[name])
    params = random_params(config)
    x, bias = inputs()
    weight = np.random.default_rng(2).normal(size=x.shape)
    if not isinstance(wanted, slice):
        wanted = jnp.asarray(wanted)

    def run(inside):
        call = quick.jit(lambda *of: with_gradients(config, *of, wanted=wanted, inside=inside))
        return call(params, x, bias, weight)

    found, whole = run(inside=True), run(inside=False)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("remat", list(Remat))
@pytest.mark.parametrize("scan", list(Switch))
def test_the_last_block_is_run_by_itself_and_recomputed_like_the_others(scan, remat):
    config = dataclasses.replace(SMALL, layers=3, scan=scan, remat=remat)
    x, bias = map(jnp.asarray, inputs())
    stack = Transformer(config)
    jaxpr = jax.make_jaxpr(lambda params: stack.apply({"params": params}, x, bias, FIRST))
    found = list(oracles.equations(jaxpr(random_params(config)).jaxpr))
    (scanned,) = (e for e in found if e.primitive.name == "scan")
    assert scanned.params["length"] == 2
    assert scanned.params["unroll"] == (1 if scan is Switch.ON else 2)
    recomputed = [e for e in found if e.primitive.name.startswith("remat")]
    # in the scan, where what is taken out of the stack is taken again, and behind it
    assert len(recomputed) == (scan is Switch.ON or remat is not Remat.OFF) + (
        remat is not Remat.OFF
    )


@pytest.mark.parametrize("remat", list(Remat))
def test_a_scan_over_blocks_copies_no_stack_of_parameters(remat):
    """Neither to leave the last one out nor for the backward pass."""
    config = dataclasses.replace(SMALL, layers=4, scan=Switch.ON, remat=remat)
    x, bias = map(jnp.asarray, inputs())

    def loss(params):
        return Transformer(config).apply({"params": params}, x, bias, FIRST).sum()

    params = random_params(config)
    shapes = {(3, *leaf.shape[1:]) for leaf in jax.tree.leaves(params) if leaf.ndim > 2}
    found = list(oracles.equations(jax.make_jaxpr(jax.value_and_grad(loss))(params).jaxpr))
    forward, backward = (e for e in found if e.primitive.name == "scan")
    assert not shapes & {v.aval.shape for v in forward.outvars}
    assert shapes <= {v.aval.shape for v in backward.outvars}  # their gradients
    made = {e.primitive.name for e in found for v in e.outvars if v.aval.shape in shapes}
    assert "slice" not in made and "dynamic_slice" not in made


@pytest.mark.parametrize("precision", list(Precision))
def test_a_scan_keeps_what_blocks_sum_up(precision):
    """And nothing that is worked out of it element by element; but operands, which are copied."""
    config = dataclasses.replace(SMALL, layers=4, scan=Switch.ON, precision=precision)
    x, bias = map(jnp.asarray, inputs(np.float32))

    def loss(params):
        return Transformer(config).apply({"params": params}, x, bias, FIRST).sum()

    params = jax.tree.map(np.float32, random_params(config))
    found = oracles.equations(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
    scan = next(e for e in found if e.primitive.name == "scan")
    made = {v: e for e in oracles.equations(scan.params["jaxpr"]) for v in e.outvars}

    def maker(v):
        name = made[v].primitive.name if v in made else "x"
        return maker(made[v].invars[0]) if name == "reduce_precision" else name

    kept = [(maker(v), v) for v in scan.params["jaxpr"].jaxpr.outvars[1:] if v.aval.ndim > 1]
    operands = [v for name, v in kept if name == "name"]
    assert len(operands) == (4 if precision is Precision.BFLOAT16_OPERANDS else 0)
    sums = [name for name, _ in kept if name != "name"]
    # qkv, scores, projection, MLP; and values by scores, where these are not kept as an operand
    assert sums.count("dot_general") == (4 if operands else 5)
    assert set(sums) <= {"x", "dot_general", "reduce_sum", "reduce_max", "stop_gradient"}


@pytest.mark.parametrize("remat", list(Remat))
def test_a_scan_over_blocks_has_the_gradients_of_an_unrolled_stack(remat):
    x, bias = map(jnp.asarray, inputs())
    weights = jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)[:, :1]
    configs = [
        dataclasses.replace(SMALL, layers=4, scan=scan, remat=kept)
        for scan, kept in ((Switch.ON, remat), (Switch.OFF, Remat.OFF))
    ]

    def loss(params, x, config):
        return jnp.sum(weights * Transformer(config).apply({"params": params}, x, bias, FIRST))

    params = random_params(configs[0])
    found, wanted = (jax.grad(loss, (0, 1))(params, x, config) for config in configs)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_products_of_the_last_block_are_of_what_is_wanted():
    """Keys and values of all tokens; the MLP of one."""
    config = dataclasses.replace(SMALL, layers=1)
    x, bias = map(jnp.asarray, inputs())
    stack = Transformer(config)
    jaxpr = jax.make_jaxpr(lambda params: stack.apply({"params": params}, x, bias, FIRST))
    found = oracles.equations(jaxpr(random_params(config)).jaxpr)
    shapes = [e.outvars[0].aval.shape for e in found if e.primitive.name == "dot_general"]
    rows = [math.prod(shape) // config.mlp for shape in shapes if shape[-1] == config.mlp]
    assert rows == [b]


def test_a_stack_that_is_cut_has_the_gradients_of_slices():
    stack = {"kernel": np.arange(12.0).reshape(3, 4), "bias": np.arange(3.0)}
    weight = jax.tree.map(np.cos, stack)

    def loss(stack, cut):
        parts = cut(stack)
        scales = cut(weight)
        pieces = zip(jax.tree.leaves(parts), jax.tree.leaves(scales), strict=True)
        return sum(jnp.sum(one**2 * other) for one, other in pieces)

    def slices(stack):
        return [jax.tree.map(lambda leaf, at=at: leaf[at], stack) for at in (slice(2), 2)]

    found, wanted = (jax.grad(loss)(stack, cut) for cut in (split_last, slices))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("remat", list(Remat))
@pytest.mark.parametrize("scan", list(Switch))
def test_layers_are_unrolled_or_scanned_and_recomputed_where_asked_for(scan, remat):
    config = dataclasses.replace(SMALL, scan=scan, remat=remat)
    x, bias = map(jnp.asarray, inputs())
    stack = Transformer(config)
    jaxpr = jax.make_jaxpr(lambda params: stack.apply({"params": params}, x, bias))
    found = list(oracles.equations(jaxpr(random_params(config)).jaxpr))
    unrolled = {e.params["unroll"] for e in found if e.primitive.name == "scan"}
    assert unrolled == {1 if scan is Switch.ON else SMALL.layers}
    assert any(e.primitive.name.startswith("remat") for e in found) == (remat is not Remat.OFF)


def test_the_less_is_kept_the_more_is_computed_again():
    x, bias = map(jnp.asarray, inputs())
    products = {}
    for remat in Remat:
        config = dataclasses.replace(SMALL, remat=remat)

        def loss(params, config=config):
            return Transformer(config).apply({"params": params}, x, bias).sum()

        jaxpr = jax.make_jaxpr(jax.grad(loss))(random_params(config))
        found = list(oracles.equations(jaxpr.jaxpr))
        products[remat] = sum(e.primitive.name == "dot_general" for e in found)
    assert products[Remat.OFF] < products[Remat.DOTS] < products[Remat.ON]


def test_threads_that_trace_at_once_do_not_disturb_each_other():
    """As the state and the program of the first step are made at once."""
    threads = 8
    together = threading.Barrier(threads)

    def trace(number):
        stack = Transformer(dataclasses.replace(SMALL, layers=number % 4 + 1))
        x = jnp.zeros((1, 2, SMALL.width))
        for _ in range(8):
            together.wait(60)
            jax.eval_shape(functools.partial(stack.init, jax.random.key(0), x))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            list(pool.map(trace, range(threads)))
    finally:
        sys.setswitchinterval(before)
    assert {"name", "parent"} <= Block.__dataclass_fields__.keys()


def test_parameters_are_stacked_by_layer_and_layers_differ():
    params = jax.jit(Transformer(SMALL).init)(jax.random.key(0), inputs()[0])["params"]
    assert set(params) == {"blocks"}
    assert {leaf.shape[0] for leaf in jax.tree.leaves(params)} == {SMALL.layers}
    kernel = params["blocks"]["mlp_in"]["kernel"]
    assert kernel.shape == (2, 8, 12)
    assert np.abs(kernel[0] - kernel[1]).max() > 1e-3
    assert 0.01 < kernel.std() < 0.03


@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.BFLOAT16_OPERANDS])
def test_lower_precision_stays_near_and_keeps_its_parameters(precision):
    config = dataclasses.replace(SMALL, precision=precision)
    with jax.enable_x64(False):
        x, bias = inputs(np.float32)
        params = jax.tree.map(np.float32, random_params(config))

        @quick.jit
        def gradient(params, x, bias):
            def loss(params):
                return jnp.sum(Transformer(config).apply({"params": params}, x, bias) ** 2)

            return jax.grad(loss)(params)

        found = np.asarray(compiled(config)(params, x, bias), np.float32)
        grads = gradient(params, x, bias)
    wanted = oracle(x, bias, params, SMALL)
    assert 1e-4 < np.abs(found - wanted).max() / np.abs(wanted).max() < 0.05  # float32: 1e-7
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {np.dtype(np.float32)}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_no_number_is_narrowed():
    x, bias = (jnp.asarray(value) for value in inputs())
    params = jax.tree.map(jnp.asarray, random_params(SMALL))

    def loss(params):
        return Transformer(SMALL).apply({"params": params}, x, bias).sum()

    assert not oracles.downcasts(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)


def test_relative_positions():
    index = relative_index(SIDE)
    rows = [[relative_row(i, j) for j in range(n)] for i in range(n)]
    np.testing.assert_array_equal(index, rows)
    assert set(relative_index(3).ravel()) == set(range(5 * 5 + 3))


def products(jaxpr):
    """The precision of every matrix product in a program, those inside its parts too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for part in jaxprs_in_params(equation.params):
            yield from products(part)


@pytest.mark.parametrize("precision", list(Precision))
def test_float32_means_float32_on_every_device(precision):
    config = dataclasses.replace(SMALL, precision=precision)
    params = jax.tree.map(jnp.float32, random_params(config))
    x = jnp.ones((b, n, 8), jnp.float32)

    def total(params):
        return jnp.sum(Transformer(config).apply({"params": params}, x))

    found = list(products(jax.make_jaxpr(jax.grad(total))(params).jaxpr))
    assert found
    highest = (jax.lax.Precision.HIGHEST,) * 2
    exact = [precision == highest for precision in found]
    assert all(exact) if config.precision is Precision.FLOAT32 else not any(exact)
