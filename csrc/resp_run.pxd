# Loops over a run of operations in arrays: their replies, and their order within a batch. Inline, for resp.pyx.

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint64_t
from libc.string cimport memcpy

ctypedef const unsigned char* Text

cdef enum:
    KIND_GET = 0
    KIND_SET = 1
    STATUS_OK = 0
    STATUS_NOTHING = 1


cdef extern from *:
    """
    /* Multiply and shift, in C because it wraps. The factor comes from where stack and heap lie in this process: a client cannot
       know it, so it cannot send keys that meet in one slot (2**11 hashes for each would do). The links do not depend on it. */
    #define slot_factor(table, previous) \\
        ((((uint64_t)(uintptr_t)(table) << 20) ^ (uint64_t)(uintptr_t)(previous)) * 0x9E3779B97F4A7C15u | 1)
    #define slot_of(low, factor, shift) ((Py_ssize_t)((low) * (factor) >> (shift)))
    """
    uint64_t slot_factor(void* table, void* previous) noexcept nogil
    Py_ssize_t slot_of(uint64_t low, uint64_t factor, int shift) noexcept nogil


cdef inline void put_int64(unsigned char* array, Py_ssize_t index, int64_t value) noexcept nogil:
    memcpy(array + 8 * index, &value, 8)


cdef inline int64_t get_int64(Text array, Py_ssize_t index) noexcept nogil:
    cdef int64_t value
    memcpy(&value, array + 8 * index, 8)
    return value


cdef inline int digits(uint64_t number) noexcept nogil:
    cdef int count = 1
    while number >= 10:
        number //= 10
        count += 1
    return count


cdef inline unsigned char* put_number(unsigned char* out, uint64_t number, int count) noexcept nogil:
    """Write `count` decimal digits and CRLF; gives what follows."""
    cdef unsigned char* digit = out + count
    while digit > out:
        digit -= 1
        digit[0] = <unsigned char>(48 + number % 10)
        number //= 10
    out[count] = 13
    out[count + 1] = 10
    return out + count + 2


cdef inline unsigned char* put_bulk(unsigned char* out, Text value, Py_ssize_t length) noexcept nogil:
    out[0] = c'$'
    out = put_number(out + 1, length, digits(length))
    if length:
        memcpy(out, value, length)
    out[length] = 13
    out[length + 1] = 10
    return out + length + 2


cdef inline Py_ssize_t run_bytes(
    Py_ssize_t first, Py_ssize_t stop, Text kinds, Text status, Py_ssize_t available, Text starts, Text lengths, Py_ssize_t nil_bytes
) noexcept nogil:
    """Text of a run's replies; -1 for a status or kind that has none here, -2 for a slice out of bounds."""
    cdef Py_ssize_t total = 0, i
    cdef int64_t length, start
    for i in range(first, stop):
        if status[i] == STATUS_OK:
            if kinds[i] == KIND_SET:
                total += 5
            elif kinds[i] == KIND_GET:
                start = get_int64(starts, i)
                length = get_int64(lengths, i)
                if start < 0 or length < 0 or start > available or length > available - start:
                    return -2
                if length > INT64_MAX // 2 - total:
                    return -2
                total += 1 + digits(length) + 2 + length + 2
            else:
                return -1
        elif status[i] == STATUS_NOTHING and kinds[i] == KIND_GET:
            total += nil_bytes
        else:
            return -1
    return total


cdef inline void write_run(
    Py_ssize_t first, Py_ssize_t stop, Text kinds, Text status, Text values, Text starts, Text lengths, bint resp3, unsigned char* out
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(first, stop):
        if status[i] == STATUS_NOTHING:
            if resp3:
                memcpy(out, b"_\r\n", 3)
                out += 3
            else:
                memcpy(out, b"$-1\r\n", 5)
                out += 5
        elif kinds[i] == KIND_SET:
            memcpy(out, b"+OK\r\n", 5)
            out += 5
        else:
            out = put_bulk(out, values + get_int64(starts, i), get_int64(lengths, i))


cdef inline void link(
    Py_ssize_t count, Text kinds, Text digests, unsigned char* previous, int32_t* table, int slot_bits
) noexcept nogil:
    """Linear probing in 2**slot_bits slots; each holds the index of the latest SET of its digest, or -1."""
    cdef Py_ssize_t i, slot, mask = (<Py_ssize_t>1 << slot_bits) - 1
    cdef uint64_t factor = slot_factor(table, previous)
    cdef uint64_t high, low, other_high, other_low
    cdef int32_t found
    for i in range(count):
        memcpy(&high, digests + 16 * i, 8)
        memcpy(&low, digests + 16 * i + 8, 8)
        # The high half is the ring token: the keys of one partition share its first bits.
        slot = slot_of(low, factor, 64 - slot_bits)
        while True:
            found = table[slot]
            if found < 0:
                break
            memcpy(&other_low, digests + 16 * <Py_ssize_t>found + 8, 8)
            if other_low == low:
                memcpy(&other_high, digests + 16 * <Py_ssize_t>found, 8)
                if other_high == high:
                    break
            slot = (slot + 1) & mask
        memcpy(previous + 4 * i, &found, 4)
        if kinds[i] == KIND_SET:
            table[slot] = <int32_t>i


cdef inline Py_ssize_t count_sets(Py_ssize_t count, Text kinds) noexcept nogil:
    """How many are SET; -1 when one is neither SET nor GET."""
    cdef Py_ssize_t sets = 0, i
    cdef unsigned char strange = 0
    for i in range(count):
        sets += kinds[i] == KIND_SET
        strange |= kinds[i]
    return -1 if strange > KIND_SET else sets
