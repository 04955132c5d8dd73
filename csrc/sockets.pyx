# Replies of many connections, one send(2) each, without the interpreter in between; see sadik/kernels/native/sockets.pyi.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EINTR, errno

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int descriptor, const void* data, size_t length, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL


def send_many(list descriptors not None, list parts not None):
    cdef list unsent = []
    cdef Py_ssize_t index, length
    cdef ssize_t sent
    cdef int descriptor
    cdef bytes part
    if len(descriptors) != len(parts):
        raise ValueError(f"{len(descriptors)} descriptors for {len(parts)} parts")
    for index, part in enumerate(parts):
        if part is None:
            raise TypeError("a part is bytes, not None")
        descriptor = descriptors[index]
        length = PyBytes_GET_SIZE(part)
        # The lock is kept: a send to a socket with room does not block, and giving the lock up costs as much again.
        while True:
            sent = send(descriptor, PyBytes_AS_STRING(part), length, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent >= 0 or errno != EINTR:
                break
        if sent != length:
            unsent.append((index, max(sent, 0)))
    return unsent
