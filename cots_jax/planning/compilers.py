# SPDX-License-Identifier: Apache-2.0
"""The compilers for hardware that is not here: libtpu's and XLA's for CUDA, out of folders.

Neither needs its hardware. Both stay out of the environment that trains, as JAX looks for a TPU or
a GPU wherever it can import what drives one: they are found in $COTS_LIBTPU and $COTS_CUDA, beside
the environment's own bin/ (`libtpu`, `cuda`), or where they are installed after all.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from cots_jax.chips import HOST, Maker
from cots_jax.planning.silicon import SHAPES, SILICON, Silicon

FOLDERS = {Maker.TPU: ("COTS_LIBTPU", "libtpu"), Maker.CUDA: ("COTS_CUDA", "cuda")}
PACKAGES = {
    Maker.TPU: ("libtpu",),
    Maker.CUDA: ("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cuda-nvcc", "nvidia-nvvm"),
}
# libtpu asks its machine what it is, and claims the chips that it finds there; there are none.
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no lock file: training and other plans may run beside it
}


@dataclasses.dataclass(frozen=True)
class Compiler:
    """A compiler that is there."""

    maker: Maker
    folder: Path  # that its packages lie in

    @property
    def version(self) -> str:
        """Of its first package."""
        name = PACKAGES[self.maker][0]
        for found in importlib.metadata.distributions(name=name, path=[str(self.folder)]):
            return f"{name} {found.version}"
        return name


def find_compiler(maker: Maker) -> Compiler | None:
    """Where it is, if it is anywhere."""
    variable, name = FOLDERS[maker]
    inside = Path("libtpu/libtpu.so" if maker is Maker.TPU else "jax_plugins/xla_cuda13")
    told = os.environ.get(variable, "")
    folders = [Path(told)] if told else [Path(sys.prefix) / name, *map(Path, sys.path)]
    return next((Compiler(maker, folder) for folder in folders if (folder / inside).exists()), None)


def how_to_get(maker: Maker) -> str:
    """The command that installs it, in the versions that this JAX wants."""
    variable, name = FOLDERS[maker]
    wanted = {
        Maker.TPU: [_wanted_libtpu()],
        Maker.CUDA: [f"{package}=={jax.__version__}" for package in PACKAGES[Maker.CUDA][:2]]
        + list(PACKAGES[Maker.CUDA][2:]),
    }[maker]
    packages = " ".join(f'"{package}"' for package in wanted)
    return f"pip install --no-deps --target {name} {packages}, and set {variable}={name}"


def _wanted_libtpu() -> str:
    lines = importlib.metadata.requires("jax") or []
    return next(
        (line.split(";")[0].strip() for line in lines if line.startswith("libtpu")), "libtpu"
    )


def chips_of(compiler: Compiler, kind: str, count: int) -> Sequence[jax.Device]:
    """Devices of a topology that can be compiled for, and nothing else.

    No compilation cache from then on: what is in it can be read only where the devices are.
    """
    jax.config.update("jax_enable_compilation_cache", False)
    if compiler.maker is Maker.TPU:
        return _tpus(compiler, kind, shape_of(kind, count) or "")
    return _gpus(compiler, SILICON[kind], count)


def shape_of(kind: str, count: int) -> str | None:
    """How so many TPU chips are arranged; None where there is no such slice."""
    return next((shape for shape in SHAPES[kind] if chips_in(shape) == count), None)


def chips_in(shape: str) -> int:
    """2x2x4 -> 16."""
    count = 1
    for side in shape.split("x"):
        count *= int(side)
    return count


def _tpus(compiler: Compiler, kind: str, shape: str) -> Sequence[jax.Device]:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ["TPU_LIBRARY_PATH"] = str(compiler.folder / "libtpu" / "libtpu.so")
    options: dict[str, Any] = {}
    if chips_in(shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # its two cores are one device, as in a run
    name = f"{kind}:{shape}"
    return topologies.get_topology_desc(name, "tpu", **options).devices


def _gpus(compiler: Compiler, silicon: Silicon, count: int) -> Sequence[jax.Device]:
    if str(compiler.folder) not in sys.path:
        sys.path.insert(0, str(compiler.folder))
    host = min(count, HOST)
    shape = f"1x{count // host}x{host}"  # hosts x cards of each
    return topologies.get_topology_desc(
        silicon.name, "cuda", topology=shape, target_config=_described(silicon)
    ).devices


def _described(s: Silicon) -> str:
    """A GpuTargetConfigProto as text."""
    features = "feature_extension: ACCELERATED_FEATURES" if s.capability >= 9 else ""
    return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
          shared_memory_per_block: 49152 shared_memory_per_core: {s.shared}
          shared_memory_per_block_optin: {s.shared_of_block}
          core_count: {s.cores} fpus_per_core: {s.units} clock_rate_ghz: {s.clock}
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          memory_bandwidth: {s.bandwidth} device_memory_size: {s.memory} l2_cache_size: {s.cache}
          cuda_compute_capability {{ major: {s.capability} {features} }}
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 }}
        device_description_str: "{s.name}"
    """
