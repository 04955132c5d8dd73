/* The bytes of one record, shared by the segment and keydir kernels. docs/segment-format.md is the description; little-endian.
 *
 *    0 mark u32          four bytes of the segment's salt: a cheap first look when searching
 *    4 header crc u32    of salt, offset (u64), bytes 8..48
 *    8 body crc u32      of name and value
 *   12 value length u32  below 2**30
 *   16 sequence u64      1 .. 2**48 - 1
 *   24 digest 16
 *   40 space u32
 *   44 name length u24, flags u8
 *   48 name, value
 */
#ifndef SADIK_RECORD_H
#define SADIK_RECORD_H

#include "crc32c.h"

#define RECORD_HEADER 48u
#define RECORD_NAME_MAX 65793u
#define RECORD_VALUE_MAX ((1u << 30) - 1)
#define RECORD_SEQ_MAX ((1ull << 48) - 1)

#define FLAG_REMOVED_ 1u
#define FLAG_DEAD_ 2u
#define FLAG_SYSTEM_ 4u
#define FLAG_UNREADABLE_ 16u
#define FLAG_MARK_ 64u
#define FLAG_FOOTER_ 128u

typedef struct {
    uint32_t mark;
    uint32_t state; /* CRC state after the 16 salt bytes */
} record_salt;

typedef struct __attribute__((packed)) {
    uint32_t mark, header_crc, body_crc, value_length;
    uint64_t seq;
    uint8_t digest[16];
    uint32_t space, name_flags;
} record_header;

/* One line of an index of a segment (the body of a keydir snapshot, and what a scan yields). */
typedef struct __attribute__((packed)) {
    uint8_t digest[16];
    uint64_t seq;
    uint32_t offset, length, space;
    uint8_t flags, zero[3];
} index_entry;

static inline uint32_t record_name_length(const record_header *header) { return header->name_flags & 0xffffff; }
static inline uint32_t record_flags(const record_header *header) { return header->name_flags >> 24; }
static inline uint64_t record_bytes(const record_header *header) {
    return (uint64_t)RECORD_HEADER + record_name_length(header) + header->value_length;
}

static inline void record_salt_set(record_salt *salt, const uint8_t *bytes) {
    memcpy(&salt->mark, bytes + 12, 4);
    salt->state = crc32c_extend(0xffffffffu, bytes, 16);
}

static inline uint32_t record_header_crc(const record_salt *salt, uint64_t offset, const record_header *header) {
    uint8_t covered[48];
    memcpy(covered, &offset, 8);
    memcpy(covered + 8, (const uint8_t *)header + 8, 40);
    return ~crc32c_extend(salt->state, covered, 48);
}

/* True when these 48 bytes are the header of a record written at this offset of this segment. */
static inline int record_header_valid(const record_salt *salt, uint64_t offset, const record_header *header) {
    return header->mark == salt->mark && header->header_crc == record_header_crc(salt, offset, header) &&
           header->seq != 0 && header->seq <= RECORD_SEQ_MAX && header->value_length <= RECORD_VALUE_MAX &&
           record_name_length(header) <= RECORD_NAME_MAX;
}

static inline uint32_t record_body_crc(const uint8_t *name, size_t name_length, const uint8_t *value, size_t value_length) {
    uint32_t state = crc32c_extend(0xffffffffu, name, name_length);
    return ~crc32c_extend(state, value, value_length);
}

/* Fill in mark and header CRC; everything else is set. */
static inline void record_seal(const record_salt *salt, uint64_t offset, record_header *header) {
    header->mark = salt->mark;
    header->header_crc = record_header_crc(salt, offset, header);
}

/* Write a whole record at `out`, which has room. */
static inline void record_write(uint8_t *out, const record_salt *salt, uint64_t offset, uint64_t seq, const uint8_t *digest,
                                uint32_t space, uint32_t flags, const uint8_t *name, uint32_t name_length,
                                const uint8_t *value, uint32_t value_length) {
    record_header header;
    header.body_crc = record_body_crc(name, name_length, value, value_length);
    header.value_length = value_length;
    header.seq = seq;
    memcpy(header.digest, digest, 16);
    header.space = space;
    header.name_flags = name_length | flags << 24;
    record_seal(salt, offset, &header);
    memcpy(out, &header, RECORD_HEADER);
    memcpy(out + RECORD_HEADER, name, name_length);
    memcpy(out + RECORD_HEADER + name_length, value, value_length);
}

#endif
