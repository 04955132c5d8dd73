# Read-only maps of files, as objects with the buffer protocol.

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.exc cimport PyErr_SetFromErrno


cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void* address, size_t length)
    int madvise(void* address, size_t length, int advice)
    const int PROT_READ, MAP_SHARED, MADV_RANDOM
    void* MAP_FAILED


cdef class Mapping:
    cdef void* address
    cdef Py_ssize_t length

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.address, self.length, 1, flags)

    def __len__(self):
        return self.length

    def __dealloc__(self):
        if self.address != NULL:
            munmap(self.address, self.length)


def map_file(int fd, Py_ssize_t length):
    if length < 1:
        raise ValueError(f"cannot map {length} bytes")
    cdef Mapping made = Mapping.__new__(Mapping)
    cdef void* address
    with nogil:
        address = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, 0)
    if address == MAP_FAILED:
        PyErr_SetFromErrno(OSError)
    made.address = address
    made.length = length
    # Reads are of single records: reading ahead around each would fetch 32 pages from disk for one. Advice only.
    madvise(address, length, MADV_RANDOM)
    return made
