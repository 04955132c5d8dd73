# The loop of the data path: READ and REPLACE on encoded sets, in arrival order, without Python.
#
# `check_batch` looks at every argument once and bounds the outputs, so `run` writes into memory that is large enough
# and never asks again.

from libc.stdint cimport UINT64_MAX, int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from version_set cimport (
    ENTRY_BYTES,
    FAULT_NONE,
    HEAD_BYTES,
    HEADER_BYTES,
    Set,
    actor_of,
    load16,
    metadata_bytes,
    open_checked,
    open_trusted,
    payload_bytes,
    store64,
    write_head,
    write_header,
)
from version_walk cimport greatest_stamp, is_live, newest_head, seen_by

cdef enum:
    STATUS_OK = 0
    STATUS_NOTHING = 1
    STATUS_UNREADABLE = 2
    STATUS_LIMIT = 3
    STATUS_CLOCK = 4
    KIND_READ = 0
    KIND_REPLACE = 1
    IS_STORED = 0
    IS_ABSENT = 1
    IS_ERROR = 2
    LIMIT_SIBLINGS = 64
    LIMIT_ENTRIES = 64



cdef struct Slot:
    # Operation i while a batch runs.
    Py_ssize_t origin        # for a REPLACE: the operation whose set its followers see, itself unless refused; or -1
    Py_ssize_t copied_at     # for a REPLACE: where its payload stands in `values` once read, or -1
    Py_ssize_t entries_max   # actors its set can have at most


cdef struct Batch:
    Py_ssize_t count
    const uint8_t* kinds
    const int32_t* previous
    const uint8_t* stored_status
    const uint8_t* stored
    const int64_t* stored_offsets
    const uint8_t* data
    const int64_t* payload_starts
    const int64_t* payload_lengths
    const int64_t* expires_at_ms
    const uint64_t* floors
    uint64_t actor
    uint64_t stamp_first
    uint64_t stamp_limit
    int64_t now_ms
    Slot* slots
    uint8_t* status
    int64_t* value_start
    int64_t* value_length
    int64_t* set_offsets
    uint8_t* sets
    uint8_t* values
    Py_ssize_t values_used
    uint64_t stamp_last


cdef inline const char* check_batch(
    Batch* batch, Py_ssize_t stored_length, Py_ssize_t data_length, Py_ssize_t* sets_max, Py_ssize_t* values_max
) noexcept nogil:
    """What is wrong with the arguments, or NULL; fills the slots and the most that the outputs can take."""
    cdef Py_ssize_t i, entries, replaced = 0
    cdef int64_t length, before
    cdef bint read_after_write = False
    cdef Slot* slot
    sets_max[0] = 0
    values_max[0] = 0
    if batch.stored_offsets[0] < 0:
        return "stored_offsets must not be negative"
    for i in range(batch.count):
        length = batch.stored_offsets[i + 1] - batch.stored_offsets[i]
        before = batch.previous[i]
        slot = &batch.slots[i]
        slot.origin = -1
        slot.copied_at = -1
        if batch.stored_offsets[i + 1] > stored_length or length < 0:
            return "stored_offsets must ascend within stored"
        if batch.stored_status[i] > IS_ERROR:
            return "stored_status must be STORED, ABSENT or ERROR"
        if before < -1 or before >= i or (before >= 0 and batch.kinds[before] != KIND_REPLACE):
            return "previous must be -1 or the index of an earlier REPLACE"
        entries = length // ENTRY_BYTES
        if entries and batch.stored_status[i] == IS_STORED:
            # The count a set claims, bounded by its length: it is checked in full when it is used.
            entries = min(entries, <Py_ssize_t>load16(batch.stored + batch.stored_offsets[i] + 2))
        if before >= 0:
            entries = max(entries, batch.slots[before].entries_max)
        slot.entries_max = entries
        if batch.kinds[i] == KIND_READ:
            values_max[0] += length
            read_after_write |= before >= 0
        elif batch.kinds[i] == KIND_REPLACE:
            length = batch.payload_lengths[i]
            if (
                length < 0 or length > data_length or batch.payload_starts[i] < 0
                or batch.payload_starts[i] > data_length - length
            ):
                return "a payload lies outside data"
            if length >> 32:
                return "a payload is longer than 2**32 - 1 bytes"
            if batch.expires_at_ms[i] < -1:
                return "expires_at_ms must be -1 or Unix milliseconds"
            replaced += length
            sets_max[0] += HEADER_BYTES + (min(entries, LIMIT_ENTRIES) + 1) * ENTRY_BYTES + HEAD_BYTES + length
        else:
            return "kinds must be READ or REPLACE"
    if read_after_write:
        values_max[0] += replaced
    return NULL


cdef inline Py_ssize_t put_entries(
    uint8_t* out, Set* source, uint64_t actor, uint64_t stamp
) noexcept nogil:
    """The entries of `source` with `actor` raised to `stamp`; returns how many."""
    cdef Py_ssize_t before = 0, after
    while before < source.entry_count and actor_of(source.entries + before * ENTRY_BYTES) < actor:
        before += 1
    after = before
    if after < source.entry_count and actor_of(source.entries + after * ENTRY_BYTES) == actor:
        after += 1
    memcpy(out, source.entries, before * ENTRY_BYTES)
    out += before * ENTRY_BYTES
    store64(out, actor)
    store64(out + 8, stamp)
    memcpy(out + ENTRY_BYTES, source.entries + after * ENTRY_BYTES, (source.entry_count - after) * ENTRY_BYTES)
    return source.entry_count + 1 - (after - before)


cdef inline int replace_one(Batch* batch, Py_ssize_t i, Set* source) noexcept nogil:
    cdef uint64_t known = greatest_stamp(source.entries, source.entry_count)
    cdef uint64_t stamp
    cdef Py_ssize_t entry_count, cursor = 0
    cdef int64_t length = batch.payload_lengths[i]
    cdef uint8_t* out = batch.sets + batch.set_offsets[i]
    if source.entry_count > LIMIT_ENTRIES or (
        source.entry_count == LIMIT_ENTRIES
        and seen_by(source.entries, source.entry_count, &cursor, batch.actor) == 0
    ):
        return STATUS_LIMIT
    # A stamp at or below the floor would be hidden as soon as it is written.
    if batch.floors[i] > known:
        known = batch.floors[i]
    if known == UINT64_MAX or batch.stamp_first > UINT64_MAX - <uint64_t>i:
        return STATUS_CLOCK
    stamp = max(batch.stamp_first + <uint64_t>i, known + 1)
    if stamp > batch.stamp_limit:
        return STATUS_CLOCK
    entry_count = put_entries(out + HEADER_BYTES, source, batch.actor, stamp)
    write_header(out, entry_count, 1)
    out += HEADER_BYTES + entry_count * ENTRY_BYTES
    write_head(out, batch.actor, stamp, batch.expires_at_ms[i], length, 0, 0, 0)
    memcpy(out + HEAD_BYTES, batch.data + batch.payload_starts[i], length)
    batch.set_offsets[i + 1] += HEADER_BYTES + entry_count * ENTRY_BYTES + HEAD_BYTES + length
    batch.stamp_last = max(batch.stamp_last, stamp)
    return STATUS_OK


cdef inline int read_one(Batch* batch, Py_ssize_t i, Set* source, Slot* writer) noexcept nogil:
    cdef Py_ssize_t body_start = 0, length
    cdef const uint8_t* head = newest_head(source, batch.floors[i], &body_start)
    if head == NULL or not is_live(head, batch.now_ms):
        return STATUS_NOTHING
    length = payload_bytes(head)
    batch.value_length[i] = length
    # A value written in this batch is copied for its first reader only: a thousand reads of one big value stay small.
    if writer != NULL and writer.copied_at >= 0:
        batch.value_start[i] = writer.copied_at
        return STATUS_OK
    memcpy(batch.values + batch.values_used, source.bodies + body_start + metadata_bytes(head), length)
    batch.value_start[i] = batch.values_used
    if writer != NULL:
        writer.copied_at = batch.values_used
    batch.values_used += length
    return STATUS_OK


cdef inline void run(Batch* batch) noexcept nogil:
    cdef Py_ssize_t i, origin
    cdef Set source
    cdef int status
    batch.set_offsets[0] = 0
    for i in range(batch.count):
        status = STATUS_OK
        batch.value_start[i] = 0
        batch.value_length[i] = 0
        batch.set_offsets[i + 1] = batch.set_offsets[i]
        origin = batch.previous[i]
        if origin >= 0:
            origin = batch.slots[origin].origin
        if origin >= 0:
            open_trusted(
                batch.sets + batch.set_offsets[origin],
                batch.set_offsets[origin + 1] - batch.set_offsets[origin],
                &source,
            )
        elif batch.stored_status[i] == IS_ABSENT:
            open_trusted(batch.stored, 0, &source)
        elif batch.stored_status[i] == IS_ERROR or open_checked(
            batch.stored + batch.stored_offsets[i], batch.stored_offsets[i + 1] - batch.stored_offsets[i], &source
        ) != FAULT_NONE:
            status = STATUS_UNREADABLE
        if batch.kinds[i] == KIND_READ:
            if status == STATUS_OK:
                status = read_one(batch, i, &source, &batch.slots[origin] if origin >= 0 else NULL)
        else:
            if status == STATUS_OK:
                status = replace_one(batch, i, &source)
            batch.slots[i].origin = i if status == STATUS_OK else origin
        batch.status[i] = <uint8_t>status
