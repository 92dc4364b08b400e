# SPDX-License-Identifier: Apache-2.0
"""What is compiled for: slices that there are, compilers that are here or not."""

import jax
import pytest

from cots_jax.chips import CHIPS, Maker
from cots_jax.errors import UserError
from cots_jax.planning import targets
from cots_jax.planning.compilers import Compiler, chips_in, find_compiler, how_to_get, shape_of
from cots_jax.planning.silicon import SHAPES, SILICON
from cots_jax.planning.targets import check_slice, target_of
from cots_jax.schema import HardwareConfig
from cots_jax.switches import AttentionForm


@pytest.mark.parametrize(
    ("kind", "count", "said"),
    [
        ("v5e", 7, "no 7 TPU v5e in one piece: name v5e-4 or v5e-8"),
        ("v5e", 512, "name v5e-128 or v5e-256"),
        ("v4", 6, "name v4-4 or v4-8"),
        ("h100", 12, "name h100-8 or h100-16"),
    ],
)
def test_chips_that_are_not_to_be_had_name_the_nearest(kind: str, count: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_slice(kind, count)


def test_chips_that_are() -> None:
    for kind, count in (("v5e", 256), ("v4", 1024), ("h100", 4), ("a100", 64), ("cpu", 7)):
        check_slice(kind, count)
    assert shape_of("v5p", 1024) == "8x8x16"
    for shapes in SHAPES.values():
        counts = [chips_in(shape) for shape in shapes]
        assert counts == sorted(set(counts))


def test_every_chip_has_what_its_compiler_asks() -> None:
    for kind, chip in CHIPS.items():
        assert kind in (SHAPES if chip.maker is Maker.TPU else SILICON)
    for kind, card in SILICON.items():
        assert CHIPS[kind].memory == round(0.75 * card.memory)


def test_without_a_compiler_the_cpu_stands_in_and_says_what_to_install(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTS_LIBTPU", str(tmp_path))
    assert find_compiler(Maker.TPU) is None
    target = target_of(HardwareConfig(row="v5e-1", chips=1))
    assert not target.is_own
    assert target.chip == CHIPS["v5e"]
    assert target.memory == CHIPS["v5e"].memory
    (note,) = target.notes
    assert how_to_get(Maker.TPU) in note
    assert "pip install --no-deps --target libtpu" in note


@pytest.mark.parametrize("form", list(AttentionForm))
def test_a_card_that_is_not_here_says_that_its_kernel_is_not_planned(
    form: AttentionForm, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = Compiler(Maker.CUDA, tmp_path)
    monkeypatch.setattr(targets, "find_compiler", lambda maker: compiler)
    monkeypatch.setattr(targets, "chips_of", lambda *of: jax.devices("cpu")[:1])
    found = target_of(HardwareConfig(row="h100-1", chips=1, attention=form))
    assert found.notes == ((targets.CUDNN,) if form is AttentionForm.FUSED else ())


def test_the_command_names_the_versions_of_this_jax() -> None:
    assert '"libtpu==' in how_to_get(Maker.TPU)
    assert f'"jax-cuda13-plugin=={jax.__version__}"' in how_to_get(Maker.CUDA)


def test_a_row_without_a_number_is_this_machine() -> None:
    here = len(jax.devices())
    target = target_of(HardwareConfig(row="cpu", chips=here))
    assert target.chip is None
    assert target.mesh.size == here
    assert target.memory > 2**28
    with pytest.raises(UserError, match=r"no TPU v5e is here.*v5e-8"):
        target_of(HardwareConfig(row="v5e", chips=here))


def test_more_fake_devices_than_this_process_has_name_the_flag() -> None:
    with pytest.raises(UserError, match="host_platform_device_count=4096"):
        target_of(HardwareConfig(row="cpu-4096", chips=4096))


def test_the_attained_share_is_the_users_to_choose(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTS_LIBTPU", str(tmp_path))
    target = target_of(HardwareConfig(row="v5e-1", chips=1), attainable=0.25)
    assert target.chip is not None
    assert target.chip.attainable == 0.25
