# The log engine's index. The stub is the contract; keydir_table.pxd says how keys lie in memory, keydir_read.pxd how records
# are read. One table per partition (the top bits of the digest), each made when its first key comes.
#
# Above 600 lines because it is one class: what is counted per segment and space must move with every change of a slot.

from cython cimport final
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBuffer_Release
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from buffers cimport acquire
from keydir_read cimport (
    ABSENT, BatchWork, ERROR, Plan, Probe, STORED, guard_install, guard_run, read_bodies, read_body, read_header,
    read_headers, read_name_and_body,
)
from keydir_table cimport (
    SLOT_DEAD, SLOT_REMOVED, SLOT_UNREADABLE, Slot, Table, bit_length, byteswap64, close_gap, home, holds, insert,
    length_class, prefetch, seek, slot_bytes,
)
from record cimport (
    FLAG_DEAD_, FLAG_REMOVED_, FLAG_SYSTEM_, FLAG_UNREADABLE_, RECORD_HEADER, RECORD_SEQ_MAX, crc32c_prepare,
    index_entry, record_bytes, record_flags, record_header, record_name_length, record_salt, record_salt_set,
)

from typing import NamedTuple

from sadik.errors import CorruptRecord

crc32c_prepare()


cdef enum:
    # How a record is taken in.
    LIVE = 0
    NEWER = 1
    SEGMENTS_MAX = 65535
    SPACES_MAX = 65535
    WINDOW = 32

cdef struct Segment:
    const uint8_t* base
    uint64_t room       # bytes of the map
    uint64_t size       # bytes that may be touched
    record_salt salt
    int64_t records     # slots that point here
    int64_t live_bytes  # by length class
    uint64_t dead_seq_min  # smallest number of a record here that a newer one replaced
    bint attached

cdef struct Space:
    uint32_t number
    bint retired
    int64_t live
    int64_t slots


class Location(NamedTuple):
    segment: int
    offset: int
    seq: int
    flags: int


# Final, so that its own methods are plain C functions to the compiler.
@final
cdef class Keydir:
    cdef Table* tables
    cdef Segment* segments
    cdef Space* spaces
    cdef Plan* plans
    cdef Py_ssize_t plans_room
    cdef uint32_t partitions
    cdef uint32_t filled  # tables that have had keys
    cdef unsigned bits
    cdef uint32_t segments_room
    cdef uint32_t spaces_used
    cdef uint32_t spaces_room
    cdef uint32_t retired_spaces
    cdef uint32_t last_number
    cdef uint16_t last_space
    cdef int64_t keys_
    cdef uint32_t sweeping
    cdef list views
    cdef dict space_index
    cdef list spaces_free
    cdef readonly int removed
    cdef public unsigned long long doubt_below

    def __cinit__(self, Py_ssize_t partitions):
        if partitions < 1 or partitions > 1 << 20 or partitions & (partitions - 1):
            raise ValueError(f"partitions must be a power of two up to 2**20, not {partitions}")
        self.partitions = <uint32_t>partitions
        self.bits = bit_length(<uint32_t>partitions) - 1
        self.tables = <Table*>calloc(partitions, sizeof(Table))
        self.spaces_room = 16
        self.spaces = <Space*>calloc(self.spaces_room, sizeof(Space))
        if self.tables == NULL or self.spaces == NULL:
            raise MemoryError()
        if guard_install() != 0:
            raise OSError("cannot install a handler for SIGBUS")
        # Index 0 is for spaces beyond SPACES_MAX: stored and served, but not counted.
        self.spaces_used = 1
        self.last_number = 0
        self.last_space = 0xffff
        self.views = []
        self.space_index = {}
        self.spaces_free = []

    def __dealloc__(self):
        cdef uint32_t i
        if self.tables != NULL:
            for i in range(self.partitions):
                if self.filled == 0:
                    break
                if self.tables[i].slots != NULL:
                    free(self.tables[i].slots)
                    self.filled -= 1
        free(self.tables)
        free(self.segments)
        free(self.spaces)
        free(self.plans)

    # Segments

    def attach(self, view, salt, uint64_t size):
        cdef Py_buffer salt_view
        cdef uint32_t handle
        cdef uint32_t room
        cdef Segment* grown
        cdef const uint8_t[::1] bytes_view = view
        held = memoryview(view)
        if size > <uint64_t>held.nbytes:
            raise ValueError(f"size {size} reaches beyond the view of {held.nbytes} bytes")
        for handle in range(self.segments_room):
            if not self.segments[handle].attached:
                break
        else:
            handle = self.segments_room
            if handle >= SEGMENTS_MAX:
                raise ValueError("too many segments")
            room = min(max(16, handle * 2), SEGMENTS_MAX)
            grown = <Segment*>realloc(self.segments, room * sizeof(Segment))
            if grown == NULL:
                raise MemoryError()
            memset(grown + handle, 0, (room - handle) * sizeof(Segment))
            self.segments = grown
            self.segments_room = room
            self.views.extend([None] * (room - handle))
        acquire(salt, &salt_view, 16, "salt")
        record_salt_set(&self.segments[handle].salt, <const uint8_t*>salt_view.buf)
        PyBuffer_Release(&salt_view)
        self.segments[handle].base = &bytes_view[0] if held.nbytes else NULL
        self.segments[handle].room = held.nbytes
        self.segments[handle].size = size
        self.segments[handle].records = 0
        self.segments[handle].live_bytes = 0
        self.segments[handle].dead_seq_min = RECORD_SEQ_MAX
        self.segments[handle].attached = True
        self.views[handle] = held
        return handle

    def detach(self, uint32_t segment):
        self.check_segment(segment)
        if self.segments[segment].records:
            raise ValueError(f"{self.segments[segment].records} keys still point to segment {segment}")
        self.segments[segment].attached = False
        self.views[segment] = None

    def set_size(self, uint32_t segment, uint64_t size):
        self.check_segment(segment)
        if size > self.segments[segment].room:
            raise ValueError(f"size {size} reaches beyond the view of {self.segments[segment].room} bytes")
        self.segments[segment].size = size

    def live(self, uint32_t segment):
        self.check_segment(segment)
        return self.segments[segment].records, self.segments[segment].live_bytes, self.segments[segment].dead_seq_min

    cdef int check_segment(self, uint32_t segment) except -1:
        if segment >= self.segments_room or not self.segments[segment].attached:
            raise ValueError(f"no segment {segment} is attached")
        return 0

    # Spaces

    cdef uint16_t space_of(self, uint32_t number) except? 0:
        """Index of a space, made when new; 0 when there are too many."""
        cdef uint32_t index
        cdef Space* grown
        if self.last_space != 0xffff and number == self.last_number:
            return self.last_space
        found = self.space_index.get(number)
        if found is not None:
            index = found
        elif self.spaces_free:
            index = self.spaces_free.pop()
            self.name_space(index, number)
        elif self.spaces_used < SPACES_MAX:
            if self.spaces_used == self.spaces_room:
                grown = <Space*>realloc(self.spaces, 2 * self.spaces_room * sizeof(Space))
                if grown == NULL:
                    raise MemoryError()
                self.spaces = grown
                self.spaces_room *= 2
            index = self.spaces_used
            self.spaces_used += 1
            self.name_space(index, number)
        else:
            index = 0
        self.last_number = number
        self.last_space = <uint16_t>index
        return <uint16_t>index

    cdef int name_space(self, uint32_t index, uint32_t number) except -1:
        self.space_index[number] = index
        memset(&self.spaces[index], 0, sizeof(Space))
        self.spaces[index].number = number
        return 0

    cdef int free_space(self, uint32_t index) except -1:
        """A retired space without slots gives its index back."""
        if index and self.spaces[index].retired and self.spaces[index].slots == 0:
            del self.space_index[self.spaces[index].number]
            self.spaces_free.append(index)
            self.spaces[index].retired = False
            self.retired_spaces -= 1
            self.last_space = 0xffff
        return 0

    def retire(self, uint32_t space):
        found = self.space_index.get(space)
        if found is None:
            return
        cdef uint32_t index = found
        if not self.spaces[index].retired:
            self.spaces[index].retired = True
            self.retired_spaces += 1
            self.sweeping = 0
            self.free_space(index)

    def spaces_known(self):
        return sorted(
            number for number, index in self.space_index.items()
            if self.spaces[<uint32_t>index].slots and not self.spaces[<uint32_t>index].retired)

    def count(self, uint32_t space):
        found = self.space_index.get(space)
        if found is None or self.spaces[<uint32_t>found].retired:
            return 0
        return self.spaces[<uint32_t>found].live

    def sweep(self, uint32_t tables):
        cdef Table* table
        cdef uint32_t place
        while self.retired_spaces and self.sweeping < self.partitions and tables:
            table = &self.tables[self.sweeping]
            place = 0
            while place < table.allocated:
                if table.slots[place].meta and self.spaces[table.slots[place].space].retired:
                    self.drop(table, place)
                else:
                    place += 1
            self.sweeping += 1
            tables -= 1
        if self.sweeping < self.partitions:
            return self.retired_spaces != 0
        for found in list(self.space_index.values()):
            self.free_space(found)
        return False

    # The tables

    cdef inline Table* table_of(self, uint64_t high) noexcept nogil:
        return &self.tables[high >> (64 - self.bits)] if self.bits else self.tables

    cdef Slot* find_slot(self, uint64_t high, uint64_t low) noexcept nogil:
        cdef Table* table = self.table_of(high)
        cdef Slot* slot
        if table.used == 0:
            return NULL
        slot = &table.slots[seek(table, high, low)]
        return slot if holds(slot, high, low) else NULL

    cdef inline void uncount(self, const Slot* slot) noexcept nogil:
        """Take a slot out of the sums of its segment and space."""
        self.segments[slot.segment].records -= 1
        self.segments[slot.segment].live_bytes -= slot_bytes(slot)
        self.spaces[slot.space].slots -= 1
        if not slot.meta & (SLOT_DEAD | SLOT_REMOVED):
            self.spaces[slot.space].live -= 1
        if slot.meta & SLOT_REMOVED:
            self.removed -= 1
        else:
            self.buried(slot.segment, slot.meta >> 16)

    cdef inline void buried(self, uint32_t segment, uint64_t seq) noexcept nogil:
        if seq < self.segments[segment].dead_seq_min:
            self.segments[segment].dead_seq_min = seq

    cdef inline void recount(self, const Slot* slot) noexcept nogil:
        self.segments[slot.segment].records += 1
        self.segments[slot.segment].live_bytes += slot_bytes(slot)
        self.spaces[slot.space].slots += 1
        if not slot.meta & (SLOT_DEAD | SLOT_REMOVED):
            self.spaces[slot.space].live += 1
        if slot.meta & SLOT_REMOVED:
            self.removed += 1

    cdef void drop(self, Table* table, uint64_t place) noexcept nogil:
        """Forget a key."""
        self.uncount(&table.slots[place])
        close_gap(table, place)
        self.keys_ -= 1

    cdef int take(self, uint32_t segment, const index_entry* entry, int rule) except -1:
        """Let one record into the index if the rule says it is the newest of its key; returns whether it was."""
        cdef uint64_t high, low, place = 0
        cdef Table* table
        cdef Slot* slot
        cdef uint64_t seq
        cdef uint16_t space = self.space_of(entry.space)
        cdef unsigned flags = 0
        memcpy(&high, entry.digest, 8)
        memcpy(&low, entry.digest + 8, 8)
        high = byteswap64(high)
        low = byteswap64(low)
        table = self.table_of(high)
        slot = NULL
        if table.used:
            place = seek(table, high, low)
            slot = &table.slots[place]
            if not holds(slot, high, low):
                slot = NULL
        if entry.flags & FLAG_DEAD_:
            flags |= SLOT_DEAD
        if entry.flags & FLAG_UNREADABLE_:
            flags |= SLOT_UNREADABLE
        if entry.flags & FLAG_REMOVED_:
            if rule == LIVE:
                if slot != NULL:
                    self.drop(table, place)
                return 1
            flags |= SLOT_REMOVED
        if slot == NULL:
            if table.slots == NULL:
                # Not before: a table that never has a key costs no memory, of 65,536 mostly all.
                table.bits = self.bits
                self.filled += 1
            slot = insert(table, high, low)
            self.keys_ += 1
        else:
            seq = slot.meta >> 16
            # Of two copies of one record the first met stays, unless it is unreadable and the other is not.
            if rule == NEWER and (entry.seq < seq or (
                    entry.seq == seq and (flags & SLOT_UNREADABLE or not slot.meta & SLOT_UNREADABLE))):
                if not flags & SLOT_REMOVED:
                    self.buried(segment, entry.seq)
                return 0
            self.uncount(slot)
        slot.high = high
        slot.low = low
        slot.meta = entry.seq << 16 | <uint64_t>length_class(entry.length) << 4 | flags
        slot.segment = <uint16_t>segment
        slot.space = space
        slot.offset = entry.offset
        self.recount(slot)
        return 1

    # Taking in

    def put(self, uint32_t segment, uint64_t base, records):
        cdef Py_buffer view
        self.check_segment(segment)
        acquire(records, &view, 0, "records")
        try:
            return self.put_view(segment, base, &view)
        finally:
            PyBuffer_Release(&view)

    cdef int64_t put_view(self, uint32_t segment, uint64_t base, Py_buffer* view) except -1:
        cdef const uint8_t* data = <const uint8_t*>view.buf
        cdef uint64_t size = view.len
        cdef uint64_t at = 0, ahead = 0
        cdef int64_t count = 0, leading = 0
        cdef record_header header
        cdef index_entry entry
        cdef uint64_t high
        cdef Table* table
        if base + size > self.segments[segment].room or base + size > 0x100000000:
            raise ValueError(f"records up to {base + size} reach beyond segment {segment}")
        while at < size:
            # Another cursor runs ahead and asks for the slots, whose misses would otherwise be waited for one by one.
            while leading < count + 8 and ahead + RECORD_HEADER <= size:
                memcpy(&header, data + ahead, RECORD_HEADER)
                memcpy(&high, header.digest, 8)
                high = byteswap64(high)
                table = self.table_of(high)
                if table.used and size > record_bytes(&header):
                    prefetch(&table.slots[home(table, high)])
                ahead += record_bytes(&header)
                leading += 1
            if size - at < RECORD_HEADER:
                raise ValueError("records end in the middle of a header")
            memcpy(&header, data + at, RECORD_HEADER)
            if record_bytes(&header) > size - at or header.seq == 0:
                raise ValueError("records end in the middle of one")
            memcpy(entry.digest, header.digest, 16)
            entry.seq = header.seq
            entry.offset = <uint32_t>(base + at)
            entry.length = <uint32_t>record_bytes(&header)
            entry.space = header.space
            entry.flags = <uint8_t>record_flags(&header)
            if base + at + entry.length > self.segments[segment].size:
                self.segments[segment].size = base + at + entry.length
            self.take(segment, &entry, LIVE)
            at += entry.length
            count += 1
        return count

    def load(self, uint32_t segment, entries):
        cdef Py_buffer view
        cdef const index_entry* lines
        cdef Py_ssize_t i, count
        cdef int64_t taken = 0
        cdef uint64_t high
        cdef Table* table
        cdef uint64_t seq_min = RECORD_SEQ_MAX, seq_max = 0
        self.check_segment(segment)
        acquire(entries, &view, 0, "entries")
        try:
            lines = <const index_entry*>view.buf
            count = view.len // sizeof(index_entry)
            for i in range(count):
                if i + 8 < count:
                    memcpy(&high, lines[i + 8].digest, 8)
                    high = byteswap64(high)
                    table = self.table_of(high)
                    if table.used:
                        prefetch(&table.slots[home(table, high)])
                seq_min = min(seq_min, lines[i].seq)
                seq_max = max(seq_max, lines[i].seq)
                if not lines[i].flags & FLAG_SYSTEM_ and lines[i].seq:
                    taken += self.take(segment, &lines[i], NEWER)
            return taken, seq_min, seq_max
        finally:
            PyBuffer_Release(&view)

    def settle(self):
        cdef uint32_t i
        cdef uint64_t place
        cdef int64_t before = self.keys_
        cdef Table* table
        for i in range(self.partitions):
            if self.removed == 0:
                break
            table = &self.tables[i]
            place = 0
            while place < table.allocated:
                if table.slots[place].meta & SLOT_REMOVED:
                    self.drop(table, place)
                else:
                    place += 1
        return before - self.keys_

    def select(self, uint32_t segment, entries):
        cdef Py_buffer view
        cdef const index_entry* lines
        cdef Py_ssize_t i, count
        cdef uint64_t high, low
        cdef Table* table
        cdef Slot* slot
        cdef uint64_t place
        cdef bytearray mask
        cdef uint8_t* marks
        self.check_segment(segment)
        acquire(entries, &view, 0, "entries")
        try:
            lines = <const index_entry*>view.buf
            count = view.len // sizeof(index_entry)
            mask = bytearray(count)
            marks = <uint8_t*>(<char*>mask)
            for i in range(count):
                if lines[i].flags & FLAG_SYSTEM_:
                    marks[i] = 3
                    continue
                memcpy(&high, lines[i].digest, 8)
                memcpy(&low, lines[i].digest + 8, 8)
                high = byteswap64(high)
                low = byteswap64(low)
                table = self.table_of(high)
                slot = NULL
                if table.used:
                    place = seek(table, high, low)
                    if holds(&table.slots[place], high, low):
                        slot = &table.slots[place]
                if lines[i].flags & FLAG_REMOVED_:
                    # Before settle(), of two copies of one removal only the one in the index counts.
                    if slot == NULL or slot.meta >> 16 < lines[i].seq or (
                            slot.segment == segment and slot.offset == lines[i].offset):
                        marks[i] = 2
                elif slot != NULL and slot.segment == segment and slot.offset == lines[i].offset \
                        and slot.meta >> 16 == lines[i].seq:
                    if self.spaces[slot.space].retired:
                        self.drop(table, place)
                    elif slot.meta & SLOT_UNREADABLE or lines[i].flags & FLAG_UNREADABLE_:
                        slot.meta |= SLOT_UNREADABLE
                        marks[i] = 4
                    else:
                        marks[i] = 1
            return mask
        finally:
            PyBuffer_Release(&view)

    def move(self, uint32_t source, uint32_t target, uint64_t base, records):
        cdef Py_buffer view
        cdef uint64_t at = 0, high, low
        cdef int64_t moved = 0
        cdef record_header header
        cdef Slot* slot
        self.check_segment(source)
        self.check_segment(target)
        acquire(records, &view, 0, "records")
        try:
            if base + <uint64_t>view.len > self.segments[target].room or base + <uint64_t>view.len > 0x100000000:
                raise ValueError(f"records reach beyond segment {target}")
            while at + RECORD_HEADER <= <uint64_t>view.len:
                memcpy(&header, <const uint8_t*>view.buf + at, RECORD_HEADER)
                if at + record_bytes(&header) > <uint64_t>view.len:
                    break
                memcpy(&high, header.digest, 8)
                memcpy(&low, header.digest + 8, 8)
                slot = self.find_slot(byteswap64(high), byteswap64(low))
                if not record_flags(&header) & (FLAG_SYSTEM_ | FLAG_REMOVED_) and slot != NULL \
                        and slot.segment == source and slot.meta >> 16 == header.seq:
                    self.uncount(slot)
                    slot.segment = <uint16_t>target
                    slot.offset = <uint32_t>(base + at)
                    self.recount(slot)
                    moved += 1
                at += record_bytes(&header)
            if base + at > self.segments[target].size:
                self.segments[target].size = base + at
            return moved
        finally:
            PyBuffer_Release(&view)

    def relocate(self, uint32_t segment, entries):
        cdef Py_buffer view
        cdef const index_entry* lines
        cdef Py_ssize_t i
        cdef uint64_t high, low
        cdef int64_t corrected = 0
        cdef Slot* slot
        self.check_segment(segment)
        acquire(entries, &view, 0, "entries")
        try:
            lines = <const index_entry*>view.buf
            for i in range(<Py_ssize_t>(view.len // sizeof(index_entry))):
                if lines[i].flags & (FLAG_SYSTEM_ | FLAG_REMOVED_):
                    continue
                memcpy(&high, lines[i].digest, 8)
                memcpy(&low, lines[i].digest + 8, 8)
                slot = self.find_slot(byteswap64(high), byteswap64(low))
                if slot != NULL and slot.segment == segment and slot.meta >> 16 == lines[i].seq \
                        and slot.offset != lines[i].offset and not lines[i].flags & FLAG_UNREADABLE_:
                    slot.offset = lines[i].offset
                    slot.meta &= ~<uint64_t>SLOT_UNREADABLE
                    corrected += 1
            return corrected
        finally:
            PyBuffer_Release(&view)

    # Looking up

    cdef Slot* slot_for(self, digest) except? NULL:
        cdef Py_buffer view
        cdef uint64_t high, low
        if PyBytes_CheckExact(digest) and PyBytes_GET_SIZE(digest) == 16:
            memcpy(&high, PyBytes_AS_STRING(digest), 8)
            memcpy(&low, PyBytes_AS_STRING(digest) + 8, 8)
        else:
            acquire(digest, &view, 0, "digest")
            try:
                if view.len != 16:
                    raise ValueError(f"digest has {view.len} bytes, 16 are needed")
                memcpy(&high, view.buf, 8)
                memcpy(&low, <uint8_t*>view.buf + 8, 8)
            finally:
                PyBuffer_Release(&view)
        return self.find_slot(byteswap64(high), byteswap64(low))

    def find(self, digest):
        cdef Slot* slot = self.slot_for(digest)
        if slot == NULL:
            return None
        return Location(slot.segment, slot.offset, slot.meta >> 16,
                        (FLAG_DEAD_ if slot.meta & SLOT_DEAD else 0) | (FLAG_UNREADABLE_ if slot.meta & SLOT_UNREADABLE else 0))

    def flag_unreadable(self, digest):
        cdef Slot* slot = self.slot_for(digest)
        if slot != NULL:
            slot.meta |= SLOT_UNREADABLE
        return slot != NULL

    def entries_of(self, uint32_t segment):
        cdef uint32_t i
        cdef uint64_t place
        cdef Slot* slot
        cdef list found = []
        self.check_segment(segment)
        for i in range(self.partitions):
            for place in range(self.tables[i].allocated):
                slot = &self.tables[i].slots[place]
                if slot.meta and slot.segment == segment:
                    found.append((slot.offset, digest_of(slot)))
        found.sort()
        return found

    cdef inline bint aim(self, const Slot* slot, Probe* probe) noexcept nogil:
        """Point a probe at a slot's record; False when no header fits there."""
        cdef Segment* segment = &self.segments[slot.segment]
        if slot.meta & SLOT_UNREADABLE or slot.meta >> 16 < self.doubt_below \
                or slot.offset > segment.size or segment.size - slot.offset < RECORD_HEADER:
            return False
        probe.record = segment.base + slot.offset
        probe.room = segment.size - slot.offset
        probe.salt = &segment.salt
        probe.offset = slot.offset
        return True

    def read(self, digest):
        cdef Probe probe
        cdef bytes value
        cdef uint64_t high, low
        cdef Slot* slot = self.slot_for(digest)
        if slot == NULL:
            if self.doubt_below:
                raise CorruptRecord("this key may lie in an unreadable region")
            return None
        high = byteswap64(slot.high)
        low = byteswap64(slot.low)
        memcpy(probe.digest, &high, 8)
        memcpy(probe.digest + 8, &low, 8)
        if not self.aim(slot, &probe) or guard_run(read_header, &probe) != 0 or not probe.sound:
            raise CorruptRecord(f"segment {slot.segment}, offset {slot.offset}: the record is unreadable")
        value = PyBytes_FromStringAndSize(NULL, probe.header.value_length)
        probe.target = <uint8_t*>PyBytes_AS_STRING(value)
        if guard_run(read_body, &probe) != 0 or not probe.sound:
            raise CorruptRecord(f"segment {slot.segment}, offset {slot.offset}: the record fails its check")
        return value

    def read_batch(self, Py_ssize_t count, digests, int64_t bytes_max):
        cdef Py_buffer view
        if count < 0 or count > (1 << 40):
            raise ValueError(f"count {count} is not a batch size")
        if count > self.plans_room:
            self.plans_grow(count)
        acquire(digests, &view, 16 * count, "digests")
        try:
            return self.read_planned(count, <const uint8_t*>view.buf, bytes_max)
        finally:
            PyBuffer_Release(&view)

    def read_many(self, digests):
        cdef list rows = list(digests)
        cdef Py_ssize_t count = len(rows)
        cdef Py_ssize_t i, first = 0, stop
        cdef list found = [None] * count
        cdef bytes packed = PyBytes_FromStringAndSize(NULL, 16 * count)
        cdef bytes digest, value
        cdef BatchWork work
        cdef Probe probe
        for i in range(count):
            digest = rows[i]
            if digest is None or PyBytes_GET_SIZE(digest) != 16:
                raise ValueError("digests are bytes of length 16")
            memcpy(PyBytes_AS_STRING(packed) + 16 * i, PyBytes_AS_STRING(digest), 16)
        if count > self.plans_room:
            self.plans_grow(count)
        work.plans = self.plans
        work.digests = <const uint8_t*>PyBytes_AS_STRING(packed)
        while first < count:
            stop = min(first + WINDOW, count)
            self.plan(work.digests, first, stop)
            work.first = first
            work.stop = stop
            while guard_run(read_headers, &work) != 0:
                work.plans[work.first].status = ERROR
                work.first += 1
            for i in range(first, stop):
                if work.plans[i].status == ABSENT:
                    continue
                if work.plans[i].status == ERROR:
                    raise CorruptRecord("a record is unreadable")
                value = PyBytes_FromStringAndSize(NULL, work.plans[i].value_length)
                probe.record = work.plans[i].record
                probe.target = <uint8_t*>PyBytes_AS_STRING(value)
                probe.header.name_flags = work.plans[i].name_length
                probe.header.value_length = work.plans[i].value_length
                probe.header.body_crc = work.plans[i].body_crc
                if guard_run(read_body, &probe) != 0 or not probe.sound:
                    raise CorruptRecord("a record fails its check")
                found[i] = value
            first = stop
        return found

    cdef int plans_grow(self, Py_ssize_t count) except -1:
        cdef Plan* grown = <Plan*>realloc(self.plans, count * sizeof(Plan))
        if grown == NULL:
            raise MemoryError()
        self.plans = grown
        self.plans_room = count
        return 0

    cdef void plan(self, const uint8_t* digests, Py_ssize_t first, Py_ssize_t stop) noexcept nogil:
        """Find the records of a window: first ask for all slots, then look at each and ask for all records."""
        cdef Py_ssize_t i
        cdef Plan* plan
        cdef Segment* segment
        cdef uint64_t place
        for i in range(first, stop):
            plan = &self.plans[i]
            memcpy(&plan.high, digests + 16 * i, 8)
            memcpy(&plan.low, digests + 16 * i + 8, 8)
            plan.high = byteswap64(plan.high)
            plan.low = byteswap64(plan.low)
            plan.table = self.table_of(plan.high)
            plan.value_length = 0
            if plan.table.used:
                place = home(plan.table, plan.high)
                prefetch(&plan.table.slots[place])
                prefetch(&plan.table.slots[place + 2])
                prefetch(&plan.table.slots[place + 4])
        for i in range(first, stop):
            plan = &self.plans[i]
            plan.status = ERROR if self.doubt_below else ABSENT
            if plan.table.used == 0:
                continue
            plan.slot = &plan.table.slots[seek(plan.table, plan.high, plan.low)]
            if not holds(plan.slot, plan.high, plan.low):
                continue
            segment = &self.segments[plan.slot.segment]
            plan.status = ERROR
            if plan.slot.meta & SLOT_UNREADABLE or plan.slot.meta >> 16 < self.doubt_below \
                    or plan.slot.offset > segment.size or segment.size - plan.slot.offset < RECORD_HEADER:
                continue
            plan.status = STORED
            plan.record = segment.base + plan.slot.offset
            plan.room = segment.size - plan.slot.offset
            plan.salt = &segment.salt
            plan.offset = plan.slot.offset
            prefetch(plan.record)
            prefetch(plan.record + 64)
            prefetch(plan.record + 128)

    cdef tuple read_planned(self, Py_ssize_t count, const uint8_t* digests, int64_t bytes_max):
        cdef BatchWork work
        cdef Py_ssize_t first = 0, stop, i
        cdef int64_t total = 0
        cdef bint full = False
        cdef bytearray status, offsets
        cdef bytes data
        cdef uint8_t* marks
        work.plans = self.plans
        work.digests = digests
        while first < count and not full:
            stop = min(first + WINDOW, count)
            self.plan(digests, first, stop)
            work.first = first
            work.stop = stop
            while guard_run(read_headers, &work) != 0:
                work.plans[work.first].status = ERROR
                work.first += 1
            for i in range(first, stop):
                if work.plans[i].status == STORED:
                    if total + work.plans[i].value_length > bytes_max and i > 0:
                        count = i
                        full = True
                        break
                    total += work.plans[i].value_length
            first = stop
        offsets = bytearray(8 * (count + 1))
        data = PyBytes_FromStringAndSize(NULL, total)
        work.target = <uint8_t*>PyBytes_AS_STRING(data)
        work.offsets = <int64_t*>(<char*>offsets)
        work.at = 0
        work.first = 0
        work.stop = count
        while guard_run(read_bodies, &work) != 0:
            work.plans[work.first].status = ERROR
            work.first += 1
            work.offsets[work.first] = work.at
        status = bytearray(count)
        marks = <uint8_t*>(<char*>status)
        for i in range(count):
            marks[i] = <uint8_t>work.plans[i].status
        if <int64_t>work.at < total:
            data = data[:work.at]
        return count, status, data, offsets

    def scan(self, after, stop, Py_ssize_t count, Py_ssize_t bytes_max=(1 << 30) - 1):
        cdef bytes low_bound = bytes(after)
        cdef bytes high_bound = bytes(stop)
        cdef uint64_t high = 0, low = 0, stop_high, stop_low
        cdef uint64_t partition, place
        cdef Table* table
        cdef Slot* slot
        cdef bint first = not low_bound
        cdef list found = []
        cdef tuple entry
        cdef Py_ssize_t taken = 0
        if (len(low_bound) != 16 and not first) or len(high_bound) != 16:
            raise ValueError("bounds are digests of 16 bytes; only the first may be empty")
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        if not first:
            memcpy(&high, PyBytes_AS_STRING(low_bound), 8)
            memcpy(&low, PyBytes_AS_STRING(low_bound) + 8, 8)
            high = byteswap64(high)
            low = byteswap64(low)
        memcpy(&stop_high, PyBytes_AS_STRING(high_bound), 8)
        memcpy(&stop_low, PyBytes_AS_STRING(high_bound) + 8, 8)
        stop_high = byteswap64(stop_high)
        stop_low = byteswap64(stop_low)
        partition = high >> (64 - self.bits) if self.bits else 0
        place = 0
        if self.tables[partition].used:
            place = seek(&self.tables[partition], high, low)
            if not first and holds(&self.tables[partition].slots[place], high, low):
                place += 1
        while partition < self.partitions and len(found) < count and taken < bytes_max:
            table = &self.tables[partition]
            while table.used and place < table.allocated and len(found) < count and taken < bytes_max:
                slot = &table.slots[place]
                place += 1
                if slot.meta == 0 or slot.meta & SLOT_REMOVED:
                    continue
                if slot.high > stop_high or (slot.high == stop_high and slot.low > stop_low):
                    return found
                entry = self.entry(slot)
                found.append(entry)
                if entry[4] is not None:
                    taken += PyBytes_GET_SIZE(entry[4])
            partition += 1
            place = 0
        return found

    cdef tuple entry(self, const Slot* slot):
        cdef Probe probe
        cdef bytes digest = digest_of(slot)
        cdef bytes body
        cdef uint32_t name_length
        memcpy(probe.digest, PyBytes_AS_STRING(digest), 16)
        if self.aim(slot, &probe) and guard_run(read_header, &probe) == 0 and probe.sound:
            name_length = record_name_length(&probe.header)
            body = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>name_length + probe.header.value_length)
            probe.target = <uint8_t*>PyBytes_AS_STRING(body)
            if guard_run(read_name_and_body, &probe) == 0 and probe.sound:
                return digest, probe.header.space, record_flags(&probe.header), body[:name_length], body[name_length:]
        return digest, self.spaces[slot.space].number, FLAG_DEAD_ if slot.meta & SLOT_DEAD else 0, b"", None

    # Sums

    def __len__(self):
        return self.keys_

    def bytes_used(self):
        cdef uint32_t i
        cdef uint64_t total = self.partitions * sizeof(Table) + self.segments_room * sizeof(Segment)
        for i in range(self.partitions):
            total += self.tables[i].allocated * <uint64_t>sizeof(Slot)
        return total


cdef bytes digest_of(const Slot* slot):
    cdef uint64_t halves[2]
    halves[0] = byteswap64(slot.high)
    halves[1] = byteswap64(slot.low)
    return (<uint8_t*>halves)[:16]
