/* Lines of JSON -> columns of the lines that are surely rows of a schema, in one pass.
 *
 * Only lines that Arrow's reader takes as one row are called rows, and the values are those that it
 * makes of them. Whatever is not plain is called a suspect, leaves nothing in the columns and is
 * judged elsewhere: a suspicion costs time only. Where it is asked for, fields that no column is for
 * and values that surely are none of their column's type are no suspects: they are rescued.
 *
 * The data must be followed by a byte that is zero, as that of a `bytearray` is.
 */

#define _GNU_SOURCE /* strtod_l */

#include "jsonl_rescue.h"

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

enum { SUSPECT, ROW, BLANK };
enum { WORD = 64, TRACKED = 16 * WORD };
enum { ROW_NODE = 0, UNKNOWN = -1 }; /* indexes of nodes */

typedef struct {
    const Node *nodes; /* the first is the row */
    Column *columns;   /* one for each node; `NULL` if nothing but the kind of a line is asked */
    Place end;
    int open;          /* whether fields that are not in the schema are ignored */
    int is_full;       /* whether there was no memory left */
    int64_t expected;  /* how many values a column will have, as far as one can tell */
    locale_t plain_locale;
    Rescue *rescue;    /* `NULL` if what does not fit makes a line a suspect */
} Form;

static const Node ANYTHING = {.kind = ANY, .digits = 300};

static Place value(Place at, Form *form, int32_t index, int depth);

static const Node *node_at(const Form *form, int32_t index) {
    return index == UNKNOWN ? &ANYTHING : form->nodes + index;
}

/* The column of a node, with room for a value; `NULL` if there is none. */
static Column *column_at(Form *form, int32_t index) {
    if (!form->columns || index == UNKNOWN) return NULL;
    Column *column = form->columns + index;
    if (hold(column, form->nodes + index, form->expected)) return column;
    form->is_full = 1;
    return NULL;
}

static void put_null(Form *form, int32_t index) {
    Column *column = column_at(form, index);
    if (!column) return;
    const Node *node = form->nodes + index;
    if (has_offsets(node)) column->offsets[column->length + 1] = column->offsets[column->length];
    else if (node->width) memset(column->values + column->length * node->width, 0, node->width);
    close_value(column, 0);
    if (node->kind != STRUCT) return;
    for (int32_t child = 0; child < node->children; child++) put_null(form, node->first + child);
}

/* Whether a field has the name that begins at a place, quote included. */
static int is_named(const Node *node, Place name, Place end) {
    return end - name > node->name_size && name[node->name_size] == '"' &&
           !memcmp(node->name, name, (size_t)node->name_size);
}

/* The index of the field whose name begins at a place, from the one that is expected on; -1. */
static int32_t field(const Form *form, const Node *node, Place name, int32_t expected) {
    for (int32_t tried = 0; tried < node->children; tried++) {
        int32_t index = expected + tried;
        if (index >= node->children) index -= node->children;
        if (is_named(form->nodes + node->first + index, name, form->end)) return index;
    }
    return -1;
}

/* What follows an object; `at` is that. Fields that were not in it are null. */
static Place closed(Place at, Form *form, int32_t index, const uint64_t *seen) {
    Column *column = column_at(form, index);
    if (!column) return at;
    const Node *node = form->nodes + index;
    for (int32_t child = 0; child < node->children; child++)
        if (child >= TRACKED || !(seen[child / WORD] >> child % WORD & 1))
            put_null(form, node->first + child);
    close_value(column, 1);
    return at;
}

/* What follows a value that no column takes, and that is rescued. */
static Place other(Place at, Form *form, Step name, int depth) {
    form->rescue->within++;
    Place end = value(at, form, UNKNOWN, depth);
    form->rescue->within--;
    if (end && !put_rest(form->rescue, name, at, end)) form->is_full = 1;
    return end;
}

/* The same; `at` is after the brace that begins it. */
static Place object(Place at, Form *form, int32_t index, int depth) {
    const Node *node = node_at(form, index);
    uint64_t seen[TRACKED / WORD]; /* a bit for each field that there was */
    Step others[MOST_OTHERS];      /* fields that are rescued */
    Rescue *rescue = node->kind == STRUCT && form->rescue && !form->rescue->lists ? form->rescue : NULL;
    int32_t next = 0, known_others = 0;
    int escaped, is_rescued = form->rescue && form->rescue->within;
    if (rescue) rescue->level++;
    for (int32_t child = 0; child < node->children && child < TRACKED; child += WORD)
        seen[child / WORD] = 0;
    at = blanks(at);
    if (*at == '}') return left(rescue) ? closed(at + 1, form, index, seen) : NULL;
    for (;;) {
        if (*at++ != '"') return NULL;
        Step name = {.at = at};
        int32_t inner = UNKNOWN, child = field(form, node, at, next);
        if (child >= 0) {
            uint64_t bit = (uint64_t)1 << child % WORD;
            if (child >= TRACKED || seen[child / WORD] & bit) return NULL;
            seen[child / WORD] |= bit;
            next = child + 1;
            inner = node->first + child;
            at += form->nodes[inner].name_size + 1;
        } else {
            /* With an escape it may be the name of a field all the same. */
            if (!(form->open || node->kind == ANY || rescue) ||
                !(at = text(at, form->end, &escaped)) || (escaped && node->kind != ANY))
                return NULL;
        }
        name.size = at - 1 - name.at;
        /* Whoever reads what was rescued would find only one of two fields. */
        if (is_rescued && (escaped || !is_new(name, others, &known_others))) return NULL;
        at = blanks(at);
        if (*at != ':') return NULL;
        at = blanks(at + 1);
        if (rescue && inner == UNKNOWN && !form->open) {
            if (!is_new(name, others, &known_others) || !(at = other(at, form, name, depth)))
                return NULL;
        } else if (rescue && inner != UNKNOWN && is_of_another_type(at, form->nodes + inner)) {
            if (!(at = other(at, form, name, depth))) return NULL;
            put_null(form, inner);
        } else {
            if (rescue) rescue->path[rescue->level] = name;
            if (!(at = value(at, form, inner, depth))) return NULL;
        }
        at = blanks(at);
        if (*at == '}') return left(rescue) ? closed(at + 1, form, index, seen) : NULL;
        if (*at != ',') return NULL;
        at = blanks(at + 1);
    }
}

static Place list(Place at, Form *form, int32_t index, int depth) {
    const Node *node = node_at(form, index);
    int32_t item = node->kind == ANY ? UNKNOWN : node->first;
    if (form->rescue) form->rescue->lists++;
    at = blanks(at);
    if (*at == ']') {
        at++;
    } else {
        for (;;) {
            if (!(at = value(at, form, item, depth))) return NULL;
            at = blanks(at);
            if (*at++ == ']') break;
            if (at[-1] != ',') return NULL;
            at = blanks(at);
        }
    }
    if (form->rescue) form->rescue->lists--;
    Column *column = column_at(form, index);
    if (column) {
        column->offsets[column->length + 1] = (int32_t)form->columns[item].length;
        close_value(column, 1);
    }
    return at;
}

static Place text_value(Place at, Form *form, int32_t index) {
    int escaped;
    Place end = text(at, form->end, &escaped);
    Column *column = end ? column_at(form, index) : NULL;
    if (column && !put_text(column, at, end - 1, escaped)) form->is_full = 1;
    return end;
}

static Place truth(Place at, Form *form, int32_t index, int is_true) {
    Place end = word(at, is_true ? "true" : "false");
    Column *column = end ? column_at(form, index) : NULL;
    if (column) put_boolean(column, is_true);
    return end;
}

static Place decimal_value(Place at, Form *form, int32_t index) {
    Decimal found;
    Place end = decimal(at, node_at(form, index), &found);
    Column *column = end ? column_at(form, index) : NULL;
    if (column) put_decimal(column, found);
    return end;
}

static Place timestamp_value(Place at, Form *form, int32_t index) {
    const Node *node = node_at(form, index);
    int64_t found;
    Place end = timestamp(at, node, &found);
    Column *column = end ? column_at(form, index) : NULL;
    if (column) put_integer(column, node, (uint64_t)found);
    return end;
}

/* A text that holds what a column of another type than text is made of. */
static Place quoted(Place at, Form *form, int32_t index) {
    at = node_at(form, index)->kind == DECIMAL ? decimal_value(at, form, index)
                                               : timestamp_value(at, form, index);
    return at && *at == '"' ? at + 1 : NULL;
}

static Place number(Place at, Form *form, int32_t index) {
    const Node *node = node_at(form, index);
    uint64_t found = 0;
    Place end;
    switch (node->kind) {
        case INTEGER: end = integer(at, node, &found); break;
        case DECIMAL: return decimal_value(at, form, index);
        case FLOAT: case ANY: end = real(at, node); break;
        default: return NULL;
    }
    Column *column = end ? column_at(form, index) : NULL;
    if (column && node->kind == INTEGER) put_integer(column, node, found);
    else if (column) put_real(column, node, at, end, form->plain_locale);
    return end;
}

static Place value(Place at, Form *form, int32_t index, int depth) {
    const Node *node = node_at(form, index);
    uint8_t kind = node->kind;
    if (depth > DEEPEST) return NULL;
    switch (*at) {
        case '"':
            if (kind == TEXT || kind == ANY) return text_value(at + 1, form, index);
            return kind == DECIMAL || kind == TIMESTAMP ? quoted(at + 1, form, index) : NULL;
        case '{':
            return kind == STRUCT || kind == ANY ? object(at + 1, form, index, depth + 1) : NULL;
        case '[':
            return kind == LIST || kind == ANY ? list(at + 1, form, index, depth + 1) : NULL;
        case 't': case 'f':
            return kind == BOOLEAN || kind == ANY ? truth(at, form, index, *at == 't') : NULL;
        case 'n':
            if ((at = word(at, "null"))) put_null(form, index);
            return at;
        default:
            return number(at, form, index);
    }
}

/* Take back what a line has left in the columns within a node that has so many values. */
static void take_back(Form *form, int32_t index, int64_t length) {
    const Node *node = form->nodes + index;
    Column *column = form->columns + index;
    cut_back(column, node, length);
    if (node->kind == LIST) length = column->offsets ? column->offsets[length] : 0;
    for (int32_t child = 0; child < node->children; child++)
        take_back(form, node->first + child, length);
}

static uint8_t line(Place at, Form *form) {
    /* A byte order mark: there are some amid files that were put together. */
    if (at[0] == 0xEF && at[1] == 0xBB && at[2] == 0xBF) at += 3;
    at = blanks(at);
    if (at == form->end) return BLANK;
    int64_t rows = form->columns ? form->columns[ROW_NODE].length : 0;
    if (form->rescue) begin_rescue(form->rescue);
    if (*at == '{' && (at = object(at + 1, form, ROW_NODE, 1)) && blanks(at) == form->end) {
        if (form->rescue && !end_rescue(form->rescue, form->expected)) form->is_full = 1;
        return ROW;
    }
    if (form->columns) take_back(form, ROW_NODE, rows);
    return SUSPECT;
}

/* Args:
 *     data: The lines, and a byte that is zero.
 *     starts: Where each line begins, and after the last one where that ends.
 *     count: How many lines there are.
 *     nodes: The schema.
 *     open: Whether fields that are not in it are ignored.
 *     kinds: What each line is, to be written.
 *     columns: One for each node, all zero, to be filled with the rows and released afterwards;
 *         `NULL` if only the kinds are wanted.
 *     rescued: A column of texts, likewise, for what of each row does not fit the others, as JSON;
 *         `NULL` if such lines are suspects.
 * Returns: 0, or -1 if there was no memory.
 */
EXPORT int32_t nvisy_read_lines(const uint8_t *data, const int64_t *starts, int64_t count,
                                const Node *nodes, int32_t open, uint8_t *kinds, Column *columns,
                                Column *rescued) {
    Rescue rescue;
    Form form = {.nodes = nodes, .columns = columns, .open = open, .expected = count};
    rescue.column = rescued;
    if (rescued) form.rescue = &rescue;
    if (columns && !(form.plain_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0))) return -1;
    for (int64_t index = 0; index < count && !form.is_full; index++) {
        Place first = data + starts[index], end = data + starts[index + 1];
        if (end > first && end[-1] == '\n') end--;
        form.end = end;
        kinds[index] = line(first, &form);
    }
    if (columns) freelocale(form.plain_locale);
    return form.is_full ? -1 : 0;
}

/* How many newlines there are; their places are written if there is where. */
EXPORT int64_t nvisy_newlines(const uint8_t *data, int64_t size, int64_t *places) {
    int64_t count = 0;
    for (Place at = data, end = data + size; (at = memchr(at, '\n', (size_t)(end - at))); at++) {
        if (places) places[count] = at - data;
        count++;
    }
    return count;
}

EXPORT void nvisy_release(Column *columns, int64_t count) {
    for (int64_t index = 0; index < count; index++) {
        free(columns[index].valid);
        free(columns[index].values);
        free(columns[index].offsets);
    }
}
