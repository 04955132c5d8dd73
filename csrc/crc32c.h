/* CRC-32C (Castagnoli, reflected polynomial 0x82F63B78) of byte strings, with the processor's own instruction where there is one.
 *
 * No -march flags are needed: the fast paths are compiled for their target by attribute and chosen at run time by
 * crc32c_prepare(), which each extension that includes this calls once at import. A "state" is the inverted CRC; so
 * crc32c(a + b) is ~extend(extend(~0, a), b), and a state may be kept to continue from.
 */
#ifndef SADIK_CRC32C_H
#define SADIK_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint32_t (*crc32c_extend_t)(uint32_t state, const uint8_t *data, size_t length);

static uint32_t crc32c_table[8][256];

/* Slicing by 8: eight tables, so that eight bytes are folded by independent look-ups. */
static uint32_t crc32c_portable(uint32_t state, const uint8_t *data, size_t length) {
    while (length >= 8) {
        uint32_t low, high;
        memcpy(&low, data, 4);
        memcpy(&high, data + 4, 4);
        low ^= state;
        state = crc32c_table[7][low & 0xff] ^ crc32c_table[6][(low >> 8) & 0xff] ^
                crc32c_table[5][(low >> 16) & 0xff] ^ crc32c_table[4][low >> 24] ^
                crc32c_table[3][high & 0xff] ^ crc32c_table[2][(high >> 8) & 0xff] ^
                crc32c_table[1][(high >> 16) & 0xff] ^ crc32c_table[0][high >> 24];
        data += 8;
        length -= 8;
    }
    while (length--)
        state = crc32c_table[0][(state ^ *data++) & 0xff] ^ (state >> 8);
    return state;
}

#if defined(__x86_64__)
#include <nmmintrin.h>
/* The loops below differ only in the intrinsics: 3 cycles per 8 bytes, about 8 GB/s, more than a record is ever read with. */
__attribute__((target("sse4.2"))) static uint32_t crc32c_hardware(uint32_t state, const uint8_t *data, size_t length) {
    uint64_t wide = state;
    while (length >= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        wide = _mm_crc32_u64(wide, word);
        data += 8;
        length -= 8;
    }
    state = (uint32_t)wide;
    if (length >= 4) {
        uint32_t word;
        memcpy(&word, data, 4);
        state = _mm_crc32_u32(state, word);
        data += 4;
        length -= 4;
    }
    while (length--)
        state = _mm_crc32_u8(state, *data++);
    return state;
}
static int crc32c_hardware_there(void) { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <sys/auxv.h>
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif
__attribute__((target("+crc"))) static uint32_t crc32c_hardware(uint32_t state, const uint8_t *data, size_t length) {
    while (length >= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        state = __crc32cd(state, word);
        data += 8;
        length -= 8;
    }
    while (length--)
        state = __crc32cb(state, *data++);
    return state;
}
static int crc32c_hardware_there(void) { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }
#else
#define crc32c_hardware crc32c_portable
static int crc32c_hardware_there(void) { return 0; }
#endif

static crc32c_extend_t crc32c_extend = crc32c_portable;

static void crc32c_prepare(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++)
            value = (value >> 1) ^ (0x82F63B78u & (0u - (value & 1)));
        crc32c_table[0][byte] = value;
    }
    for (int row = 1; row < 8; row++)
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t before = crc32c_table[row - 1][byte];
            crc32c_table[row][byte] = (before >> 8) ^ crc32c_table[0][before & 0xff];
        }
    crc32c_extend = crc32c_hardware_there() ? crc32c_hardware : crc32c_portable;
}

/* For tests: the path every processor has. */
static inline void crc32c_use(int hardware) { crc32c_extend = hardware ? crc32c_hardware : crc32c_portable; }

#endif
