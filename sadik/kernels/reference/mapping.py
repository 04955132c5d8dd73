"""Plain twin of the mapping kernel: the system's mmap through ctypes, because Python's refuses to reach
beyond a file.
"""

from __future__ import annotations

import ctypes
import os
import weakref

from sadik.kernels.buffers import Buffer

_PROT_READ = 1
_MAP_SHARED = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


def map_file(fd: int, length: int) -> Buffer:
    if length < 1:
        raise ValueError(f"cannot map {length} bytes")
    address = _libc.mmap(None, length, _PROT_READ, _MAP_SHARED, fd, 0)
    if address == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    array = (ctypes.c_ubyte * length).from_address(address)
    # The array lives as long as any view of it.
    weakref.finalize(array, _libc.munmap, address, length)
    return memoryview(array).cast("B").toreadonly()
