"""Plain twin of the ``sockets`` kernel."""

from __future__ import annotations

import os


def send_many(descriptors: list[int], parts: list[bytes]) -> list[tuple[int, int]]:
    if len(descriptors) != len(parts):
        raise ValueError(f"{len(descriptors)} descriptors for {len(parts)} parts")
    unsent = []
    for index, (descriptor, part) in enumerate(zip(descriptors, parts, strict=True)):
        if not isinstance(part, bytes):
            raise TypeError(f"a part is bytes, not {type(part).__name__}")
        try:
            sent = write_now(descriptor, part)
        except OSError:
            sent = 0
        if sent != len(part):
            unsent.append((index, sent))
    return unsent


def write_now(descriptor: int, part: bytes) -> int:
    """Write what goes without waiting; Python keeps SIGPIPE ignored."""
    blocking = os.get_blocking(descriptor)
    os.set_blocking(descriptor, False)
    try:
        return os.write(descriptor, part)
    finally:
        os.set_blocking(descriptor, blocking)
