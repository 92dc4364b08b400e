# SPDX-License-Identifier: Apache-2.0
"""Files of weights: the good, the damaged and the dangerous."""

import pickle

import ml_dtypes
import numpy as np
import pytest
from damage import Payload, larger, longer, lying, unknown
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from cots_jax.errors import UserError
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
