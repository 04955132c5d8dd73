# The record's layout (record.h) and CRC-32C (crc32c.h) for kernels.

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "record.h" nogil:
    uint32_t crc32c_extend(uint32_t state, const uint8_t* data, size_t length)
    void crc32c_prepare()
    bint crc32c_hardware_there()
    void crc32c_use(bint hardware)

    const uint32_t RECORD_HEADER
    const uint32_t RECORD_NAME_MAX
    const uint32_t RECORD_VALUE_MAX
    const uint64_t RECORD_SEQ_MAX
    const uint32_t FLAG_REMOVED_, FLAG_DEAD_, FLAG_SYSTEM_, FLAG_UNREADABLE_, FLAG_MARK_, FLAG_FOOTER_

    ctypedef struct record_salt:
        uint32_t mark
        uint32_t state

    ctypedef struct record_header:
        uint32_t mark, header_crc, body_crc, value_length
        uint64_t seq
        uint8_t digest[16]
        uint32_t space, name_flags

    ctypedef struct index_entry:
        uint8_t digest[16]
        uint64_t seq
        uint32_t offset, length, space
        uint8_t flags

    uint32_t record_name_length(const record_header* header)
    uint32_t record_flags(const record_header* header)
    uint64_t record_bytes(const record_header* header)
    void record_salt_set(record_salt* salt, const uint8_t* bytes)
    bint record_header_valid(const record_salt* salt, uint64_t offset, const record_header* header)
    uint32_t record_body_crc(const uint8_t* name, size_t name_length, const uint8_t* value, size_t value_length)
    void record_seal(const record_salt* salt, uint64_t offset, record_header* header)
    void record_write(uint8_t* out, const record_salt* salt, uint64_t offset, uint64_t seq, const uint8_t* digest,
                      uint32_t space, uint32_t flags, const uint8_t* name, uint32_t name_length,
                      const uint8_t* value, uint32_t value_length)
