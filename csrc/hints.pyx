# Hints that name a key only: where they lie, which of a batch are new, and their bytes. Contract in
# sadik/kernels/native/hints.pyi.

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_Resize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from buffers cimport PyBuffer_Release, acquire

from collections import namedtuple

KEY = 1
SET = 2
HEADER_BYTES = 28

Sifted = namedtuple(
    "Sifted",
    "added places name_starts name_lengths name_bytes values value_offsets unreadable others",
    module=__name__,
)

cdef enum:
    IS_STORED = 0
    IS_ABSENT = 1
    HEADER = 28
    STAMP_AT = 4
    DIGEST_AT = 12


def places(Py_ssize_t count, digests, owner_hash):
    cdef Py_buffer keys, owner
    cdef Py_ssize_t i
    cdef const uint8_t* key
    cdef const uint8_t* mixed
    cdef uint8_t* place
    cdef uint64_t mask, low
    if count < 0:
        raise ValueError("count must not be negative")
    acquire(digests, &keys, 16 * count, "digests")
    try:
        acquire(owner_hash, &owner, 9, "owner_hash")
        try:
            made = PyByteArray_FromStringAndSize(NULL, 16 * count)
            place = <uint8_t*>PyByteArray_AS_STRING(made)
            key = <const uint8_t*>keys.buf
            mixed = <const uint8_t*>owner.buf
            memcpy(&mask, mixed + 1, 8)
            for i in range(count):
                place[0] = mixed[0]
                memcpy(place + 1, key, 7)
                memcpy(&low, key + 7, 8)
                low ^= mask
                memcpy(place + 8, &low, 8)
                place += 16
                key += 16
            return made
        finally:
            PyBuffer_Release(&owner)
    finally:
        PyBuffer_Release(&keys)


cdef int check_offsets(const int64_t* offsets, Py_ssize_t count, Py_ssize_t length) except -1:
    cdef Py_ssize_t i
    if offsets[0] < 0:
        raise ValueError("stored_offsets must not be negative")
    for i in range(count):
        if offsets[i + 1] < offsets[i]:
            raise ValueError("stored_offsets must ascend")
    if offsets[count] > length:
        raise ValueError("stored_offsets lie outside their buffer")
    return 0


cdef inline bint is_hint(
    const uint8_t* value, int64_t length, const uint8_t* wanted, int64_t wanted_length, const uint8_t* key
) noexcept nogil:
    """Whether a value is `wanted`, but for its time, with this key's digest."""
    return (
        length == wanted_length
        and memcmp(value, wanted, STAMP_AT) == 0
        and memcmp(value + DIGEST_AT, key, 16) == 0
        and memcmp(value + HEADER, wanted + HEADER, <size_t>(length - HEADER)) == 0
    )


cdef inline bint enter(int32_t* table, uint64_t mask, const uint8_t* places, Py_ssize_t index) noexcept nogil:
    """Put an index into a table by its place; False when the place is there already."""
    cdef uint64_t at
    memcpy(&at, places + 16 * index + 8, 8)
    at = (at ^ (at >> 32)) & mask
    while table[at] >= 0:
        if memcmp(places + 16 * <Py_ssize_t>table[at], places + 16 * index, 16) == 0:
            return False
        at = (at + 1) & mask
    table[at] = <int32_t>index
    return True


def sift(
    Py_ssize_t count,
    digests,
    places,
    stored_status,
    stored,
    stored_offsets,
    key_value,
    name_starts,
    name_lengths,
):
    cdef Py_buffer views[8]
    cdef int held = 0
    cdef Py_ssize_t i, new = 0, room, each
    cdef const uint8_t* keys
    cdef const uint8_t* at
    cdef const uint8_t* status
    cdef const uint8_t* data
    cdef const int64_t* offsets
    cdef const uint8_t* value
    cdef const int64_t* starts
    cdef const int64_t* lengths
    cdef int32_t* table = NULL
    cdef uint64_t mask
    cdef int64_t name_bytes = 0
    cdef uint8_t* out_place
    cdef uint8_t* out_value
    cdef int64_t* out_start
    cdef int64_t* out_length
    cdef int64_t* out_offset
    cdef list unreadable = []
    cdef list others = []
    if not 0 <= count <= 1 << 28:
        raise ValueError("count must be 0 to 2**28")
    try:
        acquire(digests, &views[0], 16 * count, "digests")
        held = 1
        acquire(places, &views[1], 16 * count, "places")
        held = 2
        acquire(stored_status, &views[2], count, "stored_status")
        held = 3
        acquire(stored, &views[3], 0, "stored")
        held = 4
        acquire(stored_offsets, &views[4], 8 * (count + 1), "stored_offsets")
        held = 5
        acquire(key_value, &views[5], HEADER + 1, "key_value")
        held = 6
        acquire(name_starts, &views[6], 8 * count, "name_starts")
        held = 7
        acquire(name_lengths, &views[7], 8 * count, "name_lengths")
        held = 8
        keys = <const uint8_t*>views[0].buf
        at = <const uint8_t*>views[1].buf
        status = <const uint8_t*>views[2].buf
        data = <const uint8_t*>views[3].buf
        offsets = <const int64_t*>views[4].buf
        value = <const uint8_t*>views[5].buf
        each = views[5].len
        starts = <const int64_t*>views[6].buf
        lengths = <const int64_t*>views[7].buf
        check_offsets(offsets, count, views[3].len)
        room = 0
        for i in range(count):
            if status[i] != IS_STORED:
                room += 1
            elif not is_hint(data + offsets[i], offsets[i + 1] - offsets[i], value, each, keys + 16 * i):
                others.append(i)
        out_places = PyByteArray_FromStringAndSize(NULL, 16 * room)
        out_starts = PyByteArray_FromStringAndSize(NULL, 8 * room)
        out_lengths = PyByteArray_FromStringAndSize(NULL, 8 * room)
        out_values = PyByteArray_FromStringAndSize(NULL, each * room)
        out_offsets = PyByteArray_FromStringAndSize(NULL, 8 * (room + 1))
        out_offset = <int64_t*>PyByteArray_AS_STRING(out_offsets)
        out_offset[0] = 0
        if room:
            mask = 1
            while mask < 2 * <uint64_t>room:
                mask *= 2
            mask -= 1
            table = <int32_t*>PyMem_Malloc((mask + 1) * sizeof(int32_t))
            if table == NULL:
                raise MemoryError()
            memset(table, 0xff, (mask + 1) * sizeof(int32_t))
            out_place = <uint8_t*>PyByteArray_AS_STRING(out_places)
            out_start = <int64_t*>PyByteArray_AS_STRING(out_starts)
            out_length = <int64_t*>PyByteArray_AS_STRING(out_lengths)
            out_value = <uint8_t*>PyByteArray_AS_STRING(out_values)
            for i in range(count):
                if status[i] == IS_STORED or not enter(table, mask, at, i):
                    continue
                if status[i] != IS_ABSENT:
                    unreadable.append(i)
                memcpy(out_place + 16 * new, at + 16 * i, 16)
                out_start[new] = starts[i]
                out_length[new] = lengths[i]
                name_bytes += lengths[i]
                memcpy(out_value + each * new, value, each)
                memcpy(out_value + each * new + DIGEST_AT, keys + 16 * i, 16)
                new += 1
                out_offset[new] = each * new
            if new < room:
                PyByteArray_Resize(out_places, 16 * new)
                PyByteArray_Resize(out_starts, 8 * new)
                PyByteArray_Resize(out_lengths, 8 * new)
                PyByteArray_Resize(out_values, each * new)
                PyByteArray_Resize(out_offsets, 8 * (new + 1))
        return Sifted(
            new, out_places, out_starts, out_lengths, name_bytes, out_values, out_offsets, unreadable, others
        )
    finally:
        PyMem_Free(table)
        for i in range(held):
            PyBuffer_Release(&views[i])
