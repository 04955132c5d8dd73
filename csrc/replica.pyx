# A replica's loops over version sets: fingerprints of a batch, comparison for reads, merge for writes. Contract in
# sadik/kernels/native/replica.pyi.
#
# Merged sets go into one growing buffer: their sizes are known exactly only once the sets before them are made.

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.number cimport PyNumber_Index
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from buffers cimport PyBuffer_Release, acquire
from version_set cimport (
    COUNT_LIMIT,
    ENTRY_BYTES,
    FAULT_NONE,
    HEAD_BYTES,
    HEADER_BYTES,
    Set,
    FLAG_TOMBSTONE,
    body_bytes,
    flags_of,
    open_checked,
    open_trusted,
    write_header,
)
from version_walk cimport (
    Walk,
    fingerprint_of,
    greatest_stamp,
    is_below,
    newest_head,
    unite,
    walk_values,
)

from collections import namedtuple

SAME, DIFFERENT, UNREADABLE = range(3)
MERGED, KNOWN, INVALID, LIMIT, CLOCK = range(5)

# A named tuple's own constructor is Python code; the plain tuple's is several times faster.
cdef object new_tuple = tuple.__new__

Fingerprints = namedtuple("Fingerprints", "before after", module=__name__)
Compared = namedtuple("Compared", "status sets set_offsets", module=__name__)
Merged = namedtuple("Merged", "status sets set_offsets dead before after unreadable stamp_last", module=__name__)

cdef enum:
    IS_STORED = 0
    IS_ABSENT = 1
    IS_ERROR = 2


cdef int check_offsets(const int64_t* offsets, Py_ssize_t count, Py_ssize_t length, str name) except -1:
    cdef Py_ssize_t i
    if offsets[0] < 0:
        raise ValueError(f"{name} must not be negative")
    for i in range(count):
        if offsets[i + 1] < offsets[i]:
            raise ValueError(f"{name} must ascend")
    if offsets[count] > length:
        raise ValueError(f"{name} lie outside their buffer")
    return 0


cdef int check_previous(const int32_t* previous, Py_ssize_t count) except -1:
    cdef Py_ssize_t i
    for i in range(count):
        if previous[i] < -1 or previous[i] >= i:
            raise ValueError("previous must be -1 or the index of an earlier operation")
    return 0


cdef int check_status(const uint8_t* status, Py_ssize_t count) except -1:
    cdef Py_ssize_t i
    for i in range(count):
        if status[i] > IS_ERROR:
            raise ValueError("stored_status must be STORED, ABSENT or ERROR")
    return 0


cdef inline bint open_stored(
    const uint8_t* status, const uint8_t* stored, const int64_t* offsets, Py_ssize_t i, Set* out
) noexcept nogil:
    """Lay `out` over what is stored of operation i; False, and the empty set, where that cannot be read."""
    if status[i] == IS_STORED and open_checked(stored + offsets[i], offsets[i + 1] - offsets[i], out) == FAULT_NONE:
        return True
    open_trusted(stored, 0, out)
    return status[i] == IS_ABSENT


def fingerprints(Py_ssize_t count, digests, previous, stored_status, stored, stored_offsets, sets, set_offsets):
    cdef Py_buffer views[7]
    cdef int held = 0
    cdef Py_ssize_t i, origin
    cdef const int32_t* links
    cdef const int64_t* offsets
    cdef const int64_t* made
    cdef const uint8_t* names
    cdef int32_t* origins = NULL
    cdef uint64_t* before
    cdef uint64_t* after
    cdef Set source
    if count < 0:
        raise ValueError("count must not be negative")
    try:
        acquire(digests, &views[0], 16 * count, "digests")
        held = 1
        acquire(previous, &views[1], 4 * count, "previous")
        held = 2
        acquire(stored_status, &views[2], count, "stored_status")
        held = 3
        acquire(stored, &views[3], 0, "stored")
        held = 4
        acquire(stored_offsets, &views[4], 8 * (count + 1), "stored_offsets")
        held = 5
        acquire(sets, &views[5], 0, "sets")
        held = 6
        acquire(set_offsets, &views[6], 8 * (count + 1), "set_offsets")
        held = 7
        names = <const uint8_t*>views[0].buf
        links = <const int32_t*>views[1].buf
        offsets = <const int64_t*>views[4].buf
        made = <const int64_t*>views[6].buf
        check_previous(links, count)
        check_status(<const uint8_t*>views[2].buf, count)
        check_offsets(offsets, count, views[3].len, "stored_offsets")
        check_offsets(made, count, views[5].len, "set_offsets")
        origins = <int32_t*>PyMem_Malloc((count + 1) * sizeof(int32_t))
        if origins == NULL:
            raise MemoryError
        old = PyByteArray_FromStringAndSize(NULL, 8 * count)
        new = PyByteArray_FromStringAndSize(NULL, 8 * count)
        before = <uint64_t*>PyByteArray_AS_STRING(old)
        after = <uint64_t*>PyByteArray_AS_STRING(new)
        for i in range(count):
            origin = origins[links[i]] if links[i] >= 0 else -1
            if origin >= 0:
                before[i] = after[origin]
            else:
                open_stored(
                    <const uint8_t*>views[2].buf, <const uint8_t*>views[3].buf, offsets, i, &source
                )
                before[i] = fingerprint_of(names + 16 * i, &source)
            after[i] = before[i]
            if made[i + 1] > made[i]:
                if open_checked(
                    <const uint8_t*>views[5].buf + made[i], made[i + 1] - made[i], &source
                ) != FAULT_NONE:
                    raise ValueError("sets holds what is no version set")
                after[i] = fingerprint_of(names + 16 * i, &source)
                origin = i
            origins[i] = <int32_t>origin
        return new_tuple(Fingerprints, (old, new))
    finally:
        PyMem_Free(origins)
        while held:
            held -= 1
            PyBuffer_Release(&views[held])


def compare_batch(Py_ssize_t count, digests, fingerprints, stored_status, stored, stored_offsets):
    cdef Py_buffer views[5]
    cdef int held = 0
    cdef Py_ssize_t i, total = 0
    cdef const uint64_t* theirs
    cdef const int64_t* offsets
    cdef const uint8_t* states
    cdef const uint8_t* data
    cdef uint8_t* status
    cdef uint8_t* out
    cdef int64_t* out_offsets
    cdef Set source
    if count < 0:
        raise ValueError("count must not be negative")
    try:
        acquire(digests, &views[0], 16 * count, "digests")
        held = 1
        acquire(fingerprints, &views[1], 8 * count, "fingerprints")
        held = 2
        acquire(stored_status, &views[2], count, "stored_status")
        held = 3
        acquire(stored, &views[3], 0, "stored")
        held = 4
        acquire(stored_offsets, &views[4], 8 * (count + 1), "stored_offsets")
        held = 5
        theirs = <const uint64_t*>views[1].buf
        states = <const uint8_t*>views[2].buf
        data = <const uint8_t*>views[3].buf
        offsets = <const int64_t*>views[4].buf
        check_status(states, count)
        check_offsets(offsets, count, views[3].len, "stored_offsets")
        statuses = PyByteArray_FromStringAndSize(NULL, count)
        status = <uint8_t*>PyByteArray_AS_STRING(statuses)
        places = PyByteArray_FromStringAndSize(NULL, 8 * (count + 1))
        out_offsets = <int64_t*>PyByteArray_AS_STRING(places)
        out_offsets[0] = 0
        for i in range(count):
            out_offsets[i + 1] = out_offsets[i]
            if not open_stored(states, data, offsets, i, &source):
                status[i] = 2
            elif fingerprint_of(<const uint8_t*>views[0].buf + 16 * i, &source) == theirs[i]:
                status[i] = 0
            else:
                status[i] = 1
                out_offsets[i + 1] += source.length
        total = out_offsets[count]
        sets = PyByteArray_FromStringAndSize(NULL, total)
        out = <uint8_t*>PyByteArray_AS_STRING(sets)
        if total:
            for i in range(count):
                memcpy(out + out_offsets[i], data + offsets[i], out_offsets[i + 1] - out_offsets[i])
        return new_tuple(Compared, (statuses, sets, places))
    finally:
        while held:
            held -= 1
            PyBuffer_Release(&views[held])


cdef struct Arena:
    uint8_t* data
    Py_ssize_t used
    Py_ssize_t room


cdef int reserve(Arena* arena, Py_ssize_t more) except -1:
    cdef Py_ssize_t room = arena.room
    cdef void* grown
    if arena.used + more <= room:
        return 0
    while arena.used + more > room:
        room = 2 * room
    grown = PyMem_Realloc(arena.data, room)
    if grown == NULL:
        raise MemoryError
    arena.data = <uint8_t*>grown
    arena.room = room
    return 0


cdef Py_ssize_t put_join(Arena* arena, Set* left, Set* right, Walk* walk) except -2:
    """Write the merged set behind what is there; -1 where it would exceed what the format holds."""
    cdef Py_ssize_t entry_count = unite(left.entries, left.entry_count, right.entries, right.entry_count, NULL)
    cdef Py_ssize_t size
    cdef Walk again
    cdef uint8_t* out
    if entry_count > COUNT_LIMIT or walk.value_count > COUNT_LIMIT:
        return -1
    size = HEADER_BYTES + entry_count * ENTRY_BYTES + walk.value_count * HEAD_BYTES + walk.body_total
    out = arena.data + arena.used
    write_header(out, entry_count, walk.value_count)
    out += HEADER_BYTES
    unite(left.entries, left.entry_count, right.entries, right.entry_count, out)
    out += entry_count * ENTRY_BYTES
    memset(&again, 0, sizeof(Walk))
    walk_values(left, right, &again, out, out + walk.value_count * HEAD_BYTES)
    return size


cdef Py_ssize_t put_newest(uint8_t* at, Py_ssize_t length) noexcept nogil:
    """Leave the newest value alone in the set at `at`; returns its new length."""
    cdef Set source
    cdef Py_ssize_t body_start = 0, size
    cdef const uint8_t* head
    open_trusted(at, length, &source)
    if source.value_count < 2:
        return length
    head = newest_head(&source, 0, &body_start)
    size = body_bytes(head)
    memmove(<uint8_t*>source.heads, head, HEAD_BYTES)
    memmove(<uint8_t*>source.heads + HEAD_BYTES, source.bodies + body_start, size)
    write_header(at, source.entry_count, 1)
    return HEADER_BYTES + source.entry_count * ENTRY_BYTES + HEAD_BYTES + size


cdef bint is_dead(Set* source) noexcept nogil:
    """Whether nothing but tombstones is left."""
    cdef Py_ssize_t i
    for i in range(source.value_count):
        if not flags_of(source.heads + i * HEAD_BYTES) & FLAG_TOMBSTONE:
            return False
    return True


def merge_batch(
    Py_ssize_t count, digests, previous, stored_status, stored, stored_offsets, data, set_starts, set_lengths,
    newest_only, stamp_limit
):
    cdef Py_buffer views[9]
    cdef int held = 0
    cdef Py_ssize_t i, origin, length, unreadable = 0
    cdef const int32_t* links
    cdef const int64_t* offsets
    cdef const int64_t* starts
    cdef const int64_t* lengths
    cdef const uint8_t* states
    cdef const uint8_t* names
    cdef const uint8_t* lww
    cdef uint8_t* status
    cdef uint8_t* dead
    cdef uint64_t* before
    cdef uint64_t* after
    cdef int64_t* made
    cdef int32_t* origins = NULL
    cdef uint64_t limit, stamp, last = 0
    cdef Set base, incoming, merged
    cdef Walk walk
    cdef Arena arena
    arena.data = NULL
    if count < 0:
        raise ValueError("count must not be negative")
    try:
        limit = <uint64_t>PyNumber_Index(stamp_limit)
    except OverflowError:
        raise ValueError("stamp_limit must be 0 to 2**64 - 1") from None
    try:
        acquire(digests, &views[0], 16 * count, "digests")
        held = 1
        acquire(previous, &views[1], 4 * count, "previous")
        held = 2
        acquire(stored_status, &views[2], count, "stored_status")
        held = 3
        acquire(stored, &views[3], 0, "stored")
        held = 4
        acquire(stored_offsets, &views[4], 8 * (count + 1), "stored_offsets")
        held = 5
        acquire(data, &views[5], 0, "data")
        held = 6
        acquire(set_starts, &views[6], 8 * count, "set_starts")
        held = 7
        acquire(set_lengths, &views[7], 8 * count, "set_lengths")
        held = 8
        acquire(newest_only, &views[8], count, "newest_only")
        held = 9
        names = <const uint8_t*>views[0].buf
        links = <const int32_t*>views[1].buf
        states = <const uint8_t*>views[2].buf
        offsets = <const int64_t*>views[4].buf
        starts = <const int64_t*>views[6].buf
        lengths = <const int64_t*>views[7].buf
        lww = <const uint8_t*>views[8].buf
        check_previous(links, count)
        check_status(states, count)
        check_offsets(offsets, count, views[3].len, "stored_offsets")
        arena.used = 0
        arena.room = 256
        for i in range(count):
            if lengths[i] < 0 or starts[i] < 0 or lengths[i] > views[5].len or starts[i] > views[5].len - lengths[i]:
                raise ValueError("a set lies outside data")
            arena.room += lengths[i]
        arena.data = <uint8_t*>PyMem_Malloc(arena.room)
        origins = <int32_t*>PyMem_Malloc((count + 1) * sizeof(int32_t))
        if arena.data == NULL or origins == NULL:
            raise MemoryError
        statuses = PyByteArray_FromStringAndSize(NULL, count)
        old = PyByteArray_FromStringAndSize(NULL, 8 * count)
        new = PyByteArray_FromStringAndSize(NULL, 8 * count)
        places = PyByteArray_FromStringAndSize(NULL, 8 * (count + 1))
        graves = PyByteArray_FromStringAndSize(NULL, count)
        status = <uint8_t*>PyByteArray_AS_STRING(statuses)
        dead = <uint8_t*>PyByteArray_AS_STRING(graves)
        before = <uint64_t*>PyByteArray_AS_STRING(old)
        after = <uint64_t*>PyByteArray_AS_STRING(new)
        made = <int64_t*>PyByteArray_AS_STRING(places)
        made[0] = 0
        for i in range(count):
            made[i + 1] = made[i]
            dead[i] = 0
            before[i] = 0
            after[i] = 0
            origin = origins[links[i]] if links[i] >= 0 else -1
            origins[i] = <int32_t>origin
            if lengths[i] == 0 or open_checked(
                <const uint8_t*>views[5].buf + starts[i], lengths[i], &incoming
            ) != FAULT_NONE:
                status[i] = 2
                continue
            stamp = greatest_stamp(incoming.entries, incoming.entry_count)
            if stamp > limit:
                status[i] = 4
                continue
            if origin >= 0:
                reserve(&arena, made[origin + 1] - made[origin] + incoming.length + HEADER_BYTES)
                open_trusted(arena.data + made[origin], made[origin + 1] - made[origin], &base)
            else:
                if not open_stored(states, <const uint8_t*>views[3].buf, offsets, i, &base):
                    unreadable += 1
                reserve(&arena, base.length + incoming.length + HEADER_BYTES)
            status[i] = 1
            if base.length == incoming.length and memcmp(base.base, incoming.base, base.length) == 0:
                continue
            memset(&walk, 0, sizeof(Walk))
            walk_values(&base, &incoming, &walk, NULL, NULL)
            if not walk.left_differs and is_below(&incoming, &base):
                continue
            if not walk.right_differs and is_below(&base, &incoming):
                length = incoming.length
                memcpy(arena.data + arena.used, incoming.base, length)
            else:
                length = put_join(&arena, &base, &incoming, &walk)
                if length < 0:
                    status[i] = 3
                    continue
            if lww[i]:
                length = put_newest(arena.data + arena.used, length)
                if length == base.length and memcmp(base.base, arena.data + arena.used, length) == 0:
                    continue
            open_trusted(arena.data + arena.used, length, &merged)
            before[i] = fingerprint_of(names + 16 * i, &base)
            after[i] = fingerprint_of(names + 16 * i, &merged)
            dead[i] = is_dead(&merged)
            arena.used += length
            made[i + 1] += length
            status[i] = 0
            origins[i] = <int32_t>i
            last = max(last, stamp)
        sets = PyByteArray_FromStringAndSize(<const char*>arena.data, arena.used)
        return new_tuple(Merged, (statuses, sets, places, graves, old, new, unreadable, last))
    finally:
        PyMem_Free(arena.data)
        PyMem_Free(origins)
        while held:
            held -= 1
            PyBuffer_Release(&views[held])
