# SPDX-License-Identifier: Apache-2.0
"""Whether a training on a CPU has its memory in large pages (own choice, docs/profile.md).

XLA asks for its buffers anew at every step, and glibc gives large ones back to the kernel, which
then clears them page by page. Only the environment that a process starts with can change that.
"""

import os
import platform
from pathlib import Path

import jax

TUNABLE = "glibc.malloc.hugetlb"
KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def large_pages_advice(kernel: Path = KERNEL) -> str:
    """One line for the start of a run, or nothing where it has them or cannot have them.

    kernel: Linux's file of what it allows, the word that holds in brackets.
    """
    if jax.default_backend() != "cpu" or TUNABLE in os.environ.get("GLIBC_TUNABLES", ""):
        return ""
    if platform.libc_ver()[0] != "glibc" or not kernel.is_file():
        return ""
    if "[madvise]" not in kernel.read_text("utf-8"):  # else all memory has them already, or none
        return ""
    return (
        "memory lies in small pages: with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 before the command "
        "steps on a CPU were 5 to 15 % faster"
    )
