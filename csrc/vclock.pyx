# Vector clocks as sorted C arrays; contract in sadik/kernels/native/vclock.pyi.
#
# The first 64 bits of an actor decide nearly every comparison, and equal names are mostly the same object, so a merge rarely
# looks into a string. Pairs hold their names as counted pointers: strs are never part of a cycle, so the class needs
# no garbage collection.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.number cimport PyNumber_Index
from cpython.object cimport Py_EQ, Py_GE, Py_LE, Py_LT, Py_NE, PyObject, PyObject_Hash
from cpython.ref cimport Py_INCREF, Py_XDECREF, Py_XINCREF
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from buffers cimport PyBuffer_Release, acquire

from typing import Literal

from sadik.errors import CorruptRecord, InvalidRequest

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    bint PyUnicode_CheckExact(object text)
    object PyUnicode_DecodeUTF8(const char* text, Py_ssize_t size, const char* errors)

Actor = int | str
Order = Literal["before", "after", "equal", "concurrent"]

PAIRS_MAX = 10

cdef enum:
    VERSION = 1
    HEADER_BYTES = 5
    PAIR_HEAD_BYTES = 17
    KIND_INT = 0
    KIND_STR = 1
    NAME_BYTES_MAX = 65535

# Results of `relation`, as bits: what one side has and the other has not.
cdef enum:
    LEFT_MORE = 1
    RIGHT_MORE = 2

cdef tuple ORDER_NAMES = ("equal", "after", "before", "concurrent")


cdef struct Pair:
    uint64_t order       # an int actor, or the first 8 bytes of a name, big-endian
    PyObject* name       # the name, counted; NULL for an int
    uint64_t counter
    int64_t time_ms


cdef const char* text_of(const Pair* pair, Py_ssize_t* size) noexcept:
    # The UTF-8 form was made, and is kept by the str, since the pair was.
    try:
        return PyUnicode_AsUTF8AndSize(<object>pair.name, size)
    except BaseException:
        size[0] = 0
        return b""


cdef int order_of_names(const Pair* left, const Pair* right) noexcept:
    cdef Py_ssize_t left_size, right_size
    cdef const char* left_text = text_of(left, &left_size)
    cdef const char* right_text = text_of(right, &right_size)
    cdef int order = memcmp(left_text, right_text, min(left_size, right_size))
    if order == 0:
        order = (left_size > right_size) - (left_size < right_size)
    return order


cdef inline int order_of(const Pair* left, const Pair* right) noexcept:
    """Below, at or above 0: ints first, then by number or code points."""
    if left.name == right.name:
        return (left.order > right.order) - (left.order < right.order)
    if left.name == NULL or right.name == NULL:
        return -1 if left.name == NULL else 1
    if left.order != right.order:
        return -1 if left.order < right.order else 1
    return order_of_names(left, right)


cdef int set_actor(Pair* pair, object actor) except -1:
    """Fill the actor of `pair` and count its name."""
    cdef Py_ssize_t size, i
    cdef const uint8_t* text
    pair.name = NULL
    pair.order = 0
    if isinstance(actor, str):
        if not PyUnicode_CheckExact(actor):
            actor = str.__str__(actor)
        try:
            text = <const uint8_t*>PyUnicode_AsUTF8AndSize(actor, &size)
        except UnicodeEncodeError:
            raise InvalidRequest("an actor's name cannot be encoded as UTF-8") from None
        if size > NAME_BYTES_MAX:
            raise InvalidRequest(f"an actor's name is longer than {NAME_BYTES_MAX} bytes")
        for i in range(8):
            pair.order = pair.order << 8 | (text[i] if i < size else 0)
        Py_INCREF(actor)
        pair.name = <PyObject*>actor
        return 0
    if not isinstance(actor, int):
        raise TypeError(f"an actor is an int or a str, not {type(actor).__name__}")
    try:
        pair.order = <uint64_t>actor
    except OverflowError:
        raise InvalidRequest("an actor must be 0 to 2**64 - 1") from None
    return 0


cdef uint64_t as_counter(object number) except? 0:
    try:
        return <uint64_t>PyNumber_Index(number)
    except OverflowError:
        raise InvalidRequest("a counter must be 0 to 2**64 - 1") from None


cdef int64_t as_time(object number) except -1:
    cdef int64_t time_ms
    try:
        time_ms = <int64_t>PyNumber_Index(number)
    except OverflowError:
        raise InvalidRequest("a time must be 0 to 2**63 - 1 milliseconds") from None
    if time_ms < 0:
        raise InvalidRequest("a time must be 0 to 2**63 - 1 milliseconds")
    return time_ms


def actor_rank(triple):
    return isinstance(triple[0], str), triple[0]


cdef inline object actor_at(const Pair* pair):
    return <object>pair.name if pair.name != NULL else pair.order


cdef inline VectorClock new_clock(Py_ssize_t capacity):
    """An empty clock with room for `capacity` pairs."""
    cdef VectorClock clock = VectorClock.__new__(VectorClock)
    clock.room(capacity)
    return clock


@cython.final
@cython.freelist(64)
cdef class VectorClock:
    cdef Pair* pairs_at
    cdef Py_ssize_t count

    def __init__(self, counters=(), now_ms=0):
        cdef int64_t time_ms = as_time(now_ms)
        if self.pairs_at != NULL:
            raise TypeError("a VectorClock is immutable")
        if counters:
            self.fill([(actor, counter, time_ms) for actor, counter in counters.items()])

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            Py_XDECREF(self.pairs_at[i].name)
        PyMem_Free(self.pairs_at)

    cdef inline int room(self, Py_ssize_t capacity) except -1:
        self.pairs_at = <Pair*>PyMem_Malloc(capacity * sizeof(Pair))
        if self.pairs_at == NULL:
            raise MemoryError
        return 0

    cdef inline void take(self, const Pair* pair) noexcept:
        """Append a copy of a pair; the caller made room."""
        Py_XINCREF(pair.name)
        self.pairs_at[self.count] = pair[0]
        self.count += 1

    cdef int fill(self, list triples) except -1:
        cdef Py_ssize_t i
        cdef Pair pair
        triples.sort(key=actor_rank)
        self.room(len(triples))
        for actor, counter, time_ms in triples:
            pair.counter = as_counter(counter)
            pair.time_ms = as_time(time_ms)
            set_actor(&pair, actor)
            if pair.counter == 0:
                Py_XDECREF(pair.name)
                continue
            self.pairs_at[self.count] = pair
            self.count += 1
        for i in range(1, self.count):
            if order_of(&self.pairs_at[i - 1], &self.pairs_at[i]) >= 0:
                raise InvalidRequest("an actor occurs twice")
        return 0

    cdef Py_ssize_t place(self, const Pair* key, bint* found) noexcept:
        """Where `key` is, or belongs; clocks are short, so a scan beats bisection."""
        cdef Py_ssize_t i
        cdef int order
        found[0] = False
        for i in range(self.count):
            order = order_of(&self.pairs_at[i], key)
            if order >= 0:
                found[0] = order == 0
                return i
        return self.count

    cdef int relation(self, VectorClock other) noexcept:
        """LEFT_MORE and RIGHT_MORE as they apply, by counters."""
        cdef const Pair* left = self.pairs_at
        cdef const Pair* right = other.pairs_at
        cdef const Pair* left_stop = left + self.count
        cdef const Pair* right_stop = right + other.count
        cdef int order, result = 0
        while left < left_stop and right < right_stop and result != LEFT_MORE | RIGHT_MORE:
            order = order_of(left, right)
            if order < 0:
                result |= LEFT_MORE
            elif order > 0:
                result |= RIGHT_MORE
            elif left.counter != right.counter:
                result |= LEFT_MORE if left.counter > right.counter else RIGHT_MORE
            left += order <= 0
            right += order >= 0
        if left < left_stop:
            result |= LEFT_MORE
        if right < right_stop:
            result |= RIGHT_MORE
        return result

    @staticmethod
    def from_pairs(pairs):
        cdef VectorClock clock = VectorClock.__new__(VectorClock)
        clock.fill(list(pairs))
        return clock

    @staticmethod
    def decode(data):
        return decode(data)

    def increment(self, actor, now_ms=0):
        cdef Pair key
        cdef Py_ssize_t i, at
        cdef bint found
        cdef VectorClock clock
        key.counter = 1
        key.time_ms = as_time(now_ms)
        set_actor(&key, actor)
        try:
            at = self.place(&key, &found)
            if found and self.pairs_at[at].counter == UINT64_MAX:
                raise InvalidRequest("the counter has reached its greatest value")
            clock = new_clock(self.count + 1)
            for i in range(at):
                clock.take(&self.pairs_at[i])
            clock.take(&self.pairs_at[at] if found else &key)
            if found:
                clock.pairs_at[at].counter += 1
                clock.pairs_at[at].time_ms = max(key.time_ms, clock.pairs_at[at].time_ms)
            for i in range(at + found, self.count):
                clock.take(&self.pairs_at[i])
            return clock
        finally:
            Py_XDECREF(key.name)

    def merge(self, VectorClock other not None):
        cdef VectorClock clock
        cdef const Pair* left = self.pairs_at
        cdef const Pair* right = other.pairs_at
        cdef const Pair* left_stop = left + self.count
        cdef const Pair* right_stop = right + other.count
        cdef bint left_lacks = False, right_lacks = False, right_wins
        cdef int order
        if self is other or other.count == 0:
            return self
        if self.count == 0:
            return other
        clock = new_clock(self.count + other.count)
        while left < left_stop and right < right_stop:
            order = order_of(left, right)
            if order < 0:
                right_lacks = True
                clock.take(left)
                left += 1
            elif order > 0:
                left_lacks = True
                clock.take(right)
                right += 1
            else:
                right_wins = right.counter > left.counter or (
                    right.counter == left.counter and right.time_ms > left.time_ms
                )
                left_lacks |= right_wins
                right_lacks |= not right_wins and (left.counter != right.counter or left.time_ms != right.time_ms)
                clock.take(right if right_wins else left)
                left += 1
                right += 1
        if left < left_stop:
            right_lacks = True
        while left < left_stop:
            clock.take(left)
            left += 1
        if right < right_stop:
            left_lacks = True
        while right < right_stop:
            clock.take(right)
            right += 1
        if not left_lacks:
            return self
        return clock if right_lacks else other

    def compare(self, VectorClock other not None):
        return ORDER_NAMES[self.relation(other)]

    def descends(self, VectorClock other not None):
        return not self.relation(other) & RIGHT_MORE

    def truncate(self, Py_ssize_t pairs_max=10):
        cdef VectorClock clock
        cdef Py_ssize_t i, oldest
        if pairs_max < 1:
            raise InvalidRequest("pairs_max must be at least 1")
        if self.count <= pairs_max:
            return self
        clock = new_clock(self.count)
        for i in range(self.count):
            clock.take(&self.pairs_at[i])
        while clock.count > pairs_max:
            oldest = 0
            for i in range(1, clock.count):
                if clock.pairs_at[i].time_ms < clock.pairs_at[oldest].time_ms:
                    oldest = i
            Py_XDECREF(clock.pairs_at[oldest].name)
            clock.count -= 1
            for i in range(oldest, clock.count):
                clock.pairs_at[i] = clock.pairs_at[i + 1]
        return clock

    def counter(self, actor):
        cdef Pair key
        cdef Py_ssize_t at
        cdef bint found
        set_actor(&key, actor)
        at = self.place(&key, &found)
        Py_XDECREF(key.name)
        return self.pairs_at[at].counter if found else 0

    def items(self):
        cdef Py_ssize_t i
        return tuple([(actor_at(&self.pairs_at[i]), self.pairs_at[i].counter) for i in range(self.count)])

    def pairs(self):
        cdef Py_ssize_t i
        cdef list triples = []
        for i in range(self.count):
            triples.append((actor_at(&self.pairs_at[i]), self.pairs_at[i].counter, self.pairs_at[i].time_ms))
        return tuple(triples)

    def encode(self):
        cdef Py_ssize_t i, size, total = HEADER_BYTES
        cdef const char* text
        cdef Pair* pair
        cdef bytes result
        cdef uint8_t* out
        cdef uint32_t count = <uint32_t>self.count
        cdef uint16_t length
        for i in range(self.count):
            total += PAIR_HEAD_BYTES
            if self.pairs_at[i].name == NULL:
                total += 8
            else:
                text_of(&self.pairs_at[i], &size)
                total += 2 + size
        result = PyBytes_FromStringAndSize(NULL, total)
        out = <uint8_t*>PyBytes_AS_STRING(result)
        out[0] = VERSION
        memcpy(out + 1, &count, 4)
        out += HEADER_BYTES
        for i in range(self.count):
            pair = &self.pairs_at[i]
            memcpy(out, &pair.counter, 8)
            memcpy(out + 8, &pair.time_ms, 8)
            out[16] = KIND_INT if pair.name == NULL else KIND_STR
            out += PAIR_HEAD_BYTES
            if pair.name == NULL:
                memcpy(out, &pair.order, 8)
                out += 8
            else:
                text = text_of(pair, &size)
                length = <uint16_t>size
                memcpy(out, &length, 2)
                memcpy(out + 2, text, size)
                out += 2 + size
        return result

    def __len__(self):
        return self.count

    def __contains__(self, actor):
        return isinstance(actor, (int, str)) and self.counter(actor) > 0

    def __iter__(self):
        return iter([actor for actor, _ in self.items()])

    @cython.overflowcheck(False)
    def __hash__(self):
        cdef uint64_t state = 0x9E3779B97F4A7C15
        cdef Py_ssize_t i
        cdef Pair* pair
        for i in range(self.count):
            pair = &self.pairs_at[i]
            state ^= pair.order if pair.name == NULL else <uint64_t>PyObject_Hash(<object>pair.name)
            state = (state ^ (state >> 32)) * <uint64_t>0xD6E8FEB86659FD93
            state = (state ^ (state >> 32) ^ pair.counter) * <uint64_t>0xD6E8FEB86659FD93
        return <Py_hash_t>(state ^ (state >> 32))

    def __richcmp__(self, other, int operation):
        cdef int relation
        if not isinstance(other, VectorClock):
            return NotImplemented
        relation = self.relation(<VectorClock>other)
        if operation == Py_EQ:
            return relation == 0
        if operation == Py_NE:
            return relation != 0
        if operation == Py_LE:
            return not relation & LEFT_MORE
        if operation == Py_LT:
            return relation == RIGHT_MORE
        if operation == Py_GE:
            return not relation & RIGHT_MORE
        return relation == LEFT_MORE

    def __or__(self, other):
        if not isinstance(self, VectorClock) or not isinstance(other, VectorClock):
            return NotImplemented
        return (<VectorClock>self).merge(<VectorClock>other)

    def __repr__(self):
        return f"VectorClock({dict(self.items())!r})"

    def __reduce__(self):
        return decode, (self.encode(),)


def decode(data):
    cdef Py_buffer view
    acquire(data, &view, 0, "data")
    try:
        return decode_from(<const uint8_t*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef VectorClock decode_from(const uint8_t* data, Py_ssize_t length):
    cdef uint32_t count, i
    cdef uint16_t size
    cdef Py_ssize_t at = HEADER_BYTES
    cdef VectorClock clock
    cdef Pair pair
    if length < HEADER_BYTES or data[0] != VERSION:
        raise CorruptRecord("not a vector clock: its header is not that of a clock of this format")
    memcpy(&count, data + 1, 4)
    # A pair takes 19 bytes at least: a false count is found out before memory is taken for it.
    if count > (length - HEADER_BYTES) // (PAIR_HEAD_BYTES + 2):
        raise CorruptRecord("not a vector clock: it is shorter than it declares")
    clock = new_clock(count)
    for i in range(count):
        if length - at < PAIR_HEAD_BYTES + 2:
            raise CorruptRecord("not a vector clock: it is shorter than it declares")
        memcpy(&pair.counter, data + at, 8)
        memcpy(&pair.time_ms, data + at + 8, 8)
        if pair.counter == 0 or pair.time_ms < 0 or data[at + 16] > KIND_STR:
            raise CorruptRecord("not a vector clock: it holds a pair with impossible fields")
        at += PAIR_HEAD_BYTES
        if data[at - 1] == KIND_INT:
            if length - at < 8:
                raise CorruptRecord("not a vector clock: it is shorter than it declares")
            memcpy(&pair.order, data + at, 8)
            pair.name = NULL
            at += 8
        else:
            memcpy(&size, data + at, 2)
            at += 2
            if length - at < size:
                raise CorruptRecord("not a vector clock: it is shorter than it declares")
            try:
                name = PyUnicode_DecodeUTF8(<const char*>data + at, size, NULL)
            except UnicodeDecodeError:
                raise CorruptRecord("not a vector clock: a name is not UTF-8") from None
            set_actor(&pair, name)
            at += size
        clock.pairs_at[clock.count] = pair
        clock.count += 1
        if i and order_of(&clock.pairs_at[i - 1], &clock.pairs_at[i]) >= 0:
            raise CorruptRecord("not a vector clock: its pairs are not in order")
    if at != length:
        raise CorruptRecord("not a vector clock: it is longer than it declares")
    return clock
