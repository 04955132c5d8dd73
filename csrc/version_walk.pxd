# Walks over version sets: everything that reads entries and heads in order and builds nothing.

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from version_set cimport (
    ENTRY_BYTES,
    FLAG_TOMBSTONE,
    HEAD_BYTES,
    Set,
    actor_of,
    body_bytes,
    expires_of,
    flags_of,
    load64,
    stamp_of,
)


cdef inline bint is_live(const uint8_t* head, int64_t now_ms) noexcept nogil:
    return not flags_of(head) & FLAG_TOMBSTONE and (expires_of(head) == -1 or expires_of(head) > now_ms)


cdef inline const uint8_t* newest_head(
    Set* source, uint64_t floor, Py_ssize_t* body_start
) noexcept nogil:
    """Head of the newest value above `floor` by (stamp, actor), or NULL; its body begins at `bodies + body_start`."""
    cdef Py_ssize_t i, offset = 0
    cdef uint64_t best = floor
    cdef const uint8_t* head = source.heads
    cdef const uint8_t* found = NULL
    for i in range(source.value_count):
        # Actors ascend, so on equal stamps the later one is the greater.
        if stamp_of(head) > floor and stamp_of(head) >= best:
            best = stamp_of(head)
            found = head
            body_start[0] = offset
        offset += body_bytes(head)
        head += HEAD_BYTES
    return found


cdef inline Py_ssize_t unite(
    const uint8_t* left, Py_ssize_t left_count, const uint8_t* right, Py_ssize_t right_count, uint8_t* out
) noexcept nogil:
    """Entries known to either side, the greater stamp of each; returns how many. `out=NULL` only counts."""
    cdef const uint8_t* left_stop = left + left_count * ENTRY_BYTES
    cdef const uint8_t* right_stop = right + right_count * ENTRY_BYTES
    cdef const uint8_t* taken
    cdef Py_ssize_t count = 0
    while left < left_stop or right < right_stop:
        if right == right_stop or (left < left_stop and actor_of(left) < actor_of(right)):
            taken = left
            left += ENTRY_BYTES
        elif left == left_stop or actor_of(right) < actor_of(left):
            taken = right
            right += ENTRY_BYTES
        else:
            taken = left if stamp_of(left) >= stamp_of(right) else right
            left += ENTRY_BYTES
            right += ENTRY_BYTES
        if out != NULL:
            memcpy(out + count * ENTRY_BYTES, taken, ENTRY_BYTES)
        count += 1
    return count


cdef inline uint64_t seen_by(
    const uint8_t* entries, Py_ssize_t count, Py_ssize_t* cursor, uint64_t actor
) noexcept nogil:
    """Stamp up to which `actor` is known, 0 for never heard of; actors asked for must ascend."""
    while cursor[0] < count and actor_of(entries + cursor[0] * ENTRY_BYTES) < actor:
        cursor[0] += 1
    if cursor[0] < count and actor_of(entries + cursor[0] * ENTRY_BYTES) == actor:
        return stamp_of(entries + cursor[0] * ENTRY_BYTES)
    return 0


cdef inline Py_ssize_t mark_uncovered(
    Set* source, const uint8_t* covers, Py_ssize_t cover_count, uint8_t* keep
) noexcept nogil:
    """Mark the values that `covers` has not seen; returns how many."""
    cdef Py_ssize_t i, kept = 0, cursor = 0
    cdef const uint8_t* head = source.heads
    for i in range(source.value_count):
        keep[i] = stamp_of(head) > seen_by(covers, cover_count, &cursor, actor_of(head))
        kept += keep[i]
        head += HEAD_BYTES
    return kept


cdef inline uint64_t greatest_stamp(const uint8_t* entries, Py_ssize_t count) noexcept nogil:
    cdef uint64_t greatest = 0
    cdef Py_ssize_t i
    for i in range(count):
        if stamp_of(entries + i * ENTRY_BYTES) > greatest:
            greatest = stamp_of(entries + i * ENTRY_BYTES)
    return greatest


cdef struct Walk:
    # What a merge keeps, and whether each side already is the result.
    Py_ssize_t value_count
    Py_ssize_t body_total
    bint left_differs
    bint right_differs


cdef inline bint is_below(Set* left, Set* right) noexcept nogil:
    """True when `right` has heard of everything that `left` has."""
    cdef Py_ssize_t i, cursor = 0
    cdef const uint8_t* entry = left.entries
    if left.entry_count > right.entry_count:
        return False
    for i in range(left.entry_count):
        if seen_by(right.entries, right.entry_count, &cursor, actor_of(entry)) < stamp_of(entry):
            return False
        entry += ENTRY_BYTES
    return True


cdef inline void walk_values(Set* left, Set* right, Walk* walk, uint8_t* out_head, uint8_t* out_body) noexcept nogil:
    """Visit both sides' values in order and keep those the merge keeps; `out_head=NULL` only counts."""
    cdef Py_ssize_t i = 0, j = 0, left_cursor = 0, right_cursor = 0
    cdef const uint8_t* left_head = left.heads
    cdef const uint8_t* right_head = right.heads
    cdef const uint8_t* left_body = left.bodies
    cdef const uint8_t* right_body = right.bodies
    cdef const uint8_t* head
    cdef const uint8_t* body
    cdef uint64_t left_actor, right_actor
    cdef int order, content
    while i < left.value_count or j < right.value_count:
        if j == right.value_count:
            order = -1
        elif i == left.value_count:
            order = 1
        else:
            left_actor = actor_of(left_head)
            right_actor = actor_of(right_head)
            order = (left_actor > right_actor) - (left_actor < right_actor)
            if order == 0:
                order = (stamp_of(left_head) > stamp_of(right_head)) - (stamp_of(left_head) < stamp_of(right_head))
        head = NULL
        if order < 0:
            if stamp_of(left_head) > seen_by(right.entries, right.entry_count, &right_cursor, actor_of(left_head)):
                head = left_head
                body = left_body
                walk.right_differs = True
            else:
                walk.left_differs = True
        elif order > 0:
            if stamp_of(right_head) > seen_by(left.entries, left.entry_count, &left_cursor, actor_of(right_head)):
                head = right_head
                body = right_body
                walk.left_differs = True
            else:
                walk.right_differs = True
        else:
            # One dot, one value; should two ever meet, all replicas must still choose alike.
            content = memcmp(left_head, right_head, HEAD_BYTES)
            if content == 0:
                content = memcmp(left_body, right_body, body_bytes(left_head))
            if content < 0:
                walk.left_differs = True
            elif content > 0:
                walk.right_differs = True
            head = left_head if content >= 0 else right_head
            body = left_body if content >= 0 else right_body
        if head != NULL:
            if out_head != NULL:
                memcpy(out_head, head, HEAD_BYTES)
                memcpy(out_body, body, body_bytes(head))
                out_head += HEAD_BYTES
                out_body += body_bytes(head)
            walk.value_count += 1
            walk.body_total += body_bytes(head)
        if order <= 0:
            left_body += body_bytes(left_head)
            left_head += HEAD_BYTES
            i += 1
        if order >= 0:
            right_body += body_bytes(right_head)
            right_head += HEAD_BYTES
            j += 1


@cython.overflowcheck(False)
cdef inline uint64_t mix(uint64_t word) noexcept nogil:
    """A bijection in which each input bit moves each output bit (splitmix64's last steps)."""
    word ^= word >> 30
    word *= <uint64_t>0xBF58476D1CE4E5B9
    word ^= word >> 27
    word *= <uint64_t>0x94D049BB133111EB
    return word ^ (word >> 31)


@cython.overflowcheck(False)
cdef inline uint64_t fingerprint_of(const uint8_t* digest, Set* source) noexcept nogil:
    cdef uint64_t state = mix(load64(digest) + <uint64_t>0x9E3779B97F4A7C15)
    cdef Py_ssize_t i
    if source.value_count == 0:
        return 0
    state = mix((state ^ load64(digest + 8)) + <uint64_t>0x9E3779B97F4A7C15)
    for i in range(source.value_count):
        state = mix((state ^ actor_of(source.heads + i * HEAD_BYTES)) + <uint64_t>0x9E3779B97F4A7C15)
        state = mix((state ^ stamp_of(source.heads + i * HEAD_BYTES)) + <uint64_t>0x9E3779B97F4A7C15)
    return state if state else 1
