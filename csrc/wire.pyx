# What goes over a simulated connection, and when it arrives. Contract in sadik/kernels/native/wire.pyi.

from libc.math cimport log

WINDOW_BYTES = 128 * 1024

cdef enum:
    WINDOW = 131072


cdef class Path:
    cdef public object weather
    cdef public long closed
    cdef public double clogged_until_s
    cdef double free_s
    cdef object random

    def __init__(self, weather, random):
        self.weather = weather
        self.random = random

    cdef double latency(self) except? -1:
        cdef object weather = self.weather
        cdef double mean = weather.latency_s
        cdef double slow = weather.slow
        if slow != 0 and <double>self.random() < slow:
            mean *= 100
        # Exponential.
        return -mean * log(1.0 - <double>self.random())

    cdef double arrival(self, double now_s, Py_ssize_t length) except? -1:
        cdef double start_s = self.free_s if self.free_s > now_s else now_s
        self.free_s = start_s = start_s + length / <double>self.weather.bytes_per_s
        if self.clogged_until_s > start_s:
            start_s = self.clogged_until_s
        return start_s + self.latency()

    def latency_s(self):
        return self.latency()

    def arrival_s(self, double now_s, Py_ssize_t length):
        return self.arrival(now_s, length)

    cdef bint is_torn(self) except -1:
        cdef double torn = self.weather.torn
        return torn > 0 and <double>self.random() < torn


cdef class End:
    cdef public object process
    cdef public End other
    cdef public bint is_gone
    cdef public object _network
    cdef public object _loop
    cdef public Path _path
    cdef public object _sender
    cdef public object _receiver
    cdef public object _number
    cdef public object _peers
    cdef public object _protocol
    cdef public object _arrival
    cdef public list _flight
    cdef public Py_ssize_t _unheard_bytes
    cdef double last_arrival_s
    cdef public Py_ssize_t _high
    cdef public bint _paused_writing
    cdef public bint _reading
    cdef public bint _closing
    cdef public bint _fin_sent
    cdef bint fin_seen

    def __init__(self, network, process, Path path not None):
        self._network = network
        self._loop = network.loop
        self.process = process
        self.other = self
        self._path = path
        self._flight = []
        self._high = 64 * 1024
        self._reading = True

    def write(self, data):
        cdef bytes raw
        cdef Py_ssize_t length, cut
        if self._closing or self._fin_sent or not self.process.alive or not data:
            return
        raw = bytes(data)
        length = len(raw)
        self._network.trace.sent(self._sender, self._receiver, self._number, raw, peers=self._peers)
        self._unheard_bytes += length
        if length > 1 and self._path.is_torn():
            cut = 1 + <Py_ssize_t>(<double>self._network.rng.random() * (length - 1))
            self.send(raw[:cut])
            raw = raw[cut:]
        self.send(raw)
        if not self._paused_writing and self._unheard_bytes > WINDOW + self._high:
            self._paused_writing = True
            self._protocol.pause_writing()

    def write_eof(self):
        if not self._fin_sent and not self.is_gone:
            self._fin_sent = True
            self.send(b"")

    cdef int send(self, bytes data) except -1:
        cdef double arrival_s
        cdef End other = self.other
        if self.is_gone:
            return 0
        arrival_s = self._path.arrival(self._loop.now_s, len(data))
        if arrival_s < self.last_arrival_s:
            arrival_s = self.last_arrival_s
        self.last_arrival_s = arrival_s
        when = arrival_s
        self._flight.append((when, data))
        self._loop.post_again(other.process, when, other._arrival)
        return 0

    def arrive(self):
        cdef End other = self.other
        cdef list flight = other._flight
        cdef list pieces
        cdef double now_s
        cdef Py_ssize_t count = 0
        cdef bint ended = False
        cdef bytes data
        if self.is_gone:
            # Bytes for a connection that is not known here.
            if flight and not other.is_gone:
                self._tell_reset()
            return
        if self._protocol is None or not self._reading or other._path.closed:
            return
        now_s = self._loop.now_s
        pieces = []
        while count < len(flight) and <double>(<tuple>flight[count])[0] <= now_s:
            data = <bytes?>(<tuple>flight[count])[1]
            count += 1
            if data:
                pieces.append(data)
            else:
                ended = True
        del flight[:count]
        if pieces:
            data = <bytes>pieces[0] if len(pieces) == 1 else b"".join(pieces)
            other._unheard_bytes -= len(data)
            if other._paused_writing or other._closing:
                other._on_heard()
            if self._closing:
                self._tell_reset()
                return
            self._protocol.data_received(data)
        if ended and not self.fin_seen:
            self.fin_seen = True
            if other._closing:
                self._network.drop(other)
            if not self._closing and not self._protocol.eof_received():
                self.close()
