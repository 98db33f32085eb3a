"""What an expression may be made of; whatever is not listed here is refused.

Only scalar functions that always give the same result for the same row, so that a replay makes the
same records, and whose result is bounded by their arguments: a function that makes a long text out
of a number (`repeat`, `lpad`, `format`, `range`) could exhaust the memory of the process.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FIXED = 0
"""Growth of a function whose result does not grow with its arguments."""

Measure = Literal["sum", "max", "replace", "regexp_replace", "separator", "json", "pattern"]


@dataclass(frozen=True)
class Function:
    """An allowed scalar function."""

    topic: str
    growth: int = FIXED
    """How many times the size of its arguments its result may have."""
    measure: Measure = "sum"
    """How the sizes of its arguments make the size of its result."""
    literal: int | None = None
    """Place of the argument that must be a literal, since it decides the size of the result."""
    arguments: int | None = None
    """Number of arguments, where another number means something that is not allowed."""


def _functions(topic: str, names: str, function: Function) -> dict[str, Function]:
    return {
        name: Function(topic, function.growth, function.measure, function.literal)
        for name in names.split()
    }


_SAME = Function("", 1)
_EITHER = Function("", 1, "max")
_PIECES = Function("", 16)
"""A text of single characters becomes a list of 16-byte values."""
_PATTERN = Function("", FIXED, literal=1)
_PATH = Function("", 1, "json", literal=1)

FUNCTIONS: Mapping[str, Function] = {
    **_functions("conditions", "if nullif greatest least", _EITHER),
    **_functions(
        "numbers",
        "+ - * / // % ** ^ ^@ @ & | ~ << >> xor abs acos acosh add asin asinh atan atan2 atanh "
        "bit_count cbrt ceil ceiling cos cosh cot degrees divide even exp factorial fdiv floor "
        "fmod gamma gcd greatest_common_divisor isfinite isinf isnan lcm least_common_multiple "
        "lgamma ln log log10 log2 mod multiply nextafter pi pow power radians round round_even "
        "roundbankers sign signbit sin sinh sqrt subtract tan tanh trunc",
        Function(""),
    ),
    **_functions(
        "text",
        "ascii bit_length char_length character_length chr contains ends_with format_bytes "
        "formatReadableSize formatReadableDecimalSize instr len length length_grapheme "
        "octet_length ord position prefix starts_with strlen strpos suffix unicode "
        "~~ !~~ ~~* !~~* ~~~ like_escape not_like_escape ilike_escape not_ilike_escape",
        Function(""),
    ),
    **_functions(
        "text",
        "|| concat left left_grapheme lcase lower ltrim nfc_normalize overlay parse_dirname "
        "parse_dirpath parse_filename reverse right right_grapheme rtrim split_part strip_accents "
        "substr substring substring_grapheme trim ucase upper",
        _SAME,
    ),
    **_functions("text", "translate", Function("", 4)),
    **_functions("text", "replace", Function("", 1, "replace")),
    **_functions("text", "concat_ws", Function("", 1, "separator", literal=0)),
    **_functions("text", "split str_split string_split string_to_array", _PIECES),
    **_functions("patterns", "regexp_matches regexp_full_match", _PATTERN),
    **_functions("patterns", "regexp_extract", Function("", 1, literal=1)),
    **_functions(
        "patterns",
        "regexp_extract_all regexp_split_to_array str_split_regex string_split_regex",
        Function("", 16, literal=1),
    ),
    **_functions("patterns", "regexp_replace", Function("", 1, "regexp_replace", literal=1)),
    **_functions("patterns", "regexp_escape", Function("", 2)),
    **_functions(
        "dates",
        "century date_add date_diff date_part date_sub date_trunc datediff datepart datesub "
        "datetrunc day dayname dayofmonth dayofweek dayofyear days_in_month decade epoch epoch_ms "
        "epoch_ns epoch_us era hour isodow isoyear julian last_day make_date make_time "
        "make_timestamp make_timestamp_ms make_timestamp_ns make_timestamptz microsecond "
        "millennium millisecond minute month monthname nanosecond quarter second time_bucket "
        "timezone timezone_hour timezone_minute to_centuries to_days to_decades to_hours "
        "to_microseconds to_millennia to_milliseconds to_minutes to_months to_quarters to_seconds "
        "to_timestamp to_weeks to_years week weekday weekofyear year yearweek",
        Function(""),
    ),
    "age": Function("dates", FIXED, arguments=2),
    **_functions("dates", "strptime try_strptime", _PATTERN),
    **_functions("dates", "strftime", Function("", 32, "pattern", literal=1)),
    **_functions(
        "lists",
        "&& @> <@ array_contains array_has array_has_all array_has_any array_indexof array_length "
        "array_position cardinality list_avg list_bool_and list_bool_or list_contains list_count "
        "list_has list_has_all list_has_any list_indexof list_max list_median list_min "
        "list_position list_product list_stddev_pop list_stddev_samp list_sum list_unique "
        "list_var_pop list_var_samp",
        Function(""),
    ),
    **_functions(
        "lists",
        "array_append array_concat array_distinct array_intersect array_prepend array_reverse "
        "array_slice array_sort flatten list_append list_cat list_concat list_distinct "
        "list_element list_extract list_first list_intersect list_last list_prepend list_reverse "
        "list_reverse_sort list_slice list_sort list_value array_value",
        _SAME,
    ),
    **_functions("lists", "array_to_string", Function("", 1, "separator", literal=1)),
    **_functions(
        "structs and maps",
        "element_at map map_concat map_entries map_extract map_extract_value map_from_entries "
        "map_keys map_values struct_concat struct_extract struct_insert struct_pack",
        _SAME,
    ),
    **_functions("structs and maps", "map_contains", Function("")),
    **_functions("JSON", "json_exists json_type json_array_length", Function("", 0, "json", 1)),
    **_functions("JSON", "json_valid json_contains", Function("")),
    **_functions(
        "JSON",
        "->> json_extract json_extract_path json_extract_path_text json_extract_string json_value",
        _PATH,
    ),
    **_functions("JSON", "json_keys", Function("", 16, "json", 1)),
    **_functions("JSON", "json_array json_object json_quote row_to_json to_json", Function("", 8)),
    **_functions("encodings", "md5 sha1 sha256", Function("")),
    **_functions("encodings", "decode encode from_base64 from_hex unhex url_decode", _SAME),
    **_functions("encodings", "base64 hex to_base64 to_hex url_encode", Function("", 3)),
    **_functions(
        "vectors",
        "array_cosine_distance array_cosine_similarity array_distance array_dot_product "
        "array_inner_product array_negative_inner_product list_cosine_distance "
        "list_cosine_similarity list_distance list_dot_product list_inner_product",
        Function(""),
    ),
}
"""Allowed functions and operators by the name that DuckDB's parser gives them."""

NAMES: Mapping[str, str] = {name.lower(): name for name in FUNCTIONS}


def _types(names: str) -> frozenset[str]:
    return frozenset(names.split())


MACROS = _types(
    "array_append array_prepend array_reverse array_to_string date_add days_in_month fdiv fmod if "
    "list_append list_avg list_bool_and list_bool_or list_count list_first list_last list_max "
    "list_median list_min list_prepend list_product list_reverse list_stddev_pop list_stddev_samp "
    "list_sum list_var_pop list_var_samp nullif split_part"
)
"""Functions that stand for an expression, which may skip an argument. DuckDB could list them, in
30 ms."""

FIXED_TYPES = _types(
    "bool boolean logical tinyint int1 smallint int2 int16 short integer int int4 int32 signed "
    "bigint int8 int64 long hugeint utinyint uint8 usmallint uint16 uinteger uint32 ubigint "
    "uint64 uhugeint float float4 real double float8 decimal dec numeric date time timestamp "
    "datetime timestamp_s timestamp_ms timestamp_us timestamp_ns timestamptz interval uuid"
) | {"timestamp with time zone"}
"""Types of a fixed width that a value may be cast to."""

SIZED_TYPES = _types(
    "varchar char bpchar nvarchar text string blob bytea binary varbinary json list struct row map"
)
"""Types of no fixed width that a value may be cast to."""

OPERATORS = frozenset([
    "ARRAY_EXTRACT",
    "ARRAY_SLICE",
    "COMPARE_IN",
    "COMPARE_NOT_IN",
    "OPERATOR_COALESCE",
    "OPERATOR_IS_NOT_NULL",
    "OPERATOR_IS_NULL",
    "OPERATOR_NOT",
    "OPERATOR_TRY",
    "STRUCT_EXTRACT",
])
"""Allowed nodes of class `OPERATOR`."""

REFUSED_CLASSES: Mapping[str, str] = {
    "SUBQUERY": "subqueries are not allowed: an expression sees one record at a time",
    "WINDOW": "window functions are not allowed: an expression sees one record at a time",
    "LAMBDA": "lambdas and list comprehensions are not allowed",
    "STAR": "'*' is not allowed: name the columns",
    "PARAMETER": "parameters are not allowed: write the value",
    "POSITIONAL_REFERENCE": "columns are named, not numbered",
    "COLLATE": "collations are not allowed: compare lower(...) or strip_accents(...)",
    "DEFAULT": "'default' has no meaning here",
}
"""Why a class of node is refused."""
