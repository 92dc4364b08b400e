# SPDX-License-Identifier: Apache-2.0
"""Files of weights: the good, the damaged and the dangerous."""

import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from damage import Payload, larger, longer, lying, unknown
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from cots_jax.errors import UserError
from cots_jax.switches import Precision
from cots_jax.weights.dalle import read_dalle
from cots_jax.weights.files import read_tensors

TENSORS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.array([1.5, -2.0], ml_dtypes.bfloat16),
    "c": np.array(7, np.int32),
}


def assert_read(found):
    assert set(found) == set(TENSORS)
    np.testing.assert_array_equal(found["a.weight"], TENSORS["a.weight"])
    assert found["b"].dtype == np.float32
    np.testing.assert_array_equal(found["b"], [1.5, -2.0])
    assert found["c"].shape == ()


def test_a_file_a_folder_and_shards(tmp_path):
    for folder in ("whole", "shards"):
        (tmp_path / folder).mkdir()
    save_file(TENSORS, tmp_path / "whole" / "model.safetensors")
    assert_read(read_tensors(tmp_path / "whole" / "model.safetensors"))
    assert_read(read_tensors(tmp_path / "whole"))
    for number, name in enumerate(TENSORS):
        file = tmp_path / "shards" / f"model-0000{number + 1}-of-00003.safetensors"
        save_file({name: TENSORS[name]}, file)
    assert_read(read_tensors(tmp_path / "shards"))


def test_npz(tmp_path):
    np.savez(tmp_path / "w.npz", **{"x/kernel": np.ones((2, 3))})
    for path in (tmp_path / "w.npz", tmp_path):
        np.testing.assert_array_equal(read_tensors(path)["x/kernel"], np.ones((2, 3)))


def test_a_lost_shard_is_seen(tmp_path):
    save_file({"c": TENSORS["c"]}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match="1 of 2 shards"):
        read_tensors(tmp_path)


def test_the_same_name_in_two_shards(tmp_path):
    for number in (1, 2):
        save_file({"c": TENSORS["c"]}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    with pytest.raises(UserError, match="c stands in more than one file"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "w.pt", "w.pth", "w.pkl", "w.ckpt"])
def test_a_pickle_is_never_opened(tmp_path, name):
    trace, file = tmp_path / "trace", tmp_path / name
    file.write_bytes(pickle.dumps(Payload(str(trace))))
    for path in (file, tmp_path):
        with pytest.raises(UserError, match=r"is a pickle.*weights_only.*\.safetensors"):
            read_tensors(path)
    assert not trace.exists()


def test_objects_in_an_npz_are_never_opened(tmp_path):
    trace = tmp_path / "trace"
    np.savez(tmp_path / "w.npz", x=np.array([Payload(str(trace))], dtype=object))
    with pytest.raises(UserError, match=r"w\.npz cannot be read"):
        read_tensors(tmp_path / "w.npz")
    assert not trace.exists()


def test_bfloat16_in_an_npz(tmp_path):
    np.savez(tmp_path / "w.npz", **TENSORS)
    assert_read(read_tensors(tmp_path / "w.npz"))


@pytest.mark.parametrize(("kind", "size"), [("F8_E4M3", 1), ("F8_E5M2", 1), ("C64", 8)])
def test_numbers_of_another_kind_are_named(tmp_path, kind, size):
    def changed(header):
        header["b"] |= {"dtype": kind, "shape": [8 // size]}

    file = tmp_path / "w.safetensors"
    file.write_bytes(lying({"b": np.zeros(4, np.float16)}, changed))
    with pytest.raises(UserError, match=f"safetensors: b holds {kind}, which is not read here"):
        read_tensors(file)


@pytest.mark.parametrize(
    ("array", "kind"),
    [(np.zeros(2, np.complex64), "complex64"), (np.array(["a"]), "str32")],
)
def test_an_npz_of_another_kind_is_named(tmp_path, array, kind):
    np.savez(tmp_path / "w.npz", x=array)
    with pytest.raises(UserError, match=rf"w\.npz: x holds {kind}, which is not read here"):
        read_tensors(tmp_path / "w.npz")


def test_a_member_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as file:
        file.writestr("README.txt", "hello")
    with pytest.raises(UserError, match=r"README\.txt holds bytes40, which is not read here"):
        read_tensors(tmp_path / "w.npz")


def test_a_single_array_that_is_called_npz(tmp_path):
    with (tmp_path / "w.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match=r"w\.npz cannot be read \(it is a single array\)"):
        read_tensors(tmp_path / "w.npz")


def test_flipped_bytes_in_a_compressed_npz(tmp_path):
    rng = np.random.default_rng(0)
    np.savez_compressed(tmp_path / "w.npz", x=rng.integers(0, 50, (1000, 100)))
    content = bytearray((tmp_path / "w.npz").read_bytes())
    content[200:260] = bytes(255 - byte for byte in content[200:260])
    (tmp_path / "w.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"w\.npz cannot be read"):
        read_tensors(tmp_path / "w.npz")


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 7, 7)])
def test_an_image_tokenizer_of_odd_shapes(tmp_path, shape):
    first, last = "blocks.input.w", "blocks.output.conv.w"
    tensors = {first: np.zeros(shape, np.float32), last: np.zeros((8, 4, 1, 1), np.float32)}
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"holds no convolutions for blocks\.input\.w and"):
        read_dalle(tmp_path / "w.safetensors", 2, Precision.FLOAT32)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="there are no weights at"):
        read_tensors(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        read_tensors(tmp_path)


def assert_error_or_arrays(file):
    try:
        found = read_tensors(file)
    except UserError as error:
        assert str(file) in str(error)
    else:
        assert all(isinstance(array, np.ndarray) for array in found.values())


@pytest.mark.parametrize("change", [longer, larger, unknown])
def test_a_header_that_lies(tmp_path, change):
    (tmp_path / "w.safetensors").write_bytes(lying(TENSORS, change))
    with pytest.raises(UserError, match="cannot be read"):
        read_tensors(tmp_path / "w.safetensors")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_error_or_harmless(tmp_path, data):
    """Cut short, or with bytes changed: one clear error that names the file, or arrays."""
    good = bytearray(save(TENSORS))
    keep = data.draw(st.integers(0, len(good)))
    changes = data.draw(
        st.lists(st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)), max_size=3)
    )
    for at, value in changes:
        good[at] = value
    file = tmp_path / "w.safetensors"
    file.write_bytes(bytes(good[:keep] if data.draw(st.booleans()) else good))
    assert_error_or_arrays(file)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".safetensors", ".npz"]))
def test_any_bytes(tmp_path, content, suffix):
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    assert_error_or_arrays(file)
