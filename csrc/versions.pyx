# Version sets on their encoded bytes; contract and byte layout in sadik/kernels/native/versions.pyi.
#
# Every operation counts first and writes once: results are made at their exact size, and an operation that changes
# nothing gives back the bytes it got.
#
# Over 600 lines: fifteen functions of one contract, each with its own door (buffers, checks, errors). What lies behind
# the doors is in version_set.pxd (bytes), version_walk.pxd (walks) and version_batch.pxd (the data path).

from cpython.bytearray cimport (
    PyByteArray_AS_STRING,
    PyByteArray_FromStringAndSize,
    PyByteArray_Resize,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.number cimport PyNumber_Index
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from buffers cimport PyBuffer_Release, acquire
from version_batch cimport LIMIT_ENTRIES, LIMIT_SIBLINGS, Batch, Slot, check_batch, run
from version_set cimport (
    COUNT_LIMIT,
    ENTRY_BYTES,
    FAULT_ENTRY,
    FAULT_HEADER,
    FAULT_LENGTH,
    FAULT_NONE,
    FAULT_VALUE_FIELD,
    FAULT_VALUE_ORDER,
    FAULT_VALUE_UNSEEN,
    FLAG_TOMBSTONE,
    HEAD_BYTES,
    HEADER_BYTES,
    Set,
    actor_of,
    body_bytes,
    expires_of,
    flags_of,
    kind_of,
    metadata_bytes,
    open_checked,
    payload_bytes,
    stamp_of,
    store64,
    write_head,
    write_header,
)
from version_walk cimport (
    Walk,
    fingerprint_of,
    greatest_stamp,
    is_below,
    is_live,
    mark_uncovered,
    newest_head,
    unite,
    walk_values,
)

from collections import namedtuple
from collections.abc import Sequence

from sadik.errors import CorruptRecord, InvalidRequest, LimitReached

Entries = Sequence[tuple[int, int]]

TOMBSTONE = FLAG_TOMBSTONE
SIBLINGS_MAX = LIMIT_SIBLINGS
ENTRIES_MAX = LIMIT_ENTRIES
COUNT_MAX = COUNT_LIMIT

OK, NOTHING, UNREADABLE, LIMIT, CLOCK = range(5)
READ, REPLACE = range(2)
STORED, ABSENT, ERROR = range(3)

FAULTS = {
    FAULT_HEADER: "its header is not that of a version set of this format",
    FAULT_LENGTH: "its length differs from what it declares",
    FAULT_ENTRY: "its entries are not in order",
    FAULT_VALUE_ORDER: "its values are not in order",
    FAULT_VALUE_UNSEEN: "it holds a value that its entries have not seen",
    FAULT_VALUE_FIELD: "it holds a value with impossible fields",
}

Value = namedtuple("Value", "actor stamp flags kind expires_at_ms metadata payload", module=__name__)
Applied = namedtuple(
    "Applied", "status value_start value_length values set_offsets sets stamp_last", module=__name__
)
# A named tuple's own constructor is Python code; the plain tuple's is several times faster.
cdef object new_tuple = tuple.__new__


cdef inline int open_set(const Py_buffer* view, Set* out) except -1:
    cdef int fault = open_checked(<const uint8_t*>view.buf, view.len, out)
    if fault != FAULT_NONE:
        raise CorruptRecord(f"not a version set: {FAULTS[fault]}")
    return 0


cdef uint64_t as_uint64(object number, str name) except? 0:
    try:
        return <uint64_t>PyNumber_Index(number)
    except OverflowError:
        raise InvalidRequest(f"{name} must be 0 to 2**64 - 1") from None


cdef int64_t as_time(object number, str name) except? 0:
    cdef int64_t time_ms
    try:
        time_ms = <int64_t>PyNumber_Index(number)
    except OverflowError:
        raise InvalidRequest(f"{name} must fit in 63 bits") from None
    if time_ms < -1:
        raise InvalidRequest(f"{name} must be -1 or Unix milliseconds")
    return time_ms


cdef int as_byte(object number, int largest, str name) except -1:
    cdef object exact = PyNumber_Index(number)
    if not 0 <= exact <= largest:
        raise InvalidRequest(f"{name} must be 0 to {largest}")
    return exact


cdef object same_bytes(object data, const Py_buffer* view):
    """The bytes as they came in; a copy only where the caller's object could change."""
    if type(data) is bytes:
        return data
    return PyBytes_FromStringAndSize(<const char*>view.buf, view.len)


# ---- building ------------------------------------------------------------------------------------------------------

cdef struct NewValue:
    uint64_t actor
    uint64_t stamp
    int64_t expires_at_ms
    int flags
    int kind
    Py_buffer metadata
    Py_buffer payload


cdef uint8_t* entries_from(object covers, Py_ssize_t* count) except NULL:
    """Packed entries of a Python sequence, sorted and checked; free them with PyMem_Free."""
    cdef list pairs = list(covers)
    cdef Py_ssize_t i
    cdef uint64_t actor, stamp, last = 0
    # One spare entry, so that a caller may insert the dot of a new value; at least one byte, so never NULL.
    cdef uint8_t* packed = <uint8_t*>PyMem_Malloc((len(pairs) + 1) * ENTRY_BYTES)
    if packed == NULL:
        raise MemoryError
    try:
        for i in range(len(pairs)):
            first, second = pairs[i]
            actor = as_uint64(first, "an actor")
            stamp = as_uint64(second, "a stamp")
            if (i and actor <= last) or stamp == 0:
                raise InvalidRequest("entries must be sorted by actor, one per actor, with stamps from 1")
            last = actor
            store64(packed + i * ENTRY_BYTES, actor)
            store64(packed + i * ENTRY_BYTES + 8, stamp)
    except BaseException:
        PyMem_Free(packed)
        raise
    count[0] = len(pairs)
    return packed


cdef bytes assemble(
    const uint8_t* entries, Py_ssize_t entry_count, Set* source, const uint8_t* keep, NewValue* new
):
    """A set of these entries, the values of `source` marked in `keep`, and `new` unless it is NULL."""
    cdef Py_ssize_t i, kept = 0, total = 0
    cdef const uint8_t* head = source.heads
    cdef const uint8_t* body = source.bodies
    cdef uint8_t* out_head
    cdef uint8_t* out_body
    cdef bytes result
    cdef bint pending = new != NULL
    for i in range(source.value_count):
        if keep[i]:
            kept += 1
            total += body_bytes(head + i * HEAD_BYTES)
    if new != NULL:
        kept += 1
        total += new.metadata.len + new.payload.len
    if entry_count == 0:
        return b""
    if entry_count > COUNT_LIMIT or kept > COUNT_LIMIT:
        raise LimitReached(f"a version set holds at most {COUNT_LIMIT} entries and as many values")
    total += HEADER_BYTES + entry_count * ENTRY_BYTES + kept * HEAD_BYTES
    result = PyBytes_FromStringAndSize(NULL, total)
    out_head = <uint8_t*>PyBytes_AS_STRING(result)
    write_header(out_head, entry_count, kept)
    out_head += HEADER_BYTES
    memcpy(out_head, entries, entry_count * ENTRY_BYTES)
    out_head += entry_count * ENTRY_BYTES
    out_body = out_head + kept * HEAD_BYTES
    for i in range(source.value_count + 1):
        # The new stamp is greater than all, so its place is behind the last value of its actor.
        if pending and (i == source.value_count or actor_of(head) > new.actor):
            pending = False
            write_head(
                out_head, new.actor, new.stamp, new.expires_at_ms, new.payload.len, new.metadata.len, new.flags, new.kind
            )
            out_head += HEAD_BYTES
            memcpy(out_body, new.metadata.buf, new.metadata.len)
            out_body += new.metadata.len
            memcpy(out_body, new.payload.buf, new.payload.len)
            out_body += new.payload.len
        if i == source.value_count:
            break
        if keep[i]:
            memcpy(out_head, head, HEAD_BYTES)
            out_head += HEAD_BYTES
            memcpy(out_body, body, body_bytes(head))
            out_body += body_bytes(head)
        body += body_bytes(head)
        head += HEAD_BYTES
    return result


cdef uint8_t* marks_for(Set* source) except NULL:
    cdef uint8_t* marks = <uint8_t*>PyMem_Malloc(source.value_count + 1)
    if marks == NULL:
        raise MemoryError
    memset(marks, 0, source.value_count + 1)
    return marks


# ---- Python's view -------------------------------------------------------------------------------------------------

cdef object value_at(const uint8_t* head, const uint8_t* body):
    cdef Py_ssize_t metadata = metadata_bytes(head)
    return new_tuple(Value, (
        actor_of(head),
        stamp_of(head),
        flags_of(head),
        kind_of(head),
        expires_of(head),
        PyBytes_FromStringAndSize(<const char*>body, metadata),
        PyBytes_FromStringAndSize(<const char*>body + metadata, payload_bytes(head)),
    ))


cdef list entries_list(Set* source):
    cdef Py_ssize_t i
    return [
        (actor_of(source.entries + i * ENTRY_BYTES), stamp_of(source.entries + i * ENTRY_BYTES))
        for i in range(source.entry_count)
    ]


def encode(entries, values):
    cdef Py_ssize_t entry_count = 0, i
    cdef Py_ssize_t value_count = len(values)
    cdef uint8_t head[HEAD_BYTES]
    cdef uint8_t header[HEADER_BYTES]
    cdef uint8_t* packed = entries_from(entries, &entry_count)
    cdef list heads = [], bodies = []
    cdef bytes result, metadata, payload
    cdef Set checked
    cdef int fault
    try:
        if entry_count > COUNT_LIMIT or value_count > COUNT_LIMIT:
            raise InvalidRequest(f"a version set holds at most {COUNT_LIMIT} entries and as many values")
        packed_entries = PyBytes_FromStringAndSize(<const char*>packed, entry_count * ENTRY_BYTES)
    finally:
        PyMem_Free(packed)
    if entry_count == 0 and value_count == 0:
        return b""
    for item in values:
        actor, stamp, flags, kind, expires_at_ms, extra, content = item
        metadata = bytes(extra)
        payload = bytes(content)
        check_sizes(len(metadata), len(payload))
        write_head(
            head, as_uint64(actor, "an actor"), as_uint64(stamp, "a stamp"), as_time(expires_at_ms, "expires_at_ms"),
            len(payload), len(metadata), as_byte(flags, FLAG_TOMBSTONE, "flags"), as_byte(kind, 255, "kind"),
        )
        heads.append(PyBytes_FromStringAndSize(<const char*>head, HEAD_BYTES))
        bodies.append(metadata)
        bodies.append(payload)
    write_header(header, entry_count, value_count)
    result = b"".join([PyBytes_FromStringAndSize(<const char*>header, HEADER_BYTES), packed_entries, *heads, *bodies])
    fault = open_checked(<const uint8_t*>PyBytes_AS_STRING(result), len(result), &checked)
    if fault != FAULT_NONE:
        raise InvalidRequest(f"this is no version set: {FAULTS[fault]}")
    return result


cdef int check_sizes(Py_ssize_t metadata_length, Py_ssize_t payload_length) except -1:
    if metadata_length > 0xFFFF:
        raise InvalidRequest("metadata is longer than 65535 bytes")
    if payload_length > 0xFFFFFFFF:
        raise InvalidRequest("a payload is longer than 2**32 - 1 bytes")
    return 0


def decode(data):
    cdef Py_buffer view
    cdef Set source
    cdef Py_ssize_t i
    cdef const uint8_t* body
    cdef list values = []
    acquire(data, &view, 0, "data")
    try:
        open_set(&view, &source)
        body = source.bodies
        for i in range(source.value_count):
            values.append(value_at(source.heads + i * HEAD_BYTES, body))
            body += body_bytes(source.heads + i * HEAD_BYTES)
        return entries_list(&source), values
    finally:
        PyBuffer_Release(&view)


def validate(data):
    cdef Py_buffer view
    cdef Set source
    acquire(data, &view, 0, "data")
    try:
        open_set(&view, &source)
    finally:
        PyBuffer_Release(&view)


def context(data):
    cdef Py_buffer view
    cdef Set source
    acquire(data, &view, 0, "data")
    try:
        open_set(&view, &source)
        return entries_list(&source)
    finally:
        PyBuffer_Release(&view)


def stamp_max(data):
    cdef Py_buffer view
    cdef Set source
    acquire(data, &view, 0, "data")
    try:
        open_set(&view, &source)
        return greatest_stamp(source.entries, source.entry_count)
    finally:
        PyBuffer_Release(&view)


def siblings(data, floor, now_ms):
    cdef uint64_t above = as_uint64(floor, "floor")
    cdef int64_t now = as_time(now_ms, "now_ms")
    cdef Py_buffer view
    cdef Set source
    cdef Py_ssize_t i
    cdef const uint8_t* head
    cdef const uint8_t* body
    cdef list found = []
    acquire(data, &view, 0, "data")
    try:
        open_set(&view, &source)
        head = source.heads
        body = source.bodies
        for i in range(source.value_count):
            if stamp_of(head) > above and is_live(head, now):
                found.append(value_at(head, body))
            body += body_bytes(head)
            head += HEAD_BYTES
    finally:
        PyBuffer_Release(&view)
    if len(found) > 1:
        found.sort(key=lambda value: (value.stamp, value.actor), reverse=True)
    return found


def newest(data, floor, now_ms):
    cdef uint64_t above = as_uint64(floor, "floor")
    cdef int64_t now = as_time(now_ms, "now_ms")
    cdef Py_buffer view
    cdef Set source
    cdef Py_ssize_t body_start = 0
    cdef const uint8_t* head
    acquire(data, &view, 0, "data")
    try:
        open_set(&view, &source)
        head = newest_head(&source, above, &body_start)
        if head == NULL or not is_live(head, now):
            return None
        return value_at(head, source.bodies + body_start)
    finally:
        PyBuffer_Release(&view)


def is_dead(data):
    cdef Py_buffer view
    cdef Set source
    cdef Py_ssize_t i
    acquire(data, &view, 0, "data")
    try:
        open_set(&view, &source)
        for i in range(source.value_count):
            if not flags_of(source.heads + i * HEAD_BYTES) & FLAG_TOMBSTONE:
                return False
        return True
    finally:
        PyBuffer_Release(&view)


def fingerprint(digest, data):
    cdef Py_buffer name, view
    cdef Set source
    acquire(digest, &name, 16, "digest")
    try:
        acquire(data, &view, 0, "data")
        try:
            open_set(&view, &source)
            return fingerprint_of(<const uint8_t*>name.buf, &source)
        finally:
            PyBuffer_Release(&view)
    finally:
        PyBuffer_Release(&name)


# ---- changes -------------------------------------------------------------------------------------------------------

def event(
    current, covers, actor, stamp, flags=0, kind=0, expires_at_ms=-1, metadata=b"", payload=b""
):
    cdef NewValue new
    cdef Py_buffer view
    cdef int held = 0
    new.actor = as_uint64(actor, "actor")
    new.stamp = as_uint64(stamp, "stamp")
    new.expires_at_ms = as_time(expires_at_ms, "expires_at_ms")
    new.flags = as_byte(flags, FLAG_TOMBSTONE, "flags")
    new.kind = as_byte(kind, 255, "kind")
    try:
        acquire(current, &view, 0, "current")
        held = 1
        acquire(metadata, &new.metadata, 0, "metadata")
        held = 2
        acquire(payload, &new.payload, 0, "payload")
        held = 3
        check_sizes(new.metadata.len, new.payload.len)
        if new.flags and new.payload.len:
            raise InvalidRequest("a tombstone has no payload")
        return event_on(&view, covers, &new)
    finally:
        if held > 2:
            PyBuffer_Release(&new.payload)
        if held > 1:
            PyBuffer_Release(&new.metadata)
        if held > 0:
            PyBuffer_Release(&view)


cdef bytes event_on(const Py_buffer* view, object covers, NewValue* new):
    cdef Set source
    cdef Py_ssize_t cover_count = 0, entry_count, kept = 0
    cdef uint8_t* packed = NULL
    cdef uint8_t* united = NULL
    cdef uint8_t* entries = NULL
    cdef uint8_t* keep = NULL
    cdef uint8_t dot[ENTRY_BYTES]
    open_set(view, &source)
    try:
        keep = marks_for(&source)
        packed = entries_from(() if covers is None else covers, &cover_count)
        if (
            new.stamp <= greatest_stamp(source.entries, source.entry_count)
            or new.stamp <= greatest_stamp(packed, cover_count)
        ):
            raise InvalidRequest("the stamp of an event must be greater than every stamp it knows")
        if covers is not None:
            kept = mark_uncovered(&source, packed, cover_count, keep)
        store64(dot, new.actor)
        store64(dot + 8, new.stamp)
        united = <uint8_t*>PyMem_Malloc((source.entry_count + cover_count + 1) * ENTRY_BYTES)
        entries = <uint8_t*>PyMem_Malloc((source.entry_count + cover_count + 1) * ENTRY_BYTES)
        if united == NULL or entries == NULL:
            raise MemoryError
        entry_count = unite(source.entries, source.entry_count, packed, cover_count, united)
        entry_count = unite(united, entry_count, dot, 1, entries)
        if kept + 1 > LIMIT_SIBLINGS:
            raise LimitReached(f"the write would leave more than {LIMIT_SIBLINGS} siblings")
        if entry_count > LIMIT_ENTRIES:
            raise LimitReached(f"the write would leave more than {LIMIT_ENTRIES} actors")
        return assemble(entries, entry_count, &source, keep, new)
    finally:
        PyMem_Free(packed)
        PyMem_Free(united)
        PyMem_Free(entries)
        PyMem_Free(keep)


def discard(data, covers):
    cdef Py_buffer view
    cdef Set source
    cdef Py_ssize_t cover_count = 0, entry_count
    cdef uint8_t* packed = NULL
    cdef uint8_t* entries = NULL
    cdef uint8_t* keep = NULL
    acquire(data, &view, 0, "data")
    try:
        open_set(&view, &source)
        packed = entries_from(covers, &cover_count)
        keep = marks_for(&source)
        mark_uncovered(&source, packed, cover_count, keep)
        entries = <uint8_t*>PyMem_Malloc((source.entry_count + cover_count + 1) * ENTRY_BYTES)
        if entries == NULL:
            raise MemoryError
        entry_count = unite(source.entries, source.entry_count, packed, cover_count, entries)
        return assemble(entries, entry_count, &source, keep, NULL)
    finally:
        PyMem_Free(packed)
        PyMem_Free(entries)
        PyMem_Free(keep)
        PyBuffer_Release(&view)


def keep_newest(data):
    cdef Py_buffer view
    cdef Set source
    cdef Py_ssize_t body_start = 0
    cdef const uint8_t* head
    cdef uint8_t* keep = NULL
    acquire(data, &view, 0, "data")
    try:
        open_set(&view, &source)
        if source.value_count < 2:
            return same_bytes(data, &view)
        keep = marks_for(&source)
        head = newest_head(&source, 0, &body_start)
        keep[(<size_t>head - <size_t>source.heads) // HEAD_BYTES] = 1
        return assemble(source.entries, source.entry_count, &source, keep, NULL)
    finally:
        PyMem_Free(keep)
        PyBuffer_Release(&view)


cdef bytes pruned(object data, object horizon, bint keep_tombstones):
    """Without entries that have no value and are older than `horizon`, and without older tombstones unless kept."""
    cdef uint64_t oldest = as_uint64(horizon, "horizon")
    cdef Py_buffer view
    cdef Set source
    cdef Py_ssize_t i, cursor = 0, kept = 0, entry_count = 0
    cdef const uint8_t* head
    cdef const uint8_t* entry
    cdef uint8_t* entries = NULL
    cdef uint8_t* keep = NULL
    cdef bint valued
    acquire(data, &view, 0, "data")
    try:
        open_set(&view, &source)
        keep = marks_for(&source)
        entries = <uint8_t*>PyMem_Malloc((source.entry_count + 1) * ENTRY_BYTES)
        if entries == NULL:
            raise MemoryError
        for i in range(source.entry_count):
            entry = source.entries + i * ENTRY_BYTES
            valued = False
            while cursor < source.value_count:
                head = source.heads + cursor * HEAD_BYTES
                if actor_of(head) != actor_of(entry):
                    break
                keep[cursor] = (
                    keep_tombstones or not flags_of(head) & FLAG_TOMBSTONE or stamp_of(head) >= oldest
                )
                if keep[cursor]:
                    valued = True
                    kept += 1
                cursor += 1
            if valued or stamp_of(entry) >= oldest:
                memcpy(entries + entry_count * ENTRY_BYTES, entry, ENTRY_BYTES)
                entry_count += 1
        if entry_count == source.entry_count and kept == source.value_count:
            return same_bytes(data, &view)
        return assemble(entries, entry_count, &source, keep, NULL)
    finally:
        PyMem_Free(entries)
        PyMem_Free(keep)
        PyBuffer_Release(&view)


def prune(data, horizon):
    return pruned(data, horizon, False)


def forget(data, horizon):
    return pruned(data, horizon, True)


# ---- merge ---------------------------------------------------------------------------------------------------------

cdef bytes join(Set* left, Set* right, Walk* walk):
    """The merged set as new bytes, after a counting walk has filled `walk`."""
    cdef Py_ssize_t entry_count = unite(left.entries, left.entry_count, right.entries, right.entry_count, NULL)
    cdef Walk again
    cdef bytes result
    cdef uint8_t* out
    if entry_count > COUNT_LIMIT or walk.value_count > COUNT_LIMIT:
        raise LimitReached(f"a version set holds at most {COUNT_LIMIT} entries and as many values")
    result = PyBytes_FromStringAndSize(
        NULL, HEADER_BYTES + entry_count * ENTRY_BYTES + walk.value_count * HEAD_BYTES + walk.body_total
    )
    out = <uint8_t*>PyBytes_AS_STRING(result)
    write_header(out, entry_count, walk.value_count)
    out += HEADER_BYTES
    unite(left.entries, left.entry_count, right.entries, right.entry_count, out)
    out += entry_count * ENTRY_BYTES
    memset(&again, 0, sizeof(Walk))
    walk_values(left, right, &again, out, out + walk.value_count * HEAD_BYTES)
    return result


def merge(left, right):
    cdef Py_buffer left_view, right_view
    cdef Set left_set, right_set
    cdef Walk walk
    acquire(left, &left_view, 0, "left")
    try:
        acquire(right, &right_view, 0, "right")
        try:
            open_set(&left_view, &left_set)
            # Equal replicas are the most frequent case of all: one comparison of memory.
            if left_view.len == right_view.len and memcmp(left_view.buf, right_view.buf, left_view.len) == 0:
                return same_bytes(left, &left_view)
            open_set(&right_view, &right_set)
            memset(&walk, 0, sizeof(Walk))
            walk_values(&left_set, &right_set, &walk, NULL, NULL)
            if not walk.left_differs and is_below(&right_set, &left_set):
                return same_bytes(left, &left_view)
            if not walk.right_differs and is_below(&left_set, &right_set):
                return same_bytes(right, &right_view)
            return join(&left_set, &right_set, &walk)
        finally:
            PyBuffer_Release(&right_view)
    finally:
        PyBuffer_Release(&left_view)


# ---- the data path -------------------------------------------------------------------------------------------------

def apply_batch(
    Py_ssize_t count, kinds, previous, stored_status, stored, stored_offsets, data, payload_starts, payload_lengths,
    expires_at_ms, floors, actor, stamp_first, stamp_limit, now_ms
):
    cdef Batch batch
    cdef Py_buffer views[10]
    cdef int held = 0
    cdef Py_ssize_t sets_max = 0, values_max = 0
    cdef const char* wrong
    memset(&batch, 0, sizeof(Batch))
    batch.count = count
    batch.actor = as_uint64(actor, "actor")
    batch.stamp_first = as_uint64(stamp_first, "stamp_first")
    batch.stamp_limit = as_uint64(stamp_limit, "stamp_limit")
    batch.now_ms = as_time(now_ms, "now_ms")
    if count < 0:
        raise ValueError("count must not be negative")
    try:
        # The first length bounds `count` by real memory, so the products below cannot overflow.
        acquire(kinds, &views[0], count, "kinds")
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
        acquire(payload_starts, &views[6], 8 * count, "payload_starts")
        held = 7
        acquire(payload_lengths, &views[7], 8 * count, "payload_lengths")
        held = 8
        acquire(expires_at_ms, &views[8], 8 * count, "expires_at_ms")
        held = 9
        acquire(floors, &views[9], 8 * count, "floors")
        held = 10
        batch.kinds = <const uint8_t*>views[0].buf
        batch.previous = <const int32_t*>views[1].buf
        batch.stored_status = <const uint8_t*>views[2].buf
        batch.stored = <const uint8_t*>views[3].buf
        batch.stored_offsets = <const int64_t*>views[4].buf
        batch.data = <const uint8_t*>views[5].buf
        batch.payload_starts = <const int64_t*>views[6].buf
        batch.payload_lengths = <const int64_t*>views[7].buf
        batch.expires_at_ms = <const int64_t*>views[8].buf
        batch.floors = <const uint64_t*>views[9].buf
        batch.slots = <Slot*>PyMem_Malloc((count + 1) * sizeof(Slot))
        if batch.slots == NULL:
            raise MemoryError
        wrong = check_batch(&batch, views[3].len, views[5].len, &sets_max, &values_max)
        if wrong != NULL:
            raise ValueError((<bytes>wrong).decode())
        status = PyByteArray_FromStringAndSize(NULL, count)
        value_start = PyByteArray_FromStringAndSize(NULL, 8 * count)
        value_length = PyByteArray_FromStringAndSize(NULL, 8 * count)
        set_offsets = PyByteArray_FromStringAndSize(NULL, 8 * (count + 1))
        sets = PyByteArray_FromStringAndSize(NULL, sets_max)
        values = PyByteArray_FromStringAndSize(NULL, values_max)
        batch.status = <uint8_t*>PyByteArray_AS_STRING(status)
        batch.value_start = <int64_t*>PyByteArray_AS_STRING(value_start)
        batch.value_length = <int64_t*>PyByteArray_AS_STRING(value_length)
        batch.set_offsets = <int64_t*>PyByteArray_AS_STRING(set_offsets)
        batch.sets = <uint8_t*>PyByteArray_AS_STRING(sets)
        batch.values = <uint8_t*>PyByteArray_AS_STRING(values)
        run(&batch)
        PyByteArray_Resize(sets, batch.set_offsets[count])
        PyByteArray_Resize(values, batch.values_used)
        return new_tuple(
            Applied, (status, value_start, value_length, values, set_offsets, sets, batch.stamp_last)
        )
    finally:
        PyMem_Free(batch.slots)
        while held:
            held -= 1
            PyBuffer_Release(&views[held])
