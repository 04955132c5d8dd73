"""The one type of everything that crosses into a kernel: an object with the buffer protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    # PEP 688 names this type; Python 3.11 cannot check it at run time, so it exists for the type checker
    # alone.
    from typing_extensions import Buffer as _Buffer

    Buffer: TypeAlias = _Buffer
else:
    Buffer = object
