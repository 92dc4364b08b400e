# SPDX-License-Identifier: Apache-2.0
"""A run on a CPU says how its memory could lie in large pages, where that would change anything."""

import pathlib
import platform

import jax
import pytest

from cots_jax.train.large_pages import large_pages_advice


@pytest.fixture
def kernel(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A machine where the advice holds."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    file = tmp_path / "enabled"
    file.write_text("always [madvise] never\n")
    return file


def test_it_names_what_to_set(kernel: pathlib.Path) -> None:
    assert "GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in large_pages_advice(kernel)


@pytest.mark.parametrize("allowed", ["[always] madvise never", "always madvise [never]"])
def test_nothing_where_the_kernel_gives_them_to_all_or_none(
    kernel: pathlib.Path, allowed: str
) -> None:
    kernel.write_text(allowed)
    assert not large_pages_advice(kernel)


@pytest.mark.parametrize(
    ("tunables", "advised"),
    [("glibc.malloc.hugetlb=1", False), ("a=b:glibc.malloc.hugetlb=2", False), ("a=b", True)],
)
def test_nothing_where_it_is_set(
    kernel: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tunables: str, advised: bool
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    assert bool(large_pages_advice(kernel)) is advised


def test_nothing_for_accelerators_other_libraries_and_systems(
    kernel: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not large_pages_advice(kernel.with_name("none"))
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "tpu")
        assert not large_pages_advice(kernel)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not large_pages_advice(kernel)
