"""Read-only memory maps that may reach beyond the end of their file (Python's own ``mmap`` refuses that)."""

from sadik.kernels.buffers import Buffer

def map_file(fd: int, length: int) -> Buffer:
    """Map ``length`` > 0 bytes of an open file, shared and read-only, from its start.

    The view shows what is written to the file later. Touching bytes beyond the current size is a fault
    (SIGBUS): the caller keeps below it. The mapping lives until the returned object is gone, whatever happens
    to ``fd``.

    Raises:
        OSError: The system refused.
        ValueError: ``length`` < 1.
    """
