/* What of a line does not fit its columns, put together as a JSON object. */

#ifndef NVISY_JSONL_RESCUE_H
#define NVISY_JSONL_RESCUE_H

#include "jsonl_columns.h"

enum { DEEPEST = 100, MOST_OTHERS = 16 };

/* The name of a field as it is written, without quotes. */
typedef struct {
    Place at;
    ptrdiff_t size;
} Step;

typedef struct {
    Column *column;
    int32_t within;             /* values that are being rescued */
    int32_t lists;              /* lists that are being read: what is in one is not told apart */
    int32_t level;              /* objects that are being read, but for those within others */
    int32_t opened;             /* how many of them are begun in what is rescued */
    Step path[DEEPEST + 2];     /* by level: the field in which the next object is */
    int64_t start;              /* where what is rescued of this line begins */
} Rescue;

static void begin_rescue(Rescue *rescue) {
    rescue->within = rescue->lists = rescue->level = rescue->opened = 0;
    Column *column = rescue->column;
    /* A line before may have been left in the middle. */
    column->size = column->length ? column->offsets[column->length] : 0;
    rescue->start = column->size;
}

static int put_bytes(Column *column, const void *bytes, int64_t size) {
    if (!hold_bytes(column, size)) return 0;
    memcpy(column->values + column->size, bytes, (size_t)size);
    column->size += size;
    return 1;
}

/* The name of a field and the colon, after a comma if it is not the first of its object. */
static int put_name(Column *column, Step name) {
    int is_first = column->values[column->size - 1] == '{';
    return (is_first || put_bytes(column, ",", 1)) && put_bytes(column, "\"", 1) &&
           put_bytes(column, name.at, name.size) && put_bytes(column, "\":", 2);
}

/* Whether there was memory for a field of the innermost object. */
static int put_rest(Rescue *rescue, Step name, Place at, Place end) {
    Column *column = rescue->column;
    for (; rescue->opened < rescue->level; rescue->opened++) {
        if (rescue->opened && !put_name(column, rescue->path[rescue->opened])) return 0;
        if (!put_bytes(column, "{", 1)) return 0;
    }
    return put_name(column, name) && put_bytes(column, at, end - at);
}

/* Leave the innermost object; whether there was memory for its end. */
static int left(Rescue *rescue) {
    if (!rescue) return 1;
    if (rescue->level-- > rescue->opened) return 1;
    rescue->opened--;
    return put_bytes(rescue->column, "}", 1);
}

/* Whether there was memory for what of this row was rescued, or null. */
static int end_rescue(Rescue *rescue, int64_t expected) {
    static const Node TEXTS = {.kind = TEXT};
    Column *column = rescue->column;
    if (!hold(column, &TEXTS, expected)) return 0;
    column->offsets[column->length + 1] = (int32_t)column->size;
    close_value(column, column->size > rescue->start);
    return 1;
}

/* Whether a field is none of those that there were; it is one of them then. */
static int is_new(Step name, Step *others, int32_t *count) {
    for (int32_t place = 0; place < *count; place++)
        if (others[place].size == name.size && !memcmp(others[place].at, name.at, (size_t)name.size))
            return 0;
    if (*count == MOST_OTHERS) return 0;
    others[(*count)++] = name;
    return 1;
}

/* Whether a value that begins at a place is surely none of a type, whatever follows. */
static int is_of_another_type(Place at, const Node *node) {
    uint8_t kind = node->kind;
    switch (*at) {
        case '"': return kind == BOOLEAN || kind == INTEGER || kind == FLOAT || kind == LIST || kind == STRUCT;
        case '{': return kind != STRUCT && kind != ANY;
        case '[': return kind != LIST && kind != ANY;
        case 't': case 'f': return kind != BOOLEAN && kind != ANY;
        case 'n': return 0;
        default: break;
    }
    if (kind == TEXT || kind == BOOLEAN || kind == LIST || kind == STRUCT) return 1;
    if (kind != INTEGER) return 0;
    while (*at == '-' || is_digit(*at)) at++;
    return *at == '.' || *at == 'e' || *at == 'E';
}

#endif
