# Bytes of segments; the stub is the contract, record.h the layout.

from cython cimport final
from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, memset

from buffers cimport acquire
from record cimport (
    FLAG_DEAD_, FLAG_FOOTER_, FLAG_MARK_, FLAG_UNREADABLE_, RECORD_HEADER, RECORD_NAME_MAX, RECORD_SEQ_MAX, RECORD_VALUE_MAX,
    crc32c_extend, crc32c_hardware_there, crc32c_prepare, crc32c_use, index_entry, record_body_crc, record_bytes, record_flags, record_header,
    record_header_valid, record_name_length, record_salt, record_salt_set, record_seal, record_write,
)

from typing import NamedTuple

from sadik.errors import CorruptRecord

crc32c_prepare()

PATHS = ("hardware", "portable") if crc32c_hardware_there() else ("portable",)

RECORD_HEADER_BYTES = 48
INDEX_ENTRY_BYTES = 40
SEQ_MAX = (1 << 48) - 1
FLAG_REMOVED = 1
FLAG_DEAD = 2
FLAG_SYSTEM = 4
FLAG_UNREADABLE = 16
FLAG_MARK = 64
FLAG_FOOTER = 128
END = 0
MORE = 1
BROKEN = 2


class Scan(NamedTuple):
    entries: bytes
    stop: int
    reason: int
    need: int
    durable: int
    footer: int
    seq_first: int
    seq_next: int


class Record(NamedTuple):
    seq: int
    digest: bytes
    space: int
    flags: int
    name: bytes
    value: bytes


def use_path(name):
    if name not in PATHS:
        raise ValueError(f"there is no path {name!r} here")
    crc32c_use(name == "hardware")


def crc32c(data, seed=0):
    cdef Py_buffer view
    cdef uint32_t state = ~<uint32_t>(seed & 0xffffffff)
    acquire(data, &view, 0, "data")
    try:
        with nogil:
            state = crc32c_extend(state, <const uint8_t*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return <uint32_t>(~state)


cdef int check_lengths(Py_ssize_t digest, Py_ssize_t name, Py_ssize_t value) except -1:
    if digest != 16:
        raise ValueError(f"digest has {digest} bytes, 16 are needed")
    if name > <Py_ssize_t>RECORD_NAME_MAX:
        raise ValueError(f"name has {name} bytes, at most {RECORD_NAME_MAX} are allowed")
    if value > <Py_ssize_t>RECORD_VALUE_MAX:
        raise ValueError(f"value has {value} bytes, at most {RECORD_VALUE_MAX} are allowed")
    return 0


cdef int check_place(uint64_t offset, uint64_t seq, uint64_t count, uint64_t length) except -1:
    if seq < 1 or seq > RECORD_SEQ_MAX or count > RECORD_SEQ_MAX - seq + 1:
        raise ValueError(f"sequence number {seq} is outside 1..2**48-1")
    if offset > 0xffffffff or offset + length > 0x100000000:
        raise OverflowError(f"records of {length} bytes at offset {offset} reach beyond 4 GiB")
    return 0


# Final, so that its own methods are plain C functions to the compiler.
@final
cdef class Codec:
    cdef record_salt salt

    def __init__(self, salt):
        cdef Py_buffer view
        acquire(salt, &view, 16, "salt")
        record_salt_set(&self.salt, <const uint8_t*>view.buf)
        PyBuffer_Release(&view)

    def encode(self, uint64_t offset, uint64_t seq, digest, name, value, uint32_t space=0, uint8_t flags=0):
        cdef Py_buffer digest_view, name_view, value_view
        cdef bytes out
        acquire(digest, &digest_view, 0, "digest")
        try:
            acquire(name, &name_view, 0, "name")
            try:
                acquire(value, &value_view, 0, "value")
                try:
                    check_lengths(digest_view.len, name_view.len, value_view.len)
                    check_place(offset, seq, 1, RECORD_HEADER + name_view.len + value_view.len)
                    out = PyBytes_FromStringAndSize(NULL, RECORD_HEADER + name_view.len + value_view.len)
                    record_write(<uint8_t*>PyBytes_AS_STRING(out), &self.salt, offset, seq, <const uint8_t*>digest_view.buf,
                                 space, flags, <const uint8_t*>name_view.buf, <uint32_t>name_view.len,
                                 <const uint8_t*>value_view.buf, <uint32_t>value_view.len)
                finally:
                    PyBuffer_Release(&value_view)
            finally:
                PyBuffer_Release(&name_view)
        finally:
            PyBuffer_Release(&digest_view)
        return out

    def encode_many(self, uint64_t offset, uint64_t seq, items, uint32_t space=0):
        # Only bytes: then nothing can change between the two walks, and no buffer needs to be taken.
        cdef list rows = list(items)
        cdef uint64_t total = 0
        cdef uint64_t at = 0
        cdef bytes digest, name, value, out
        cdef uint8_t* target
        for digest, name, value in rows:
            if digest is None or name is None or value is None:
                raise TypeError("digest, name and value are bytes")
            check_lengths(len(digest), len(name), len(value))
            total += RECORD_HEADER + <uint64_t>len(name) + <uint64_t>len(value)
        check_place(offset, seq, <uint64_t>len(rows), total)
        out = PyBytes_FromStringAndSize(NULL, total)
        target = <uint8_t*>PyBytes_AS_STRING(out)
        for digest, name, value in rows:
            record_write(target + at, &self.salt, offset + at, seq, <const uint8_t*>PyBytes_AS_STRING(digest), space, 0,
                         <const uint8_t*>PyBytes_AS_STRING(name), <uint32_t>len(name),
                         <const uint8_t*>PyBytes_AS_STRING(value), <uint32_t>len(value))
            at += RECORD_HEADER + <uint64_t>len(name) + <uint64_t>len(value)
            seq += 1
        return out

    def encode_batch(self, uint64_t offset, uint64_t seq, Py_ssize_t count, digests, names, name_starts, name_lengths,
                     values, value_offsets, spaces, flags):
        cdef Py_buffer views[8]
        cdef int taken = 0
        if count < 0 or count > (1 << 40):
            raise ValueError(f"count {count} is not a batch size")
        try:
            acquire(digests, &views[0], 16 * count, "digests"); taken = 1
            acquire(names, &views[1], 0, "names"); taken = 2
            acquire(name_starts, &views[2], 8 * count, "name_starts"); taken = 3
            acquire(name_lengths, &views[3], 8 * count, "name_lengths"); taken = 4
            acquire(values, &views[4], 0, "values"); taken = 5
            acquire(value_offsets, &views[5], 8 * (count + 1), "value_offsets"); taken = 6
            acquire(spaces, &views[6], 4 * count, "spaces"); taken = 7
            acquire(flags, &views[7], count, "flags"); taken = 8
            return self.write_batch(offset, seq, count, views)
        finally:
            while taken:
                taken -= 1
                PyBuffer_Release(&views[taken])

    cdef bytes write_batch(self, uint64_t offset, uint64_t seq, Py_ssize_t count, Py_buffer* views):
        cdef const uint8_t* digests = <const uint8_t*>views[0].buf
        cdef const uint8_t* names = <const uint8_t*>views[1].buf
        cdef const int64_t* starts = <const int64_t*>views[2].buf
        cdef const int64_t* lengths = <const int64_t*>views[3].buf
        cdef const uint8_t* values = <const uint8_t*>views[4].buf
        cdef const int64_t* offsets = <const int64_t*>views[5].buf
        cdef const uint32_t* spaces = <const uint32_t*>views[6].buf
        cdef const uint8_t* flags = <const uint8_t*>views[7].buf
        cdef uint64_t total = 0, at = 0, written = 0
        cdef Py_ssize_t i
        cdef int64_t length
        cdef uint8_t* target
        cdef bytes out
        if offsets[0] < 0 or offsets[count] > views[4].len:
            raise ValueError("value_offsets reach outside of values")
        for i in range(count):
            length = offsets[i + 1] - offsets[i]
            if length < 0 or offsets[i + 1] > views[4].len:
                raise ValueError(f"value_offsets fall or reach outside of values at operation {i}")
            if length == 0:
                continue
            if starts[i] < 0 or lengths[i] < 0 or starts[i] > views[1].len or lengths[i] > views[1].len - starts[i]:
                raise ValueError(f"name of operation {i} reaches outside of names")
            if flags[i] & ~FLAG_DEAD_:
                raise ValueError(f"flags {flags[i]} of operation {i} are not the caller's")
            check_lengths(16, lengths[i], length)
            total += RECORD_HEADER + <uint64_t>lengths[i] + <uint64_t>length
            written += 1
        check_place(offset, seq, written, total)
        out = PyBytes_FromStringAndSize(NULL, total)
        target = <uint8_t*>PyBytes_AS_STRING(out)
        for i in range(count):
            length = offsets[i + 1] - offsets[i]
            if length == 0:
                continue
            record_write(target + at, &self.salt, offset + at, seq, digests + 16 * i, spaces[i], flags[i],
                         names + starts[i], <uint32_t>lengths[i], values + offsets[i], <uint32_t>length)
            at += RECORD_HEADER + <uint64_t>lengths[i] + <uint64_t>length
            seq += 1
        return out

    def scan(self, data, uint64_t base, uint64_t end):
        cdef Py_buffer view
        acquire(data, &view, 0, "data")
        try:
            return self.scan_view(&view, base, end)
        finally:
            PyBuffer_Release(&view)

    cdef object scan_view(self, Py_buffer* view, uint64_t base, uint64_t end):
        cdef const uint8_t* data = <const uint8_t*>view.buf
        cdef uint64_t size = view.len
        cdef uint64_t at = 0, length, durable = 0, seq_first = 0, seq_next = 0, need = 0
        cdef int64_t footer = -1
        cdef uint64_t count = 0
        cdef int reason = END
        cdef uint32_t flags
        cdef bint sound
        cdef record_header header
        cdef index_entry entry
        # A record takes at least its header, so this is room for all that can be here.
        cdef bytes out = PyBytes_FromStringAndSize(NULL, (size // RECORD_HEADER + 1) * sizeof(index_entry))
        cdef index_entry* entries = <index_entry*>PyBytes_AS_STRING(out)
        if base > 0xffffffff or end > 0x100000000 or end < base or size > end - base:
            raise ValueError(f"data of {size} bytes at {base} does not end by {end}")
        memset(&entry, 0, sizeof(entry))
        while True:
            if base + at == end:
                break
            if size - at < RECORD_HEADER:
                if end - base - at < RECORD_HEADER:
                    reason = BROKEN
                else:
                    reason, need = MORE, RECORD_HEADER
                break
            memcpy(&header, data + at, RECORD_HEADER)
            if not record_header_valid(&self.salt, base + at, &header):
                reason = BROKEN
                break
            length = record_bytes(&header)
            flags = record_flags(&header)
            if length > end - base - at:
                # The header is sure, the body is cut off: an unreadable record that reaches to the end.
                sound = False
                length = end - base - at
            elif length > size - at:
                reason, need = MORE, length
                break
            else:
                sound = header.body_crc == record_body_crc(
                    data + at + RECORD_HEADER, record_name_length(&header),
                    data + at + RECORD_HEADER + record_name_length(&header), header.value_length)
            if seq_first == 0:
                seq_first = header.seq
            if flags & (FLAG_MARK_ | FLAG_FOOTER_):
                seq_next = header.seq
                if sound and flags & FLAG_FOOTER_:
                    footer = base + at
                elif sound and header.value_length == 8:
                    memcpy(&durable, data + at + RECORD_HEADER + record_name_length(&header), 8)
            else:
                seq_next = header.seq + 1
                memcpy(entry.digest, header.digest, 16)
                entry.seq = header.seq
                entry.offset = <uint32_t>(base + at)
                entry.length = <uint32_t>length
                entry.space = header.space
                entry.flags = <uint8_t>(flags if sound else flags | FLAG_UNREADABLE_)
                entries[count] = entry
                count += 1
            at += length
        return Scan(out[:count * sizeof(index_entry)], base + at, reason, need, durable, footer, seq_first,
                    seq_next)

    def find(self, data, uint64_t base, uint64_t start):
        cdef Py_buffer view
        cdef const uint8_t* cursor
        cdef const uint8_t* last
        cdef record_header header
        cdef uint8_t first = <uint8_t>(self.salt.mark & 0xff)
        cdef int64_t found = -1
        acquire(data, &view, 0, "data")
        try:
            if start < base or start - base > <uint64_t>view.len:
                raise ValueError(f"start {start} is outside of the data at {base}")
            with nogil:
                cursor = <const uint8_t*>view.buf + (start - base)
                last = <const uint8_t*>view.buf + view.len - RECORD_HEADER
                while view.len >= RECORD_HEADER and cursor <= last:
                    cursor = <const uint8_t*>memchr(cursor, first, last - cursor + 1)
                    if cursor == NULL:
                        break
                    memcpy(&header, cursor, RECORD_HEADER)
                    if record_header_valid(&self.salt, base + (cursor - <const uint8_t*>view.buf), &header):
                        found = base + (cursor - <const uint8_t*>view.buf)
                        break
                    cursor += 1
        finally:
            PyBuffer_Release(&view)
        return found

    def decode(self, data, uint64_t base, uint64_t offset):
        cdef Py_buffer view
        cdef record_header header
        cdef const uint8_t* record
        cdef uint64_t room
        cdef uint32_t name_length
        acquire(data, &view, 0, "data")
        try:
            if offset < base or offset - base > <uint64_t>view.len:
                raise ValueError(f"offset {offset} is outside of the data at {base}")
            room = view.len - (offset - base)
            record = <const uint8_t*>view.buf + (offset - base)
            if room < RECORD_HEADER:
                raise CorruptRecord(f"no record at offset {offset}: {room} bytes are no header")
            memcpy(&header, record, RECORD_HEADER)
            if not record_header_valid(&self.salt, offset, &header):
                raise CorruptRecord(f"no record at offset {offset}: its header fails the check")
            name_length = record_name_length(&header)
            if record_bytes(&header) > room or header.body_crc != record_body_crc(
                    record + RECORD_HEADER, name_length, record + RECORD_HEADER + name_length, header.value_length):
                raise CorruptRecord(f"the record at offset {offset} fails its check")
            return Record(
                header.seq, header.digest[:16], header.space, record_flags(&header),
                record[RECORD_HEADER:RECORD_HEADER + name_length],
                record[RECORD_HEADER + name_length:RECORD_HEADER + name_length + header.value_length])
        finally:
            PyBuffer_Release(&view)

    def recode(self, Codec source, data, uint64_t base, entries, mask, uint64_t offset):
        cdef Py_buffer data_view, entry_view, mask_view
        acquire(data, &data_view, 0, "data")
        try:
            acquire(entries, &entry_view, 0, "entries")
            try:
                acquire(mask, &mask_view, entry_view.len // sizeof(index_entry), "mask")
                try:
                    return self.copy_marked(source, &data_view, base, &entry_view, <const uint8_t*>mask_view.buf, offset)
                finally:
                    PyBuffer_Release(&mask_view)
            finally:
                PyBuffer_Release(&entry_view)
        finally:
            PyBuffer_Release(&data_view)

    cdef tuple copy_marked(self, Codec source, Py_buffer* data, uint64_t base, Py_buffer* entries, const uint8_t* mask,
                           uint64_t offset):
        cdef const index_entry* lines = <const index_entry*>entries.buf
        cdef Py_ssize_t count = entries.len // sizeof(index_entry)
        cdef Py_ssize_t i
        cdef uint64_t total = 0, at = 0, copied = 0, seq_min = RECORD_SEQ_MAX, seq_max = 0
        cdef const uint8_t* record
        cdef record_header header
        cdef uint8_t* target
        cdef bytes out
        for i in range(count):
            if mask[i]:
                if lines[i].offset < base or lines[i].offset - base > <uint64_t>data.len or \
                        lines[i].length > data.len - (lines[i].offset - base) or lines[i].length < RECORD_HEADER:
                    raise ValueError(f"entry {i} lies outside of the data at {base}")
                total += lines[i].length
        check_place(offset, 1, 0, total)
        out = PyBytes_FromStringAndSize(NULL, total)
        target = <uint8_t*>PyBytes_AS_STRING(out)
        for i in range(count):
            if not mask[i]:
                continue
            record = <const uint8_t*>data.buf + (lines[i].offset - base)
            memcpy(&header, record, RECORD_HEADER)
            if not record_header_valid(&source.salt, lines[i].offset, &header) or record_bytes(&header) != lines[i].length:
                raise CorruptRecord(f"the record at offset {lines[i].offset} fails its check")
            record_seal(&self.salt, offset + at, &header)
            memcpy(target + at, &header, RECORD_HEADER)
            # The body keeps its own CRC, so damage on the way here stays visible in the copy.
            memcpy(target + at + RECORD_HEADER, record + RECORD_HEADER, lines[i].length - RECORD_HEADER)
            at += lines[i].length
            copied += 1
            seq_min = min(seq_min, header.seq)
            seq_max = max(seq_max, header.seq)
        return out, copied, seq_min, seq_max
