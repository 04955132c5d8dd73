# The address hash. All arithmetic is in blake3.h; here are the doors: buffers, bounds, names.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from buffers cimport Py_buffer, PyBuffer_Release, acquire, acquire_writable

from sadik.errors import InvalidRequest

cdef extern from "blake3.h" nogil:
    int B3_PORTABLE, B3_SSE41, B3_AVX2, B3_CHUNK, B3_DIGEST, B3_WAYS
    int b3_path
    int b3_path_best()
    void b3_digest(const uint8_t* data, size_t length, uint8_t* out)
    uint32_t b3_blocks(size_t length)
    void b3_lanes8(
        const uint8_t** inputs, const uint32_t* lengths, uint32_t blocks, const uint8_t* stop, uint8_t** outs
    )

cdef extern from *:
    """
    #define swap_bytes64(word) __builtin_bswap64(word)
    """
    uint64_t swap_bytes64(uint64_t word) nogil

cdef enum:
    BUCKET_MAX = 255
    KEY_MAX = 65535
    # Names up to this length are put together on the stack.
    STACK_NAME = 1024
    # A chunk has 16 blocks; inputs wait for company of their own number of blocks.
    BLOCKS_MAX = 16
    # Fewer inputs than this are faster one at a time than in eight lanes, most of them idle.
    LANES_MIN = 3

cdef Py_ssize_t COUNT_MAX = <Py_ssize_t>1 << 48
# No slice was bad; any index from 0 on is the first bad one.
cdef Py_ssize_t NONE_BAD = -1

DIGEST_BYTES = 16
cdef dict path_names = {B3_AVX2: "avx2", B3_SSE41: "sse4.1", B3_PORTABLE: "portable"}
b3_path = b3_path_best()
PATHS = tuple(name for number, name in path_names.items() if number <= b3_path)


def use_path(str name not None):
    global b3_path
    if name not in PATHS:
        raise ValueError(f"this processor has no code path {name!r}, only {', '.join(PATHS)}")
    for number, known in path_names.items():
        if known == name:
            b3_path = number


cdef inline bytes digest_of(const uint8_t* data, Py_ssize_t length):
    cdef bytes out = PyBytes_FromStringAndSize(NULL, B3_DIGEST)
    b3_digest(data, <size_t>length, <uint8_t*>PyBytes_AS_STRING(out))
    return out


def digest(data, /):
    cdef Py_buffer view
    # The common argument by far, and its buffer costs 40 ns to get and give back.
    if type(data) is bytes:
        return digest_of(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    acquire(data, &view, 0, "data")
    try:
        return digest_of(<const uint8_t*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef inline int64_t item(const char* array, Py_ssize_t index) noexcept nogil:
    # Copied, not dereferenced: a caller's slice of a buffer need not be aligned.
    cdef int64_t value
    memcpy(&value, array + 8 * index, 8)
    return value


cdef struct Lanes:
    int waiting
    uint32_t lengths[8]
    const uint8_t* inputs[8]
    uint8_t* outs[8]


cdef void finish(Lanes* lanes, uint32_t blocks, const uint8_t* stop) noexcept nogil:
    cdef uint8_t spare[16]
    cdef int lane
    if lanes.waiting < LANES_MIN:
        for lane in range(lanes.waiting):
            b3_digest(lanes.inputs[lane], lanes.lengths[lane], lanes.outs[lane])
        return
    for lane in range(lanes.waiting, B3_WAYS):
        lanes.inputs[lane] = lanes.inputs[0]
        lanes.lengths[lane] = lanes.lengths[0]
        lanes.outs[lane] = spare
    b3_lanes8(lanes.inputs, lanes.lengths, blocks, stop, lanes.outs)


cdef Py_ssize_t digest_slices(
    Py_ssize_t count, const uint8_t* data, int64_t size, const char* starts, const char* lengths, uint8_t* out
) noexcept nogil:
    # Each slice is read once, checked, and used: `out` may be the same memory as `starts`, and must not get past the check.
    cdef Lanes groups[BLOCKS_MAX + 1]
    cdef Lanes* lanes
    cdef int64_t start, length, lane_length_max = B3_CHUNK if b3_path == B3_AVX2 else -1
    cdef uint32_t blocks
    cdef Py_ssize_t i
    for blocks in range(1, BLOCKS_MAX + 1):
        groups[blocks].waiting = 0
    for i in range(count):
        start = item(starts, i)
        length = item(lengths, i)
        if start < 0 or length < 0 or length > size or start > size - length:
            return i
        if length > lane_length_max:
            b3_digest(data + start, <size_t>length, out + B3_DIGEST * i)
            continue
        blocks = b3_blocks(<size_t>length)
        lanes = &groups[blocks]
        lanes.inputs[lanes.waiting] = data + start
        lanes.lengths[lanes.waiting] = <uint32_t>length
        lanes.outs[lanes.waiting] = out + B3_DIGEST * i
        lanes.waiting += 1
        if lanes.waiting == B3_WAYS:
            b3_lanes8(lanes.inputs, lanes.lengths, blocks, data + size, lanes.outs)
            lanes.waiting = 0
    for blocks in range(1, BLOCKS_MAX + 1):
        finish(&groups[blocks], blocks, data + size)
    return NONE_BAD


cdef inline int check_count(Py_ssize_t count) except -1:
    # The upper bound keeps 16 * count from overflowing; no buffer is that long.
    if count < 0 or count > COUNT_MAX:
        raise ValueError(f"count {count} is not a number of items")
    return 0


def digest_many(Py_ssize_t count, data, starts, lengths, out):
    cdef Py_buffer data_view, starts_view, lengths_view, out_view
    cdef Py_ssize_t bad
    check_count(count)
    acquire(data, &data_view, 0, "data")
    try:
        acquire(starts, &starts_view, 8 * count, "starts")
        try:
            acquire(lengths, &lengths_view, 8 * count, "lengths")
            try:
                acquire_writable(out, &out_view, 16 * count, "out")
                try:
                    bad = digest_slices(
                        count, <const uint8_t*>data_view.buf, data_view.len,
                        <const char*>starts_view.buf, <const char*>lengths_view.buf, <uint8_t*>out_view.buf,
                    )
                    if bad != NONE_BAD:
                        raise ValueError(
                            f"slice {bad} ({item(<const char*>starts_view.buf, bad)}, "
                            f"{item(<const char*>lengths_view.buf, bad)}) is outside data of {data_view.len} bytes"
                        )
                finally:
                    PyBuffer_Release(&out_view)
            finally:
                PyBuffer_Release(&lengths_view)
        finally:
            PyBuffer_Release(&starts_view)
    finally:
        PyBuffer_Release(&data_view)


cdef void swap_tokens(Py_ssize_t count, const char* digests, char* out) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint64_t token
    for i in range(count):
        memcpy(&token, digests + 16 * i, 8)
        token = swap_bytes64(token)
        memcpy(out + 8 * i, &token, 8)


def tokens(Py_ssize_t count, digests, out):
    cdef Py_buffer digests_view, out_view
    check_count(count)
    acquire(digests, &digests_view, 16 * count, "digests")
    try:
        acquire_writable(out, &out_view, 8 * count, "out")
        swap_tokens(count, <const char*>digests_view.buf, <char*>out_view.buf)
        PyBuffer_Release(&out_view)
    finally:
        PyBuffer_Release(&digests_view)


cdef inline int check_address(Py_ssize_t bucket_length, Py_ssize_t key_length) except -1:
    if not 1 <= bucket_length <= BUCKET_MAX:
        raise InvalidRequest(f"a bucket has 1 to {BUCKET_MAX} bytes, not {bucket_length}")
    if not 1 <= key_length <= KEY_MAX:
        raise InvalidRequest(f"a key has 1 to {KEY_MAX} bytes, not {key_length}")
    return 0


cdef inline void put_name(
    uint8_t* name, const void* bucket, Py_ssize_t bucket_length, const void* key, Py_ssize_t key_length
) noexcept nogil:
    name[0] = <uint8_t>bucket_length
    memcpy(name + 1, bucket, bucket_length)
    name[1 + bucket_length] = <uint8_t>(key_length >> 8)
    name[2 + bucket_length] = <uint8_t>(key_length & 255)
    memcpy(name + 3 + bucket_length, key, key_length)


cdef bytes name_of(const void* bucket, Py_ssize_t bucket_length, const void* key, Py_ssize_t key_length):
    check_address(bucket_length, key_length)
    cdef bytes name = PyBytes_FromStringAndSize(NULL, 3 + bucket_length + key_length)
    put_name(<uint8_t*>PyBytes_AS_STRING(name), bucket, bucket_length, key, key_length)
    return name


cdef bytes digest_of_name(const void* bucket, Py_ssize_t bucket_length, const void* key, Py_ssize_t key_length):
    cdef uint8_t stack[STACK_NAME]
    cdef Py_ssize_t length = 3 + bucket_length + key_length
    check_address(bucket_length, key_length)
    if length <= STACK_NAME:
        put_name(stack, bucket, bucket_length, key, key_length)
        return digest_of(stack, length)
    cdef uint8_t* heap = <uint8_t*>malloc(length)
    if heap is NULL:
        raise MemoryError
    put_name(heap, bucket, bucket_length, key, key_length)
    try:
        return digest_of(heap, length)
    finally:
        free(heap)


def address_name(bucket, key, /):
    cdef Py_buffer bucket_view, key_view
    if type(bucket) is bytes and type(key) is bytes:
        return name_of(
            PyBytes_AS_STRING(bucket), PyBytes_GET_SIZE(bucket), PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)
        )
    acquire(bucket, &bucket_view, 0, "bucket")
    try:
        acquire(key, &key_view, 0, "key")
        try:
            return name_of(bucket_view.buf, bucket_view.len, key_view.buf, key_view.len)
        finally:
            PyBuffer_Release(&key_view)
    finally:
        PyBuffer_Release(&bucket_view)


def address_digest(bucket, key, /):
    cdef Py_buffer bucket_view, key_view
    if type(bucket) is bytes and type(key) is bytes:
        return digest_of_name(
            PyBytes_AS_STRING(bucket), PyBytes_GET_SIZE(bucket), PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)
        )
    acquire(bucket, &bucket_view, 0, "bucket")
    try:
        acquire(key, &key_view, 0, "key")
        try:
            return digest_of_name(bucket_view.buf, bucket_view.len, key_view.buf, key_view.len)
        finally:
            PyBuffer_Release(&key_view)
    finally:
        PyBuffer_Release(&bucket_view)
