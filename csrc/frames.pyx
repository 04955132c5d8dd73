# Frames between nodes: header, checksum, and a reader of streams. The contract is sadik/kernels/native/frames.pyi.
#
# A frame that is whole in what was fed is taken from there. Of one that is not, the payload so far lies in the bytes object that
# will be handed out, which grows as the rest arrives; its checksum is carried along, so no byte is looked at twice.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport Py_buffer, PyBuffer_Release
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from buffers cimport acquire

from collections import namedtuple

from sadik.errors import ProtocolError

cdef extern from "crc32c.h" nogil:
    uint32_t crc32c_extend(uint32_t state, const uint8_t* data, size_t length)
    void crc32c_prepare()

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        PyObject* (*tp_alloc)(PyTypeObject* kind, Py_ssize_t items) except NULL
    void PyTuple_SET_ITEM(PyObject* item, Py_ssize_t position, PyObject* value)
    int _PyBytes_Resize(PyObject** item, Py_ssize_t size) except -1
    PyObject* PyBytes_FromStringAndSize_new "PyBytes_FromStringAndSize"(const char* data, Py_ssize_t size) except NULL
    Py_ssize_t Py_SIZE_of "Py_SIZE"(PyObject* item)
    char* PyBytes_data "PyBytes_AS_STRING"(PyObject* item)

cdef enum:
    HEADER = 20
    COVERED = 16          # bytes of the header before the checksum
    OUR_VERSION = 1
    GROWTH_MIN = 4096

cdef uint64_t LENGTH_MAX = 0xFFFFFFFF

crc32c_prepare()

HEADER_BYTES = HEADER
VERSION = OUR_VERSION
PAYLOAD_BYTES_LIMIT = LENGTH_MAX

Frame = namedtuple("Frame", "kind request payload", module=__name__)
cdef PyTypeObject* frame_type = <PyTypeObject*>Frame


cdef object new_frame(object kind, object request, object payload):
    """What ``Frame(kind, request, payload)`` gives, without the call."""
    cdef PyObject* made = frame_type.tp_alloc(frame_type, 3)
    # The tuple steals what it is given.
    Py_INCREF(kind)
    Py_INCREF(request)
    Py_INCREF(payload)
    PyTuple_SET_ITEM(made, 0, <PyObject*>kind)
    PyTuple_SET_ITEM(made, 1, <PyObject*>request)
    PyTuple_SET_ITEM(made, 2, <PyObject*>payload)
    frame = <object>made
    Py_XDECREF(made)
    return frame


cdef void put_header(uint8_t* header, uint32_t length, int kind, uint64_t request) noexcept:
    memcpy(header, &length, 4)
    header[4] = OUR_VERSION
    header[5] = <uint8_t>kind
    header[6] = 0
    header[7] = 0
    memcpy(header + 8, &request, 8)


def encode(int kind, uint64_t request, parts not None):
    cdef uint64_t total = 0
    cdef uint32_t crc
    cdef Py_buffer view
    cdef Py_ssize_t size
    cdef uint8_t* out
    cdef bytes frame
    if not 1 <= kind <= 255:
        raise ValueError(f"kind must be 1 to 255, not {kind}")
    if type(parts) is not tuple and type(parts) is not list:
        parts = tuple(parts)
    for part in parts:
        if PyBytes_CheckExact(part):
            total += <uint64_t>PyBytes_GET_SIZE(part)
        else:
            acquire(part, &view, 0, "part")
            total += <uint64_t>view.len
            PyBuffer_Release(&view)
    if total > LENGTH_MAX:
        raise ValueError(f"a payload has at most {LENGTH_MAX} bytes, not {total}")
    frame = PyBytes_FromStringAndSize(NULL, HEADER + <Py_ssize_t>total)
    out = <uint8_t*>PyBytes_AS_STRING(frame)
    put_header(out, <uint32_t>total, kind, request)
    out += HEADER
    for part in parts:
        if PyBytes_CheckExact(part):
            size = PyBytes_GET_SIZE(part)
            if <uint64_t>size > total:
                raise ValueError("a part changed its length")
            memcpy(out, PyBytes_AS_STRING(part), size)
        else:
            acquire(part, &view, 0, "part")
            size = view.len
            if <uint64_t>size <= total:
                memcpy(out, view.buf, size)
            PyBuffer_Release(&view)
            if <uint64_t>size > total:
                raise ValueError("a part changed its length")
        out += size
        total -= <uint64_t>size
    if total:
        raise ValueError("a part changed its length")
    out = <uint8_t*>PyBytes_AS_STRING(frame)
    crc = crc32c_extend(0xFFFFFFFF, out, COVERED)
    crc = ~crc32c_extend(crc, out + HEADER, PyBytes_GET_SIZE(frame) - HEADER)
    memcpy(out + COVERED, &crc, 4)
    return frame


cdef class Reader:
    cdef readonly object payload_bytes_max
    cdef uint64_t limit, greeting_limit
    cdef Py_ssize_t greetings      # so many more frames are limited to `greeting_limit`
    cdef uint8_t header[HEADER]
    cdef Py_ssize_t header_filled
    cdef PyObject* payload         # of a frame whose header is whole, as far as it has come; its size is the room so far
    cdef Py_ssize_t filled, length
    cdef uint32_t state
    cdef object error              # what ended it

    def __cinit__(self, uint64_t payload_bytes_max, Py_ssize_t greetings=0, uint64_t greeting_bytes_max=0):
        if payload_bytes_max > LENGTH_MAX or greeting_bytes_max > LENGTH_MAX or greetings < 0:
            raise ValueError(f"a payload has 0 to {LENGTH_MAX} bytes")
        self.payload_bytes_max = payload_bytes_max
        self.limit = payload_bytes_max
        self.greetings = greetings
        self.greeting_limit = min(greeting_bytes_max, payload_bytes_max)

    def __dealloc__(self):
        Py_XDECREF(self.payload)

    @property
    def held_bytes(self):
        return self.header_filled + (0 if self.payload == NULL else Py_SIZE_of(self.payload))

    def feed(self, data not None):
        cdef Py_buffer view
        cdef list frames = []
        if self.error is not None:
            raise ProtocolError(self.error)
        try:
            if PyBytes_CheckExact(data):
                self.run(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), frames)
            else:
                acquire(data, &view, 0, "data")
                try:
                    self.run(<const uint8_t*>view.buf, view.len, frames)
                finally:
                    PyBuffer_Release(&view)
        except ProtocolError as error:
            self.error = str(error)
            Py_XDECREF(self.payload)
            self.payload = NULL
            raise
        return frames

    cdef int run(self, const uint8_t* data, Py_ssize_t size, list frames) except -1:
        cdef Py_ssize_t take
        cdef uint32_t crc
        while size or (self.header_filled == HEADER and self.filled == self.length):
            if self.header_filled == 0 and size >= HEADER:
                take = self.check(data)
                if size - HEADER >= take:
                    crc = crc32c_extend(crc32c_extend(0xFFFFFFFF, data, COVERED), data + HEADER, take)
                    self.finish(data, crc, PyBytes_FromStringAndSize(<const char*>data + HEADER, take), frames)
                    data += HEADER + take
                    size -= HEADER + take
                    continue
            if self.header_filled < HEADER:
                take = min(HEADER - self.header_filled, size)
                memcpy(self.header + self.header_filled, data, take)
                self.header_filled += take
                data += take
                size -= take
                if self.header_filled == HEADER:
                    self.length = self.check(self.header)
                    self.filled = 0
                    self.state = crc32c_extend(0xFFFFFFFF, self.header, COVERED)
                    self.payload = PyBytes_FromStringAndSize_new(NULL, 0)
                continue
            take = min(self.length - self.filled, size)
            if take:
                self.grow(self.filled + take)
                memcpy(PyBytes_data(self.payload) + self.filled, data, take)
                self.state = crc32c_extend(self.state, data, take)
                self.filled += take
                data += take
                size -= take
            if self.filled == self.length:
                self.close(frames)
        return 0

    cdef int grow(self, Py_ssize_t need) except -1:
        """Room for `need` bytes of payload: twice what there was, never more than the whole."""
        cdef Py_ssize_t room = Py_SIZE_of(self.payload)
        if need > room:
            room = min(max(need, 2 * room, GROWTH_MIN), self.length)
            # Undone at failure: the payload is gone then, and the pointer NULL.
            _PyBytes_Resize(&self.payload, room)
        return 0

    cdef int close(self, list frames) except -1:
        """The frame under way is whole."""
        payload = <bytes>self.payload
        Py_XDECREF(self.payload)
        self.payload = NULL
        self.header_filled = 0
        self.finish(self.header, self.state, payload, frames)
        return 0

    cdef int finish(self, const uint8_t* header, uint32_t state, bytes payload, list frames) except -1:
        cdef uint32_t crc
        cdef uint64_t request
        memcpy(&crc, header + COVERED, 4)
        if crc != ~state:
            raise ProtocolError(f"a frame of kind {header[5]} with {len(payload)} bytes fails its checksum")
        memcpy(&request, header + 8, 8)
        frames.append(new_frame(header[5], request, payload))
        if self.greetings:
            self.greetings -= 1
        return 0

    cdef Py_ssize_t check(self, const uint8_t* header) except -1:
        """Length of the payload behind a header that can be one."""
        cdef uint32_t length
        cdef uint64_t limit = self.greeting_limit if self.greetings else self.limit
        if header[4] != OUR_VERSION:
            raise ProtocolError(f"the peer speaks protocol version {header[4]}, this node {OUR_VERSION}")
        if header[5] == 0 or header[6] != 0 or header[7] != 0:
            raise ProtocolError("bytes that are no frame")
        memcpy(&length, header, 4)
        if length > limit:
            raise ProtocolError(f"a frame of {length} bytes where at most {limit} are allowed")
        return <Py_ssize_t>length
