# Payloads of the data path's frames: operations and version sets of a batch, packed. Contract and bytes in
# sadik/kernels/native/packets.pyi.
#
# A packet is checked whole before anything of it is used: lengths add up, names have their bucket's prefix.

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from buffers cimport PyBuffer_Release, acquire
from version_set cimport load16, load32, load64, store16, store32, store64

from collections import namedtuple

from sadik.errors import ProtocolError

Sets = namedtuple(
    "Sets", "total data digests name_starts name_lengths set_starts set_lengths spans stops reasons owners",
    module=__name__,
)
Operations = namedtuple(
    "Operations",
    "total kinds digests data name_starts name_lengths payload_starts payload_lengths ttl_ms spans timeout_ms layout",
    module=__name__,
)

cdef enum:
    HEADER = 12
    OPERATIONS_HEADER = 20
    # A number: an expression is checked for overflow in debug builds, and there Cython cannot.
    COUNT_LIMIT = 0x1000000

COUNT_MAX = COUNT_LIMIT


cdef class Source:
    """Slices of a batch, checked once."""
    cdef Py_buffer views[6]
    cdef int held
    cdef Py_ssize_t count

    def __dealloc__(self):
        while self.held:
            self.held -= 1
            PyBuffer_Release(&self.views[self.held])

    cdef const uint8_t* take(self, object source, Py_ssize_t need, str name) except? NULL:
        acquire(source, &self.views[self.held], need, name)
        self.held += 1
        return <const uint8_t*>self.views[self.held - 1].buf

    cdef Py_ssize_t length(self):
        return self.views[self.held - 1].len


cdef int check_slices(const int64_t* starts, const int64_t* lengths, Py_ssize_t count, Py_ssize_t total, str name) except -1:
    cdef Py_ssize_t i
    for i in range(count):
        if starts[i] < 0 or lengths[i] < 0 or lengths[i] > total or starts[i] > total - lengths[i]:
            raise ValueError(f"a {name} lies outside its buffer")
        if lengths[i] >> 31:
            raise ValueError(f"a {name} is longer than 2**31 - 1 bytes")
    return 0


cdef int check_spans(list spans, Py_ssize_t count) except -1:
    cdef Py_ssize_t total = 0, operations
    cdef bytes bucket
    if len(spans) > 0xffff:
        raise ValueError("more than 65535 spans")
    for bucket, operations in spans:
        if not 1 <= len(bucket) <= 255 or operations < 0:
            raise ValueError("a span is a bucket of 1 to 255 bytes and its operations")
        total += operations
    if total != count:
        raise ValueError(f"spans hold {total} operations, not {count}")
    return 0


cdef uint8_t* put_span(uint8_t* out, bytes bucket, Py_ssize_t operations) noexcept:
    cdef Py_ssize_t length = len(bucket)
    store32(out, <uint32_t>operations)
    out[4] = <uint8_t>length
    memcpy(out + 5, PyBytes_AS_STRING(bucket), length)
    return out + 5 + length


def encode_sets(
    int reason, bytes owner, list spans, Py_ssize_t count, digests, names, name_starts, name_lengths, sets, set_offsets,
    select=None
):
    cdef Source source = Source()
    cdef const uint8_t* keys = source.take(digests, 16 * count, "digests")
    cdef const uint8_t* text = source.take(names, 0, "names")
    cdef Py_ssize_t text_length = source.length()
    cdef const int64_t* starts = <const int64_t*>source.take(name_starts, 8 * count, "name_starts")
    cdef const int64_t* lengths = <const int64_t*>source.take(name_lengths, 8 * count, "name_lengths")
    cdef const uint8_t* content = source.take(sets, 0, "sets")
    cdef Py_ssize_t content_length = source.length()
    cdef const int64_t* offsets = <const int64_t*>source.take(set_offsets, 8 * (count + 1), "set_offsets")
    cdef Py_buffer picked
    cdef const uint8_t* wanted = NULL
    cdef Py_ssize_t i, j, chosen = 0, name_bytes = 0, set_bytes = 0, span_bytes = 0, listed = 0, size, span_stop, operations
    cdef int64_t length
    cdef uint8_t* out
    cdef uint8_t* out_lengths
    cdef uint8_t* out_names
    cdef uint8_t* out_sets
    cdef int32_t* out_index
    cdef bytes bucket, index, packet
    if not 0 <= reason <= 255 or len(owner) > 255:
        raise ValueError("reason must be a byte, and owner at most 255 bytes")
    check_spans(spans, count)
    check_slices(starts, lengths, count, text_length, "name")
    if offsets[0] < 0 or offsets[count] > content_length:
        raise ValueError("set_offsets lie outside sets")
    if select is not None:
        acquire(select, &picked, count, "select")
        wanted = <const uint8_t*>picked.buf
    try:
        index = PyBytes_FromStringAndSize(NULL, 4 * count)
        out_index = <int32_t*>PyBytes_AS_STRING(index)
        i = 0
        span_stop = 0
        for bucket, operations in spans:
            span_stop += operations
            j = chosen
            while i < span_stop:
                length = offsets[i + 1] - offsets[i]
                if length < 0 or length >> 31:
                    raise ValueError("set_offsets must ascend by less than 2**31")
                if length and (wanted == NULL or wanted[i]):
                    out_index[chosen] = <int32_t>i
                    chosen += 1
                    name_bytes += lengths[i]
                    set_bytes += length
                i += 1
            if chosen > j:
                listed += 1
                span_bytes += 5 + len(bucket)
    finally:
        if wanted != NULL:
            PyBuffer_Release(&picked)
    if chosen > COUNT_LIMIT:
        raise ValueError(f"more than {COUNT_LIMIT} sets")
    size = HEADER + len(owner) + span_bytes + chosen * 24 + name_bytes + set_bytes
    packet = PyBytes_FromStringAndSize(NULL, size)
    out = <uint8_t*>PyBytes_AS_STRING(packet)
    store32(out, <uint32_t>chosen)
    store16(out + 4, <uint16_t>listed)
    out[6] = <uint8_t>reason
    out[7] = <uint8_t>len(owner)
    store32(out + 8, 0)
    out += HEADER
    memcpy(out, PyBytes_AS_STRING(owner), len(owner))
    out += len(owner)
    j = 0
    span_stop = 0
    for bucket, operations in spans:
        span_stop += operations
        i = j
        while j < chosen and out_index[j] < span_stop:
            j += 1
        if j > i:
            out = put_span(out, bucket, j - i)
    out_lengths = out + 16 * chosen
    out_names = out_lengths + 8 * chosen
    out_sets = out_names + name_bytes
    for j in range(chosen):
        i = out_index[j]
        memcpy(out + 16 * j, keys + 16 * i, 16)
        length = offsets[i + 1] - offsets[i]
        store32(out_lengths + 4 * j, <uint32_t>lengths[i])
        store32(out_lengths + 4 * (chosen + j), <uint32_t>length)
        memcpy(out_names, text + starts[i], lengths[i])
        out_names += lengths[i]
        memcpy(out_sets, content + offsets[i], length)
        out_sets += length
    return packet, index if chosen == count else index[: 4 * chosen]


cdef struct Cursor:
    const uint8_t* at
    const uint8_t* stop


cdef const uint8_t* advance(Cursor* cursor, Py_ssize_t length) except NULL:
    cdef const uint8_t* at = cursor.at
    if length < 0 or length > cursor.stop - cursor.at:
        raise ProtocolError("a packet is shorter than it declares")
    cursor.at += length
    return at


cdef list read_spans(Cursor* cursor, Py_ssize_t spans, Py_ssize_t count, Py_ssize_t base):
    cdef list found = []
    cdef Py_ssize_t i, length, operations, first = 0
    cdef const uint8_t* at
    for i in range(spans):
        at = advance(cursor, 5)
        operations = load32(at)
        length = at[4]
        at = advance(cursor, length)
        if length == 0 or operations == 0 or operations > count - first:
            raise ProtocolError("the spans of a packet do not fit its operations")
        found.append((PyBytes_FromStringAndSize(<const char*>at, length), base + first, base + first + operations))
        first += operations
    if first != count:
        raise ProtocolError("the spans of a packet do not fit its operations")
    return found


cdef int check_names(const uint8_t* names, const uint8_t* lengths, list spans, Py_ssize_t base) except -1:
    """Each name is its span's bucket and a key of the length it says."""
    cdef Py_ssize_t i, length, head
    cdef const uint8_t* at = names
    cdef const char* bucket
    for name, first, stop in spans:
        bucket = PyBytes_AS_STRING(name)
        head = 1 + len(name)
        for i in range(<Py_ssize_t>first - base, <Py_ssize_t>stop - base):
            length = load32(lengths + 4 * i)
            if (
                length < head + 3
                or at[0] != head - 1
                or memcmp(at + 1, bucket, head - 1) != 0
                or ((<Py_ssize_t>at[head]) << 8 | at[head + 1]) != length - head - 2
            ):
                raise ProtocolError("a packet holds a name that is none of its bucket")
            at += length
    return 0


def decode_sets(list packets):
    cdef Py_ssize_t count = 0, part, base = 0, offset = 0, i, spans, name_bytes, set_bytes, position
    cdef bytes packet, data
    cdef const uint8_t* start
    cdef const uint8_t* at
    cdef const uint8_t* lengths
    cdef Cursor cursor
    cdef int64_t* name_starts
    cdef int64_t* name_lengths
    cdef int64_t* set_starts
    cdef int64_t* set_lengths
    cdef uint8_t* keys
    cdef list all_spans = [], stops = [], reasons = [], owners = []
    if not packets:
        raise ValueError("no packets")
    for packet in packets:
        if len(packet) < HEADER:
            raise ProtocolError("a packet is shorter than its header")
        part = load32(<const uint8_t*>PyBytes_AS_STRING(packet))
        # Bounded by what has come: an announced count takes no memory.
        if part == 0 or part > (len(packet) - HEADER) // 24:
            raise ProtocolError("a packet's count does not fit its length")
        count += part
    if count > COUNT_LIMIT:
        raise ProtocolError(f"packets hold more than {COUNT_LIMIT} sets")
    data = packets[0] if len(packets) == 1 else b"".join(packets)
    out = [PyByteArray_FromStringAndSize(NULL, 8 * count) for _ in range(4)]
    digests = PyByteArray_FromStringAndSize(NULL, 16 * count)
    keys = <uint8_t*>PyByteArray_AS_STRING(digests)
    name_starts = <int64_t*>PyByteArray_AS_STRING(out[0])
    name_lengths = <int64_t*>PyByteArray_AS_STRING(out[1])
    set_starts = <int64_t*>PyByteArray_AS_STRING(out[2])
    set_lengths = <int64_t*>PyByteArray_AS_STRING(out[3])
    for packet in packets:
        start = <const uint8_t*>PyBytes_AS_STRING(packet)
        part = load32(start)
        spans = load16(start + 4)
        cursor.at = start + HEADER
        cursor.stop = start + len(packet)
        reasons.append(start[6])
        at = advance(&cursor, start[7])
        owners.append(PyBytes_FromStringAndSize(<const char*>at, start[7]))
        found = read_spans(&cursor, spans, part, base)
        at = advance(&cursor, 16 * part)
        memcpy(keys + 16 * base, at, 16 * part)
        lengths = advance(&cursor, 8 * part)
        name_bytes = 0
        set_bytes = 0
        for i in range(part):
            name_bytes += load32(lengths + 4 * i)
            set_bytes += load32(lengths + 4 * (part + i))
        at = advance(&cursor, name_bytes)
        check_names(at, lengths, found, base)
        position = offset + (at - start)
        for i in range(part):
            name_starts[base + i] = position
            name_lengths[base + i] = load32(lengths + 4 * i)
            position += name_lengths[base + i]
        at = advance(&cursor, set_bytes)
        position = offset + (at - start)
        for i in range(part):
            set_starts[base + i] = position
            set_lengths[base + i] = load32(lengths + 4 * (part + i))
            position += set_lengths[base + i]
        if cursor.at != cursor.stop:
            raise ProtocolError("a packet is longer than it declares")
        base += part
        offset += len(packet)
        stops.append(base)
        # Neighbours in one bucket are one span: packets of many nodes mostly speak of the same one.
        if all_spans and all_spans[len(all_spans) - 1][0] == found[0][0]:
            name, first, _ = all_spans.pop()
            found[0] = (name, first, found[0][2])
        all_spans += found
    return Sets(count, data, digests, out[0], out[1], out[2], out[3], all_spans, stops, reasons, owners)


def encode_operations(
    list spans, Py_ssize_t count, kinds, digests, data, name_starts, name_lengths, payload_starts, payload_lengths, ttl_ms,
    uint32_t timeout_ms, uint64_t layout
):
    cdef Source names = Source(), payloads = Source()
    cdef const uint8_t* kind = names.take(kinds, count, "kinds")
    cdef const uint8_t* keys = names.take(digests, 16 * count, "digests")
    cdef const uint8_t* content = names.take(data, 0, "data")
    cdef Py_ssize_t total = names.length()
    cdef const int64_t* starts = <const int64_t*>names.take(name_starts, 8 * count, "name_starts")
    cdef const int64_t* lengths = <const int64_t*>names.take(name_lengths, 8 * count, "name_lengths")
    cdef const int64_t* body_starts = <const int64_t*>payloads.take(payload_starts, 8 * count, "payload_starts")
    cdef const int64_t* body_lengths = <const int64_t*>payloads.take(payload_lengths, 8 * count, "payload_lengths")
    cdef const int64_t* times = <const int64_t*>payloads.take(ttl_ms, 8 * count, "ttl_ms")
    cdef Py_ssize_t i, size = 0, span_bytes = 0, listed = 0, operations
    cdef uint8_t* out
    cdef uint8_t* out_lengths
    cdef bytes bucket, packet
    if not 1 <= count <= COUNT_LIMIT:
        raise ValueError(f"count must be 1 to {COUNT_LIMIT}")
    check_spans(spans, count)
    check_slices(starts, lengths, count, total, "name")
    check_slices(body_starts, body_lengths, count, total, "payload")
    for bucket, operations in spans:
        if operations:
            listed += 1
            span_bytes += 5 + len(bucket)
    for i in range(count):
        size += lengths[i] + body_lengths[i]
    packet = PyBytes_FromStringAndSize(NULL, OPERATIONS_HEADER + span_bytes + count * 33 + size)
    out = <uint8_t*>PyBytes_AS_STRING(packet)
    store32(out, <uint32_t>count)
    store16(out + 4, <uint16_t>listed)
    store16(out + 6, 0)
    store32(out + 8, timeout_ms)
    store64(out + 12, layout)
    out += OPERATIONS_HEADER
    for bucket, operations in spans:
        if operations:
            out = put_span(out, bucket, operations)
    memcpy(out, kind, count)
    out += count
    memcpy(out, keys, 16 * count)
    out += 16 * count
    memcpy(out, times, 8 * count)
    out += 8 * count
    out_lengths = out
    out += 8 * count
    for i in range(count):
        store32(out_lengths + 4 * i, <uint32_t>lengths[i])
        store32(out_lengths + 4 * (count + i), <uint32_t>body_lengths[i])
        memcpy(out, content + starts[i], lengths[i])
        out += lengths[i]
    for i in range(count):
        memcpy(out, content + body_starts[i], body_lengths[i])
        out += body_lengths[i]
    return packet


def decode_operations(bytes packet):
    cdef Py_ssize_t count, spans, i, position, name_bytes = 0, body_bytes = 0
    cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(packet)
    cdef const uint8_t* lengths
    cdef const uint8_t* at
    cdef Cursor cursor
    cdef int64_t* starts
    cdef int64_t* sizes
    if len(packet) < OPERATIONS_HEADER:
        raise ProtocolError("a packet is shorter than its header")
    count = load32(start)
    spans = load16(start + 4)
    if count == 0 or count > (len(packet) - OPERATIONS_HEADER) // 33 or count > COUNT_LIMIT:
        raise ProtocolError("a packet's count does not fit its length")
    cursor.at = start + OPERATIONS_HEADER
    cursor.stop = start + len(packet)
    found = read_spans(&cursor, spans, count, 0)
    at = advance(&cursor, count)
    kinds = PyByteArray_FromStringAndSize(<const char*>at, count)
    for i in range(count):
        if at[i] > 1:
            raise ProtocolError("a packet holds an operation of an unknown kind")
    at = advance(&cursor, 16 * count)
    digests = PyByteArray_FromStringAndSize(<const char*>at, 16 * count)
    at = advance(&cursor, 8 * count)
    times = PyByteArray_FromStringAndSize(<const char*>at, 8 * count)
    for i in range(count):
        if <int64_t>load64(at + 8 * i) < -1:
            raise ProtocolError("a packet holds an impossible time to live")
    lengths = advance(&cursor, 8 * count)
    out = [PyByteArray_FromStringAndSize(NULL, 8 * count) for _ in range(4)]
    for i in range(count):
        name_bytes += load32(lengths + 4 * i)
        body_bytes += load32(lengths + 4 * (count + i))
    at = advance(&cursor, name_bytes)
    check_names(at, lengths, found, 0)
    starts = <int64_t*>PyByteArray_AS_STRING(out[0])
    sizes = <int64_t*>PyByteArray_AS_STRING(out[1])
    position = at - start
    for i in range(count):
        starts[i] = position
        sizes[i] = load32(lengths + 4 * i)
        position += sizes[i]
    at = advance(&cursor, body_bytes)
    starts = <int64_t*>PyByteArray_AS_STRING(out[2])
    sizes = <int64_t*>PyByteArray_AS_STRING(out[3])
    position = at - start
    for i in range(count):
        starts[i] = position
        sizes[i] = load32(lengths + 4 * (count + i))
        if kinds[i] == 0 and sizes[i]:
            raise ProtocolError("a packet holds a read with a payload")
        position += sizes[i]
    if cursor.at != cursor.stop:
        raise ProtocolError("a packet is longer than it declares")
    return Operations(
        count, kinds, digests, packet, out[0], out[1], out[2], out[3], times, found, load32(start + 8), load64(start + 12)
    )
