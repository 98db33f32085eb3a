/* What JSON is made of, as RFC 8259 has it, and UTF-8 as RFC 3629 has it.
 *
 * Each function takes a place and returns what follows, or `NULL` where there is something else or
 * something that is not plain. None reads beyond the first newline or zero that it meets.
 */

#ifndef NVISY_JSONL_LEXING_H
#define NVISY_JSONL_LEXING_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef unsigned __int128 Decimal;
typedef const uint8_t *Place; /* NULL stands for: suspicious */

enum { NONE, ANY, BOOLEAN, INTEGER, FLOAT, DECIMAL, TEXT, TIMESTAMP, LIST, STRUCT };

/* A type; its layout and the numbers of the kinds are repeated in `jsonl_rows.py`. */
typedef struct {
    uint8_t kind;
    uint8_t width;    /* of a number or a timestamp: its bytes in a column */
    uint16_t places;  /* digits after the point: of a decimal, of the seconds of a timestamp */
    int32_t digits;   /* digits before the point that surely fit */
    uint64_t most;    /* of an integer: the greatest */
    uint64_t least;   /* of an integer: the absolute value of the smallest */
    const uint8_t *name;
    int32_t name_size;
    int32_t children; /* how many: the fields of a struct, the one type of a list */
    int32_t first;    /* where they are among all nodes */
} Node;

static int is_digit(uint8_t code) { return (uint8_t)(code - '0') < 10; }

static Place blanks(Place at) {
    while (*at == ' ' || *at == '\t' || *at == '\r') at++;
    return at;
}

/* What follows a word; `NULL` if it is another. */
static Place word(Place at, const char *letters) {
    for (; *letters; letters++, at++)
        if (*at != (uint8_t)*letters) return NULL;
    return at;
}

/* The first of: a quote, a backslash, a control character, a byte beyond ASCII. */
static Place plain(Place at, Place end) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    const uint64_t each = 0x0101010101010101u;
    while (end - at >= 8) {
        uint64_t some;
        memcpy(&some, at, 8);
        uint64_t quote = some ^ (each * '"'), slash = some ^ (each * '\\');
        uint64_t hit = (some | (some - each * 0x20) | (quote - each) | (slash - each)) & (each * 0x80);
        /* Only a byte after the first hit can be taken for one wrongly. */
        if (hit) return at + __builtin_ctzll(hit) / 8;
        at += 8;
    }
#endif
    while (*at >= 0x20 && *at < 0x80 && *at != '"' && *at != '\\') at++;
    return at;
}

static int continues(Place at, uint8_t least, uint8_t most) { return *at >= least && *at <= most; }

/* One character beyond ASCII, as RFC 3629 lists them. */
static Place character(Place at) {
    uint8_t lead = *at++, least = 0x80, most = 0xBF;
    int more;
    if (lead >= 0xC2 && lead <= 0xDF) {
        more = 1;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        more = 2;
        if (lead == 0xE0) least = 0xA0;
        if (lead == 0xED) most = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        more = 3;
        if (lead == 0xF0) least = 0x90;
        if (lead == 0xF4) most = 0x8F;
    } else {
        return NULL;
    }
    if (!continues(at++, least, most)) return NULL;
    while (--more)
        if (!continues(at++, 0x80, 0xBF)) return NULL;
    return at;
}

/* Four hexadecimal digits. */
static Place code_unit(Place at, unsigned *unit) {
    *unit = 0;
    for (int place = 0; place < 4; place++, at++) {
        int letter = *at | 0x20;
        if (!is_digit(*at) && (letter < 'a' || letter > 'f')) return NULL;
        *unit = *unit << 4 | (unsigned)(is_digit(*at) ? *at - '0' : letter - 'a' + 10);
    }
    return at;
}

/* What follows a backslash; surrogates only in pairs. */
static Place escape(Place at) {
    unsigned unit;
    switch (*at) {
        case '"': case '\\': case '/': case 'b': case 'f': case 'n': case 'r': case 't':
            return at + 1;
        case 'u':
            if (!(at = code_unit(at + 1, &unit))) return NULL;
            if (unit < 0xD800 || unit > 0xDFFF) return at;
            if (unit > 0xDBFF || !(at = word(at, "\\u")) || !(at = code_unit(at, &unit))) return NULL;
            return unit >= 0xDC00 && unit <= 0xDFFF ? at : NULL;
        default:
            return NULL;
    }
}

/* What follows the quote that ends a text; `at` is after the one that begins it. */
static Place text(Place at, Place end, int *escaped) {
    *escaped = 0;
    for (;;) {
        at = plain(at, end);
        if (*at == '"') return at + 1;
        if (*at == '\\') {
            *escaped = 1;
            at = escape(at + 1);
        } else {
            at = *at >= 0x80 ? character(at) : NULL;
        }
        if (!at) return NULL;
    }
}

/* Digits without a leading zero. */
static Place whole(Place at) {
    Place first = at;
    while (is_digit(*at)) at++;
    return at == first || (at - first > 1 && *first == '0') ? NULL : at;
}

static Place digits(Place at) {
    Place first = at;
    while (is_digit(*at)) at++;
    return at == first ? NULL : at;
}

static Place integer(Place at, const Node *node, uint64_t *found) {
    uint64_t most = node->most, total = 0;
    int negative = *at == '-';
    if (negative) {
        if (!node->least) return NULL;
        at++;
        most = node->least;
    }
    Place end = whole(at);
    if (!end || end - at > 20) return NULL;
    for (; at < end; at++) {
        uint64_t digit = *at - '0';
        if (total > (UINT64_MAX - digit) / 10) return NULL;
        total = total * 10 + digit;
    }
    *found = negative ? 0 - total : total; /* of two's complement */
    return total <= most && *end != '.' && *end != 'e' && *end != 'E' ? end : NULL;
}

/* A number that is finite: its digits and its exponent together are few. */
static Place real(Place at, const Node *node) {
    if (*at == '-') at++;
    Place end = whole(at);
    if (!end || end - at > node->digits) return NULL;
    ptrdiff_t size = end - at;
    if (*end == '.' && !(end = digits(end + 1))) return NULL;
    if (*end != 'e' && *end != 'E') return end;
    int less = *++end == '-';
    if (less || *end == '+') end++;
    at = end;
    if (!(end = digits(end)) || end - at > 3) return NULL;
    int exponent = 0;
    for (; at < end; at++) exponent = exponent * 10 + (*at - '0');
    return less || size + exponent <= node->digits ? end : NULL;
}

/* A number of no more digits than a decimal may have, counted in its last places. */
static Place decimal(Place at, const Node *node, Decimal *found) {
    int negative = *at == '-', places = node->places;
    at += negative;
    Place end = whole(at);
    if (!end || end - at > node->digits) return NULL;
    *found = 0;
    for (; at < end; at++) *found = *found * 10 + (Decimal)(*at - '0');
    if (*end == '.') {
        end = digits(++at);
        if (!end || end - at > places) return NULL;
        for (; at < end; at++, places--) *found = *found * 10 + (Decimal)(*at - '0');
    }
    for (; places; places--) *found *= 10;
    if (negative) *found = 0 - *found; /* of two's complement */
    return end; /* an exponent is none of what may follow */
}

/* A number of two digits, up to a greatest one. */
static Place pair(Place at, int least, int most, int *found) {
    if (!is_digit(at[0]) || !is_digit(at[1])) return NULL;
    *found = (at[0] - '0') * 10 + (at[1] - '0');
    return *found >= least && *found <= most ? at + 2 : NULL;
}

/* Days since 1970 until the first of a month, but for leap days of other years than this one: years
 * begin in March, see H. Hinnant, chrono-compatible low-level date algorithms. */
static int64_t days_until(int year, int month) {
    if (month < 3) {
        year--;
        month += 12;
    }
    return 365 * (year - 1970) + year / 4 - year / 100 + year / 400 + (153 * (month - 3) + 2) / 5 - 418;
}

/* 2026-01-31, or with a time: 2026-01-31T23:59:59.999Z, or +01:00. The 29th of February is left out,
 * as are years that nanoseconds cannot count. */
static Place timestamp(Place at, const Node *node, int64_t *found) {
    static const uint8_t LENGTHS[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int century, year, month, day, hours = 0, minutes = 0, seconds = 0, places = node->places;
    int64_t fraction = 0, unit = 1;
    if (!(at = pair(at, 17, 21, &century)) || !(at = pair(at, 0, 99, &year))) return NULL;
    if (*at++ != '-' || !(at = pair(at, 1, 12, &month))) return NULL;
    if (*at++ != '-' || !(at = pair(at, 1, LENGTHS[month - 1], &day))) return NULL;
    int64_t days = days_until(century * 100 + year, month) + day - 1;
    if (node->width == 4) { /* a date */
        *found = days;
        return at;
    }
    if (*at == 'T' || *at == ' ') {
        if (!(at = pair(at + 1, 0, 23, &hours)) || *at++ != ':') return NULL;
        if (!(at = pair(at, 0, 59, &minutes)) || *at++ != ':') return NULL;
        if (!(at = pair(at, 0, 59, &seconds))) return NULL;
        if (*at == '.') {
            Place first = at + 1;
            if (!(at = digits(first)) || at - first > places) return NULL;
            for (; first < at; first++, places--) fraction = fraction * 10 + (*first - '0');
        }
        if (*at == 'Z') {
            at++;
        } else if (*at == '+' || *at == '-') {
            int sign = *at == '+' ? 1 : -1, ahead;
            if (!(at = pair(at + 1, 0, 23, &ahead)) || *at++ != ':') return NULL;
            hours -= sign * ahead;
            if (!(at = pair(at, 0, 59, &ahead))) return NULL;
            minutes -= sign * ahead;
        }
    }
    for (; places; places--) fraction *= 10;
    for (places = node->places; places; places--) unit *= 10;
    *found = (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * unit + fraction;
    return at;
}

#endif
