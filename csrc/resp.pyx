# The Redis protocol: parser, batch of plain operations, reply encoders. The contract is sadik/kernels/native/resp.pyi.
#
# Over 600 lines, because flat extensions cannot share a class: a Lane is a Parser, both fill a Batch, and Runs answer lanes.
# Loops without objects are in resp_text.pxd and resp_run.pxd.
#
# Input lies in one window: the bytes object last fed, parsed where it is, or, once a feed meets unread bytes, the parser's own
# `store`. A command that is whole in the window is parsed in place (`take_whole`). Anything else, partial or irregular, goes to
# `resume`, which moves finished elements out of the window and remembers where it stands, so no byte is scanned twice.
# Long bulk strings are collected in the bytes object that will be handed out, grown as they arrive, never ahead of the sender.

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.errno cimport EINTR, errno
from libc.stdint cimport INT32_MAX, INT64_MAX, int32_t, int64_t
from libc.string cimport memchr, memcpy, memmove, memset

from buffers cimport acquire, acquire_writable
from resp_run cimport (
    KIND_GET, KIND_SET, Text, count_sets, digits, get_int64, link, put_bulk, put_int64, run_bytes, write_run,
)
from resp_text cimport is_word, next_word, plain_kind, short_number, span, to_int64

from sadik.errors import ProtocolError

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject** item, Py_ssize_t size) except -1
    PyObject* PyBytes_FromStringAndSize_new "PyBytes_FromStringAndSize"(const char* data, Py_ssize_t size) except NULL
    Py_ssize_t Py_SIZE_of "Py_SIZE"(PyObject* item)
    char* PyBytes_data "PyBytes_AS_STRING"(PyObject* item)

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int descriptor, const void* data, size_t length, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

NEED_INPUT = 0
COMMAND = 1
BATCH_FULL = 2
ASIDE = 3
GET = 0
SET = 1

cdef enum:
    C_NEED_INPUT = 0
    C_COMMAND = 1
    C_BATCH_FULL = 2
    AGAIN = 3          # inner results of the parser: go round again
    APPENDED = 4
    NOT_PLAIN = 5

    FIELDS = 7
    PLAIN_MAX = 5              # SET key value EX n
    LINE_MAX = 65536           # bytes of a line before its end, as in Redis
    STRANGER_ELEMENTS_MAX = 10
    STRANGER_BULK_MAX = 16384
    PREFIX_MAX = 256
    BULK_COLLECTED_MIN = 16384  # shorter ones wait in the window, where they are parsed in place once whole
    STORE_BYTES_MIN = 256
    STORE_KEPT_MAX = 4096       # an idle connection holds no more than this
    CHAIN_SLOTS_MAX = 4096      # of the table on the stack: 16 KiB
    REPLIES_ON_STACK_MAX = 16384  # longer ones of one run are written to a bytes object


cdef class Batch:
    cdef readonly Py_ssize_t capacity, arena_bytes, count, used, sets, longest
    cdef readonly bytearray data, kinds, name_starts, name_lengths, payload_starts, payload_lengths, ttl_ms
    cdef unsigned char* field[FIELDS]
    cdef Py_buffer exports[FIELDS]
    cdef int exported

    def __cinit__(self, Py_ssize_t capacity, Py_ssize_t arena_bytes):
        if not 1 <= capacity <= INT32_MAX:
            raise ValueError(f"capacity must be 1 to {INT32_MAX}, not {capacity}")
        if arena_bytes < 1:
            raise ValueError(f"arena_bytes must be at least 1, not {arena_bytes}")
        self.capacity = capacity
        self.arena_bytes = arena_bytes
        self.data = bytearray(arena_bytes)
        self.kinds = bytearray(capacity)
        self.name_starts = bytearray(8 * capacity)
        self.name_lengths = bytearray(8 * capacity)
        self.payload_starts = bytearray(8 * capacity)
        self.payload_lengths = bytearray(8 * capacity)
        self.ttl_ms = bytearray(8 * capacity)
        # A held export makes every resize of these bytearrays a BufferError, so the pointers stay good.
        for item in (
            self.data, self.kinds, self.name_starts, self.name_lengths,
            self.payload_starts, self.payload_lengths, self.ttl_ms,
        ):
            PyObject_GetBuffer(item, &self.exports[self.exported], PyBUF_SIMPLE)
            self.field[self.exported] = <unsigned char*>self.exports[self.exported].buf
            self.exported += 1

    def __dealloc__(self):
        cdef int i
        for i in range(self.exported):
            PyBuffer_Release(&self.exports[i])

    def clear(self):
        self.count = 0
        self.used = 0
        self.sets = 0
        self.longest = 0

    def keep(self):
        return keep(self)

    def append(self, int kind, name, payload=b"", int64_t ttl_ms=-1):
        cdef Py_buffer name_view, payload_view
        cdef bint fits
        if kind != KIND_GET and kind != KIND_SET:
            raise ValueError(f"kind must be GET or SET, not {kind}")
        if ttl_ms != -1 and (ttl_ms < 1 or kind != KIND_SET):
            raise ValueError(f"ttl_ms must be -1, or positive for a SET, not {ttl_ms}")
        acquire(name, &name_view, 0, "name")
        try:
            acquire(payload, &payload_view, 0, "payload")
            try:
                if kind == KIND_GET and payload_view.len:
                    raise ValueError("a GET has no payload")
                fits = (
                    self.count < self.capacity
                    and name_view.len <= self.arena_bytes - self.used
                    and payload_view.len <= self.arena_bytes - self.used - name_view.len
                )
                if fits:
                    memcpy(self.field[0] + self.used, name_view.buf, name_view.len)
                    memcpy(self.field[0] + self.used + name_view.len, payload_view.buf, payload_view.len)
                    self.record(kind, name_view.len, payload_view.len, ttl_ms)
            finally:
                PyBuffer_Release(&payload_view)
        finally:
            PyBuffer_Release(&name_view)
        return fits

    cdef inline void record(self, int kind, Py_ssize_t name, Py_ssize_t payload, int64_t ttl_ms) noexcept:
        """Enter one operation whose name and payload were written at `used`; the caller has checked that they fit."""
        cdef Py_ssize_t i = self.count
        self.field[1][i] = <unsigned char>kind
        put_int64(self.field[2], i, self.used)
        put_int64(self.field[3], i, name)
        put_int64(self.field[4], i, self.used + name if kind == KIND_SET else 0)
        put_int64(self.field[5], i, payload if kind == KIND_SET else 0)
        put_int64(self.field[6], i, ttl_ms)
        self.used += name + payload
        self.count = i + 1
        self.sets += kind
        if payload > self.longest:
            self.longest = payload


cdef class Kept:
    """`all` is the kinds, the five arrays of int64, and the used part of the arena, one behind the other."""

    cdef bytes all
    cdef Py_ssize_t count

    def __len__(self):
        return PyBytes_GET_SIZE(self.all)

    def command(self, Py_ssize_t index):
        cdef Text kinds = <Text>PyBytes_AS_STRING(self.all)
        cdef Py_ssize_t size = 8 * self.count
        cdef Text numbers = kinds + self.count
        cdef Text data = numbers + 5 * size
        cdef Py_ssize_t start, length, before = 0
        cdef int64_t ttl_ms
        if not 0 <= index < self.count:
            raise IndexError(f"there is no operation {index} of {self.count}")
        start = get_int64(numbers, index)
        length = get_int64(numbers + size, index)
        # A name is the bucket behind a length of one byte, and the key behind one of two.
        if length:
            before = 1 + data[start] + 2
        if not 0 < before <= length:
            raise ValueError(f"operation {index} has no address for its name")
        key = PyBytes_FromStringAndSize(<char*>(data + start + before), length - before)
        if kinds[index] == KIND_GET:
            return [b"GET", key]
        start = get_int64(numbers + 2 * size, index)
        length = get_int64(numbers + 3 * size, index)
        ttl_ms = get_int64(numbers + 4 * size, index)
        value = PyBytes_FromStringAndSize(<char*>(data + start), length)
        return [b"SET", key, value] if ttl_ms < 0 else [b"SET", key, value, b"PX", b"%d" % ttl_ms]


cdef Kept keep(Batch batch):
    cdef Kept kept = Kept()
    cdef Py_ssize_t count = batch.count
    cdef unsigned char* out
    cdef int i
    kept.count = count
    kept.all = PyBytes_FromStringAndSize(NULL, (1 + 5 * 8) * count + batch.used)
    out = <unsigned char*>PyBytes_AS_STRING(kept.all)
    memcpy(out, batch.field[1], count)
    out += count
    for i in range(2, FIELDS):
        memcpy(out, batch.field[i], 8 * count)
        out += 8 * count
    memcpy(out, batch.field[0], batch.used)
    return kept


cdef list split_line(Text line, Py_ssize_t length):
    """Words of an inline command; None when quotes are unbalanced."""
    cdef list words = []
    cdef Py_ssize_t position = 0, size
    cdef unsigned char* scratch = <unsigned char*>PyMem_Malloc(length + 1)
    if scratch == NULL:
        raise MemoryError
    try:
        while True:
            size = next_word(line, length, &position, scratch)
            if size < 0:
                return words if size == -1 else None
            words.append(PyBytes_FromStringAndSize(<char*>scratch, size))
    finally:
        PyMem_Free(scratch)


cdef class Parser:
    cdef readonly list arguments
    cdef public bint authenticated
    cdef Py_ssize_t bulk_bytes_max, request_bytes_max, arguments_max

    # The window: unread input is window[position:end], inside `held` or `store`.
    cdef Text window
    cdef Py_ssize_t position, end
    cdef bytes held
    cdef unsigned char* store
    cdef Py_ssize_t store_bytes
    cdef Py_ssize_t scanned         # bytes of the line at `position` that are known not to end it

    # The command under way, once part of it has left the window.
    cdef list partial               # its finished elements
    cdef Py_ssize_t missing         # elements still to come
    cdef Py_ssize_t bulk_length     # of the element under way, or -1 before its header
    cdef Py_ssize_t request_bytes   # its bytes that have left the window
    cdef PyObject* growing          # a long element, filled so far
    cdef Py_ssize_t filled
    cdef bint ready                 # `partial` is a whole command

    cdef str failure

    def __cinit__(self, Py_ssize_t bulk_bytes_max, Py_ssize_t request_bytes_max, Py_ssize_t arguments_max=1048576):
        if not 1 <= bulk_bytes_max <= INT64_MAX // 4:
            raise ValueError(f"bulk_bytes_max is out of range: {bulk_bytes_max}")
        if not 1 <= request_bytes_max <= INT64_MAX // 4:
            raise ValueError(f"request_bytes_max is out of range: {request_bytes_max}")
        if not 1 <= arguments_max <= INT32_MAX:
            raise ValueError(f"arguments_max is out of range: {arguments_max}")
        self.bulk_bytes_max = bulk_bytes_max
        self.request_bytes_max = request_bytes_max
        self.arguments_max = arguments_max
        self.arguments = []
        self.partial = []
        self.authenticated = True
        self.bulk_length = -1

    def __dealloc__(self):
        PyMem_Free(self.store)
        Py_XDECREF(self.growing)

    def buffered(self):
        return self.end - self.position + self.request_bytes

    # ---- input ----

    def feed(self, data):
        self.take_in(data)

    cdef int take_in(self, data) except -1:
        cdef Py_buffer view
        if self.failure is not None:
            return 0
        if PyBytes_CheckExact(data):
            if self.position == self.end:
                self.hold(<bytes>data)
            else:
                self.join(<Text>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            return 0
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if self.position == self.end:
                self.hold(PyBytes_FromStringAndSize(<char*>view.buf, view.len))
            else:
                self.join(<Text>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        return 0

    cdef inline void hold(self, bytes data):
        self.held = data
        self.window = <Text>PyBytes_AS_STRING(data)
        self.position = 0
        self.end = PyBytes_GET_SIZE(data)

    cdef int join(self, Text data, Py_ssize_t length) except -1:
        """Append to the unread bytes in the store, moving them there first when the window is a fed object."""
        cdef Py_ssize_t unread = self.end - self.position
        if self.held is not None:
            self.reserve(unread + length)
            memcpy(self.store, self.window + self.position, unread)
            self.held = None
            self.window = self.store
            self.position = 0
        elif self.store_bytes - self.end < length:
            # What is moved to the front is no longer than what was read before it; else the store grows. So joining is linear.
            self.reserve(unread + length if unread <= self.position else self.store_bytes + length)
            self.window = self.store
            memmove(self.store, self.store + self.position, unread)
            self.position = 0
        self.end = self.position + unread
        if length:
            memcpy(self.store + self.end, data, length)
            self.end += length
        return 0

    cdef int reserve(self, Py_ssize_t need) except -1:
        """Make the store hold at least `need` bytes, at least doubling it when it must grow."""
        cdef Py_ssize_t size
        cdef void* grown
        if need <= self.store_bytes:
            return 0
        size = max(need, 2 * self.store_bytes, <Py_ssize_t>STORE_BYTES_MIN)
        grown = PyMem_Realloc(self.store, size)
        if grown == NULL:
            raise MemoryError
        self.store = <unsigned char*>grown
        self.store_bytes = size
        return 0

    cdef int settle(self, bint waiting) except -1:
        """Let go of what is read: the fed object and, when the sender has to speak next, memory that a big command has taken."""
        cdef Py_ssize_t unread = self.end - self.position
        cdef unsigned char* smaller
        if unread == 0:
            self.held = None
            self.position = self.end = 0
            if self.store_bytes > STORE_KEPT_MAX:
                self.drop_store()
        elif not waiting:
            return 0
        elif self.held is not None:
            if unread <= PyBytes_GET_SIZE(self.held) // 4:
                self.join(NULL, 0)
        elif self.store_bytes > STORE_KEPT_MAX and unread <= self.store_bytes // 4:
            smaller = <unsigned char*>PyMem_Malloc(2 * unread + STORE_BYTES_MIN)
            if smaller == NULL:
                raise MemoryError
            memcpy(smaller, self.window + self.position, unread)
            self.drop_store()
            self.store = smaller
            self.store_bytes = 2 * unread + STORE_BYTES_MIN
            self.window = smaller
            self.position = 0
            self.end = unread
        return 0

    cdef void drop_store(self) noexcept:
        PyMem_Free(self.store)
        self.store = NULL
        self.store_bytes = 0

    cdef int fail(self, str text) except -1:
        """The connection cannot go on: drop everything, say the same from now on."""
        self.failure = text
        self.held = None
        self.position = self.end = 0
        self.drop_store()
        self.drop_command()
        raise ProtocolError(text)

    cdef int drop_command(self) except -1:
        cdef PyObject* growing = self.growing
        self.growing = NULL
        Py_XDECREF(growing)
        self.partial = []
        self.missing = 0
        self.bulk_length = -1
        self.request_bytes = 0
        self.ready = False
        return 0

    # ---- commands ----

    def pull(self, Batch batch, bytes prefix not None, Py_ssize_t room):
        return self.advance(batch, prefix, room)

    cdef int advance(self, Batch batch, bytes prefix, Py_ssize_t room) except -1:
        cdef int result = AGAIN
        cdef Text start = <Text>PyBytes_AS_STRING(prefix)
        cdef Py_ssize_t prefix_length = PyBytes_GET_SIZE(prefix)
        if batch is not None:
            if not 2 <= prefix_length <= PREFIX_MAX or start[0] != prefix_length - 1:
                raise ValueError("prefix is not a bucket after its length")
            if room < 0:
                raise ValueError(f"room must not be negative: {room}")
        if self.failure is not None:
            raise ProtocolError(self.failure)
        if len(self.arguments):
            self.arguments = []
        while result >= AGAIN:
            if self.ready:
                result = self.take_collected(batch, start, prefix_length, room)
            elif self.missing:
                result = self.resume()
            elif self.position == self.end:
                result = C_NEED_INPUT
            elif self.window[self.position] == c'*':
                result = self.take_whole(batch, start, prefix_length, room)
            else:
                result = self.take_line()
            if result == APPENDED:
                room -= 1
        self.settle(result == C_NEED_INPUT)
        return result

    cdef int take_whole(self, Batch batch, Text prefix, Py_ssize_t prefix_length, Py_ssize_t room) except -1:
        """The command at `position`, in place when all of it is there and regular; else it is handed to `resume`."""
        cdef Text start = self.window + self.position
        cdef Text end = self.window + self.end
        cdef Text text, after
        cdef Text item[PLAIN_MAX]
        cdef Py_ssize_t length[PLAIN_MAX]
        cdef Py_ssize_t count, bulk, done = 0
        cdef Py_ssize_t limit = self.bulk_bytes_max
        cdef int result
        cdef list arguments
        text = short_number(start + 1, end, &count)
        if text == NULL:
            text = self.long_number(&count, "mbulk", "multibulk")
            if text == NULL:
                return C_NEED_INPUT
        self.scanned = 0
        if count > self.arguments_max:
            self.fail("Protocol error: invalid multibulk length")
        if count > STRANGER_ELEMENTS_MAX and not self.authenticated:
            self.fail("Protocol error: unauthenticated multibulk length")
        if count <= 0:
            self.position = span(self.window, text)
            return AGAIN
        if not self.authenticated and limit > STRANGER_BULK_MAX:
            limit = STRANGER_BULK_MAX
        if count <= PLAIN_MAX:
            # Whatever is not usual in an element ends this loop, and `resume` finds out what it is.
            while done < count and text < end and text[0] == c'$':
                after = short_number(text + 1, end, &bulk)
                if after == NULL or bulk > limit or span(after, end) < bulk + 2:
                    break
                if span(start, after) + bulk + 2 > self.request_bytes_max:
                    break
                item[done] = after
                length[done] = bulk
                done += 1
                text = after + bulk + 2
            if done == count:
                result = self.plain(batch, prefix, prefix_length, room, count, item, length)
                if result == C_BATCH_FULL:
                    return result
                self.position = span(self.window, text)
                if result == APPENDED:
                    return result
        arguments = []
        for i in range(done):
            arguments.append(PyBytes_FromStringAndSize(<char*>item[i], length[i]))
        if done == count:
            return self.hand_out(arguments)
        self.partial = arguments
        self.missing = count - done
        self.bulk_length = -1
        self.request_bytes = span(start, text)
        self.position = span(self.window, text)
        return AGAIN

    cdef int resume(self) except -1:
        """Move further elements of the command under way out of the window."""
        cdef Py_ssize_t length, unread
        cdef Text text
        while self.missing:
            if self.bulk_length < 0:
                if not self.bulk_header(&length):
                    return C_NEED_INPUT
                self.bulk_length = length
            unread = self.end - self.position
            if self.growing == NULL:
                if unread < self.bulk_length + 2 and self.bulk_length < BULK_COLLECTED_MIN:
                    return C_NEED_INPUT
                if unread >= self.bulk_length + 2:
                    text = self.window + self.position
                    self.partial.append(PyBytes_FromStringAndSize(<char*>text, self.bulk_length))
                    self.consume(self.bulk_length + 2)
                    self.bulk_length = -1
                    self.missing -= 1
                    continue
            self.collect()
            if self.filled < self.bulk_length or self.end - self.position < 2:
                return C_NEED_INPUT
            self.partial.append(<bytes>self.growing)
            Py_XDECREF(self.growing)
            self.growing = NULL
            self.consume(2)
            self.bulk_length = -1
            self.missing -= 1
        self.ready = True
        return AGAIN

    cdef inline void consume(self, Py_ssize_t length) noexcept:
        self.position += length
        self.request_bytes += length

    cdef int collect(self) except -1:
        """Copy what has come of a long element to the object that will be handed out; it grows with what came, up to the length announced."""
        cdef Py_ssize_t part = self.bulk_length - self.filled if self.growing != NULL else self.bulk_length
        cdef Py_ssize_t size, need
        if part > self.end - self.position:
            part = self.end - self.position
        if self.growing == NULL:
            self.filled = 0
        need = self.filled + part
        if self.growing == NULL or Py_SIZE_of(self.growing) < need:
            size = 2 * need
            if size < STORE_KEPT_MAX:
                size = STORE_KEPT_MAX
            if size > self.bulk_length:
                size = self.bulk_length
            if self.growing == NULL:
                self.growing = PyBytes_FromStringAndSize_new(NULL, size)
            else:
                try:
                    _PyBytes_Resize(&self.growing, size)
                except MemoryError:
                    # The part that came is gone with the old object: nothing can follow on this connection.
                    self.fail("Protocol error: out of memory")
        memcpy(PyBytes_data(self.growing) + self.filled, self.window + self.position, part)
        self.filled = need
        self.consume(part)
        return 0

    cdef int take_collected(self, Batch batch, Text prefix, Py_ssize_t prefix_length, Py_ssize_t room) except -1:
        """The whole command in `partial`: to the batch or out."""
        cdef Text item[PLAIN_MAX]
        cdef Py_ssize_t length[PLAIN_MAX]
        cdef Py_ssize_t i, count = len(self.partial)
        cdef int result = NOT_PLAIN
        cdef list arguments
        if count <= PLAIN_MAX:
            for i in range(count):
                item[i] = <Text>PyBytes_AS_STRING(self.partial[i])
                length[i] = PyBytes_GET_SIZE(self.partial[i])
            result = self.plain(batch, prefix, prefix_length, room, count, item, length)
            if result == C_BATCH_FULL:
                return result
        arguments = self.partial
        self.drop_command()
        return result if result == APPENDED else self.hand_out(arguments)

    cdef int hand_out(self, list arguments) except -1:
        cdef Text name = <Text>PyBytes_AS_STRING(arguments[0])
        cdef Py_ssize_t length = PyBytes_GET_SIZE(arguments[0])
        # A browser made to talk to us sends these lines first; what follows them must never run.
        if is_word(name, length, b"post", 4) or is_word(name, length, b"host:", 5):
            self.fail("")
        self.arguments = arguments
        return C_COMMAND

    cdef int plain(
        self, Batch batch, Text prefix, Py_ssize_t prefix_length, Py_ssize_t room,
        Py_ssize_t count, Text* item, Py_ssize_t* length,
    ) noexcept:
        """Append a plain operation to the batch: APPENDED, C_BATCH_FULL, or NOT_PLAIN for any other command."""
        cdef int64_t ttl_ms
        cdef Py_ssize_t payload, name
        cdef unsigned char* out
        cdef int kind
        if batch is None:
            return NOT_PLAIN
        kind = plain_kind(count, item, length, &ttl_ms)
        if kind < 0:
            return NOT_PLAIN
        payload = length[2] if kind == KIND_SET else 0
        name = prefix_length + 2 + length[1]
        if payload > batch.arena_bytes - name:
            return NOT_PLAIN
        if room == 0 or batch.count == batch.capacity or payload > batch.arena_bytes - batch.used - name:
            return C_BATCH_FULL
        out = batch.field[0] + batch.used
        memcpy(out, prefix, prefix_length)
        out += prefix_length
        out[0] = <unsigned char>(length[1] >> 8)
        out[1] = <unsigned char>(length[1] & 255)
        memcpy(out + 2, item[1], length[1])
        if payload:
            memcpy(out + 2 + length[1], item[2], payload)
        batch.record(kind, name, payload, ttl_ms)
        return APPENDED

    # ---- lines ----

    cdef Py_ssize_t find(self, unsigned char mark) noexcept:
        """Offset of `mark` in the line at `position`; -1 when it has not come, -2 when the line is too long for it to come."""
        cdef Py_ssize_t unread = self.end - self.position
        cdef Py_ssize_t reach = unread if unread <= LINE_MAX else LINE_MAX + 1
        cdef Text line = self.window + self.position
        cdef Text found = NULL
        if reach > self.scanned:
            found = <Text>memchr(line + self.scanned, mark, reach - self.scanned)
        if found != NULL:
            self.scanned = span(line, found)
            return span(line, found)
        self.scanned = reach
        return -1 if unread <= LINE_MAX else -2

    cdef Text long_number(self, Py_ssize_t* value, str line_name, str number_name) except? NULL:
        """The number line at `position`, unusual in some way. NULL when it has not all come; else what follows."""
        cdef Py_ssize_t offset = self.find(13)
        cdef Text line = self.window + self.position
        cdef int64_t number
        if offset == -2:
            self.fail(f"Protocol error: too big {line_name} count string")
        if offset < 0 or self.end - self.position < offset + 2:
            return NULL
        if number_name == "bulk" and line[0] != c'$':
            shown = chr(line[0]) if line[0] != 13 and line[0] != 10 else " "
            self.fail(f"Protocol error: expected '$', got '{shown}'")
        if not to_int64(line + 1, offset - 1, &number):
            self.fail(f"Protocol error: invalid {number_name} length")
        value[0] = number
        return line + offset + 2

    cdef int bulk_header(self, Py_ssize_t* length) except -1:
        """Consume the length line of an element; 0 when it has not all come. Limits are checked before anything is allocated for it."""
        cdef Text line = self.window + self.position
        cdef Text after = NULL
        if self.position < self.end and line[0] == c'$':
            after = short_number(line + 1, self.window + self.end, length)
        if after == NULL:
            after = self.long_number(length, "bulk", "bulk")
            if after == NULL:
                return 0
        self.scanned = 0
        if length[0] < 0 or length[0] > self.bulk_bytes_max:
            self.fail("Protocol error: invalid bulk length")
        if length[0] > STRANGER_BULK_MAX and not self.authenticated:
            self.fail("Protocol error: unauthenticated bulk length")
        self.consume(span(line, after))
        if length[0] + 2 > self.request_bytes_max - self.request_bytes:
            self.fail("Protocol error: too big request")
        return 1

    cdef int take_line(self) except -1:
        """An inline command: a line of words as a shell would split them."""
        cdef Py_ssize_t offset = self.find(10)
        cdef Py_ssize_t length = offset
        cdef Text line = self.window + self.position
        cdef list words
        if offset == -2:
            self.fail("Protocol error: too big inline request")
        if offset < 0:
            return C_NEED_INPUT
        self.scanned = 0
        if offset + 1 > self.request_bytes_max:
            self.fail("Protocol error: too big request")
        if length > 0 and line[length - 1] == 13:
            length -= 1
        words = split_line(line, length)
        if words is None:
            self.fail("Protocol error: unbalanced quotes in request")
        self.position += offset + 1
        if words:
            self.partial = words
            self.request_bytes = offset + 1
            self.ready = True
        return AGAIN


# ---- replies ----

cdef class Encoder:
    """The arrays of a batch's answers, held while replies are made of them."""

    cdef Py_buffer views[5]
    cdef int held
    cdef Py_ssize_t last

    cdef int open(self, Py_ssize_t last, kinds, status, values, value_starts, value_lengths) except -1:
        """Take arrays of at least `last` operations."""
        if not 0 <= last <= INT32_MAX:
            raise ValueError(f"a run of operations cannot end at {last}")
        self.last = last
        acquire(kinds, &self.views[0], last, "kinds")
        self.held = 1
        acquire(status, &self.views[1], last, "status")
        self.held = 2
        acquire(values, &self.views[2], 0, "values")
        self.held = 3
        acquire(value_starts, &self.views[3], 8 * last, "value_starts")
        self.held = 4
        acquire(value_lengths, &self.views[4], 8 * last, "value_lengths")
        self.held = 5
        return 0

    def __dealloc__(self):
        cdef int i
        for i in range(self.held):
            PyBuffer_Release(&self.views[i])

    cdef Py_ssize_t measure(self, Py_ssize_t first, Py_ssize_t stop, bint resp3) except -1:
        """Bytes of a run's replies."""
        cdef Py_ssize_t total
        if not 0 <= first <= stop <= self.last:
            raise ValueError(f"{first} to {stop} is not a run of operations")
        total = run_bytes(
            first, stop, <Text>self.views[0].buf, <Text>self.views[1].buf, self.views[2].len, <Text>self.views[3].buf,
            <Text>self.views[4].buf, 3 if resp3 else 5,
        )
        if total == -1:
            raise ValueError("an operation has neither a value, an acknowledgement nor a nil as its reply")
        if total == -2:
            raise ValueError("a value lies outside of values")
        return total

    cdef void write(self, Py_ssize_t first, Py_ssize_t stop, bint resp3, unsigned char* out) noexcept:
        write_run(
            first, stop, <Text>self.views[0].buf, <Text>self.views[1].buf, <Text>self.views[2].buf, <Text>self.views[3].buf,
            <Text>self.views[4].buf, resp3, out,
        )


def encode_run(Py_ssize_t first, Py_ssize_t stop, kinds, status, values, value_starts, value_lengths, bint resp3):
    cdef Encoder encoder = Encoder()
    cdef bytes replies
    encoder.open(stop, kinds, status, values, value_starts, value_lengths)
    replies = PyBytes_FromStringAndSize(NULL, encoder.measure(first, stop, resp3))
    encoder.write(first, stop, resp3, <unsigned char*>PyBytes_AS_STRING(replies))
    return replies


def bulk(value):
    cdef Py_buffer view
    cdef bytes reply
    acquire(value, &view, 0, "value")
    try:
        reply = PyBytes_FromStringAndSize(NULL, 1 + digits(view.len) + 2 + view.len + 2)
        put_bulk(<unsigned char*>PyBytes_AS_STRING(reply), <Text>view.buf, view.len)
        return reply
    finally:
        PyBuffer_Release(&view)


def array(items):
    return b"".join((b"*%d\r\n" % len(items), *items))


# ---- many connections ----

cdef class Line:
    cdef readonly Py_ssize_t missing
    cdef list lanes
    cdef object first, complete
    cdef int64_t turn

    def __init__(self, first, complete):
        self.lanes = []
        self.first = first
        self.complete = complete
        self.turn = 1

    def __len__(self):
        return len(self.lanes)

    def expect(self, list lanes not None):
        cdef Lane lane
        for lane in lanes:
            if not lane.listed and lane.expected_in != self.turn:
                lane.expected_in = self.turn
                self.missing += 1

    def forget(self):
        self.missing = 0
        self.turn += 1

    def take(self):
        cdef list taken = self.lanes
        cdef Lane lane
        self.lanes = []
        self.forget()
        for lane in taken:
            lane.listed = False
        return taken

    cdef int enter(self, Lane lane) except -1:
        cdef bint expected = lane.expected_in == self.turn
        lane.listed = True
        self.lanes.append(lane)
        if expected:
            lane.expected_in = 0
            self.missing -= 1
        if len(self.lanes) == 1:
            self.first()
        elif expected and self.missing == 0:
            self.complete()
        return 0


cdef class Lane(Parser):
    cdef readonly object owner
    cdef Line line
    cdef public bint plain
    cdef public bint waiting
    cdef public bint stirred
    cdef public bint deaf
    cdef public bint dropped
    cdef public bytes prefix
    cdef public bint resp3
    cdef public object transport
    cdef public int descriptor
    cdef public bint queued
    cdef readonly int64_t received
    cdef int64_t counted
    cdef int64_t expected_in
    cdef bint listed

    def __init__(self, *limits):
        self.prefix = b""
        self.descriptor = -1

    def attach(self, owner, Line line not None):
        self.owner = owner
        self.line = line

    def receive(self, data):
        if self.deaf:
            self.dropped = True
            return
        self.take_in(data)
        self.received += len(data)
        self.enlist()

    cpdef enlist(self):
        if not self.listed and self.line is not None:
            self.line.enter(self)

    cpdef wait(self):
        self.waiting = True
        self.stirred = not self.plain
        self.plain = False

    cdef Py_ssize_t push(self, Text data, Py_ssize_t length) except -1:
        """Send straight to the socket where nothing waits before; gives what it took."""
        cdef ssize_t sent
        # Asked for every reply: a transport that is closing may have given its descriptor back, and the next client may have it.
        if self.descriptor < 0 or self.transport.is_closing():
            return 0
        if self.queued:
            self.queued = self.transport.get_write_buffer_size() > 0
            if self.queued:
                return 0
        # The lock is kept: a send to a socket with room does not block, and giving the lock up costs as much again.
        while True:
            sent = send(self.descriptor, data, length, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent >= 0 or errno != EINTR:
                return max(sent, 0)


cdef class Runs:
    cdef readonly list lanes
    cdef readonly list stops
    cdef readonly list bounds
    cdef bytes prefix

    def __cinit__(self, *rest):
        self.lanes = []
        self.stops = []
        self.bounds = []

    def add(self, Lane lane not None, Py_ssize_t stop):
        self.append(lane, stop)

    cdef int append(self, Lane lane, Py_ssize_t stop) except -1:
        if self.prefix is None or self.prefix != lane.prefix:
            self.bounds.append(len(self.lanes))
            self.prefix = lane.prefix
        self.lanes.append(lane)
        self.stops.append(stop)
        return 0

    def wait(self):
        cdef Lane lane
        for lane in self.lanes:
            lane.wait()

    cdef Py_ssize_t first(self, Py_ssize_t number) except? -1:
        if not 0 <= number < len(self.lanes):
            raise ValueError(f"there is no run {number} of {len(self.lanes)}")
        return self.stops[number - 1] if number else 0

    def answer(self, numbers, kinds, status, values, value_starts, value_lengths):
        cdef Encoder encoder = Encoder()
        cdef unsigned char on_stack[REPLIES_ON_STACK_MAX]
        cdef unsigned char* out
        cdef Py_ssize_t number, first, stop, length, taken, operations = 0, sent = 0
        cdef Lane lane
        cdef bytes replies
        cdef list rest = [], stirred = []
        encoder.open(self.stops[len(self.stops) - 1] if self.stops else 0, kinds, status, values, value_starts, value_lengths)
        # What has no reply is found before anything is sent.
        for number in numbers:
            encoder.measure(self.first(number), self.stops[number], False)
        for number in numbers:
            lane = self.lanes[number]
            first, stop = self.first(number), self.stops[number]
            length = encoder.measure(first, stop, lane.resp3)
            if length <= REPLIES_ON_STACK_MAX:
                out = on_stack
            else:
                replies = PyBytes_FromStringAndSize(NULL, length)
                out = <unsigned char*>PyBytes_AS_STRING(replies)
            encoder.write(first, stop, lane.resp3, out)
            taken = lane.push(out, length)
            if taken < length:
                rest.append((lane.owner, PyBytes_FromStringAndSize(<char*>(out + taken), length - taken)))
            sent += taken
            operations += stop - first
            if lane.waiting:
                if lane.stirred:
                    stirred.append(lane.owner)
                else:
                    lane.waiting = False
                    lane.plain = True
        return operations, sent, rest, stirred


def take_plain(list lanes not None, Batch batch not None, Py_ssize_t room, Runs runs not None):
    cdef list others = []
    cdef Lane lane
    cdef Py_ssize_t before
    cdef int64_t received = 0
    cdef int result
    for lane in lanes:
        received += lane.received - lane.counted
        lane.counted = lane.received
        if not lane.plain:
            others.append((lane.owner, ASIDE))
            continue
        before = batch.count
        try:
            result = lane.advance(batch, lane.prefix, room)
            if result != C_NEED_INPUT:
                others.append((lane.owner, result))
        except ProtocolError as error:
            others.append((lane.owner, error))
        if batch.count > before:
            runs.append(lane, batch.count)
    return others, received


# ---- order within a batch ----

cdef int link_all(Py_ssize_t count, Text kinds, Text digests, unsigned char* previous) except -1:
    cdef int32_t on_stack[CHAIN_SLOTS_MAX]
    cdef int32_t* table = on_stack
    cdef Py_ssize_t sets = count_sets(count, kinds)
    cdef Py_ssize_t slots
    cdef int slot_bits = 4
    if sets < 0:
        raise ValueError("a kind is neither GET nor SET")
    if sets == 0:
        memset(previous, 255, 4 * count)
        return 0
    while <Py_ssize_t>1 << slot_bits < 2 * sets:
        slot_bits += 1
    slots = <Py_ssize_t>1 << slot_bits
    if slots > CHAIN_SLOTS_MAX:
        table = <int32_t*>PyMem_Malloc(4 * slots)
        if table == NULL:
            raise MemoryError
    memset(table, 255, 4 * slots)
    link(count, kinds, digests, previous, table, slot_bits)
    if table != on_stack:
        PyMem_Free(table)
    return 0


def chain(Py_ssize_t count, kinds, digests, previous):
    cdef Py_buffer kinds_view, digests_view, previous_view
    if not 0 <= count <= INT32_MAX:
        raise ValueError(f"count must be 0 to {INT32_MAX}, not {count}")
    acquire(kinds, &kinds_view, count, "kinds")
    try:
        acquire(digests, &digests_view, 16 * count, "digests")
        try:
            acquire_writable(previous, &previous_view, 4 * count, "previous")
            try:
                link_all(count, <Text>kinds_view.buf, <Text>digests_view.buf, <unsigned char*>previous_view.buf)
            finally:
                PyBuffer_Release(&previous_view)
        finally:
            PyBuffer_Release(&digests_view)
    finally:
        PyBuffer_Release(&kinds_view)
