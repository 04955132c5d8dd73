# The bytes of a version set: check once, then walk by fixed offsets. The stub versions.pyi documents every byte.
#
# Numbers are little-endian and unaligned; `load` and `store` through memcpy compile to one plain move.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    VERSION = 1
    HEADER_BYTES = 6
    ENTRY_BYTES = 16
    HEAD_BYTES = 32
    COUNT_LIMIT = 65535
    FLAG_TOMBSTONE = 1

# Faults that `open_checked` tells apart; the texts are in versions.pyx, in this order.
cdef enum:
    FAULT_NONE
    FAULT_HEADER
    FAULT_LENGTH
    FAULT_ENTRY
    FAULT_VALUE_ORDER
    FAULT_VALUE_UNSEEN
    FAULT_VALUE_FIELD


cdef struct Set:
    const uint8_t* base
    Py_ssize_t length
    const uint8_t* entries
    const uint8_t* heads
    const uint8_t* bodies
    Py_ssize_t entry_count
    Py_ssize_t value_count


cdef inline uint64_t load64(const uint8_t* at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value


cdef inline uint32_t load32(const uint8_t* at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline uint16_t load16(const uint8_t* at) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, at, 2)
    return value


cdef inline void store64(uint8_t* at, uint64_t value) noexcept nogil:
    memcpy(at, &value, 8)


cdef inline void store32(uint8_t* at, uint32_t value) noexcept nogil:
    memcpy(at, &value, 4)


cdef inline void store16(uint8_t* at, uint16_t value) noexcept nogil:
    memcpy(at, &value, 2)


# Fields of an entry and of a value's head.
cdef inline uint64_t actor_of(const uint8_t* at) noexcept nogil:
    return load64(at)


cdef inline uint64_t stamp_of(const uint8_t* at) noexcept nogil:
    return load64(at + 8)


cdef inline int64_t expires_of(const uint8_t* head) noexcept nogil:
    return <int64_t>load64(head + 16)


cdef inline Py_ssize_t payload_bytes(const uint8_t* head) noexcept nogil:
    return load32(head + 24)


cdef inline Py_ssize_t metadata_bytes(const uint8_t* head) noexcept nogil:
    return load16(head + 28)


cdef inline int flags_of(const uint8_t* head) noexcept nogil:
    return head[30]


cdef inline int kind_of(const uint8_t* head) noexcept nogil:
    return head[31]


cdef inline Py_ssize_t body_bytes(const uint8_t* head) noexcept nogil:
    return payload_bytes(head) + metadata_bytes(head)


cdef inline void write_header(uint8_t* out, Py_ssize_t entry_count, Py_ssize_t value_count) noexcept nogil:
    out[0] = VERSION
    out[1] = 0
    store16(out + 2, <uint16_t>entry_count)
    store16(out + 4, <uint16_t>value_count)


cdef inline void write_head(
    uint8_t* out, uint64_t actor, uint64_t stamp, int64_t expires_at_ms,
    Py_ssize_t payload_length, Py_ssize_t metadata_length, int flags, int kind
) noexcept nogil:
    store64(out, actor)
    store64(out + 8, stamp)
    store64(out + 16, <uint64_t>expires_at_ms)
    store32(out + 24, <uint32_t>payload_length)
    store16(out + 28, <uint16_t>metadata_length)
    out[30] = <uint8_t>flags
    out[31] = <uint8_t>kind


cdef inline void open_trusted(const uint8_t* data, Py_ssize_t length, Set* out) noexcept nogil:
    """Lay a `Set` over bytes that are known to be valid (made here, or checked before)."""
    out.base = data
    out.length = length
    out.entry_count = 0
    out.value_count = 0
    if length >= HEADER_BYTES:
        out.entry_count = load16(data + 2)
        out.value_count = load16(data + 4)
    out.entries = data + HEADER_BYTES
    out.heads = out.entries + out.entry_count * ENTRY_BYTES
    out.bodies = out.heads + out.value_count * HEAD_BYTES


cdef inline int open_checked(const uint8_t* data, Py_ssize_t length, Set* out) noexcept nogil:
    """Lay a `Set` over bytes from outside; FAULT_NONE, or the rule that they break. One pass over entries and heads."""
    cdef Py_ssize_t i, total, cursor = 0
    cdef uint64_t actor, stamp, last_actor = 0, last_stamp = 0
    cdef const uint8_t* at
    if length == 0:
        open_trusted(data, 0, out)
        return FAULT_NONE
    if length < HEADER_BYTES or data[0] != VERSION or data[1] != 0 or load16(data + 2) == 0:
        return FAULT_HEADER
    open_trusted(data, length, out)
    # Counts have 16 bits, so this sum cannot overflow; nothing below reads beyond it.
    total = HEADER_BYTES + out.entry_count * ENTRY_BYTES + out.value_count * HEAD_BYTES
    if total > length:
        return FAULT_LENGTH
    at = out.entries
    for i in range(out.entry_count):
        actor = actor_of(at)
        if (i and actor <= last_actor) or stamp_of(at) == 0:
            return FAULT_ENTRY
        last_actor = actor
        at += ENTRY_BYTES
    at = out.heads
    for i in range(out.value_count):
        actor = actor_of(at)
        stamp = stamp_of(at)
        if i and (actor < last_actor or (actor == last_actor and stamp <= last_stamp)):
            return FAULT_VALUE_ORDER
        while cursor < out.entry_count and actor_of(out.entries + cursor * ENTRY_BYTES) < actor:
            cursor += 1
        if (
            cursor == out.entry_count
            or actor_of(out.entries + cursor * ENTRY_BYTES) != actor
            or stamp_of(out.entries + cursor * ENTRY_BYTES) < stamp
            or stamp == 0
        ):
            return FAULT_VALUE_UNSEEN
        if flags_of(at) > FLAG_TOMBSTONE or expires_of(at) < -1:
            return FAULT_VALUE_FIELD
        if flags_of(at) == FLAG_TOMBSTONE and payload_bytes(at):
            return FAULT_VALUE_FIELD
        total += body_bytes(at)
        last_actor = actor
        last_stamp = stamp
        at += HEAD_BYTES
    return FAULT_NONE if total == length else FAULT_LENGTH
