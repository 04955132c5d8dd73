# The tables of the keydir: open addressing in digest order. Inline, for keydir.pyx.
#
# Slots of 32 bytes. A slot's home is the digest's bits behind those of the partition, scaled to the table's capacity, so homes rise
# with digests, and keys that collide are kept in order too: the whole table is sorted by digest, and a scan is a walk.
# Invariants: slots between a key's home and its place are all taken; no place is below its home; a run never wraps (there is
# a tail behind the last home); the last slot of the allocation is always empty.

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove, memset


cdef extern from *:
    """
    #define byteswap64(x) __builtin_bswap64(x)
    #define prefetch(p) __builtin_prefetch(p)
    /* In C because the shift is meant to drop the leading bits, which the debug build would report as an overflow. */
    static inline uint64_t scaled(uint64_t high, unsigned dropped, uint64_t range) {
        return (uint64_t)(((unsigned __int128)(high << dropped) * range) >> 64);
    }
    static inline unsigned bit_length(uint32_t x) { return x ? 32u - (unsigned)__builtin_clz(x) : 0u; }
    """
    uint64_t byteswap64(uint64_t x) nogil
    void prefetch(const void* p) nogil
    uint64_t scaled(uint64_t high, unsigned dropped, uint64_t range) nogil
    unsigned bit_length(uint32_t x) nogil

cdef enum:
    # A slot's own flags, the low four bits of `meta`.
    SLOT_DEAD = 1
    SLOT_UNREADABLE = 2
    SLOT_REMOVED = 4
    GALLOP_AFTER = 24
    CAPACITY_MIN = 8

cdef struct Slot:
    uint64_t high       # digest, first half as a big-endian number
    uint64_t low
    uint64_t meta       # sequence number 48, length class 12, flags 4; zero means empty
    uint16_t segment
    uint16_t space      # index into the spaces
    uint32_t offset

cdef struct Table:
    Slot* slots
    uint32_t capacity   # homes are 0 .. capacity - 1
    uint32_t allocated  # capacity and tail
    uint32_t used
    uint32_t bits       # leading bits of the digest that all keys of the table share


cdef inline unsigned length_class(uint32_t length) noexcept nogil:
    """Eight significant bits of a length, rounded up, in 12 bits."""
    cdef unsigned exponent, mantissa
    if length < 128:
        return length
    exponent = bit_length(length) - 8
    mantissa = <unsigned>((<uint64_t>length + ((<uint64_t>1 << exponent) - 1)) >> exponent)
    if mantissa == 256:
        mantissa = 128
        exponent += 1
    return ((exponent + 1) << 7) | (mantissa - 128)


cdef inline int64_t class_bytes(unsigned code) noexcept nogil:
    if code < 128:
        return code
    return <int64_t>(128 + (code & 127)) << ((code >> 7) - 1)


cdef inline int64_t slot_bytes(const Slot* slot) noexcept nogil:
    return class_bytes((slot.meta >> 4) & 0xfff)


cdef inline bint below(const Slot* slot, uint64_t high, uint64_t low) noexcept nogil:
    """Whether a slot is taken by a smaller digest."""
    return slot.meta != 0 and (slot.high < high or (slot.high == high and slot.low < low))


cdef inline bint holds(const Slot* slot, uint64_t high, uint64_t low) noexcept nogil:
    return slot.meta != 0 and slot.high == high and slot.low == low


cdef inline uint64_t home(const Table* table, uint64_t high) noexcept nogil:
    return scaled(high, table.bits, table.capacity)

cdef inline uint64_t seek(const Table* table, uint64_t high, uint64_t low) noexcept nogil:
    """First place, from the key's home on, that is empty or whose digest is not smaller. The table is not empty."""
    cdef uint64_t place = home(table, high)
    cdef uint64_t start = place
    cdef uint64_t step, ahead, middle
    while below(&table.slots[place], high, low):
        place += 1
        if place - start == GALLOP_AFTER:
            break
    else:
        return place
    # A long run means digests that are not evenly spread. The places from home on are "smaller" up to the answer and
    # not afterwards (empty counts as not smaller, and behind an empty place all are greater): bisect.
    step = GALLOP_AFTER
    ahead = place
    while ahead < table.allocated and below(&table.slots[ahead], high, low):
        place = ahead + 1
        ahead += step
        step *= 2
    if ahead >= table.allocated:
        ahead = table.allocated - 1
    while place < ahead:
        middle = (place + ahead) >> 1
        if below(&table.slots[middle], high, low):
            place = middle + 1
        else:
            ahead = middle
    return place

cdef inline int rebuild(Table* table, uint64_t capacity, uint64_t tail) except -1:
    """Move a table to a new allocation; the tail is made longer until all fit."""
    cdef uint64_t place, target
    cdef Slot* slots
    cdef Table made
    if capacity > 0xf0000000u:
        raise MemoryError("a partition has too many keys")
    while True:
        slots = <Slot*>calloc(capacity + tail, sizeof(Slot))
        if slots == NULL:
            raise MemoryError()
        made.slots = slots
        made.bits = table.bits
        made.capacity = <uint32_t>capacity
        made.allocated = <uint32_t>(capacity + tail)
        target = 0
        for place in range(table.allocated):
            if table.slots[place].meta:
                target = max(target, home(&made, table.slots[place].high))
                if target >= made.allocated - 1:
                    break
                slots[target] = table.slots[place]
                target += 1
        else:
            break
        free(slots)
        tail += tail
    made.used = table.used
    free(table.slots)
    table[0] = made
    return 0

cdef inline Slot* insert(Table* table, uint64_t high, uint64_t low) except NULL:
    """An empty slot in its right place for a digest that is not there; counts and fields are the caller's."""
    cdef uint64_t place, gap
    # Nine tenths full at most, an eighth more at a time: 36 to 41 bytes a key.
    if (<uint64_t>table.used + 1) * 10 > <uint64_t>table.capacity * 9:
        rebuild(table, max(CAPACITY_MIN, table.capacity + (table.capacity >> 3) + 1), 4 + (table.capacity >> 6))
    while True:
        place = seek(table, high, low)
        gap = place
        while table.slots[gap].meta:
            gap += 1
        if gap < table.allocated - 1:
            break
        rebuild(table, table.capacity, 2 * (table.allocated - table.capacity) + 4)
    memmove(&table.slots[place + 1], &table.slots[place], (gap - place) * sizeof(Slot))
    table.used += 1
    return &table.slots[place]

cdef inline void close_gap(Table* table, uint64_t place) noexcept nogil:
    """Empty a slot and move back those behind it that are not at home."""
    cdef uint64_t stop = place + 1
    while table.slots[stop].meta and home(table, table.slots[stop].high) < stop:
        stop += 1
    memmove(&table.slots[place], &table.slots[place + 1], (stop - place - 1) * sizeof(Slot))
    memset(&table.slots[stop - 1], 0, sizeof(Slot))
    table.used -= 1
