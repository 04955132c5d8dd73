# Merkle trees of partitions; the contract is sadik/kernels/native/merkle.pyi.
#
# Leaves are one uint64 array. Inner nodes of all levels lie in one array, the root first, with a stale byte
# each. A stale node has only stale ancestors: so marking stops at the first stale node, and a refresh finds
# its work by walking down stale nodes only.
#
# A forest adds to each partition's tree how far it is built. It looks at nothing else before it counts a write,
# since that happens for every write of the node. Both are here, in over 600 lines, because a flat kernel cannot
# cimport another's class.

from cython cimport final
from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from buffers cimport acquire


cdef extern from "blake3.h":
    int b3_path
    int b3_path_best() noexcept nogil
    void b3_digest(const uint8_t* data, size_t length, uint8_t* out) noexcept nogil


cdef extern from "Python.h":
    # Borrowed, unlike Cython's own declaration.
    PyObject* PyList_GET_ITEM(object items, Py_ssize_t index) noexcept


cdef enum:
    FAN_BITS = 5
    NODE = 16
    LEAF = 8
    BITS_MAX = 24
    LEVELS_MAX = 6
    DIGEST = 16
    DIGEST_BITS = 128

FANOUT = 1 << FAN_BITS
HASH_BYTES = NODE
LEAF_BYTES = LEAF
LEAF_BITS_MAX = BITS_MAX

b3_path = b3_path_best()


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static inline uint64_t sadik_merkle_big_endian(const uint8_t *bytes) {
        uint64_t word;
        memcpy(&word, bytes, sizeof word);
        return __builtin_bswap64(word);
    }

    #define prefetch(p) __builtin_prefetch(p)

    /* Bits skip .. skip + bits - 1 of a digest, counted from the highest; 1 <= bits <= 24, skip + bits <= 128. */
    static inline uint32_t sadik_merkle_leaf(const uint8_t *digest, int skip, int bits) {
        uint64_t high = sadik_merkle_big_endian(digest), low = sadik_merkle_big_endian(digest + 8), window;
        if (skip >= 64) window = low << (skip - 64);
        else if (skip > 0) window = (high << skip) | (low >> (64 - skip));
        else window = high;
        return (uint32_t)(window >> (64 - bits));
    }
    """
    void prefetch(const void* p) noexcept nogil
    uint64_t big_endian "sadik_merkle_big_endian"(const uint8_t* digest) noexcept nogil
    uint32_t leaf_number "sadik_merkle_leaf"(const uint8_t* digest, int skip, int bits) noexcept nogil


cdef class Tree:
    cdef uint64_t* leaves
    cdef uint8_t* hashes
    cdef uint8_t* stale
    cdef int bits
    cdef int skip
    cdef int levels                         # of inner nodes; also the level of the leaves
    cdef Py_ssize_t start[LEVELS_MAX]       # first inner node of a level, in `hashes` and `stale`
    cdef int level_bits[LEVELS_MAX]         # log2 of the nodes of a level

    def __cinit__(self, int leaf_bits=10, int skip_bits=DIGEST_BITS // 2):
        if not 1 <= leaf_bits <= BITS_MAX:
            raise ValueError(f"leaf_bits is {leaf_bits}, must be 1 to {BITS_MAX}")
        if not 0 <= skip_bits <= DIGEST_BITS - leaf_bits:
            raise ValueError(f"skip_bits is {skip_bits}, must be 0 to {DIGEST_BITS - leaf_bits}")
        self.bits = leaf_bits
        self.skip = skip_bits
        self.levels = (leaf_bits + FAN_BITS - 1) // FAN_BITS
        cdef Py_ssize_t inner = 0
        cdef int level
        for level in range(self.levels + 1):
            self.level_bits[level] = max(0, leaf_bits - FAN_BITS * (self.levels - level))
            self.start[level] = inner
            if level < self.levels:
                inner += <Py_ssize_t>1 << self.level_bits[level]
        self.leaves = <uint64_t*>calloc(<size_t>1 << leaf_bits, LEAF)
        self.hashes = <uint8_t*>calloc(inner, NODE)
        self.stale = <uint8_t*>calloc(inner, 1)
        if self.leaves == NULL or self.hashes == NULL or self.stale == NULL:
            raise MemoryError()
        memset(self.stale, 1, inner)

    def __dealloc__(self):
        free(self.leaves)
        free(self.hashes)
        free(self.stale)

    @property
    def leaf_bits(self):
        return self.bits

    @property
    def skip_bits(self):
        return self.skip

    @property
    def depth(self):
        return self.levels

    def width(self, int level):
        self.check_level(level, self.levels)
        return 1 << self.level_bits[level]

    def leaf_of(self, digest):
        return self.locate(digest)

    def leaf_sum(self, Py_ssize_t leaf):
        if not 0 <= leaf < <Py_ssize_t>1 << self.bits:
            raise ValueError(f"leaf is {leaf}, must be below {1 << self.bits}")
        return self.leaves[leaf]

    def update(self, digest, uint64_t old, uint64_t new):
        self.change(self.locate(digest), old, new)

    def update_many(self, Py_ssize_t count, digests, olds, news):
        check_count(count)
        cdef Py_buffer digest_view, old_view, new_view
        cdef bint has_olds = olds is not None
        acquire(digests, &digest_view, count * DIGEST, "digests")
        try:
            acquire(news, &new_view, count * LEAF, "news")
            try:
                if has_olds:
                    acquire(olds, &old_view, count * LEAF, "olds")
                self.change_many(
                    count,
                    <const uint8_t*>digest_view.buf,
                    <const uint8_t*>old_view.buf if has_olds else NULL,
                    <const uint8_t*>new_view.buf,
                )
                if has_olds:
                    PyBuffer_Release(&old_view)
            finally:
                PyBuffer_Release(&new_view)
        finally:
            PyBuffer_Release(&digest_view)

    def clear(self):
        memset(self.leaves, 0, (<size_t>1 << self.bits) * LEAF)
        memset(self.stale, 1, self.start[self.levels])

    def root(self):
        self.refresh(0, 0)
        return PyBytes_FromStringAndSize(<char*>self.hashes, NODE)

    def level(self, int level):
        self.check_level(level, self.levels)
        self.refresh(0, 0)
        return PyBytes_FromStringAndSize(
            <char*>self.node(level, 0), (<Py_ssize_t>1 << self.level_bits[level]) * self.node_bytes(level)
        )

    def children(self, int level, nodes):
        self.check_level(level, self.levels - 1)
        cdef Py_buffer view
        cdef Py_ssize_t index, block = self.block_bytes(level)
        cdef uint32_t node
        cdef char* out
        acquire(nodes, &view, 0, "nodes")
        try:
            self.check_nodes(level, &view)
            self.refresh(0, 0)
            result = PyBytes_FromStringAndSize(NULL, (view.len // 4) * block)
            out = PyBytes_AS_STRING(result)
            for index in range(view.len // 4):
                memcpy(&node, <const char*>view.buf + 4 * index, 4)
                memcpy(out + index * block, self.block(level, node), block)
        finally:
            PyBuffer_Release(&view)
        return result

    def differing(self, int level, nodes, theirs):
        self.check_level(level, self.levels - 1)
        cdef Py_buffer view, their_view
        cdef Py_ssize_t found, block = self.block_bytes(level)
        acquire(nodes, &view, 0, "nodes")
        try:
            self.check_nodes(level, &view)
            acquire(theirs, &their_view, 0, "theirs")
            try:
                if their_view.len != (view.len // 4) * block:
                    raise ValueError(f"theirs has {their_view.len} bytes, not {(view.len // 4) * block}")
                self.refresh(0, 0)
                found = self.compare(level, &view, <const uint8_t*>their_view.buf, NULL)
                result = PyBytes_FromStringAndSize(NULL, 4 * found)
                self.compare(level, &view, <const uint8_t*>their_view.buf, PyBytes_AS_STRING(result))
            finally:
                PyBuffer_Release(&their_view)
        finally:
            PyBuffer_Release(&view)
        return result

    def differing_leaves(self, Tree other not None):
        if other.bits != self.bits or other.skip != self.skip:
            raise ValueError(
                f"trees of {self.bits} leaf bits after {self.skip} skipped and of {other.bits} after {other.skip} "
                "cannot be compared"
            )
        self.refresh(0, 0)
        other.refresh(0, 0)
        cdef Py_ssize_t found = self.walk(other, 0, 0, NULL, 0)
        result = PyBytes_FromStringAndSize(NULL, 4 * found)
        self.walk(other, 0, 0, PyBytes_AS_STRING(result), 0)
        return result

    cdef int check_level(self, int level, int last) except -1:
        if not 0 <= level <= last:
            raise ValueError(f"level is {level}, must be 0 to {last}")
        return 0

    cdef int check_nodes(self, int level, Py_buffer* view) except -1:
        cdef Py_ssize_t index
        cdef uint32_t node
        if view.len % 4:
            raise ValueError(f"nodes has {view.len} bytes, must be uint32 each")
        for index in range(view.len // 4):
            memcpy(&node, <const char*>view.buf + 4 * index, 4)
            if node >> self.level_bits[level]:
                raise ValueError(f"node is {node}, must be below {1 << self.level_bits[level]} on level {level}")
        return 0

    cdef Py_ssize_t locate(self, digest) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t leaf
        acquire(digest, &view, DIGEST, "digest")
        try:
            if view.len != DIGEST:
                raise ValueError(f"digest has {view.len} bytes, must have {DIGEST}")
            leaf = leaf_number(<const uint8_t*>view.buf, self.skip, self.bits)
        finally:
            PyBuffer_Release(&view)
        return leaf

    cdef inline Py_ssize_t node_bytes(self, int level) noexcept:
        return LEAF if level == self.levels else NODE

    cdef inline Py_ssize_t block_bytes(self, int level) noexcept:
        return self.node_bytes(level + 1) << (self.level_bits[level + 1] - self.level_bits[level])

    cdef inline uint8_t* node(self, int level, Py_ssize_t index) noexcept:
        if level == self.levels:
            return <uint8_t*>(self.leaves + index)
        return self.hashes + NODE * (self.start[level] + index)

    cdef inline uint8_t* block(self, int level, Py_ssize_t index) noexcept:
        """The children of a node, which lie side by side."""
        return self.node(level + 1, index << (self.level_bits[level + 1] - self.level_bits[level]))

    @final
    cdef inline void change(self, Py_ssize_t leaf, uint64_t old, uint64_t new) noexcept:
        cdef int level = self.levels - 1
        cdef Py_ssize_t index = leaf
        cdef uint8_t* mark
        if old == new:
            return
        add_wrapping(self.leaves + leaf, new, old)
        while level >= 0:
            index >>= self.level_bits[level + 1] - self.level_bits[level]
            mark = self.stale + self.start[level] + index
            if mark[0]:
                return
            mark[0] = 1
            level -= 1

    cdef void change_many(
        self, Py_ssize_t count, const uint8_t* digests, const uint8_t* olds, const uint8_t* news
    ) noexcept:
        cdef Py_ssize_t index
        cdef uint64_t old = 0, new
        for index in range(count):
            memcpy(&new, news + LEAF * index, LEAF)
            if olds != NULL:
                memcpy(&old, olds + LEAF * index, LEAF)
            self.change(leaf_number(digests + DIGEST * index, self.skip, self.bits), old, new)

    cdef void refresh(self, int level, Py_ssize_t index) noexcept:
        cdef uint8_t* mark = self.stale + self.start[level] + index
        cdef Py_ssize_t child, first, last
        if not mark[0]:
            return
        if level + 1 < self.levels:
            first = index << (self.level_bits[level + 1] - self.level_bits[level])
            last = (index + 1) << (self.level_bits[level + 1] - self.level_bits[level])
            for child in range(first, last):
                if self.stale[self.start[level + 1] + child]:
                    self.refresh(level + 1, child)
        b3_digest(self.block(level, index), self.block_bytes(level), self.node(level, index))
        mark[0] = 0

    cdef Py_ssize_t compare(self, int level, Py_buffer* nodes, const uint8_t* theirs, char* out) noexcept:
        """Count the differing children, and write their numbers to `out` unless it is NULL."""
        cdef Py_ssize_t size = self.node_bytes(level + 1), found = 0, index, child
        cdef int fan_bits = self.level_bits[level + 1] - self.level_bits[level]
        cdef uint32_t node
        cdef const uint8_t* ours
        for index in range(nodes.len // 4):
            memcpy(&node, <const char*>nodes.buf + 4 * index, 4)
            ours = self.block(level, node)
            for child in range(<Py_ssize_t>1 << fan_bits):
                if memcmp(ours + child * size, theirs, size):
                    if out != NULL:
                        put_uint32(out + 4 * found, (node << fan_bits) + <uint32_t>child)
                    found += 1
                theirs += size
        return found

    cdef Py_ssize_t walk(self, Tree other, int level, Py_ssize_t index, char* out, Py_ssize_t found) noexcept:
        """Differing leaves below a node, counted on from `found`, and written to `out` unless it is NULL."""
        cdef Py_ssize_t child, first, last
        if memcmp(self.node(level, index), other.node(level, index), self.node_bytes(level)) == 0:
            return found
        if level == self.levels:
            if out != NULL:
                put_uint32(out + 4 * found, <uint32_t>index)
            return found + 1
        first = index << (self.level_bits[level + 1] - self.level_bits[level])
        last = (index + 1) << (self.level_bits[level + 1] - self.level_bits[level])
        for child in range(first, last):
            found = self.walk(other, level + 1, child, out, found)
        return found


cdef inline void put_uint32(char* out, uint32_t value) noexcept:
    memcpy(out, &value, 4)


cdef extern from *:
    """
    /* In C, because the debug build's overflow checks would report the wrapping that is meant here. */
    static inline void sadik_merkle_add(uint64_t *leaf, uint64_t plus, uint64_t minus) {
        *leaf += plus - minus;
    }
    """
    void add_wrapping "sadik_merkle_add"(uint64_t* leaf, uint64_t plus, uint64_t minus) noexcept nogil


cdef enum:
    UNBUILT = 0
    BEGUN = 1           # being built, and no digest of it is counted yet
    BUILDING = 2        # being built: digests up to the cursor are counted
    BUILT = 3
    PARTITION_BITS_MAX = 16
    AHEAD = 16


# Final, so that its own methods are plain C functions to the compiler.
@final
cdef class Forest:
    cdef list trees                         # of Tree, None where nothing was counted yet
    cdef Tree empty                         # what stands for None; never written to
    cdef uint8_t* states
    cdef uint64_t* cursors                  # two words to a partition: the greatest digest that is counted
    cdef int partition_bit_count
    cdef int leaf_bit_count
    cdef Py_ssize_t missing                 # partitions without a tree

    def __cinit__(self, int partition_bits, int leaf_bits=10):
        if not 0 <= partition_bits <= PARTITION_BITS_MAX:
            raise ValueError(f"partition_bits is {partition_bits}, must be 0 to {PARTITION_BITS_MAX}")
        self.empty = Tree(leaf_bits, partition_bits)
        self.partition_bit_count = partition_bits
        self.leaf_bit_count = leaf_bits
        self.missing = <Py_ssize_t>1 << partition_bits
        self.trees = [None] * self.missing
        self.states = <uint8_t*>calloc(self.missing, 1)
        self.cursors = <uint64_t*>calloc(self.missing, 16)
        if self.states == NULL or self.cursors == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.states)
        free(self.cursors)

    @property
    def partition_bits(self):
        return self.partition_bit_count

    @property
    def leaf_bits(self):
        return self.leaf_bit_count

    def update_many(self, Py_ssize_t count, digests, befores, afters):
        check_count(count)
        cdef Py_buffer digest_view, before_view, after_view
        acquire(digests, &digest_view, count * DIGEST, "digests")
        try:
            acquire(befores, &before_view, count * LEAF, "befores")
            try:
                acquire(afters, &after_view, count * LEAF, "afters")
                try:
                    self.count_many(
                        count,
                        <const uint8_t*>digest_view.buf,
                        <const uint8_t*>before_view.buf,
                        <const uint8_t*>after_view.buf,
                    )
                finally:
                    PyBuffer_Release(&after_view)
            finally:
                PyBuffer_Release(&before_view)
        finally:
            PyBuffer_Release(&digest_view)

    def begin(self, Py_ssize_t partition):
        self.check_partition(partition)
        self.drop(partition)
        self.states[partition] = BEGUN

    def extend(self, Py_ssize_t partition, last, Py_ssize_t count, digests, fingerprints):
        self.check_being_built(partition)
        check_count(count)
        cdef Py_buffer last_view, digest_view, print_view
        cdef uint64_t high, low
        cdef Tree tree
        acquire(last, &last_view, 0, "last")
        try:
            if last_view.len != DIGEST:
                raise ValueError(f"last has {last_view.len} bytes, must have {DIGEST}")
            high = big_endian(<const uint8_t*>last_view.buf)
            low = big_endian(<const uint8_t*>last_view.buf + 8)
        finally:
            PyBuffer_Release(&last_view)
        if self.partition_of(high) != partition:
            raise ValueError(f"last is not of partition {partition}")
        if self.states[partition] == BUILDING and not is_above(high, low, self.cursors + 2 * partition):
            raise ValueError("last is not above what is counted already")
        acquire(digests, &digest_view, count * DIGEST, "digests")
        try:
            acquire(fingerprints, &print_view, count * LEAF, "fingerprints")
            try:
                self.check_page(partition, high, low, count, <const uint8_t*>digest_view.buf)
                if count:
                    tree = self.grow(partition)
                    tree.change_many(
                        count, <const uint8_t*>digest_view.buf, NULL, <const uint8_t*>print_view.buf
                    )
            finally:
                PyBuffer_Release(&print_view)
        finally:
            PyBuffer_Release(&digest_view)
        self.cursors[2 * partition] = high
        self.cursors[2 * partition + 1] = low
        self.states[partition] = BUILDING

    def finish(self, Py_ssize_t partition):
        self.check_being_built(partition)
        self.states[partition] = BUILT

    def forget(self, Py_ssize_t partition):
        self.check_partition(partition)
        self.drop(partition)
        self.states[partition] = UNBUILT

    def forget_all(self):
        cdef Py_ssize_t partition
        for partition in range(<Py_ssize_t>1 << self.partition_bit_count):
            self.drop(partition)
            self.states[partition] = UNBUILT

    def is_built(self, Py_ssize_t partition):
        self.check_partition(partition)
        return self.states[partition] == BUILT

    def tree(self, Py_ssize_t partition):
        self.check_partition(partition)
        tree = self.trees[partition]
        return self.empty if tree is None else tree

    def roots(self, partitions):
        cdef Py_buffer view
        cdef Py_ssize_t index
        cdef uint32_t partition
        cdef Tree tree
        cdef char* out
        acquire(partitions, &view, 0, "partitions")
        try:
            if view.len % 4:
                raise ValueError(f"partitions has {view.len} bytes, must be uint32 each")
            for index in range(view.len // 4):
                memcpy(&partition, <const char*>view.buf + 4 * index, 4)
                self.check_partition(partition)
            result = PyBytes_FromStringAndSize(NULL, (view.len // 4) * NODE)
            out = PyBytes_AS_STRING(result)
            for index in range(view.len // 4):
                memcpy(&partition, <const char*>view.buf + 4 * index, 4)
                if self.states[partition] != BUILT:
                    memset(out + NODE * index, 0, NODE)
                    continue
                found = self.trees[partition]
                tree = self.empty if found is None else <Tree>found
                tree.refresh(0, 0)
                memcpy(out + NODE * index, tree.hashes, NODE)
        finally:
            PyBuffer_Release(&view)
        return result

    cdef int check_partition(self, Py_ssize_t partition) except -1:
        if not 0 <= partition < <Py_ssize_t>1 << self.partition_bit_count:
            raise ValueError(f"partition is {partition}, must be below {1 << self.partition_bit_count}")
        return 0

    cdef int check_being_built(self, Py_ssize_t partition) except -1:
        self.check_partition(partition)
        if self.states[partition] != BEGUN and self.states[partition] != BUILDING:
            raise ValueError(f"partition {partition} is not being built")
        return 0

    cdef int check_page(
        self, Py_ssize_t partition, uint64_t high, uint64_t low, Py_ssize_t count, const uint8_t* digests
    ) except -1:
        """Every digest of the partition, above what is counted, and not above the last."""
        cdef Py_ssize_t index
        cdef uint64_t last[2]
        cdef uint64_t digest_high, digest_low
        last[0], last[1] = high, low
        for index in range(count):
            digest_high = big_endian(digests + DIGEST * index)
            digest_low = big_endian(digests + DIGEST * index + 8)
            if (
                self.partition_of(digest_high) != partition
                or is_above(digest_high, digest_low, last)
                or (
                    self.states[partition] == BUILDING
                    and not is_above(digest_high, digest_low, self.cursors + 2 * partition)
                )
            ):
                raise ValueError(f"digest {index} is not between what is counted already and last")
        return 0

    cdef inline Py_ssize_t partition_of(self, uint64_t high) noexcept:
        # In two shifts: one of 64 bits is undefined.
        return <Py_ssize_t>((high >> 1) >> (63 - self.partition_bit_count))

    cdef Tree grow(self, Py_ssize_t partition):
        """The tree of a partition, made when it has none."""
        found = self.trees[partition]
        if found is not None:
            return <Tree>found
        tree = Tree(self.leaf_bit_count, self.partition_bit_count)
        self.trees[partition] = tree
        self.missing -= 1
        return tree

    cdef void drop(self, Py_ssize_t partition):
        if self.trees[partition] is not None:
            self.trees[partition] = None
            self.missing += 1

    cdef int count_many(
        self, Py_ssize_t count, const uint8_t* digests, const uint8_t* befores, const uint8_t* afters
    ) except -1:
        cdef Py_ssize_t index, partition
        cdef uint64_t before, after
        # First the trees, so that a failed allocation has changed nothing; they are soon all there.
        if self.missing:
            for index in range(count):
                if memcmp(befores + LEAF * index, afters + LEAF * index, LEAF):
                    partition = self.partition_of(big_endian(digests + DIGEST * index))
                    if self.states[partition] and PyList_GET_ITEM(self.trees, partition) == <PyObject*>None:
                        self.grow(partition)
        # Trees, then leaves, are asked for ahead: their misses would otherwise be waited for one by one.
        for index in range(min(count, AHEAD)):
            self.ask_for_tree(digests + DIGEST * index)
        for index in range(min(count, AHEAD // 2)):
            self.ask_for_leaf(digests + DIGEST * index)
        for index in range(count):
            if index + AHEAD < count:
                self.ask_for_tree(digests + DIGEST * (index + AHEAD))
            if index + AHEAD // 2 < count:
                self.ask_for_leaf(digests + DIGEST * (index + AHEAD // 2))
            memcpy(&before, befores + LEAF * index, LEAF)
            memcpy(&after, afters + LEAF * index, LEAF)
            if before != after:
                self.count_one(digests + DIGEST * index, before, after)
        return 0

    cdef inline void ask_for_tree(self, const uint8_t* digest) noexcept:
        cdef const char* tree = <const char*>PyList_GET_ITEM(self.trees, self.partition_of(big_endian(digest)))
        prefetch(tree)
        prefetch(tree + 64)
        prefetch(tree + 128)

    cdef inline void ask_for_leaf(self, const uint8_t* digest) noexcept:
        cdef PyObject* tree = PyList_GET_ITEM(self.trees, self.partition_of(big_endian(digest)))
        if tree != <PyObject*>None:
            prefetch(&(<Tree>tree).leaves[leaf_number(digest, self.partition_bit_count, self.leaf_bit_count)])
            prefetch((<Tree>tree).stale)

    cdef inline void count_one(self, const uint8_t* digest, uint64_t before, uint64_t after) noexcept:
        cdef uint64_t high = big_endian(digest)
        cdef Py_ssize_t partition = self.partition_of(high)
        cdef uint8_t state = self.states[partition]
        if state == BUILT or (
            state == BUILDING and not is_above(high, big_endian(digest + 8), self.cursors + 2 * partition)
        ):
            (<Tree>PyList_GET_ITEM(self.trees, partition)).change(
                leaf_number(digest, self.partition_bit_count, self.leaf_bit_count), before, after
            )


cdef inline int check_count(Py_ssize_t count) except -1:
    if count < 0:
        raise ValueError(f"count is {count}, must not be negative")
    if count > (<Py_ssize_t>1 << 58):
        raise ValueError(f"count is {count}: no buffer is that long")
    return 0


cdef inline bint is_above(uint64_t high, uint64_t low, const uint64_t* digest) noexcept nogil:
    return high > digest[0] or (high == digest[0] and low > digest[1])
