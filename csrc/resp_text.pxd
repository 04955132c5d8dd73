# The text of requests: numbers and words as Redis reads them, and the commands that are plain operations. Inline, for resp.pyx.

from libc.stdint cimport INT64_MAX, int64_t, uint64_t

from resp_run cimport KIND_GET, KIND_SET, Text

cdef enum:
    KEY_MAX = 65535

cdef extern from *:
    """
    #define TTL_MS_MAX ((int64_t)1 << 48)
    /* In C, because the overflow checks of the debug build take pointers for integers. */
    #define span(first, stop) ((Py_ssize_t)((stop) - (first)))
    """
    const int64_t TTL_MS_MAX
    Py_ssize_t span(Text first, Text stop) noexcept nogil


cdef inline bint is_space(unsigned char c) noexcept nogil:
    return c == 32 or 9 <= c <= 13


cdef inline unsigned char lower(unsigned char c) noexcept nogil:
    return c | 32 if 65 <= c <= 90 else c


cdef inline bint is_word(Text text, Py_ssize_t length, const char* word, Py_ssize_t word_length) noexcept nogil:
    """Equal but for the case of ASCII letters; `word` is in lower case."""
    cdef Py_ssize_t i
    if length != word_length:
        return False
    for i in range(length):
        if lower(text[i]) != <unsigned char>word[i]:
            return False
    return True


cdef inline bint to_int64(Text text, Py_ssize_t length, int64_t* value) noexcept nogil:
    """Strict and canonical, as Redis' own: no plus, no leading zeros, no minus zero, no spaces, int64."""
    cdef uint64_t number = 0, limit = <uint64_t>INT64_MAX
    cdef Py_ssize_t i = 0
    cdef bint negative = length > 0 and text[0] == c'-'
    cdef int digit
    if negative:
        i = 1
        limit += 1
    if length == i or length > 20:
        return False
    if text[i] == c'0':
        value[0] = 0
        return length == 1
    while i < length:
        digit = <int>text[i] - 48
        if not 0 <= digit <= 9 or number > (limit - <uint64_t>digit) // 10:
            return False
        number = number * 10 + <uint64_t>digit
        i += 1
    # A negative number is not zero here, and -2**63 has no positive twin.
    value[0] = -<int64_t>(number - 1) - 1 if negative else <int64_t>number
    return True


cdef inline Text short_number(Text text, Text end, Py_ssize_t* value) noexcept nogil:
    """The usual line after its marker: 1 to 9 digits, canonical, CR, one more byte. Gives what follows, or NULL for any other."""
    cdef Text stop
    cdef int digit, number
    if span(text, end) < 3:
        return NULL
    # The CR must stand at or before `stop`: after nine digits at most, with one more byte behind it.
    stop = end - 2 if span(text, end) < 11 else text + 9
    number = <int>text[0] - 48
    if not 0 <= number <= 9:
        return NULL
    text += 1
    if text[0] != 13:
        if number == 0:
            return NULL
        while True:
            digit = <int>text[0] - 48
            if not 0 <= digit <= 9 or text == stop:
                break
            number = number * 10 + digit
            text += 1
        if text[0] != 13:
            return NULL
    value[0] = number
    return text + 2


cdef inline int hex_digit(unsigned char c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    c = lower(c)
    return c - 87 if 97 <= c <= 102 else -1


cdef inline Py_ssize_t next_word(Text line, Py_ssize_t length, Py_ssize_t* position, unsigned char* word) noexcept nogil:
    """Write the next word of an inline command to `word`; gives its length, -1 at the end of the line, -2 for unbalanced quotes."""
    cdef Py_ssize_t i = position[0], size = 0
    cdef unsigned char c, quote = 0
    while i < length and is_space(line[i]):
        i += 1
    if i == length:
        return -1
    while i < length:
        c = line[i]
        i += 1
        if quote == 0:
            if c == 32 or c == 9 or c == 10 or c == 13:
                break
            if c == c'"' or c == c"'":
                quote = c
                continue
        elif c == quote:
            if i < length and not is_space(line[i]):
                return -2
            quote = 0
            break
        elif c == 92 and i < length:
            if quote == c"'":
                if line[i] == c"'":
                    c = line[i]
                    i += 1
            elif line[i] == c'x' and length - i > 2 and hex_digit(line[i + 1]) >= 0 and hex_digit(line[i + 2]) >= 0:
                c = <unsigned char>(hex_digit(line[i + 1]) * 16 + hex_digit(line[i + 2]))
                i += 3
            else:
                c = line[i]
                i += 1
                if c == c'n':
                    c = 10
                elif c == c'r':
                    c = 13
                elif c == c't':
                    c = 9
                elif c == c'b':
                    c = 8
                elif c == c'a':
                    c = 7
        word[size] = c
        size += 1
    if quote:
        return -2
    position[0] = i
    return size


cdef inline int plain_kind(Py_ssize_t count, const Text* item, const Py_ssize_t* length, int64_t* ttl_ms) noexcept nogil:
    """GET (0) or SET (1) when the command is one of the plain forms, else -1. `item` and `length` have `count` items, at least one."""
    cdef int64_t number
    if count < 2 or length[0] != 3 or not 1 <= length[1] <= KEY_MAX:
        return -1
    ttl_ms[0] = -1
    if count == 2:
        return KIND_GET if is_word(item[0], 3, b"get", 3) else -1
    if count == 4 or not is_word(item[0], 3, b"set", 3):
        return -1
    if count == 3:
        return KIND_SET
    if not to_int64(item[4], length[4], &number) or number < 1:
        return -1
    if is_word(item[3], length[3], b"ex", 2) and number <= TTL_MS_MAX // 1000:
        ttl_ms[0] = 1000 * number
    elif is_word(item[3], length[3], b"px", 2) and number <= TTL_MS_MAX:
        ttl_ms[0] = number
    else:
        return -1
    return KIND_SET
