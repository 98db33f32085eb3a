/* Columns that grow by a value at a time and can be cut back, laid out as Arrow has them:
 * https://arrow.apache.org/docs/format/Columnar.html
 */

#ifndef NVISY_JSONL_COLUMNS_H
#define NVISY_JSONL_COLUMNS_H

#if defined(__APPLE__)
#include <xlocale.h>
#else
#include <locale.h>
#endif
#include <stdlib.h>

#include "jsonl_lexing.h"

/* The layout is repeated in `jsonl_rows.py`. */
typedef struct {
    int64_t length;    /* values */
    int64_t nulls;     /* how many of them there are */
    int64_t room;      /* values that there is memory for */
    int64_t size;      /* bytes of texts */
    int64_t size_room; /* bytes that there is memory for */
    uint8_t *valid;    /* a bit for each value */
    uint8_t *values;   /* numbers, a bit for each truth value, or the bytes of texts */
    int32_t *offsets;  /* where each text or list begins, and after the last one where that ends */
} Column;

enum { FEWEST = 64 };

static void put_bit(uint8_t *bits, int64_t at, int is_set) {
    uint8_t bit = (uint8_t)(1 << (at & 7));
    if (is_set) bits[at >> 3] |= bit;
    else bits[at >> 3] &= (uint8_t)~bit;
}

static int has_offsets(const Node *node) { return node->kind == TEXT || node->kind == LIST; }

/* Whether there is memory for so many values; what is new is zero. */
static int hold_values(Column *column, const Node *node, int64_t room) {
    int64_t bits = (room + 7) / 8, old_bits = (column->room + 7) / 8;
    int64_t bytes = node->kind == BOOLEAN ? bits : room * node->width;
    uint8_t *valid = realloc(column->valid, (size_t)bits);
    if (!valid) return 0;
    memset(valid + old_bits, 0, (size_t)(bits - old_bits));
    column->valid = valid;
    if (bytes) {
        uint8_t *values = realloc(column->values, (size_t)bytes);
        if (!values) return 0;
        if (node->kind == BOOLEAN) memset(values + old_bits, 0, (size_t)(bits - old_bits));
        column->values = values;
    }
    if (has_offsets(node)) {
        int32_t *offsets = realloc(column->offsets, ((size_t)room + 1) * sizeof *offsets);
        if (!offsets) return 0;
        offsets[0] = 0;
        column->offsets = offsets;
    }
    column->room = room;
    return 1;
}

/* Whether there is memory for one more value. */
static int hold(Column *column, const Node *node, int64_t expected) {
    if (column->length < column->room) return 1;
    int64_t first = expected < FEWEST ? FEWEST : expected;
    return hold_values(column, node, column->room ? 2 * column->room : first);
}

/* Whether there is memory for more bytes of texts. */
static int hold_bytes(Column *column, int64_t more) {
    if (column->values && column->size + more <= column->size_room) return 1;
    int64_t room = 2 * column->size_room + more + FEWEST;
    uint8_t *values = realloc(column->values, (size_t)room);
    if (!values) return 0;
    column->values = values;
    column->size_room = room;
    return 1;
}

static void close_value(Column *column, int is_valid) {
    put_bit(column->valid, column->length++, is_valid);
    column->nulls += !is_valid;
}

static void put_integer(Column *column, const Node *node, uint64_t value) {
    switch (node->width) {
        case 1: ((uint8_t *)column->values)[column->length] = (uint8_t)value; break;
        case 2: ((uint16_t *)column->values)[column->length] = (uint16_t)value; break;
        case 4: ((uint32_t *)column->values)[column->length] = (uint32_t)value; break;
        default: ((uint64_t *)column->values)[column->length] = value;
    }
    close_value(column, 1);
}

static void put_decimal(Column *column, Decimal value) {
    memcpy(column->values + column->length * (int64_t)sizeof value, &value, sizeof value);
    close_value(column, 1);
}

/* The double next to a number whose digits and exponent are so few that one operation rounds it:
 * W. D. Clinger, How to read floating point numbers accurately, PLDI 1990. */
static int nearest(Place at, Place end, double *found) {
    static const double TENS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                  1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                  1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    uint64_t total = 0;
    int exponent = 0, written = 0, is_fraction = 0, negative = *at == '-', less;
    for (at += negative; at < end && (is_digit(*at) || *at == '.'); at++) {
        if (*at == '.') {
            is_fraction = 1;
            continue;
        }
        if (total > ((uint64_t)1 << 53) / 10) return 0;
        total = total * 10 + (*at - '0');
        exponent -= is_fraction;
    }
    if (at < end) {
        less = *++at == '-';
        if (less || *at == '+') at++;
        for (; at < end; at++) written = written * 10 + (*at - '0');
        exponent += less ? -written : written;
    }
    if (total > (uint64_t)1 << 53 || exponent < -22 || exponent > 22) return 0;
    *found = exponent < 0 ? (double)total / TENS[-exponent] : (double)total * TENS[exponent];
    if (negative) *found = -*found;
    return 1;
}

static void put_real(Column *column, const Node *node, Place at, Place end, locale_t plain_locale) {
    double found;
    if (node->width == 4)
        ((float *)column->values)[column->length] = strtof_l((const char *)at, NULL, plain_locale);
    else
        ((double *)column->values)[column->length] =
            nearest(at, end, &found) ? found : strtod_l((const char *)at, NULL, plain_locale);
    close_value(column, 1);
}

static void put_boolean(Column *column, int value) {
    put_bit(column->values, column->length, value);
    close_value(column, 1);
}

static uint8_t *put_character(uint8_t *to, unsigned point) {
    if (point < 0x80) {
        *to++ = (uint8_t)point;
        return to;
    }
    if (point < 0x800) {
        *to++ = (uint8_t)(0xC0 | point >> 6);
    } else {
        if (point < 0x10000) {
            *to++ = (uint8_t)(0xE0 | point >> 12);
        } else {
            *to++ = (uint8_t)(0xF0 | point >> 18);
            *to++ = (uint8_t)(0x80 | (point >> 12 & 0x3F));
        }
        *to++ = (uint8_t)(0x80 | (point >> 6 & 0x3F));
    }
    *to++ = (uint8_t)(0x80 | (point & 0x3F));
    return to;
}

/* What an escape that was found to be one stands for; `at` is after the backslash. */
static Place unescape(Place at, uint8_t **to) {
    unsigned point, low;
    switch (*at) {
        case 'b': *(*to)++ = '\b'; return at + 1;
        case 'f': *(*to)++ = '\f'; return at + 1;
        case 'n': *(*to)++ = '\n'; return at + 1;
        case 'r': *(*to)++ = '\r'; return at + 1;
        case 't': *(*to)++ = '\t'; return at + 1;
        case 'u':
            at = code_unit(at + 1, &point);
            if (point >= 0xD800 && point <= 0xDBFF) {
                at = code_unit(at + 2, &low);
                point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
            }
            *to = put_character(*to, point);
            return at;
        default: *(*to)++ = *at; return at + 1;
    }
}

/* Whether there was memory for a text; it ends before its quote. */
static int put_text(Column *column, Place at, Place end, int escaped) {
    if (!hold_bytes(column, end - at)) return 0; /* no escape is shorter than what it stands for */
    uint8_t *to = column->values + column->size;
    while (escaped && at < end) {
        Place slash = memchr(at, '\\', (size_t)(end - at));
        if (!slash) break;
        memcpy(to, at, (size_t)(slash - at));
        to += slash - at;
        at = unescape(slash + 1, &to);
    }
    memcpy(to, at, (size_t)(end - at));
    column->size = to + (end - at) - column->values;
    column->offsets[column->length + 1] = (int32_t)column->size;
    close_value(column, 1);
    return 1;
}

/* Leave only the first values. */
static void cut_back(Column *column, const Node *node, int64_t length) {
    for (int64_t at = length; at < column->length; at++)
        column->nulls -= !(column->valid[at >> 3] >> (at & 7) & 1);
    column->length = length;
    if (node->kind == TEXT) column->size = column->offsets ? column->offsets[length] : 0;
}

#endif
