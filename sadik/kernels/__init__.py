"""Picks each kernel's twin once, loudly.

A kernel has two twins of the same interface: ``native`` (built from ``csrc/``) and ``reference`` (plain
Python,
checked by eye). ``SADIK_KERNELS=reference`` runs everything on the plain ones. A missing native build is an
error that names the command to run: falling back in silence would turn a broken build into a slow database.

The stubs in ``native/*.pyi`` are the contract of both twins, and their docstrings are the only copy.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

NAMES = (
    *("agenda", "digest", "frames", "hints", "keydir", "mapping", "merkle", "packets", "replica"),
    *("resp", "ring", "segment", "vclock", "versions", "wire"),
)
CHOICE = os.environ.get("SADIK_KERNELS", "native")

if CHOICE not in ("native", "reference"):
    raise ImportError(f"SADIK_KERNELS must be 'native' or 'reference', not {CHOICE!r}")

if TYPE_CHECKING:
    from sadik.kernels.native import (
        agenda,
        digest,
        frames,
        hints,
        keydir,
        mapping,
        merkle,
        packets,
        replica,
        resp,
        ring,
        segment,
        vclock,
        versions,
        wire,
    )

__all__ = [
    "CHOICE",
    "NAMES",
    "agenda",
    "digest",
    "frames",
    "hints",
    "keydir",
    "mapping",
    "merkle",
    "packets",
    "replica",
    "resp",
    "ring",
    "segment",
    "vclock",
    "versions",
    "wire",
]


def __getattr__(name: str) -> object:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{CHOICE}.{name}")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the native kernel {name!r} is not built; run `pip install -e .` (or `make build`), "
            f"or set SADIK_KERNELS=reference to run on plain Python"
        ) from error
    globals()[name] = module
    return module
