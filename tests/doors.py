# SPDX-License-Identifier: Apache-2.0
"""The front doors, in this process or in one of their own, and what they say."""

import contextlib
import dataclasses
import importlib.util
import io
import os
import pathlib
import socket
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from unittest import mock

from cots_jax import evaluate, export, main, plan, prepare, search
from cots_jax.meeting.places import ADDRESS, COUNT, INDEX

PROJECT = pathlib.Path(main.__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Said:
    """Exit status and both streams of a door."""

    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of a failure."""
        assert self.err.count("\n") == 1, self.err
        return self.err.strip()


def run_main(root: pathlib.Path, *flags: str, stream: io.StringIO | None = None) -> Said:
    """`python -m cots_jax.main` in `root`; `stream` stands for standard error."""
    return _in_process(root, lambda: main.main(flags), stream)


def run_evaluate(root: pathlib.Path, *flags: str) -> Said:
    """`python -m cots_jax.evaluate` in `root`."""
    return _in_process(root, lambda: evaluate.main(flags))


def run_prepare(root: pathlib.Path, *flags: str) -> Said:
    """`python -m cots_jax.prepare` in `root`."""
    with mock.patch.object(sys, "argv", ["prepare", *flags]):
        return _in_process(root, prepare.main)


def run_search(root: pathlib.Path, *flags: str) -> Said:
    """`python -m cots_jax.search` in `root`."""
    return _in_process(root, lambda: search.main(flags))


def run_export(root: pathlib.Path, *flags: str) -> Said:
    """`python -m cots_jax.export` in `root`."""
    return _in_process(root, lambda: export.main(flags))


def run_plan(root: pathlib.Path, *flags: str) -> Said:
    """`python -m cots_jax.plan` in `root`."""
    return _in_process(root, lambda: plan.main(flags))


def _in_process(
    root: pathlib.Path, door: Callable[[], int], stream: io.StringIO | None = None
) -> Said:
    out, err = io.StringIO(), stream or io.StringIO()
    with (
        contextlib.chdir(root),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            status = door()
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 1
    return Said(status, out.getvalue(), err.getvalue())


def command(door: str, *flags: str) -> list[str]:
    """The command line of a door."""
    return [sys.executable, "-m", f"cots_jax.{door}", *flags]


def run_apart(root: pathlib.Path, arguments: Sequence[str], timeout: float = 600) -> Said:
    """A command in a process of its own, in `root`."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        arguments, cwd=root, env=environment, capture_output=True, text=True, timeout=timeout
    )
    return Said(done.returncode, done.stdout, done.stderr)


def fake_devices(count: int) -> str:
    """XLA_FLAGS of a program that sees this many devices, beside those of this process."""
    told = os.environ.get("XLA_FLAGS", "")
    return f"{told} --xla_force_host_platform_device_count={count}".strip()


def start_two(
    root: pathlib.Path, *commands: Sequence[str], devices: int = 1, paths: str = str(PROJECT)
) -> list[subprocess.Popen]:
    """A Python command line in two processes that know of each other, in `root`, or two of them.

    devices: fake ones of each process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    told = {ADDRESS: address, COUNT: "2", "PYTHONPATH": paths, "XLA_FLAGS": fake_devices(devices)}
    return [
        subprocess.Popen(
            [sys.executable, *commands[index % len(commands)]],
            cwd=root,
            env={**os.environ, **told, INDEX: str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def both_said(running: Sequence[subprocess.Popen], timeout: float = 600) -> list[Said]:
    """Waits for processes to end."""
    ended = [process.communicate(timeout=timeout) for process in running]
    statuses = [process.returncode for process in running]
    return [Said(status, out, err) for status, (out, err) in zip(statuses, ended, strict=True)]


def in_two_processes(root: pathlib.Path, *arguments: str) -> list[Said]:
    """A Python command line in two processes that know of each other, in `root`."""
    return both_said(start_two(root, arguments))


def load_benchmark(name: str) -> types.ModuleType:
    """A script of benchmarks/ as a module."""
    path = PROJECT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
