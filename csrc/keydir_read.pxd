# Reading records out of maps that may fault: each step is plain C, run under the guard. Inline, for keydir.pyx.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from keydir_table cimport Slot, Table
from record cimport (
    RECORD_HEADER, crc32c_extend, record_bytes, record_header, record_header_valid, record_name_length, record_salt,
)


cdef extern from "guard.h" nogil:
    ctypedef void (*guard_work_t)(void*) noexcept
    int guard_install()
    int guard_run(guard_work_t work, void* argument)
    void guard_barrier()

cdef enum:
    STORED = 0
    ABSENT = 1
    ERROR = 2

cdef struct Probe:
    # What a guarded step reads and tells. Results are written once, at its end.
    const uint8_t* record
    uint64_t room
    const record_salt* salt
    uint64_t offset
    uint8_t digest[16]
    uint8_t* target
    record_header header
    bint sound

cdef struct Plan:
    # One operation of a batch between its steps.
    Slot* slot
    Table* table
    uint64_t high
    uint64_t low
    const uint8_t* record
    const record_salt* salt
    uint64_t room
    uint64_t offset
    uint32_t name_length
    uint32_t value_length
    uint32_t body_crc
    uint32_t status

cdef struct BatchWork:
    Plan* plans
    const uint8_t* digests
    Py_ssize_t first
    Py_ssize_t stop
    uint8_t* target
    uint64_t at
    int64_t* offsets


cdef inline void read_header(void* argument) noexcept nogil:
    cdef Probe* probe = <Probe*>argument
    cdef record_header header
    memcpy(&header, probe.record, RECORD_HEADER)
    # The bytes come from a map that may change under us: check and use this copy, never the map again. Without the barrier
    # the compiler takes the two for the same and reads some fields twice.
    guard_barrier()
    probe.sound = (
        record_header_valid(probe.salt, probe.offset, &header)
        and record_bytes(&header) <= probe.room
        and memcmp(header.digest, probe.digest, 16) == 0
    )
    probe.header = header


cdef inline void read_body(void* argument) noexcept nogil:
    cdef Probe* probe = <Probe*>argument
    cdef uint32_t name_length = record_name_length(&probe.header)
    cdef const uint8_t* name = probe.record + RECORD_HEADER
    cdef uint32_t state = crc32c_extend(0xffffffffu, name, name_length)
    memcpy(probe.target, name + name_length, probe.header.value_length)
    state = crc32c_extend(state, probe.target, probe.header.value_length)
    probe.sound = ~state == probe.header.body_crc


cdef inline void read_name_and_body(void* argument) noexcept nogil:
    cdef Probe* probe = <Probe*>argument
    cdef uint64_t length = <uint64_t>record_name_length(&probe.header) + probe.header.value_length
    memcpy(probe.target, probe.record + RECORD_HEADER, length)
    probe.sound = ~crc32c_extend(0xffffffffu, probe.target, length) == probe.header.body_crc


cdef inline void read_headers(void* argument) noexcept nogil:
    """Check the headers of a window of plans; `first` tells how far it came when a page faults."""
    cdef BatchWork* work = <BatchWork*>argument
    cdef Plan* plan
    cdef record_header header
    while work.first < work.stop:
        plan = &work.plans[work.first]
        if plan.status == STORED:
            guard_barrier()
            memcpy(&header, plan.record, RECORD_HEADER)
            guard_barrier()
            if record_header_valid(plan.salt, plan.offset, &header) and record_bytes(&header) <= plan.room and \
                    memcmp(header.digest, work.digests + 16 * work.first, 16) == 0:
                plan.name_length = record_name_length(&header)
                plan.value_length = header.value_length
                plan.body_crc = header.body_crc
            else:
                plan.status = ERROR
        work.first += 1
        guard_barrier()


cdef inline void read_bodies(void* argument) noexcept nogil:
    cdef BatchWork* work = <BatchWork*>argument
    cdef Plan* plan
    cdef uint32_t state
    cdef const uint8_t* name
    while work.first < work.stop:
        plan = &work.plans[work.first]
        if plan.status == STORED:
            guard_barrier()
            name = plan.record + RECORD_HEADER
            state = crc32c_extend(0xffffffffu, name, plan.name_length)
            memcpy(work.target + work.at, name + plan.name_length, plan.value_length)
            state = crc32c_extend(state, work.target + work.at, plan.value_length)
            if ~state == plan.body_crc:
                work.at += plan.value_length
            else:
                plan.status = ERROR
        work.first += 1
        work.offsets[work.first] = work.at
        guard_barrier()
