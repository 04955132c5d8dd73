# The ring: position of a token by a table of its top bits, then the preference list of that position, found once and kept.

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.number cimport PyNumber_Index
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from buffers cimport Py_buffer, PyBuffer_Release, acquire, acquire_writable

NO_NODE = 0xFFFFFFFF

cdef enum:
    # Entries kept for each position: N primaries and the first fallbacks, 32 bytes; longer lists are walked each time.
    ROW_MAX = 8
    # Tokens of one bucket are few when tokens are uniform; crowded ones are bisected.
    LINEAR_MAX = 8
    BUCKET_BITS_MAX = 24

cdef uint32_t NO_ENTRY = 0xFFFFFFFF
cdef Py_ssize_t COUNT_MAX = <Py_ssize_t>1 << 40
cdef Py_ssize_t LIST_MAX = <Py_ssize_t>1 << 20


cdef void* allocate(Py_ssize_t count, size_t size) except NULL:
    cdef void* memory = PyMem_Calloc(count if count > 0 else 1, size)
    if memory is NULL:
        raise MemoryError
    return memory


cdef inline uint64_t whole(object token) except? 1:
    # Taken as a number by the C conversion alone, a float would be cut off and the wrong owner chosen in silence.
    return PyNumber_Index(token)


cdef uint32_t dense_labels(const char* labels, Py_ssize_t count, uint32_t* out):
    # Labels are any numbers; counters need 0, 1, 2...
    cdef dict known = {}
    cdef uint32_t label
    cdef Py_ssize_t i
    for i in range(count):
        memcpy(&label, labels + 4 * i, 4)
        out[i] = known.setdefault(label, len(known))
    return <uint32_t>len(known)


cdef class Ring:
    # uint64, strictly increasing; owner of each; nodes that own any, in index order.
    cdef uint64_t* tokens
    cdef uint32_t* owners
    cdef uint32_t* present
    cdef uint32_t* hosts
    cdef uint32_t* zones
    # starts[b]: first position whose token has top bits >= b.
    cdef uint32_t* starts
    # Row of each position: node + 1, so that fresh zeroed memory means "not yet known" (and ends a short list).
    cdef uint32_t* rows
    # Scratch of a walk: a node is seen or listed when its mark is the current epoch.
    cdef uint32_t* seen
    cdef uint32_t* listed
    cdef uint32_t* order
    cdef uint32_t* host_used
    cdef uint32_t* zone_used
    cdef uint32_t* walked
    cdef uint32_t* picked
    cdef uint32_t epoch
    cdef uint32_t present_count
    cdef uint32_t row
    cdef uint32_t host_count, zone_count
    cdef int shift
    cdef uint64_t round_up
    cdef bint flat
    cdef readonly Py_ssize_t token_count
    cdef readonly Py_ssize_t node_count

    def __cinit__(self, tokens, owners, hosts, zones, int partition_bits=64):
        cdef Py_buffer tokens_view, owners_view, hosts_view, zones_view
        if not 0 <= partition_bits <= 64:
            raise ValueError(f"partition_bits is 0 to 64, not {partition_bits}")
        self.round_up = 0 if partition_bits == 64 else ~<uint64_t>0 >> partition_bits
        acquire(tokens, &tokens_view, 8, "tokens")
        try:
            acquire(owners, &owners_view, 4, "owners")
            try:
                acquire(hosts, &hosts_view, 4, "hosts")
                try:
                    acquire(zones, &zones_view, 4, "zones")
                    try:
                        self.load(&tokens_view, &owners_view, &hosts_view, &zones_view)
                    finally:
                        PyBuffer_Release(&zones_view)
                finally:
                    PyBuffer_Release(&hosts_view)
            finally:
                PyBuffer_Release(&owners_view)
        finally:
            PyBuffer_Release(&tokens_view)
        self.index_tokens()

    cdef int load(self, Py_buffer* tokens, Py_buffer* owners, Py_buffer* hosts, Py_buffer* zones) except -1:
        cdef Py_ssize_t count = tokens.len // 8
        cdef Py_ssize_t nodes = hosts.len // 4
        cdef Py_ssize_t i
        if tokens.len != 8 * count or owners.len != 4 * count:
            raise ValueError(f"{tokens.len} bytes of tokens (8 each) do not match {owners.len} bytes of owners (4 each)")
        if hosts.len != 4 * nodes or zones.len != 4 * nodes:
            raise ValueError(f"{hosts.len} bytes of hosts (4 each) do not match {zones.len} bytes of zones (4 each)")
        if count >= <Py_ssize_t>NO_ENTRY or nodes >= <Py_ssize_t>NO_ENTRY:
            raise ValueError(f"{count} tokens of {nodes} nodes are too many")
        self.token_count = count
        self.node_count = nodes
        self.tokens = <uint64_t*>allocate(count, 8)
        self.owners = <uint32_t*>allocate(count, 4)
        self.hosts = <uint32_t*>allocate(nodes, 4)
        self.zones = <uint32_t*>allocate(nodes, 4)
        self.present = <uint32_t*>allocate(nodes, 4)
        self.seen = <uint32_t*>allocate(nodes, 4)
        self.listed = <uint32_t*>allocate(nodes, 4)
        self.order = <uint32_t*>allocate(nodes, 4)
        self.walked = <uint32_t*>allocate(nodes, 4)
        self.picked = <uint32_t*>allocate(nodes, 4)
        memcpy(self.tokens, tokens.buf, 8 * count)
        memcpy(self.owners, owners.buf, 4 * count)
        for i in range(1, count):
            if self.tokens[i - 1] >= self.tokens[i]:
                raise ValueError(f"tokens must be strictly increasing: {self.tokens[i]} follows {self.tokens[i - 1]}")
        for i in range(count):
            if self.owners[i] >= nodes:
                raise ValueError(f"owner {self.owners[i]} of token {i} is not one of {nodes} nodes")
            self.seen[self.owners[i]] = 1
        self.host_count = dense_labels(<const char*>hosts.buf, nodes, self.hosts)
        self.zone_count = dense_labels(<const char*>zones.buf, nodes, self.zones)
        self.host_used = <uint32_t*>allocate(self.host_count, 4)
        self.zone_used = <uint32_t*>allocate(self.zone_count, 4)
        self.epoch = 1
        for i in range(nodes):
            if self.seen[i]:
                self.present[self.present_count] = <uint32_t>i
                self.present_count += 1
        self.row = min(self.present_count, <uint32_t>ROW_MAX)
        # With a host for each node, and one zone or one for each node, no node is ever passed over for its labels.
        self.flat = self.host_count == nodes and (self.zone_count == 1 or self.zone_count == nodes)
        self.rows = <uint32_t*>allocate(count * self.row, 4)
        return 0

    cdef int index_tokens(self) except -1:
        # About half a token for each bucket: one look at `starts`, then mostly one at `tokens`.
        cdef int bits = 1
        cdef Py_ssize_t bucket, position = 0
        while bits < BUCKET_BITS_MAX and (<Py_ssize_t>1 << bits) < 2 * self.token_count:
            bits += 1
        self.shift = 64 - bits
        self.starts = <uint32_t*>allocate((<Py_ssize_t>1 << bits) + 1, 4)
        for bucket in range(<Py_ssize_t>1 << bits):
            while position < self.token_count and (self.tokens[position] >> self.shift) < <uint64_t>bucket:
                position += 1
            self.starts[bucket] = <uint32_t>position
        self.starts[<Py_ssize_t>1 << bits] = <uint32_t>self.token_count
        return 0

    def __dealloc__(self):
        PyMem_Free(self.tokens)
        PyMem_Free(self.owners)
        PyMem_Free(self.hosts)
        PyMem_Free(self.zones)
        PyMem_Free(self.present)
        PyMem_Free(self.seen)
        PyMem_Free(self.listed)
        PyMem_Free(self.order)
        PyMem_Free(self.walked)
        PyMem_Free(self.picked)
        PyMem_Free(self.host_used)
        PyMem_Free(self.zone_used)
        PyMem_Free(self.starts)
        PyMem_Free(self.rows)

    cdef inline uint32_t find(self, uint64_t token) noexcept:
        # First position whose token is >= token, or 0 past the last one: a node owns (predecessor, self].
        cdef uint32_t low, high, middle
        token |= self.round_up
        low = self.starts[token >> self.shift]
        high = self.starts[(token >> self.shift) + 1]
        while high - low > LINEAR_MAX:
            middle = low + (high - low) // 2
            if self.tokens[middle] < token:
                low = middle + 1
            else:
                high = middle
        while low < high and self.tokens[low] < token:
            low += 1
        return low if low < <uint32_t>self.token_count else 0

    cdef inline uint64_t rank(self, uint32_t node) noexcept:
        # How used a node's host is, then its zone: the less the better.
        return (<uint64_t>self.host_used[self.hosts[node]] << 32) | self.zone_used[self.zones[node]]

    cdef uint32_t walk(self, uint32_t position, uint32_t want, uint32_t* out) noexcept:
        # The first `want` nodes of a position's list as node + 1; gives how many there are.
        if want > self.present_count:
            want = self.present_count
        self.epoch += 1
        if self.epoch == 0:
            memset(self.seen, 0, 4 * self.node_count)
            memset(self.listed, 0, 4 * self.node_count)
            self.epoch = 1
        if self.flat:
            self.walk_flat(position, want, out)
        else:
            self.walk_spread(position, want, out)
        return want

    cdef void walk_flat(self, uint32_t position, uint32_t want, uint32_t* out) noexcept:
        cdef uint32_t found = 0, node
        while found < want:
            node = self.owners[position]
            if self.seen[node] != self.epoch:
                self.seen[node] = self.epoch
                out[found] = node + 1
                found += 1
            position += 1
            if position == <uint32_t>self.token_count:
                position = 0

    cdef void walk_spread(self, uint32_t position, uint32_t want, uint32_t* out) noexcept:
        # Each place goes to the least rank there is among the nodes left, nearest clockwise first. `order` is the
        # nodes met so far; the walk goes on only when none of them has that rank. Ranks only grow while a list does, so
        # the search for the least one ends at the first node of the rank that was least before.
        cdef uint32_t met = 0, place, i, node, chosen = 0
        cdef uint64_t least = 0, floor, rank
        cdef bint found
        memset(self.host_used, 0, 4 * <size_t>self.host_count)
        memset(self.zone_used, 0, 4 * <size_t>self.zone_count)
        for place in range(want):
            floor = least
            least = ~<uint64_t>0
            for i in range(self.present_count):
                node = self.present[i]
                if self.listed[node] != self.epoch:
                    rank = self.rank(node)
                    if rank < least:
                        least = rank
                        if least == floor:
                            break
            found = False
            for i in range(met):
                node = self.order[i]
                if self.listed[node] != self.epoch and self.rank(node) == least:
                    chosen = node
                    found = True
                    break
            while not found:
                node = self.owners[position]
                position += 1
                if position == <uint32_t>self.token_count:
                    position = 0
                if self.seen[node] != self.epoch:
                    self.seen[node] = self.epoch
                    self.order[met] = node
                    met += 1
                    if self.rank(node) == least:
                        chosen = node
                        found = True
            self.listed[chosen] = self.epoch
            self.host_used[self.hosts[chosen]] += 1
            self.zone_used[self.zones[chosen]] += 1
            out[place] = chosen + 1

    cdef inline const uint32_t* row_of(self, uint32_t position) noexcept:
        cdef uint32_t* row = self.rows + <size_t>position * self.row
        if row[0] == 0:
            self.walk(position, self.row, row)
        return row

    cdef Py_ssize_t pick(self, uint32_t position, Py_ssize_t want, const uint8_t* up) noexcept:
        # The first `want` nodes that are up (all are when `up` is NULL) go to `picked`; gives how many there are.
        cdef const uint32_t* row = self.row_of(position)
        cdef Py_ssize_t listed = self.row, found = 0, i
        for i in range(listed):
            if found == want:
                return found
            if up is NULL or up[row[i] - 1]:
                self.picked[found] = row[i] - 1
                found += 1
        if found == want or listed == self.present_count:
            return found
        # A longer list begins with the same nodes, so go on where the row ended.
        listed = self.walk(position, self.present_count if up is not NULL or want > self.present_count else want, self.walked)
        for i in range(self.row, listed):
            if found == want:
                break
            if up is NULL or up[self.walked[i] - 1]:
                self.picked[found] = self.walked[i] - 1
                found += 1
        return found

    cdef void pick_many(
        self, Py_ssize_t count, const char* tokens, Py_ssize_t want, const uint8_t* up, char* out
    ) noexcept:
        cdef Py_ssize_t i, place, found
        cdef uint64_t token
        cdef uint32_t node
        cdef const uint32_t* row
        for i in range(count):
            memcpy(&token, tokens + 8 * i, 8)
            if up is NULL and want <= self.row:
                row = self.row_of(self.find(token))
                for place in range(want):
                    node = row[place] - 1
                    memcpy(out + 4 * place, &node, 4)
            else:
                found = self.pick(self.find(token), want, up)
                memcpy(out, self.picked, 4 * found)
                memset(out + 4 * found, 0xFF, 4 * (want - found))
            out += 4 * want

    def position(self, token, /):
        return self.find(whole(token))

    def owner(self, token, /):
        return self.owners[self.find(whole(token))]

    def owner_many(self, Py_ssize_t count, tokens, out):
        cdef Py_buffer tokens_view, out_view
        cdef Py_ssize_t i
        cdef uint64_t token
        cdef uint32_t node
        check_count(count)
        acquire(tokens, &tokens_view, 8 * count, "tokens")
        try:
            acquire_writable(out, &out_view, 4 * count, "out")
            for i in range(count):
                memcpy(&token, <const char*>tokens_view.buf + 8 * i, 8)
                node = self.owners[self.find(token)]
                memcpy(<char*>out_view.buf + 4 * i, &node, 4)
            PyBuffer_Release(&out_view)
        finally:
            PyBuffer_Release(&tokens_view)

    def preference(self, token, Py_ssize_t n, up=None):
        cdef Py_buffer up_view
        cdef uint32_t position = self.find(whole(token))
        cdef Py_ssize_t found
        check_list(n)
        if up is None:
            found = self.pick(position, n, NULL)
        else:
            acquire(up, &up_view, self.node_count, "up")
            found = self.pick(position, n, <const uint8_t*>up_view.buf)
            PyBuffer_Release(&up_view)
        cdef tuple nodes = PyTuple_New(found)
        cdef Py_ssize_t i
        for i in range(found):
            node = self.picked[i]
            Py_INCREF(node)
            PyTuple_SET_ITEM(nodes, i, node)
        return nodes

    def preference_many(self, Py_ssize_t count, tokens, Py_ssize_t n, out, up=None):
        cdef Py_buffer tokens_view, out_view, up_view
        check_count(count)
        check_list(n)
        acquire(tokens, &tokens_view, 8 * count, "tokens")
        try:
            acquire_writable(out, &out_view, 4 * count * n, "out")
            try:
                if up is None:
                    self.pick_many(count, <const char*>tokens_view.buf, n, NULL, <char*>out_view.buf)
                else:
                    acquire(up, &up_view, self.node_count, "up")
                    self.pick_many(
                        count, <const char*>tokens_view.buf, n, <const uint8_t*>up_view.buf, <char*>out_view.buf
                    )
                    PyBuffer_Release(&up_view)
            finally:
                PyBuffer_Release(&out_view)
        finally:
            PyBuffer_Release(&tokens_view)


cdef inline int check_count(Py_ssize_t count) except -1:
    # The upper bounds keep 4 * count * n from overflowing; no buffer is that long.
    if count < 0 or count > COUNT_MAX:
        raise ValueError(f"count {count} is not a number of items")
    return 0


cdef inline int check_list(Py_ssize_t n) except -1:
    if n < 1 or n > LIST_MAX:
        raise ValueError(f"a preference list has 1 to {LIST_MAX} nodes, not {n}")
    return 0
